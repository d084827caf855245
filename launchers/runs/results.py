"""Read the result of a run from its folder."""

import csv
import json
from pathlib import Path
from typing import Any

from dogbreed.best_epoch import best_row
from dogbreed.commands import shown_path
from dogbreed.run_folder import RunFolder
from launchers.status import Handle, LaunchError, RunResult

_ARTIFACTS = (  # attributes of a RunFolder
    *("report", "model", "best", "last", "metrics", "history", "predictions"),
    *("skipped", "copies", "config", "environment", "log"),
)


def read_result(handle: Handle, folder: RunFolder) -> RunResult:
    """Read metrics and files of a run that has succeeded. Raises LaunchError if its metrics.json cannot be read."""
    try:
        metrics = json.loads(folder.metrics.read_bytes())
    except (OSError, ValueError) as error:
        where = shown_path(folder.path)
        raise LaunchError(f"The run in {where} succeeded, but its metrics.json cannot be read: {error}") from error
    paths: dict[str, Path] = {name: getattr(folder, name) for name in _ARTIFACTS}
    return RunResult(handle, folder.path, metrics, {name: path for name, path in paths.items() if path.exists()})


def has_result(folder: RunFolder, *, tested: bool) -> bool:
    """Return whether the files of a result are there. tested: whether the run ends with a test and a report.

    A rented machine's files are saved one by one, so its state may be there without them.
    """
    try:
        metrics = json.loads(folder.metrics.read_bytes())
    except (OSError, ValueError):
        return False
    ended = "test/acc" in metrics or "temperature" in metrics  # the latter alone if there are no test photos
    return not tested or (ended and folder.report.exists())


def best_so_far(folder: Path) -> dict[str, float]:
    """Read the metrics of the best epoch so far, as metrics.json of a run with test=false holds them.

    Raises LaunchError if no epoch has ended.
    """
    from omegaconf import OmegaConf

    here = RunFolder(folder)
    config: Any = OmegaConf.load(here.config) if here.config.exists() else {}
    try:
        with here.history.open(newline="") as file:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    except OSError:
        rows = []
    if not rows:
        raise LaunchError(f"No epoch of the run in {folder} has ended, so it has no metrics.")
    best = best_row(rows, str(config.get("monitor", "val/acc")), str(config.get("mode", "max")))
    numbers = {name: value for name, value in best.items() if name.startswith("val/")}
    return {**numbers, "best_epoch": best["epoch"], "epochs": float(len(rows)), "steps": rows[-1]["step"]}
