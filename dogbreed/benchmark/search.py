"""Benchmark a search with TPE against random search, and measure what pruning saves."""

import statistics
from collections.abc import Sequence

from dogbreed.benchmark.harness import Benchmark, Row, Sample, Setup
from dogbreed.benchmark.sweep import search

SEEDS, TRIALS = 10, 30
RANDOM, TPE, PRUNED = "random", "TPE", "TPE, ASHA"
_NOISE = 0.98  # 399 photos: the standard error of an accuracy of 0.88 is 1.6 points


def _prepare(setup: Setup) -> None:
    search(setup, *_common(setup, 0), "hpo.n_trials=1", cache=setup.place("cache"))


def _common(setup: Setup, seed: int) -> list[str]:
    few = ["+data.source.breeds=8", "data.source.train=4", "data.source.valid=1", "data.source.test=1"] * setup.quick
    return ["experiment=quickstart", f"seed={seed}", *few]


def _measure(setup: Setup, *sampler_and_pruner: str) -> Sample:
    """Return medians over seeds of the best completed trial's metric, and of the total number of epochs."""
    bests, epochs = [], []
    for seed in range(2 if setup.quick else SEEDS):
        count = f"hpo.n_trials={4 if setup.quick else TRIALS}"
        _, trials = search(setup, *_common(setup, seed), count, *sampler_and_pruner, cache=setup.place("cache"))
        longest = max(trial["epochs"] for trial in trials)
        bests.append(max(trial["val/acc"] for trial in trials if trial["epochs"] == longest))
        epochs.append(sum(trial["epochs"] for trial in trials))
    return {"best": statistics.median(bests), "epochs": statistics.median(epochs), "bests": bests}


def _rows(setup: Setup) -> Sequence[Row]:
    return [
        Row("search, TPE", (TPE, "best"), (RANDOM, "best"), "accuracy", goal=1),
        Row("  pruned", (PRUNED, "best"), (TPE, "best"), "accuracy", goal=_NOISE),
        Row("  pruned, epochs", (PRUNED, "epochs"), (TPE, "epochs"), "epochs", goal=0.5, at_most=True),
    ]


BENCHMARK = Benchmark(
    name="search",
    about=(
        f"{TRIALS} trials of experiment=quickstart over the default space, with each of {SEEDS} seeds: the best "
        "val/acc of the completed ones, median over the seeds. Baseline: random search, without pruning. dogbreed: "
        "TPE, without pruning; pruned: TPE and ASHA, the default, against TPE without it, and the epochs that both "
        "train."
    ),
    repeats=1,
    prepare=_prepare,
    sides={
        RANDOM: lambda setup: _measure(setup, "hpo/sampler=random", "hpo/pruner=none"),
        TPE: lambda setup: _measure(setup, "hpo/sampler=tpe", "hpo/pruner=none"),
        PRUNED: lambda setup: _measure(setup, "hpo/sampler=tpe", "hpo/pruner=asha"),
    },
    rows=_rows,
)
