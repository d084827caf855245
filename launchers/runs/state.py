"""state.json of a local run: its phase, and the process that it runs in."""

import errno
import json
import os
import platform
import signal
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from dogbreed import commands
from dogbreed.commands import shown_path
from dogbreed.distributed import ranks
from dogbreed.errors import DogBreedError, Interrupted, StorageError
from dogbreed.interruption import signal_of_exit
from dogbreed.run_folder import write_json
from launchers.runs.processes import living_process
from launchers.status import Cause, LaunchError, Phase, Status

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

STATE_FILE = "state.json"  # written only by the process that runs the run
CANCEL_FILE = "cancel.requested"  # written by the process that cancels it, so that neither overwrites the other's file

RUNNING_HERE: set[Path] = set()  # folders of the runs in this process


@dataclass(frozen=True)
class State:
    phase: Phase
    cause: Cause
    detail: str
    attempt: int
    pid: int
    process_started: float  # seconds since 1970; distinguishes a process from a later one with the same number
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
            return None  # there is no run, or the file is damaged

    @classmethod
    def seen(cls, folder: Path) -> Self | None:
        """Read the file, corrected by whether the process is alive: a killed one could not record its end."""
        state = cls.read(folder)
        if state is None or state.phase is not Phase.RUNNING:
            return state
        if not state.of_this_host:
            return replace(state, detail=f"on {state.host}; cannot check from here whether that process is alive")
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
        """Return the psutil.Process of this run; None if it has ended."""
        return living_process(self.pid, self.process_started)

    def _alive(self, folder: Path) -> bool:
        # In a restarted container each process gets its old number, so a match with our own number proves nothing.
        return folder in RUNNING_HERE if self.pid == os.getpid() else self.process() is not None


def forget_elsewhere(folder: Path) -> bool:
    """Delete the state of a run that was last on another machine; the caller knows that it no longer runs there.

    Return False if it was last on this machine.
    """
    state = State.read(folder)
    if state is None or state.of_this_host:
        return False
    (folder / STATE_FILE).unlink(missing_ok=True)
    return True


def cancel_requested(folder: Path) -> bool:
    return (folder / CANCEL_FILE).exists()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def outcome(error: BaseException, *, cancelled: bool) -> tuple[Phase, Cause, str]:
    """Return the phase, cause and detail of a run that ended with `error`. cancelled: whether somebody asked for it."""
    if (signum := _signal_of(error)) is not None:
        by_user = cancelled or signum == signal.SIGINT
        detail = str(error) if isinstance(error, Interrupted) else f"Stopped by {signal.Signals(signum).name} at once."
        return Phase.CANCELLED, Cause.BY_USER if by_user else Cause.INTERRUPTED, detail
    if isinstance(error, StorageError):
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL
        return Phase.FAILED, Cause.QUOTA if full else Cause.PERMISSION, str(error)
    if isinstance(error, ranks.PeerLost):
        return Phase.FAILED, Cause.UNKNOWN, str(error)
    if isinstance(error, DogBreedError):
        return Phase.FAILED, Cause.BAD_CONFIG, str(error)
    return Phase.FAILED, Cause.USER_CODE, f"{type(error).__name__}: {error}"


def _signal_of(error: BaseException) -> int | None:
    """Return the signal that ended the run, or None. Training raises Interrupted, train.py's handlers the others."""
    if isinstance(error, Interrupted):
        return error.signum
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    return signal_of_exit(error) if isinstance(error, SystemExit) else None


def refuse_if_alive_here(folder: Path) -> None:
    """Raise LaunchError if the run in `folder` is being trained on this machine: two would overwrite each other."""
    state = State.seen(folder)
    if state is not None and state.of_this_host and state.phase in (Phase.RUNNING, Phase.STOPPING):
        raise LaunchError(alive_message(folder))


def alive_message(folder: Path) -> str:
    state = State.read(folder)
    assert state is not None
    where = shown_path(folder)
    if not state.of_this_host:
        return (
            f"The run in {where} was last in process {state.pid} on {state.host}, which cannot be checked from here.\n"
            f"If that machine no longer exists, try: {commands.shell('rm', shown_path(folder / STATE_FILE))}\n"
            "and then the same command again"
        )
    return f"The run in {where} is already running, in process {state.pid}.\n" + commands.one_per_line(
        [commands.launchers("logs", "--follow", where), commands.launchers("cancel", where)]
    )
