"""Benchmark the time from the command to the first training step against importing torch and lightning."""

import os
import sys
from collections.abc import Sequence

from dogbreed.benchmark.harness import Benchmark, Row, Sample, Setup, SideError, timed
from dogbreed.benchmark.machine import PROJECT

FIRST_STEP = "The first training step begins."
IMPORTS = "import os, torch, lightning; os._exit(0)"  # ends like the other side, without cleanup


def _command(setup: Setup) -> list[str]:
    words = [sys.executable, str(PROJECT / "train.py"), "experiment=quickstart"]
    if setup.quick:
        words += ["+data.source.breeds=8", "data.source.train=4", "data.source.valid=1", "data.source.test=1"]
    return words


def _prepare(setup: Setup) -> None:
    """Run a whole quickstart, which draws and scans its photos and computes their features."""
    done = setup.place("startup") / "done"
    if not done.exists():
        _cache(setup)
        timed([*_command(setup), f"hydra.run.dir={setup.fresh('run')}"], setup.place("startup") / "quickstart.txt")
        done.touch()


def _imports(setup: Setup) -> Sample:
    return {"seconds": timed([sys.executable, "-c", IMPORTS], setup.fresh("side") / "output.txt")}


def _ours(setup: Setup) -> Sample:
    _cache(setup)
    output = setup.fresh("side") / "output.txt"
    stopping = "model._target_=dogbreed.benchmark.first_step.StopsAtFirstStep"
    seconds = timed([*_command(setup), stopping, f"hydra.run.dir={setup.fresh('run')}"], output)
    if FIRST_STEP not in (printed := output.read_text(errors="replace")):
        raise SideError(f"train.py ended before its first training step:\n{printed}")
    return {"seconds": seconds}


def _cache(setup: Setup) -> None:
    os.environ["DOGBREED_CACHE"] = str(setup.place("startup"))


def _rows(setup: Setup) -> Sequence[Row]:
    return [Row("startup", ("ours", "seconds"), ("imports", "seconds"), "s", goal=1.3, at_most=True)]


BENCHMARK = Benchmark(
    name="startup",
    about=(
        "From the command `python train.py experiment=quickstart` to its first training step, with photos drawn, "
        "scanned and turned into features by an earlier run; against `python -c 'import torch, lightning'`. Both "
        "processes exit at that point."
    ),
    repeats=7,
    prepare=_prepare,
    sides={"imports": _imports, "ours": _ours},
    rows=_rows,
)
