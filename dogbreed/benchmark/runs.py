"""dogbreed's side of the benchmarks: a run like that of train.py, from the settings in conf/, with its steps timed."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from hydra import compose, initialize_config_dir
from lightning import Callback, LightningModule, Trainer
from omegaconf import OmegaConf
from torch import Tensor

import dogbreed.resolvers  # noqa: F401 (registers ${for_heads:A,B})
from dogbreed import training
from dogbreed.benchmark.harness import WARM_UP, steady_seconds
from dogbreed.benchmark.machine import PROJECT
from dogbreed.errors import ConfigError
from dogbreed.model import DogBreedClassifier

CLOCKED = "model._target_=dogbreed.benchmark.runs.ClockedClassifier"  # an override, for the sides that need STEPS


def train(overrides: Sequence[str], folder: Path) -> dict[str, float]:
    """Train in this process, like `python train.py OVERRIDES` below its launcher. Return the metrics."""
    return training.run(settings(overrides), folder)


def settings(overrides: Sequence[str]) -> dict[str, Any]:
    conf = PROJECT / "conf"
    if not conf.is_dir():
        raise ConfigError(f"{conf} does not exist: benchmarks need a checkout.\nTry: git clone, pip install -e .")
    with initialize_config_dir(str(conf), version_base="1.3"):
        # nothing here is about a cloud, and only launchers can look up its region
        composed = compose("config", ["aws.region=null", *overrides, "run_id=benchmark"])
    return cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))


class Steps(Callback):
    """Times each training step from the end of the previous one, including the wait for data.

    The first step of an epoch is timed from the epoch's start: this includes starting the loaders, and excludes
    validation and saving at the end of an epoch. `fit_s` includes everything from the first epoch's start to the last
    one's end.
    """

    def __init__(self) -> None:
        self.epochs: list[list[tuple[float, float, int, int]]] = []  # per step: seconds, seconds of waiting, images, px
        self.fit_s = self.validation_s = 0.0
        self._fit_began = self._since = self._arrived = self._validation_began = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fit_began = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _synchronize()
        self.epochs.append([])
        self._since = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._arrived = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        first = len(self.epochs) == 1 and batch_idx < WARM_UP
        if first or batch_idx + 1 == trainer.num_training_batches:
            _synchronize()  # within an epoch a GPU runs asynchronously; the sum is still right
        now = time.perf_counter()
        self.epochs[-1].append((now - self._since, self._arrived - self._since, len(batch[1]), batch[0].shape[-1]))
        self._since = now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_began = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation_s += time.perf_counter() - self._validation_began

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fit_s = time.perf_counter() - self._fit_began

    def summary(self) -> dict[str, Any]:
        """Return rates over whole epochs without warm-up. waiting: the share of a step spent waiting for its batch."""
        seconds, waiting = (steady_seconds([[step[n] for step in epoch] for epoch in self.epochs]) for n in (0, 1))
        steps = [step for epoch in self.epochs for step in epoch]
        return {
            "images_per_s": sum(step[2] for step in steps) / seconds,
            "step_s": seconds / len(steps),
            "waiting": waiting / seconds,
            "steps_and_validation_s": sum(step[0] for step in steps) + self.validation_s,
            "fit_s": self.fit_s,
            "px": [epoch[0][3] for epoch in self.epochs],
            "steps": [[round(step[0], 5) for step in epoch] for epoch in self.epochs],
        }


STEPS = Steps()  # of this process's one run


class ClockedClassifier(DogBreedClassifier):
    """The classifier with the timer as a callback, added by Lightning's configure_callbacks."""

    def configure_callbacks(self) -> list[Callback]:
        return [*super().configure_callbacks(), STEPS]


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
