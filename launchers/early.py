"""The numbers of a run that was ended early: its best epoch's, from metrics.csv."""

import csv
from pathlib import Path
from typing import Any

from dogbreed.run_folder import RunFolder
from launchers.base import LaunchError


def best_so_far(folder: Path) -> dict[str, float]:
    """As metrics.json of a run with test=false has them. Raises LaunchError where no epoch has ended."""
    from omegaconf import OmegaConf

    here = RunFolder(folder)
    config: Any = OmegaConf.load(here.config) if here.config.exists() else {}
    try:
        with here.history.open(newline="") as file:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    except OSError:
        rows = []
    if not rows:
        raise LaunchError(f"No epoch of the run in {folder} has ended, so it has no numbers.")
    monitor = str(config.get("monitor", "val/acc"))
    better = max if config.get("mode", "max") == "max" else min
    best = better(rows, key=lambda row: row[monitor])
    numbers = {name: value for name, value in best.items() if name.startswith("val/")}
    return {**numbers, "best_epoch": best["epoch"], "epochs": float(len(rows)), "steps": rows[-1]["step"]}
