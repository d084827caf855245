"""Shared code of the benchmarks: measure sides in turn, compute medians, ratios and goals, and format the table."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dogbreed import commands
from dogbreed.errors import DogBreedError

Sample = dict[str, Any]  # what one process measured: numbers by name, and other data worth keeping
Samples = Mapping[str, Sequence[Sample]]  # by side, in order of measurement
Unit = Literal["s", "ms", "MB", "images/s", "trials/min", "share", "accuracy", "epochs"]
_MORE_IS_BETTER = ("images/s", "trials/min", "accuracy")

PROFILE = "profile"  # the name of a side that only runs on request
PROCESS = "process_s"  # in every sample: seconds from the command to its end, including the start of Python and imports


class SideError(DogBreedError):
    """A side of a benchmark failed, so there is nothing to compare."""


@dataclass(frozen=True)
class Setup:
    """The setup of the benchmarks. folder: for photos and runs; existing ones are reused. quick: tiny sizes, to check
    that everything runs. gpu: use the sizes for a GPU."""

    folder: Path
    quick: bool = False
    gpu: bool = False

    def place(self, name: str) -> Path:
        """Return a folder of this name, separate for tiny, GPU and CPU sizes."""
        sizes = "quick" if self.quick else "gpu" if self.gpu else "cpu"
        path = self.folder / f"{name}-{sizes}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def fresh(self, name: str) -> Path:
        """Create a new empty folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.place("runs")))


@dataclass(frozen=True)
class Row:
    """One row of the table: a metric of two sides, or of one (reference: None, then the goal is for `ours` itself).

    ours, reference: side and metric, of dogbreed and of the baseline. goal: the least ratio, or with `at_most` the
    largest. The ratio says how many times as fast dogbreed is, with `at_most` how many times as long it takes.
    """

    name: str
    ours: tuple[str, str]
    reference: tuple[str, str] | None
    unit: Unit
    goal: float | None = None
    at_most: bool = False


@dataclass(frozen=True)
class Result:
    """A row's medians. ratio: of the medians. lowest, highest: the extreme ratios of single repetitions."""

    name: str
    unit: Unit
    reference: float | None
    ours: float
    ratio: float | None
    lowest: float | None
    highest: float | None
    goal: float | None
    at_most: bool
    reached: bool | None  # None without a goal


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of two or more sides, each a function that runs in a process of its own and returns a sample.

    about: what each side does and what is timed, for the reader. repeats: the default number of samples per side.
    prepare: creates once what all sides read. profile: measures, in a process of its own, what limits dogbreed's side;
    explain: formats that as lines. after: further lines, computed from all samples, to print below the table.
    """

    name: str
    about: str
    repeats: int
    prepare: Callable[[Setup], None]
    sides: Mapping[str, Callable[[Setup], Sample]]
    rows: Callable[[Setup], Sequence[Row]]
    profile: Callable[[Setup], Sample] | None = None
    explain: Callable[[Sample], Sequence[str]] | None = None
    after: Callable[[Samples], Sequence[str]] | None = None

    def call(self, side: str, setup: Setup) -> Sample:
        """Measure one side in this process. Raises KeyError for an unknown side."""
        return self.profile(setup) if side == PROFILE and self.profile else self.sides[side](setup)


def interleaved(
    sides: Sequence[str], repeats: int, measure: Callable[[str], Sample], log: Callable[[str], None] = print
) -> dict[str, list[Sample]]:
    """Measure all sides in turn (A B A B ...), so that a machine that slows down affects all of them."""
    samples: dict[str, list[Sample]] = {side: [] for side in sides}
    for repeat in range(repeats):
        for side in sides:
            samples[side].append(measure(side))
            log(_in_words(f"  {repeat + 1}/{repeats}  {side:<20}", samples[side][-1]))
    return samples


def measured(
    benchmark: Benchmark, side: str, setup: Setup, *, clock: Callable[[], float] = time.perf_counter
) -> Sample:
    """Measure one side in a process of its own. If it fails, raise SideError with the end of its output."""
    out = setup.fresh("side")
    words = [sys.executable, "-m", "dogbreed.benchmark", benchmark.name, "--side", side]
    words += [
        "--work",
        str(setup.folder),
        "--json",
        str(out / "sample.json"),
        *["--quick"] * setup.quick,
        *["--gpu"] * setup.gpu,
    ]
    seconds = timed(words, out / "output.txt", clock=clock)
    return {PROCESS: round(seconds, 4), **json.loads((out / "sample.json").read_text())}


def timed(words: Sequence[str], output: Path, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Run a command and return its seconds; its output goes to `output`. Raises SideError if it fails."""
    with output.open("wb") as log:
        began = clock()
        status = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment()).returncode
        seconds = clock() - began
    if status:
        tail = "\n".join(output.read_text(errors="replace").rstrip().splitlines()[-12:])
        raise SideError(f"{commands.shell(*words)}\nended with exit status {status}. The end of its output:\n{tail}")
    return seconds


WARM_UP = 2  # steps at the start that are not counted: memory is allocated, kernels are chosen, workers start


def steady_seconds(epochs: Sequence[Sequence[float]]) -> float:
    """Sum the seconds of all steps, by epoch; a warm-up step counts as the mean of its epoch's other steps."""
    total, first = 0.0, WARM_UP
    for steps in epochs:
        counted = steps[first:] or steps[-1:]
        total += sum(counted) * len(steps) / len(counted)
        first = 0
    return total


def results(rows: Sequence[Row], samples: Samples) -> list[Result]:
    return [_result(row, samples) for row in rows]


def _result(row: Row, samples: Samples) -> Result:
    ours = _values(row.ours, samples)
    if row.reference is None:
        value = statistics.median(ours)
        reached = None if row.goal is None else _meets(value, row)
        return Result(row.name, row.unit, None, value, None, None, None, row.goal, row.at_most, reached)
    reference = _values(row.reference, samples)
    pairs = [_ratio(a, b, row) for a, b in zip(reference, ours, strict=True)]
    medians = statistics.median(reference), statistics.median(ours)
    ratio = _ratio(*medians, row)
    reached = None if row.goal is None else _meets(ratio, row)
    return Result(row.name, row.unit, *medians, ratio, min(pairs), max(pairs), row.goal, row.at_most, reached)


def _values(of: tuple[str, str], samples: Samples) -> list[float]:
    side, metric = of
    return [float(sample[metric]) for sample in samples[side]]


def _ratio(reference: float, ours: float, row: Row) -> float:
    return ours / reference if (row.unit in _MORE_IS_BETTER) != row.at_most else reference / ours


def _meets(value: float, row: Row) -> bool:
    assert row.goal is not None
    return value <= row.goal if row.at_most else value >= row.goal


def table(results: Sequence[Result]) -> str:
    """Format all results as a Markdown table that fits 80 columns of a terminal."""
    cells = [("benchmark", "baseline", "dogbreed", "ratio", "goal"), *map(_cells, results)]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    lines = [
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cells(result: Result) -> tuple[str, str, str, str, str]:
    reference = "" if result.reference is None else quantity(result.reference, result.unit)
    ratio = "" if result.ratio is None else f"{result.ratio:.{_decimals(result)}f}"
    if result.goal is None:
        goal = ""
    else:
        number = f"{result.goal:.0%}" if result.unit == "share" else f"{result.goal:g}"
        goal = f"{'<=' if result.at_most else '>='} {number}, {'reached' if result.reached else 'missed'}"
    return result.name, reference, quantity(result.ours, result.unit), ratio, goal


def _decimals(result: Result) -> int:
    """Return enough digits to show on which side of its goal a ratio is: 1.004 against 1.03, 16.2 against 15."""
    if result.at_most and result.goal is not None and result.goal < 1.1:
        return 3
    return 2 if (result.ratio or 0) < 10 else 1


def quantity(value: float, unit: Unit) -> str:
    if unit == "share":
        return f"{value:.1%}"
    if unit == "accuracy":
        return f"{value:.4f}"
    short = {"images/s": "img/s", "trials/min": "/min"}.get(unit, unit)
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {short}"


def _in_words(line: str, sample: Sample) -> str:
    """Append as many of the sample's numbers to the line as fit in 80 columns."""
    numbers = {name: value for name, value in sample.items() if isinstance(value, int | float) and name != PROCESS}
    words = [f"{sample[PROCESS]:8.1f} s"] if PROCESS in sample else []
    for word in [*words, *(f"{name}={value:,.4g}" for name, value in numbers.items())]:
        if len(line) + 2 + len(word) <= 80:
            line += "  " + word
    return line


def _environment() -> dict[str, str]:
    """Return the environment without variables that would change the number of threads of only one side."""
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if name not in limits} | {"PYTHONUNBUFFERED": "1"}
