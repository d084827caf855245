"""Determine from the files in a run folder which stages are done: trained, tested, finished."""

from collections.abc import Mapping
from typing import Any

import torch

from dogbreed import checkpoints
from dogbreed.errors import CheckpointError
from dogbreed.run_folder import RunFolder, read_json


def is_trained(config: Mapping[str, Any], here: RunFolder) -> bool:
    """Return whether the run was trained to the last epoch of its settings, or to an earlier requested end."""
    return here.fit.exists() and read_json(here.fit)["max_epochs"] >= config["trainer"]["max_epochs"]


def is_tested(here: RunFolder) -> bool:
    return here.metrics.exists() and "test/acc" in read_json(here.metrics)


def is_finished(config: Mapping[str, Any], here: RunFolder) -> bool:
    """Return whether nothing is left to do. Only for the run folder: the copies of other processes have no report."""
    last = here.report if config.get("test", True) else here.metrics
    grows = here.fit.exists() and not is_trained(config, here)
    return here.metrics.exists() and last.exists() and not grows


def forget_mismatched(here: RunFolder) -> None:
    """Remove the files that mark the run as trained or tested if their checkpoints are missing.

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
    else:
        fitted = (read_json(here.metrics) if here.metrics.exists() else {}).get("temperature")
        if fitted is None or float(best["state_dict"]["temperature"]) == torch.tensor(fitted).item():
            return
    for path in done:
        path.unlink(missing_ok=True)
