"""Runs in this process, and what they leave behind, for tests to compare."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dogbreed import checkpoints, training
from tests.support.photos import tiny_settings
from tests.support.project import ROOT

SAME = ("model.dropout=0", "model.scale_lr=false", "model.optimizer=sgd", "data.augment=null")

CLOCKED = ("seconds", "images_per_s", "data_wait", "efficiency")


def config(photos: Path, *overrides: str) -> dict[str, Any]:
    import launchers.resolvers  # noqa: F401 (registers ${new_run_id:})

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", [*tiny_settings(photos), "run_id=test", *overrides])
    return OmegaConf.to_container(composed, resolve=True)  # type: ignore[return-value]


def run(settings: dict[str, Any], folder: Path) -> dict[str, float]:
    folder.mkdir(parents=True, exist_ok=True)
    return training.run(settings, folder)


def unclocked(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if key.removeprefix("train/") not in CLOCKED}


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoints.read(folder / "checkpoints" / name)["state_dict"]
    return state


def history(folder: Path) -> list[dict[str, Any]]:
    with (folder / "metrics.csv").open() as file:
        return [unclocked(row) for row in csv.DictReader(file)]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def close(one: Path, other: Path) -> None:
    """The same losses and weights, but for the order in which floats are added up: within 1e-4 of the largest."""
    ours, theirs = history(one), history(other)
    assert len(ours) == len(theirs) > 0
    for row, reference in zip(ours, theirs, strict=True):
        for name in reference:
            assert float(row[name]) == pytest.approx(float(reference[name]), rel=1e-4, abs=1e-5), name
    mine, reference_weights = weights(one), weights(other)
    assert mine.keys() == reference_weights.keys()
    for name, value in reference_weights.items():
        scale = max(1.0, float(value.float().abs().max()))
        assert torch.allclose(mine[name].float(), value.float(), rtol=0, atol=1e-4 * scale), name
    tables = [(folder / "predictions.csv").read_text().splitlines() for folder in (one, other)]
    ours_named, theirs_named = ([line.split(",")[0] for line in table] for table in tables)
    assert ours_named == theirs_named  # each test photo once, in order
