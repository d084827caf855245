"""Prepare a search's folder that was downloaded from a machine which no longer runs."""

import sqlite3
from contextlib import closing
from pathlib import Path

from dogbreed.run_folder import RunFolder
from launchers.runs.state import STATE_FILE
from launchers.spec import STUDY_FILE, TRIAL_FOLDERS


def release_trials(folder: Path) -> None:
    """Let the trials wait that the machine was running when it ended: they neither count nor show as running."""
    with closing(sqlite3.connect(folder / STUDY_FILE)) as database:
        database.execute("UPDATE trials SET state = 'WAITING' WHERE state = 'RUNNING'")
        database.commit()
    for trial in trial_folders(folder):
        if not RunFolder(trial).metrics.exists():
            (trial / STATE_FILE).unlink(missing_ok=True)


def trial_folders(folder: Path) -> list[Path]:
    """List the folders of a search's trials, in the order of their numbers."""
    return sorted(path for path in folder.glob("*/") if TRIAL_FOLDERS.fullmatch(path.name))
