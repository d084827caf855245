"""Benchmark a whole search against as many plain trainings, trials per minute, and one trial against a bare loop."""

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from dogbreed.benchmark import frozen, overhead
from dogbreed.benchmark.harness import Benchmark, Row, Sample, Setup, timed
from dogbreed.benchmark.machine import PROJECT
from dogbreed.benchmark.pictures import make_photos

TRIALS = 20
PLAIN, OURS, MINUTE, TRIAL, BARE = "plain, one trial", "ours, all trials", "drawn dogs", "trials", "bare loop"


def search(setup: Setup, *overrides: str, cache: Path) -> tuple[float, list[dict[str, Any]]]:
    """Run `python train.py -m hpo=optuna OVERRIDES` in an empty folder; return its seconds and its trials.

    A trial is its metrics.json with `trial_s`, the seconds from its start to its end; in the order of trial numbers.
    """
    folder = setup.fresh("sweep")
    os.environ["DOGBREED_CACHE"] = str(cache)
    words = [sys.executable, str(PROJECT / "train.py"), "-m", "hpo=optuna", f"hydra.sweep.dir={folder}", *overrides]
    seconds = timed(words, folder / "output.txt")
    return seconds, [_trial(path) for path in sorted(folder.glob("[0-9]*"))]


def _trial(folder: Path) -> dict[str, Any]:
    state = json.loads((folder / "state.json").read_text())
    # the best trial's times are those of its test; its training metrics remain
    began, ended = (datetime.fromisoformat(state[name]) for name in ("first_started_at", "ended_at"))
    tested = (folder / "report.html").exists()
    seconds = None if tested else (ended - began).total_seconds()
    return {**json.loads((folder / "metrics.json").read_text()), "trial_s": seconds}


def _trials(setup: Setup) -> int:
    return 3 if setup.quick else TRIALS


def _weights(setup: Setup) -> Path:
    return setup.place("photos") / "resnet50.pt"


def _prepare(setup: Setup) -> None:
    frozen.BENCHMARK.prepare(setup)
    if not _weights(setup).exists():  # a file, like pretrained weights; random ones are as fast
        import torch
        from torchvision import models

        torch.manual_seed(0)
        torch.save(models.resnet50(weights=None).state_dict(), _weights(setup))
    search(setup, *_drawn(setup, 1), cache=setup.place("cache"))  # draws its photos, computes their features
    classes, train, valid = overhead.feature_sizes(setup)
    make_photos(setup.place("features"), classes=classes, train=train, valid=valid, test=classes, width=44, height=40)
    search(setup, *_rows_of_dogimages(setup, 1), cache=setup.place("cache"))


def _plain(setup: Setup) -> Sample:
    """Run a single plain training: all trials would take hours."""
    began = time.perf_counter()
    frozen.plain(setup.place("photos"), epochs=frozen.epochs(setup), batch_size=frozen.BATCH_SIZE)
    seconds = time.perf_counter() - began
    return {"trial_s": seconds, "extrapolated_s": seconds * _trials(setup)}


def _ours(setup: Setup) -> Sample:
    seconds, trials = search(
        setup,
        f"hpo.n_trials={_trials(setup)}",
        "hpo/pruner=none",
        "data=folder",
        f"data.root={setup.place('photos')}",
        "model=resnet50",
        f"model.weights={_weights(setup)}",
        f"trainer.max_epochs={frozen.epochs(setup)}",
        cache=setup.fresh("cold-cache"),
    )
    return {"search_s": seconds, "trials": trials}


def _minute(setup: Setup) -> Sample:
    count = 4 if setup.quick else 30
    seconds, trials = search(setup, *_drawn(setup, count), cache=setup.place("cache"))
    return {"trials_per_min": 60 * len(trials) / seconds, "trials": trials}


def _drawn(setup: Setup, trials: int) -> list[str]:
    few = ["+data.source.breeds=8", "data.source.train=4", "data.source.valid=1", "data.source.test=1"] * setup.quick
    return ["experiment=quickstart", "hpo/pruner=none", f"hpo.n_trials={trials}", *few]


def _one_trial(setup: Setup) -> Sample:
    _, trials = search(setup, *_rows_of_dogimages(setup, 5), cache=setup.place("cache"))
    warm = [trial["trial_s"] for trial in trials[1:] if trial["trial_s"] is not None]
    return {"trial_s": statistics.median(warm)}


def _rows_of_dogimages(setup: Setup, trials: int) -> list[str]:
    return [
        f"hpo.n_trials={trials}",
        "hpo.parallel=1",
        "hpo/pruner=none",
        *overhead.feature_overrides(setup),
        f"model.weights={_weights(setup)}",
        "model.optimizer=adamw",
    ]


def _rows(setup: Setup) -> Sequence[Row]:
    return [
        Row("sweep", (OURS, "search_s"), (PLAIN, "extrapolated_s"), "s", goal=200),
        Row("sweep, lite0", (MINUTE, "trials_per_min"), None, "trials/min", goal=20),
        Row("sweep, a trial", (TRIAL, "trial_s"), (BARE, "fit_s"), "s", goal=2.5, at_most=True),
    ]


BENCHMARK = Benchmark(
    name="sweep",
    about=(
        f"{TRIALS} trials of 10 epochs each, the head of a frozen ResNet50 on {frozen.PHOTOS[0]} + {frozen.PHOTOS[1]} "
        f"photos of 900x675. Baseline: the plain loop of `frozen`, run once and multiplied by {TRIALS}, an "
        "extrapolation. dogbreed: `python train.py -m hpo=optuna` from an empty cache, the whole process, with "
        "features, pages and the best trial's test. lite0: 30 trials of experiment=quickstart on cached features, the "
        "whole process. A trial: 10 epochs of 6,680 + 835 cached rows in a warm process, from its settings to its "
        "metrics; against a bare linear layer on as many rows."
    ),
    repeats=1,
    prepare=_prepare,
    sides={PLAIN: _plain, OURS: _ours, MINUTE: _minute, BARE: overhead.head_bare, TRIAL: _one_trial},
    rows=_rows,
)
