"""How far a run has come, as the files in its folder tell: trained, tested, finished."""

from collections.abc import Mapping
from typing import Any

import torch

from dogbreed import checkpoints
from dogbreed.errors import CheckpointError
from dogbreed.run_folder import RunFolder, read_json


def is_trained(config: Mapping[str, Any], here: RunFolder) -> bool:
    """Whether all epochs that the settings ask for are trained, or an earlier end was asked for."""
    return here.fit.exists() and read_json(here.fit)["max_epochs"] >= config["trainer"]["max_epochs"]


def is_tested(here: RunFolder) -> bool:
    return here.metrics.exists() and "test/acc" in read_json(here.metrics)


def is_finished(config: Mapping[str, Any], here: RunFolder) -> bool:
    """Whether nothing is left to do. Of the run folder alone: copies of other processes have no report."""
    last = here.report if config.get("test", True) else here.metrics
    grows = here.fit.exists() and not is_trained(config, here)
    return here.metrics.exists() and last.exists() and not grows


def forget_mismatched(here: RunFolder) -> None:
    """Remove what marks the run as trained or tested where the checkpoints that came of it are not there.

    On a rented machine files are saved one by one: after an interruption a folder may hold some newer than others.
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
