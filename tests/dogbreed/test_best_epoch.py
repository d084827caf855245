"""One rule decides between epochs, and between trials, wherever it is asked."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer

from dogbreed.best_epoch import best_row
from dogbreed.checkpoints import BestCheckpoint
from dogbreed.run_folder import RunFolder
from dogbreed.training.evaluation import validated
from launchers.runs.results import best_so_far

Rows = list[dict[str, float]]
FEW = st.sampled_from([0.25, 0.5, 1.0])  # so that there are ties
EPOCHS = st.lists(st.tuples(FEW, st.sampled_from([0.3, 0.7, math.inf, math.nan])), min_size=1, max_size=8)


def rows_of(epochs: list[tuple[float, float]]) -> Rows:
    return [{"epoch": n, "val/acc": acc, "val/loss": loss} for n, (acc, loss) in enumerate(epochs, 1)]


@pytest.mark.parametrize(
    ("monitor", "mode", "epochs", "best"),
    [
        ("val/acc", "max", [(1.0, 0.6), (1.0, 0.3), (0.5, 0.1)], 2),  # the lower loss
        ("val/acc", "max", [(1.0, 0.3), (1.0, 0.3)], 2),  # then the later epoch
        ("val/acc", "max", [(1.0, 0.3), (1.0, math.nan)], 1),  # a loss that is not finite is no lower one
        ("val/acc", "max", [(1.0, math.nan), (1.0, math.inf)], 2),
        ("val/acc", "max", [(math.nan, 0.1), (0.1, 0.9)], 2),
        ("val/acc", "max", [(0.9, 0.6), (1.0, 0.9)], 2),  # the metric comes first
        ("val/acc", "min", [(0.9, 0.6), (1.0, 0.1)], 1),
        ("val/loss", "min", [(0.9, 0.6), (0.5, 0.6), (1.0, 0.7)], 2),
    ],
)
def test_of_equal_epochs_the_one_with_the_lower_loss_is_best_then_the_later_one(
    monitor: str, mode: str, epochs: list[tuple[float, float]], best: int
) -> None:
    assert best_row(rows_of(epochs), monitor, mode)["epoch"] == best


class Kept:
    """A run's BestCheckpoint, asked after each epoch without writing files; `epoch` is that of best.ckpt."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.callback, self.epoch = BestCheckpoint(RunFolder(folder), "val/acc", mode), 0

    def validate(self, row: dict[str, float]) -> None:
        values = {name: torch.tensor(value, dtype=torch.float64) for name, value in row.items()}
        trainer = SimpleNamespace(
            callback_metrics=values,
            current_epoch=int(row["epoch"]) - 1,
            strategy=SimpleNamespace(reduce_boolean_decision=bool),
        )
        if self.callback.check_monitor_top_k(cast(Trainer, trainer), values["val/acc"]):
            self.epoch = int(row["epoch"])
            score = values["val/acc"]
            self.callback.best_k_models, self.callback.best_model_score = {"best.ckpt": score}, score

    def resume(self, state: dict[str, Any]) -> None:
        self.callback.load_state_dict(state)


@given(EPOCHS, st.sampled_from(["max", "min"]), st.integers(0, 8))
def test_the_checkpoint_kept_is_that_of_the_best_epoch_also_of_a_resumed_run(
    epochs: list[tuple[float, float]], mode: str, interrupted_after: int
) -> None:
    rows, run = rows_of(epochs), Kept(Path("run"), mode)
    for row in rows:
        if row["epoch"] == interrupted_after:
            state, epoch = run.callback.state_dict(), run.epoch
            run = Kept(Path("run"), mode)
            run.resume(state)
            run.epoch = epoch
        run.validate(row)
    assert run.epoch == best_row(rows, "val/acc", mode)["epoch"]


def test_a_run_of_an_earlier_version_keeps_a_later_equal_epoch_once_resumed() -> None:
    run = Kept(Path("run"), "max")
    run.validate({"epoch": 1, "val/acc": 0.5, "val/loss": 0.4})
    state = {key: value for key, value in run.callback.state_dict().items() if key not in ("merit", "epoch")}
    again = Kept(Path("run"), "max")
    again.resume(state)
    again.validate({"epoch": 2, "val/acc": 0.25, "val/loss": 0.1})
    assert again.epoch == 0
    again.validate({"epoch": 3, "val/acc": 0.5, "val/loss": 0.9})
    assert again.epoch == 3


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    here = RunFolder(tmp_path)
    rows = [{**row, "step": row["epoch"]} for row in rows_of([(0.5, 0.9), (1.0, 0.6), (1.0, 0.3), (1.0, 0.4)])]
    with here.history.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return here


def test_a_run_that_was_stopped_elsewhere_is_reported_with_the_same_epoch(folder: RunFolder) -> None:
    found = best_so_far(folder.path)
    assert (found["best_epoch"], found["val/loss"]) == (3, 0.3)


@pytest.mark.parametrize(("recorded", "reported"), [({"best_epoch": 3}, 3), ({"best_epoch": 2}, 2), ({}, 3)])
def test_the_metrics_are_those_of_the_epoch_in_best_ckpt_whichever_version_chose_it(
    recorded: dict[str, float], reported: float, folder: RunFolder
) -> None:
    fit = {"epochs": 4, "steps": 4, "images_per_s": 1.0, "data_wait": 0.0, "seconds": 1.0, **recorded}
    folder.fit.write_text(json.dumps(fit))
    assert validated({"monitor": "val/acc", "mode": "max"}, folder)["best_epoch"] == reported
