"""Waiting for a run that runs elsewhere: its log as it comes, how it stands, and leaving it alone on Ctrl-C."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dogbreed.errors import Interrupted
from dogbreed.progress import Epoch, is_result_row
from launchers.base import Handle, Launcher, LaunchError, LogLine, Phase, RunResult, Status

if TYPE_CHECKING:
    from dogbreed.training import Watch

_WORDS = {
    Phase.SUBMITTED: "submitted",
    Phase.PROVISIONING: "getting a machine",
    Phase.RUNNING: "running",
    Phase.RECOVERING: "interrupted, getting another machine",
    Phase.STOPPING: "stopping",
}


def follow(launcher: Launcher, handle: Handle) -> RunResult:
    """The run's result, once it has ended; until then its log and one line that says how it stands.

    Raises LaunchError if it did not succeed, and Interrupted after Ctrl-C or SIGTERM: the run goes on without us.
    """
    try:
        if launcher.status(handle).finished:  # a run of this machine has ended by now
            return launcher.result(handle)
        with _Progress(launcher, handle) as progress:
            for line in launcher.logs(handle, follow=True):
                if not is_result_row(line.text):  # the result has them, too
                    progress.show(line)
        while not launcher.status(handle).finished:
            time.sleep(launcher.poll_s)
        print(f"{handle}: {_ended(launcher.status(handle))}", flush=True)
        return launcher.result(handle)
    except LaunchError as error:
        if launcher.capabilities.remote and not _has_ended(launcher, handle):
            error.add_note(detached(launcher, handle))
        raise
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code != 128 + signal.SIGTERM:
            raise
        signum = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
        raise Interrupted(detached(launcher, handle), signum) from None


def wait(launcher: Launcher, handle: Handle, *, sleep: Callable[[float], None] = time.sleep) -> RunResult:
    """Return the result, once the run has finished. Raises LaunchError if it did not succeed."""
    while not launcher.status(handle).finished:
        sleep(launcher.poll_s)
    return launcher.result(handle)


def _has_ended(launcher: Launcher, handle: Handle) -> bool:
    """False also where nobody can tell."""
    try:
        return launcher.status(handle).finished
    except LaunchError:
        return False


def detached(launcher: Launcher, handle: Handle) -> str:
    """What to type to come back to a run that goes on by itself."""
    name = launcher.name_of(handle)
    return (
        f"The run goes on without this terminal: {handle}\n"
        f"Come back:  python -m launchers attach {name}\n"
        f"Stop it:    python -m launchers cancel {name}"
    )


def ask_after_each_epoch(launcher: Launcher, handle: Handle, watch: "Watch") -> bool:
    """Tell `watch` of each epoch as it is logged, once, until the run has ended. True: it has seen enough."""
    told = 0
    for line in launcher.logs(handle, follow=True):
        found = Epoch.find(line.text)
        if found and found.epoch > told:  # an attempt after an interruption may repeat some
            told = found.epoch
            if watch(told, {"val/loss": found.val_loss, "val/acc": found.val_acc}):
                return told < found.epochs
    return False


class _Progress:
    """Lines of the log, labelled where there are several attempts or nodes; and the state below them, on a terminal as
    one line that changes, elsewhere whenever the phase changes.
    """

    def __init__(self, launcher: Launcher, handle: Handle) -> None:
        self.launcher, self.handle = launcher, handle
        self._status: Status | None = None
        self._epoch = ""
        self._attempt = 1
        self._began = time.monotonic()
        self._live = sys.stdout.isatty()
        self._lock = threading.Lock()
        self._ending = threading.Event()

    def __enter__(self) -> "_Progress":
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        with self._lock:
            self._clear()

    def show(self, line: LogLine) -> None:
        with self._lock:
            self._clear()
            if line.attempt != self._attempt:
                print(f"--- attempt {line.attempt} ---")
                self._attempt = line.attempt
            label = f"[{line.node}] " if line.node else ""
            print(f"{label}{line.text}", flush=True)
            if found := Epoch.find(line.text):
                self._epoch = f"epoch {found.epoch}/{found.epochs}, val/acc {found.val_acc:.3f}"
            self._draw()

    def _look(self) -> None:
        """Ask for the status now and then, while the log is waited for."""
        pause = max(0.5, self.launcher.poll_s)
        while not self._ending.is_set():
            try:
                status = self.launcher.status(self.handle)
            except Exception:  # the log's reader meets the same, and raises it
                return
            with self._lock:
                if self._ending.is_set():
                    return
                changed = self._status is None or self._status.phase != status.phase
                self._status = status
                self._clear()
                if changed and not status.finished:
                    print(f"{self.handle}: {self._words()}", flush=True)
                self._draw()
            self._ending.wait(pause)

    def _words(self) -> str:
        assert self._status is not None
        parts = [_WORDS.get(self._status.phase, str(self._status.phase))]
        if self._status.attempt > 1:
            parts.append(f"attempt {self._status.attempt}")
        return ", ".join(parts)

    def _draw(self) -> None:
        if not self._live or self._status is None:
            return
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        cost = "" if self._status.usd is None else f"${self._status.usd:.4f} so far"
        parts = [self._words(), self._epoch, f"{minutes}:{seconds:02d}", cost]
        print("  ".join(part for part in parts if part)[:79], end="\r", flush=True)

    def _clear(self) -> None:
        if self._live:
            print(" " * 79, end="\r")


def _ended(status: Status) -> str:
    cost = "" if status.usd is None else f", ${status.usd:.4f} by list price"
    tries = f" after {status.attempt} attempts" if status.attempt > 1 else ""
    return f"{status.phase}{tries}{cost}"
