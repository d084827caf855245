"""Determine from the files in a run folder which stages are done: trained, tested, finished."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dogbreed import checkpoints
from dogbreed.errors import CheckpointError
from dogbreed.run_folder import RunFolder, read_json


def is_trained(config: Mapping[str, Any], here: RunFolder) -> bool:
    """Return whether the run was trained to the last epoch of its settings, or to an earlier requested end."""
    return here.fit.exists() and read_json(here.fit)["max_epochs"] >= config["trainer"]["max_epochs"]


def is_tested(here: RunFolder) -> bool:
    """Return whether the best epoch was calibrated, and tested if there are test photos."""
    return here.predictions.exists() and here.metrics.exists() and "temperature" in read_json(here.metrics)


def is_finished(config: Mapping[str, Any], here: RunFolder) -> bool:
    """Return whether nothing is left to do. Only for the run folder: the copies of other processes have no report."""
    last = here.report if config.get("test", True) else here.metrics
    grows = here.fit.exists() and not is_trained(config, here)
    return here.metrics.exists() and last.exists() and not grows


def forget_mismatched(here: RunFolder) -> None:
    """Remove the files that mark the run as trained or tested if what they go with is missing, or of another moment.

    On a rented machine files are saved one by one: after an interruption, some in the folder may be newer than others.
    """
    if not (here.fit.exists() and here.best.exists()) or "best_epoch" not in (fit := read_json(here.fit)):
        return
    done = [here.report, here.model, here.metrics]
    try:
        best: dict[str, Any] | None = checkpoints.read(here.best)
        steps = checkpoints.read(here.last)["global_step"] if here.last.exists() else fit["steps"]
    except CheckpointError:
        best, steps = None, 0
    if best is None or int(best["epoch"]) + 1 != fit["best_epoch"] or steps != fit["steps"]:
        done.append(here.fit)
    elif len(_rows(here.history)) != fit["epochs"]:
        done.append(here.fit)  # last.ckpt has all rows, so the training is ended again, without a step
    else:
        tested = read_json(here.metrics) if here.metrics.exists() else {}
        if "temperature" not in tested:
            return
        same = float(best["state_dict"]["temperature"]) == torch.tensor(tested["temperature"]).item()
        if same and _predicts(here.predictions, tested.get("test/acc")):
            return
    for path in done:
        path.unlink(missing_ok=True)


def _predicts(predictions: Path, accuracy: float | None) -> bool:
    """Return whether predictions.csv exists and is of the test that gave this accuracy."""
    if not predictions.exists():
        return False
    rows = _rows(predictions)
    right = sum(row["breed"] == row["predicted"] for row in rows)
    return accuracy is None or (bool(rows) and abs(right / len(rows) - accuracy) < 1e-5)


def _rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
