"""Compare how far two copies of a run have come, one here and one in a cloud: by what was trained, not by dates."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dogbreed.commands import shown_path
from dogbreed.saved_progress import SavedProgress, file_beside
from launchers.spec import STUDY_FILE, RunOutput, SearchOutput
from launchers.status import LaunchError


@dataclass(frozen=True)
class StudyProgress:
    """The progress of a search. uid: of its study. ended: trials. epochs: reported by all trials. trials: all of them,
    also those that wait.
    """

    uid: str
    ended: int
    epochs: int
    trials: int

    @classmethod
    def of(cls, database: Path) -> Self | None:
        """Read a study's SQLite file; None if it is damaged or has no study."""
        query = (
            "SELECT (SELECT value_json FROM study_user_attributes WHERE key = 'dogbreed'), "
            "(SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')), "
            "(SELECT COUNT(*) FROM trial_intermediate_values), (SELECT COUNT(*) FROM trials)"
        )
        try:
            with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as opened:
                about, ended, epochs, trials = opened.execute(query).fetchone()
        except sqlite3.Error:
            return None
        return None if about is None else cls(str(about), int(ended), int(epochs), int(trials))

    @property
    def at(self) -> tuple[int, ...]:
        return self.ended, self.epochs, self.trials

    def differs_from(self, other: "StudyProgress") -> bool:
        return self.uid != other.uid

    def __str__(self) -> str:
        return f"{self.ended} of {self.trials} trials ended, {self.epochs} epochs reported"


Progress = SavedProgress | StudyProgress
Reader = Callable[[str], Path | None]  # a file's name below the run's folder -> its path here; None if there is none


def progress(output: RunOutput | SearchOutput, path_of: Reader, exists: Callable[[str], bool]) -> Progress | None:
    """Return the progress of what a run has saved; None if it has saved nothing that can be resumed.

    path_of: gets a file, which may be a download; checkpoints are only asked for if no file beside them tells.
    """
    match output:
        case SearchOutput():
            database = path_of(STUDY_FILE)
            return None if database is None else StudyProgress.of(database)
        case RunOutput():
            found = [_of_checkpoint(name, path_of) for name in output.resume_points if exists(name)]
            return max((each for each in found if each is not None), key=lambda each: each.at, default=None)


def progress_here(output: RunOutput | SearchOutput, folder: Path) -> Progress | None:
    """Return the progress of a run's folder on this machine."""
    match output:
        case SearchOutput():
            return StudyProgress.of(folder / STUDY_FILE) if (folder / STUDY_FILE).exists() else None
        case RunOutput():
            found = [SavedProgress.of(folder / name) for name in output.resume_points if (folder / name).exists()]
            return max((each for each in found if each is not None), key=lambda each: each.at, default=None)


def is_further(here: Progress | None, there: Progress | None, folder: Path, there_uri: str) -> bool:
    """Return whether the copy on this machine is further than the one in the cloud.

    Raises LaunchError if the two are not of one history, so that neither continues the other.
    """
    if here is None or there is None:
        return here is not None
    if type(here) is not type(there) or here.differs_from(there):  # type: ignore[arg-type]
        raise LaunchError(
            "The run was trained in two ways, and it cannot be said which one to resume:\n"
            f"  {shown_path(folder)}: {here}\n"
            f"  {there_uri}: {there}\n"
            f"Try: move one of them away; without {shown_path(folder)} on this machine, the other is resumed"
        )
    return here.at > there.at


def _of_checkpoint(name: str, path_of: Reader) -> SavedProgress | None:
    beside = path_of(file_beside(Path(name)).as_posix())
    if beside is not None and (found := SavedProgress.beside(beside.with_suffix(Path(name).suffix))) is not None:
        return found
    path = path_of(name)
    return None if path is None else SavedProgress.of(path)
