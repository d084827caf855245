"""state.json of a local run: how it stands, and which process it is in."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from dogbreed.run_folder import write_json
from launchers.base import Cause, Phase, Status

STATE_FILE = "state.json"  # written by the process that runs the run, and by nobody else
CANCEL_FILE = "cancel.requested"  # written by whoever cancels: so neither overwrites what the other wrote

RUNNING_HERE: set[Path] = set()  # folders whose run runs in this process

_SAME_START_S = 2.0  # psutil derives start times from the wall clock, which may be set a little meanwhile


@dataclass(frozen=True)
class State:
    phase: Phase
    cause: Cause
    detail: str
    attempt: int
    pid: int
    process_started: float  # seconds since 1970: tells a process from a later one with the same number
    host: str
    first_started_at: str
    started_at: str
    ended_at: str | None

    @classmethod
    def of_this_process(cls, before: Status) -> Self:
        import psutil

        now = _now()
        return cls(
            phase=Phase.RUNNING,
            cause=Cause.NONE,
            detail="",
            attempt=before.attempt + 1,
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            host=platform.node(),
            first_started_at=before.started_at or now,
            started_at=now,
            ended_at=None,
        )

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        try:
            fields = json.loads((folder / STATE_FILE).read_bytes())
            return cls(**{**fields, "phase": Phase(fields["phase"]), "cause": Cause(fields["cause"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None  # no run, or nothing that we wrote

    @classmethod
    def seen(cls, folder: Path) -> Self | None:
        """What the file says, corrected by what the process does: a killed one could not write its end."""
        state = cls.read(folder)
        if state is None or state.phase is not Phase.RUNNING:
            return state
        if not state.of_this_host:
            return replace(state, detail=f"on {state.host}: whether that process still lives cannot be seen from here")
        cancelled = cancel_requested(folder)
        if state._alive(folder):
            return replace(state, phase=Phase.STOPPING, cause=Cause.BY_USER) if cancelled else state
        if cancelled:
            return replace(state, phase=Phase.CANCELLED, cause=Cause.BY_USER, detail="cancelled, and killed")
        detail = f"process {state.pid} was killed, or the machine went down"
        return replace(state, phase=Phase.FAILED, cause=Cause.INTERRUPTED, detail=detail)

    def write(self, folder: Path) -> None:
        write_json(folder / STATE_FILE, asdict(self))

    def ended(self, phase: Phase, cause: Cause, detail: str) -> Self:
        return replace(self, phase=phase, cause=cause, detail=detail, ended_at=_now())

    @property
    def of_this_host(self) -> bool:
        return self.host == platform.node()

    def process(self) -> Any | None:
        """The psutil.Process of this very run; None if it is gone."""
        return living_process(self.pid, self.process_started)

    def _alive(self, folder: Path) -> bool:
        # In a container that is started again every process gets its old number: a match with ourselves proves nothing.
        return folder in RUNNING_HERE if self.pid == os.getpid() else self.process() is not None


def forget_elsewhere(folder: Path) -> bool:
    """Drop the state of a run that was last on another machine, where it is known that it does not run there any more.

    False where it was on this one.
    """
    state = State.read(folder)
    if state is None or state.of_this_host:
        return False
    (folder / STATE_FILE).unlink(missing_ok=True)
    return True


def living_process(pid: int, started: float) -> Any | None:
    """The psutil.Process; None if it is gone, or its number now belongs to another one. started: since 1970."""
    import psutil

    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < _SAME_START_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def cancel_requested(folder: Path) -> bool:
    return (folder / CANCEL_FILE).exists()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Between looking whether a run is alive and saying that it is ours, no other process does the same."""
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network disks cannot lock; then the look alone has to do
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
