"""Tell how a search of this machine is, from its folder: its study, and the trials in it."""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dogbreed import commands
from dogbreed.commands import shown_path
from dogbreed.run_folder import SEARCH_FILE, trial_folder, write_text
from launchers.runs.launched import launched
from launchers.runs.processes import living_process, this_host
from launchers.runs.released import trial_folders
from launchers.runs.state import CANCEL_FILE, State, cancel_requested
from launchers.spec import JOB_LOG, STUDY_FILE
from launchers.status import Cause, LaunchError, Phase, Status

SWEEPERS = "sweeper:"  # attributes of a study: this and the id of a process that works on it
TESTED_USD = "tested_usd"  # the same: by trial that was tested, what its run has cost in all
USD = "usd"  # attribute of a trial: what its run has cost

_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
_OF_PHASES = {Phase.SUCCEEDED: "complete", Phase.FAILED: "failed", Phase.CANCELLED: "waiting"}


def is_search(folder: Path) -> bool:
    """Return whether a folder is that of a search."""
    return any((folder / name).exists() for name in (STUDY_FILE, SEARCH_FILE)) or bool(trial_folders(folder))


@dataclass(frozen=True)
class SearchFolder:
    """A search as it was found. counts: of trials, by state. sweepers: the processes that have worked on it."""

    folder: Path
    counts: Mapping[str, int]
    sweepers: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read the study in the folder; the folders of its trials, if its database is elsewhere or cannot be read."""
        try:
            with closing(sqlite3.connect(f"{(folder / STUDY_FILE).absolute().as_uri()}?mode=ro", uri=True)) as study:
                counts = dict(study.execute("SELECT state, COUNT(*) FROM trials GROUP BY state").fetchall())
                known = study.execute(
                    "SELECT value_json FROM study_user_attributes WHERE key LIKE ?", [f"{SWEEPERS}%"]
                ).fetchall()
            found = {_STATES[state]: int(count) for state, count in counts.items()}
            return cls(folder, found, tuple(json.loads(value) for (value,) in known))
        except (sqlite3.Error, ValueError, KeyError):
            seen = (State.seen(trial) for trial in trial_folders(folder))
            return cls(folder, Counter(_OF_PHASES.get(each.phase, "running") for each in seen if each is not None), ())

    def processes(self) -> list[Any]:
        """Return the psutil.Process of each that works on the search on this machine."""
        ours = (each for each in self.sweepers if each.get("host") == this_host())
        found = (living_process(int(each["pid"]), float(each["started"])) for each in ours)
        return [process for process in found if process is not None]

    @property
    def status(self) -> Status:
        detail, started = self._detail(), self._started_at()
        if self.processes() or (not self.sweepers and self.counts.get("running")):
            asked = cancel_requested(self.folder)
            phase, cause = (Phase.STOPPING, Cause.BY_USER) if asked else (Phase.RUNNING, Cause.NONE)
            return Status(phase, cause, detail, started_at=started)
        if (self.folder / SEARCH_FILE).exists():
            return Status(Phase.SUCCEEDED, detail=detail, started_at=started)
        by = Cause.BY_USER if cancel_requested(self.folder) else Cause.INTERRUPTED
        again = "Resume it with the command that started it."
        return Status(Phase.CANCELLED, by, detail, started_at=started, next_action=again)

    def _detail(self) -> str:
        ended = sum(self.counts.get(state, 0) for state in ("complete", "pruned", "failed"))
        others = [f"{self.counts[state]} {state}" for state in ("pruned", "failed") if self.counts.get(state)]
        running = f", {self.counts['running']} running" if self.counts.get("running") and self.processes() else ""
        which = f" ({', '.join(others)})" if others else ""
        return f"search: {ended} trial{'' if ended == 1 else 's'} ended{which}{running}"

    def _started_at(self) -> str:
        """Return when its first trial started."""
        states = (State.read(trial) for trial in trial_folders(self.folder)[:1])
        return next((state.first_started_at for state in states if state is not None), "")


def spent(folder: Path) -> dict[Path, float]:
    """Return what those trials of a search have cost that were jobs and have ended, by their folders.

    It is read from the study in the folder; empty if there is none.
    """
    try:
        with closing(sqlite3.connect(f"{(folder / STUDY_FILE).absolute().as_uri()}?mode=ro", uri=True)) as study:
            billed = study.execute(
                "SELECT number, value_json FROM trials JOIN trial_user_attributes USING (trial_id) WHERE key = ?", [USD]
            ).fetchall()
            tested = study.execute(
                "SELECT value_json FROM study_user_attributes WHERE key = ?", [TESTED_USD]
            ).fetchall()
        found = {int(number): float(value) for number, value in billed}
        found |= {int(number): float(usd) for (value,) in tested for number, usd in json.loads(value).items()}
    except (sqlite3.Error, ValueError):
        return {}
    return {trial_folder(folder.absolute(), number): usd for number, usd in found.items()}


def log_of(folder: Path) -> Path:
    """Return the log of a search that ran as one job. Raises LaunchError for any other: each trial has its own."""
    if (folder / JOB_LOG).exists():
        return folder / JOB_LOG
    trials = [trial for trial in trial_folders(folder) if State.read(trial) is not None or launched(trial)]
    listed = [commands.launchers("logs", shown_path(trial)) for trial in trials[-1:]]
    raise LaunchError(
        f"The search in {shown_path(folder)} has no log of its own: each of its trials has one.\n"
        f"Try: {listed[0] if listed else commands.launchers('status', shown_path(folder))}"
    )


def request_cancel(found: SearchFolder) -> list[Any]:
    """Ask the processes of a search on this machine to save and stop; return them."""
    import psutil

    processes = found.processes()
    if processes:
        write_text(found.folder / CANCEL_FILE, f"by process {os.getpid()}\n")
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it has ended in this moment
            process.terminate()
    return processes
