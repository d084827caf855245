"""The table of `python -m launchers list`: runs of all back ends, newest first. No server is started for it."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dogbreed.commands import shown_path
from launchers.base import Launcher
from launchers.registry import launched_run
from launchers.runs.find import DEPLOYMENTS_DIR, SWEEPS_DIR
from launchers.runs.launched import launched
from launchers.spec import LAUNCHED_FILE, SPEC_FILE, RunSpec
from launchers.status import Handle, LaunchError, Phase, Status

_WIDTH = 80
_SECOND, _MINUTE = 19, 16  # characters of an ISO date


@dataclass(frozen=True)
class Listed:
    """A run and its status, for people and for programs. here: its folder, if it was launched from here."""

    launcher: Launcher
    handle: Handle
    status: Status
    here: Path | None = None

    @property
    def name(self) -> str:
        folder = self._folder
        return str(self.handle) if folder is None else shown_path(folder)

    @property
    def phase(self) -> str:
        tries = f", try {self.status.attempt}" if self.status.attempt > 1 else ""
        return f"{self.status.phase.replace('_', ' ')}{tries}"

    @property
    def _folder(self) -> Path | None:
        return self.here or self.launcher.folder(self.handle)

    def facts(self) -> dict[str, Any]:
        folder = self._folder
        here = {} if folder is None else {"folder": str(folder.absolute())}
        return {"handle": str(self.handle), **here, **asdict(self.status)}


def table(runs: Sequence[Listed]) -> str:
    """Return the runs as lines of at most 80 characters; a longer name has a line of its own."""
    rows = [("run", "phase", "started (UTC)"), *((run.name, run.phase, run.status.started_at) for run in runs)]
    phases = max(len(phase) for _, phase, _ in rows)
    names = max(len(name) for name, _, _ in rows)
    date = _SECOND if names + phases + _SECOND + 4 <= _WIDTH else _MINUTE
    names = min(names, _WIDTH - phases - date - 4)
    lines = []
    for name, phase, started in rows:
        if len(name) > names:
            lines.append(name)
        shown = name if len(name) <= names else ""
        lines.append(f"{shown:<{names}}  {phase:<{phases}}  {started[:date]}".rstrip())
    return "\n".join(lines)


def launched_from_here(runs_dir: str, *, ended: bool, name: str) -> list[Listed]:
    """Find remote runs that were submitted from this folder and whose results have not been downloaded.

    ended: whether to include those that have ended. name: a part of their run ids.
    """
    sweeps = (Path(SWEEPS_DIR).glob(f"{below}/{LAUNCHED_FILE}") for below in ("*", "*/*"))  # one-job searches; trials
    deployments = Path(DEPLOYMENTS_DIR).glob(f"*/{LAUNCHED_FILE}")
    found = []
    for file in (file for files in (Path(runs_dir).glob(f"*/{LAUNCHED_FILE}"), deployments, *sweeps) for file in files):
        note = launched(file.parent) or {}
        if "handle" not in note or "home" in note or name not in Handle.parse(note["handle"]).run_id:
            continue
        try:
            launcher, handle = launched_run(note)
            status = launcher.status(handle) if launcher.answers else _stopped(file.parent)
        except LaunchError as error:  # an unknown launcher or an unreachable cloud must not hide the other runs
            print(f"{note['handle']}: {error}", file=sys.stderr)
            continue
        if not status.started_at:
            status = replace(status, started_at=_created_at(file.parent))
        if ended or not status.finished:
            found.append(Listed(launcher, handle, status, file.parent))
    return found


def _stopped(folder: Path) -> Status:
    """Return what is known of a run whose cloud is not running: it is not running either, and `status` tells how it
    ended.
    """
    return Status(Phase.LOST, detail="its rehearsal cloud is not running", started_at=_created_at(folder))


def _created_at(folder: Path) -> str:
    try:
        return RunSpec.from_json((folder / SPEC_FILE).read_text()).created_at
    except (OSError, ValueError, KeyError, TypeError):
        return ""
