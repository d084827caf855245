"""What a search comes to, in a file that programs can read, and as people see it: here, or brought home from a job."""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from dogbreed.run_folder import RunFolder, write_json
from launchers.base import SEARCH_FILE, Handle, LaunchError, RunResult, shown_path
from launchers.local import read_result
from launchers.sweep.best import retrain_command
from launchers.sweep.space import Value
from launchers.sweep.table import in_words

STUDY_FILE = "study.db"
_INDENT = 12 * " "


@dataclass(frozen=True)
class Ending:
    """trial: the best one's number, value: its objective, values: of its parameters. complete, pruned, failed: trials.
    epochs_share: of the epochs that all of them would have had, those that were trained. database: null for study.db in
    the search's own folder.
    """

    study: str
    trial: int
    monitor: str
    value: float
    values: Mapping[str, Value]
    complete: int
    pruned: int
    failed: int
    epochs_share: float
    database: str | None

    def write(self, folder: Path) -> None:
        write_json(folder / SEARCH_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises LaunchError where there is none."""
        try:
            return cls(**json.loads((folder / SEARCH_FILE).read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise LaunchError(f"{shown_path(folder / SEARCH_FILE)} cannot be read: {error}") from error

    @property
    def head(self) -> str:
        said = f"{self.complete} trials complete, {self.pruned} pruned, {self.failed} failed"
        return said + (f"; {self.epochs_share:.0%} of the epochs trained" if self.pruned else "")

    def tail(self, folder: Path) -> str:
        database = shown_path(folder / STUDY_FILE) if self.database is None else self.database
        return (
            f"best        trial {self.trial}, {self.monitor} {self.value:.4f}\n"
            f"{textwrap.fill(in_words(self.values), 80, initial_indent=_INDENT, subsequent_indent=_INDENT)}\n"
            f"study       {shown_path(folder / 'study.html')}\n"
            f"database    {database}\n"
            f"\nTrain with these settings: {retrain_command(folder)}"
        )


@dataclass(frozen=True)
class SearchResult(RunResult):
    """Of the best trial's run; folder: of the search."""

    shown: str

    def __str__(self) -> str:
        return self.shown


def read_search(handle: Handle, folder: Path) -> SearchResult:
    """Raises LaunchError where the search's numbers, or its best trial's, cannot be read."""
    ending = Ending.read(folder)
    best = read_result(handle, RunFolder(trial_folder(folder, ending.trial)))
    shown = f"\n{ending.head}\n{best}\n\n{ending.tail(folder)}"
    metrics = {ending.monitor: ending.value, **best.metrics}
    return SearchResult(handle, folder, metrics, {**best.artifacts, "study": folder / "study.html"}, shown)


def trial_folder(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}"
