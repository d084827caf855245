"""`python -m dogbreed.benchmark`: run benchmarks, print a table, and write JSON."""

import argparse
import json
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dogbreed.benchmark import capacity, ddp, finetune, frozen, overhead, probe, search, serve, speedup, startup, sweep
from dogbreed.benchmark import input as input_pipeline
from dogbreed.benchmark.harness import PROFILE, Benchmark, Result, Setup, interleaved, measured, results, table
from dogbreed.benchmark.machine import gpu, in_words, machine
from dogbreed.errors import ConfigError, DogBreedError
from dogbreed.run_folder import write_json

BENCHMARKS = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (
        frozen,
        finetune,
        input_pipeline,
        overhead,
        startup,
        sweep,
        search,
        probe,
        ddp,
        speedup,
        serve,
        capacity,
    )
}
_ABOUT = {
    "frozen": "head training with features computed once, against a plain loop",
    "finetune": "full fine-tuning, against torchvision's reference loop",
    "input": "decoding and augmenting on one core, against torchvision on PIL",
    "overhead": "a Lightning run, against a bare loop",
    "startup": "command to first training step, against importing torch",
    "sweep": "20 trials of head training, against as many plain loops",
    "serve": "dogbreed's server, against FastAPI with eager torch",
    "search": "a search with TPE and pruning, against random search",
    "probe": "accuracy of the default head, against logistic regression",
    "ddp": "two processes that train one model, against one",
    "speedup": "speed-up by several rented machines, simulated",
    "capacity": "a million requests in the capacity planner, on one core",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run benchmarks and return the exit status: 0 even if a goal is missed, 1 if a side failed, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    names = list(BENCHMARKS) if "all" in options.names else list(dict.fromkeys(options.names))
    try:
        if options.side is not None:
            return _one_side(names, options.side, options)
        if options.work is not None:
            _run(names, Setup(options.work.absolute(), options.quick, gpu() is not None), options)
            return 0
        with tempfile.TemporaryDirectory(prefix="dogbreed-benchmark-", ignore_cleanup_errors=True) as folder:
            _run(names, Setup(Path(folder), options.quick, gpu() is not None), options)
    except DogBreedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _one_side(names: Sequence[str], side: str, options: argparse.Namespace) -> int:
    """Measure one side in this process, which the parent starts for each measurement."""
    benchmark = BENCHMARKS[names[0]]
    if len(names) > 1 or side not in (known := [*benchmark.sides, *[PROFILE] * (benchmark.profile is not None)]):
        raise ConfigError(f"--side takes one benchmark and one of its sides.\nTry: one of {', '.join(known)}")
    if options.work is None:
        raise ConfigError("--side needs --work=<the folder that a run without --side has filled>.")
    sample = benchmark.call(side, Setup(options.work.absolute(), options.quick, options.gpu))
    if options.json:
        write_json(options.json, sample)
    else:
        print(json.dumps(sample))
    return 0


def _run(names: Sequence[str], setup: Setup, options: argparse.Namespace) -> None:
    found = machine()
    report: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": setup.quick,
        "machine": found,
        "benchmarks": {},
    }
    print("\n".join(in_words(found)), flush=True)
    if setup.quick:
        print("Tiny sizes (--quick): this only checks that everything runs.")
    rows: list[Result] = []
    after: list[str] = []
    for name in names:
        benchmark = BENCHMARKS[name]
        print(
            f"\n{name}\n{textwrap.fill(benchmark.about, 78, initial_indent='  ', subsequent_indent='  ')}", flush=True
        )
        report["benchmarks"][name] = entry = _measure(benchmark, setup, options)
        new = results(benchmark.rows(setup), entry["samples"])
        entry["rows"] = [asdict(row) for row in new]
        rows += new
        if benchmark.after:
            entry["after"] = list(benchmark.after(entry["samples"]))
            after += ["", *entry["after"]]
        if options.json:  # after each, so that an error or Ctrl-C in a later one loses nothing
            write_json(options.json, report)
    print("\n".join(["", table(rows), *after]))


def _measure(benchmark: Benchmark, setup: Setup, options: argparse.Namespace) -> dict[str, Any]:
    repeats = options.repeats or (1 if setup.quick else benchmark.repeats)
    benchmark.prepare(setup)
    wanted = {of[0] for row in benchmark.rows(setup) for of in (row.ours, row.reference) if of is not None}
    sides = [side for side in benchmark.sides if side in wanted]
    samples = interleaved(sides, repeats, lambda side: measured(benchmark, side, setup), _print)
    entry: dict[str, Any] = {"about": benchmark.about, "repeats": repeats, "samples": samples}
    if options.profile and benchmark.profile and benchmark.explain:
        entry["profile"] = measured(benchmark, PROFILE, setup)
        for line in benchmark.explain(entry["profile"]):
            _print(textwrap.fill(line, 78, initial_indent="  ", subsequent_indent="    "))
    return entry


def _print(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<9} {about}" for name, about in _ABOUT.items())
    parser = argparse.ArgumentParser(
        prog="python -m dogbreed.benchmark",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Measure dogbreed against a baseline on this machine: both on the same\n"
            "photos, in turn, each in its own process.\n\n"
            f"benchmarks:\n{listed}"
        ),
        epilog="A missed goal is not an error. Leave the machine idle meanwhile.",
    )
    parser.add_argument(
        "names", nargs="+", choices=[*BENCHMARKS, "all"], metavar="NAME", help="one or more of these, or all"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every measurement to FILE")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to check that it runs; results mean little")
    parser.add_argument("--repeats", type=_at_least_1, metavar="N", help="runs per side (default: the benchmark's own)")
    parser.add_argument("--profile", action="store_true", help="finetune, input: also profile where time is spent")
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="keep photos and runs in FOLDER and reuse them (default: none)"
    )
    parser.add_argument(
        "--side", metavar="SIDE", help="measure only this side of one benchmark, in this process; print JSON"
    )
    parser.add_argument("--gpu", action="store_true", help=argparse.SUPPRESS)  # with --side: use the sizes for a GPU
    return parser


def _at_least_1(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
