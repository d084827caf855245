"""state.json of a local run: how it stands, and which process it is in."""

import errno
import json
import os
import platform
import shlex
import signal
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from dogbreed.distributed import ranks
from dogbreed.errors import DogBreedError, Interrupted, StorageError
from dogbreed.run_folder import write_json
from launchers.base import Cause, LaunchError, Phase, Status
from launchers.formatting import shown_path
from launchers.runs.processes import living_process

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

STATE_FILE = "state.json"  # written by the process that runs the run, and by nobody else
CANCEL_FILE = "cancel.requested"  # written by whoever cancels: so neither overwrites what the other wrote

RUNNING_HERE: set[Path] = set()  # folders whose run runs in this process


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


def cancel_requested(folder: Path) -> bool:
    return (folder / CANCEL_FILE).exists()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def outcome(error: BaseException, *, cancelled: bool) -> tuple[Phase, Cause, str]:
    """What a run's end means, and how to say it."""
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
    """The signal that ended the run: in training it is Interrupted, before and after what train.py's handlers raise."""
    if isinstance(error, Interrupted):
        return error.signum
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, SystemExit) and error.code == 128 + signal.SIGTERM:
        return signal.SIGTERM
    return None


def refuse_if_alive_here(folder: Path) -> None:
    """Raises LaunchError where the run in `folder` is being trained here: two would write into each other."""
    state = State.seen(folder)
    if state is not None and state.of_this_host and state.phase in (Phase.RUNNING, Phase.STOPPING):
        raise LaunchError(alive_message(folder))


def alive_message(folder: Path) -> str:
    state = State.read(folder)
    assert state is not None
    where, quoted = shown_path(folder), shlex.quote(shown_path(folder))
    if not state.of_this_host:
        return (
            f"The run at {where} was last in process {state.pid} on {state.host}, which cannot be seen from here.\n"
            f"Try: if that machine is gone, rm {quoted}/{STATE_FILE}, then the same command again"
        )
    return (
        f"The run at {where} is going on in process {state.pid}.\n"
        f"Try: python -m launchers logs --follow {quoted}, or python -m launchers cancel {quoted}"
    )
