"""Runs in this process, and what they leave behind, for tests to compare."""

import csv
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dogbreed import checkpoints, training

from .conftest import tiny_settings

ROOT = Path(__file__).parents[1]
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
