"""A trial of SageMaker's tuner, on its rented machine: the values that were chosen for it, its folder, its objective.

The tuner starts the image's own toolkit, which starts launchers/remote/entry.py. Values come as hyperparameters, and
the tuner reads the objective from the log. Uses the standard library alone: entry.py loads it from the code that was
sent.
"""

import csv
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_NOT_OF_THE_RUN = ("sagemaker_", "_tuning")  # prefixes of hyperparameters that are for the toolkit and the tuner


def folder(base: Path) -> Path:
    """Return the trial's folder. All trials save to one place, so each has a folder of its own name there."""
    return base / "checkpoints" / os.environ["TRAINING_JOB_NAME"]


def overrides(base: Path) -> list[str]:
    """Return what train.py needs besides the overrides of every trial: the chosen values, the trial's id and folder."""
    given = json.loads((base / "input/config/hyperparameters.json").read_bytes())
    chosen = [f"{key}={value}" for key, value in sorted(given.items()) if not key.startswith(_NOT_OF_THE_RUN)]
    place = folder(base)
    return [*chosen, f"run_id={place.name}", f"hydra.run.dir={place}"]


class Objective:
    """Prints the best value of the objective so far after each epoch, in a line that the tuner finds.

    run: the trial's folder. config: of the trial.
    """

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        self._rows, self._result = run / "metrics.csv", run / "metrics.json"
        self._monitor, self._mode = str(config["monitor"]), str(config["mode"])
        self._seen: tuple[int, int] | None = None  # of metrics.csv, as it was read last
        self._epochs = 0

    def look(self) -> None:
        """Print a line for each epoch that has ended since the last time."""
        try:
            stat = self._rows.stat()
            if (stat.st_mtime_ns, stat.st_size) == self._seen:
                return
            self._seen = stat.st_mtime_ns, stat.st_size
            with self._rows.open(newline="") as file:
                values = [_number(row.get(self._monitor)) for row in csv.DictReader(file)]
        except (OSError, csv.Error):
            return
        for epoch in range(self._epochs + 1, len(values) + 1):
            self._print(values[:epoch])
        self._epochs = max(self._epochs, len(values))

    def end(self) -> None:
        """Print the value of the run's result, which counts: the tuner takes the last line."""
        self.look()
        with suppress(OSError, ValueError, KeyError):
            self._print([_number(json.loads(self._result.read_bytes())[self._monitor])])

    def _print(self, values: list[float]) -> None:
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            print(f"objective {(max if self._mode == 'max' else min)(finite)!r}", flush=True)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
