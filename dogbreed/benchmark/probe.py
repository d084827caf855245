"""Benchmark the default head on cached features against logistic regression on the same features."""

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dogbreed.benchmark.harness import Benchmark, Row, Sample, Setup
from dogbreed.benchmark.pictures import make_patterns
from dogbreed.errors import ConfigError

SEEDS = 5
_DRAWN = {"133 breeds": (133, 10, 3, 3), "10 breeds": (10, 20, 10, 30)}  # classes; photos of each in train, valid, test
_PATTERNS = {"24 patterns": (24, 40, 10, 20), "5 patterns": (5, 20, 20, 60)}
_STRENGTHS = [10.0**power for power in range(-4, 5)]  # C of the logistic regression


def _sizes(name: str, setup: Setup) -> tuple[int, ...]:
    classes, *counts = {**_DRAWN, **_PATTERNS}[name]
    return (min(classes, 6), 4, 2, 2) if setup.quick else (classes, *counts)


def _prepare(setup: Setup) -> None:
    for name in _PATTERNS:
        classes, train, valid, test = _sizes(name, setup)
        make_patterns(setup.place(name), classes=classes, train=train, valid=valid, test=test)


def _overrides(name: str, setup: Setup) -> list[str]:
    """Return the settings of a user who has changed none, for one of the data sets."""
    root = f"data.root='{setup.place(name)}'"
    if name in _PATTERNS:
        return ["data=folder", "model=efficientnet_lite0", root]
    classes, *counts = _sizes(name, setup)
    words = [f"data.source.{split}={count}" for split, count in zip(("train", "valid", "test"), counts, strict=True)]
    return ["experiment=quickstart", root, f"+data.source.breeds={classes}", *words]


def _heads(setup: Setup) -> Sample:
    """Return the mean test accuracy of runs with several seeds, for each data set."""
    os.environ["DOGBREED_CACHE"] = str(setup.place("cache"))
    from dogbreed.benchmark import runs

    found: Sample = {}
    for name in (*_DRAWN, *_PATTERNS):
        words = [*_overrides(name, setup), "logger=none"]
        of_seeds = [
            runs.train([*words, f"seed={seed}"], setup.fresh("run"))["test/acc"]
            for seed in range(2 if setup.quick else SEEDS)
        ]
        found |= {name: statistics.mean(of_seeds), f"{name}, by seed": of_seeds}
    return found


def _regressions(setup: Setup) -> Sample:
    """Return the test accuracy of scikit-learn's logistic regression for each data set, and the C it took."""
    os.environ["DOGBREED_CACHE"] = str(setup.place("cache"))
    found: Sample = {}
    for name in (*_DRAWN, *_PATTERNS):
        accuracy, strength = regression(features_of(_overrides(name, setup)))
        found |= {name: accuracy, f"{name}, C": strength}
    return found


def regression(features: Mapping[str, tuple[Any, Any]]) -> tuple[float, float]:
    """Return the test accuracy of the regression that is best on the validation photos, and its C.

    features: by split, arrays [N, width] and labels [N]. Of several C that are equally good, takes the smallest.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ConfigError("The baseline needs scikit-learn.\nTry: pip install -e '.[dev]'") from error
    models = [LogisticRegression(C=strength, max_iter=3000).fit(*features["train"]) for strength in _STRENGTHS]
    best = max(models, key=lambda model: model.score(*features["valid"]))  # the first of equals
    return float(best.score(*features["test"])), float(best.C)


def features_of(overrides: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Return the features that a run with these settings trains on, by split: center crops, and their labels."""
    import tempfile
    from pathlib import Path

    import torch

    from dogbreed.benchmark import runs
    from dogbreed.features import cached
    from dogbreed.features.settings import settings_of
    from dogbreed.run_folder import RunFolder
    from dogbreed.scanning.layout import SPLITS
    from dogbreed.training.inputs import device_and_precision, read_photos
    from dogbreed.training.trainer import build, use_hardware

    config = runs.settings([*overrides, "features.mode=cached"])
    use_hardware()
    with tempfile.TemporaryDirectory() as folder:
        here = RunFolder(Path(folder))
        data = read_photos(config, here)
        place = device_and_precision(config, here)
    model = build(config["model"], classes=list(data.classes))
    features = cached.prepare(model, data, settings_of(config), **place)
    assert features is not None
    found = {}
    for split in SPLITS:
        batches = list(features.in_order(split))
        rows, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        found[split] = (rows.float().numpy(), labels.numpy())
    return found


def _rows(setup: Setup) -> Sequence[Row]:
    return [
        Row(f"probe, {name}", ("ours", name), ("regression", name), "accuracy", goal=1)
        for name in (*_DRAWN, *_PATTERNS)
    ]


BENCHMARK = Benchmark(
    name="probe",
    about=(
        "Test accuracy of a head on the frozen features of an EfficientNet-Lite0, with default settings, mean over "
        f"{SEEDS} seeds: drawn dogs of 133 and 10 breeds (1,330 and 200 training photos), generated patterns of 24 and "
        "5 kinds (960 and 100). Baseline: scikit-learn's logistic regression on the same features, with the C from "
        "1e-4 to 1e4 that is best on the validation photos."
    ),
    repeats=1,
    prepare=_prepare,
    sides={"regression": _regressions, "ours": _heads},
    rows=_rows,
)
