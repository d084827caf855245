"""Benchmark the capacity planner: whole commands that simulate a million requests, on one core."""

import json
import os
import sys
from collections.abc import Sequence

from dogbreed.benchmark.harness import Benchmark, Row, Sample, Setup, timed

RPS = 300
REQUESTS = 1_000_000
_SETTINGS = {  # at about 85 % of what they can do
    "lambda": ["--slots", "40"],
    "endpoint": ["--instances", "18"],
    "both": ["--instances", "4-20", "--policy", "report", "--slots", "60"],
}


def _prepare(setup: Setup) -> None:
    """Nothing is read."""


def _measured(setup: Setup) -> Sample:
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # commands inherit it
    requests = 10_000 if setup.quick else REQUESTS
    sample: Sample = {}
    for name, words in _SETTINGS.items():
        output = setup.fresh("capacity") / "output.json"
        hours = f"{requests / RPS / 3600:.6f}"
        command = [sys.executable, "-m", "launchers", "capacity", "--rps", str(RPS), "--hours", hours, *words, "--json"]
        sample[f"{name}_s"] = timed(command, output)
        sample[f"{name}_requests"] = json.loads(output.read_text())["requests"]
    return sample


def _rows(setup: Setup) -> Sequence[Row]:
    return [
        Row("capacity, lambda", ("ours", "lambda_s"), None, "s", goal=10, at_most=True),
        Row("  endpoint", ("ours", "endpoint_s"), None, "s", goal=10, at_most=True),
        Row("  both, scaled", ("ours", "both_s"), None, "s", goal=10, at_most=True),
    ]


BENCHMARK = Benchmark(
    name="capacity",
    about=(
        f"A million requests in the planner, {RPS} a second, from the start of `python -m launchers capacity` to its "
        "end, on one core: of a Lambda with 40 slots, of an endpoint with 18 "
        "instances, and of 4 to 20 instances that follow a policy, behind a Lambda."
    ),
    repeats=3,
    prepare=_prepare,
    sides={"ours": _measured},
    rows=_rows,
)
