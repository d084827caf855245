"""Follow a remote run: print its log as it arrives and its status, and leave it running on Ctrl-C."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dogbreed import commands
from dogbreed.errors import Interrupted
from dogbreed.interruption import signal_of_exit
from dogbreed.progress import Epoch, is_result_row
from launchers.base import Launcher
from launchers.status import Handle, LaunchError, LogLine, Phase, RunResult, Status

if TYPE_CHECKING:
    from dogbreed.training import Watch

_WORDS = {
    Phase.SUBMITTED: "submitted",
    Phase.PROVISIONING: "getting a machine",
    Phase.RUNNING: "running",
    Phase.RECOVERING: "interrupted, getting another machine",
    Phase.UPDATING: "updating",
    Phase.STOPPING: "stopping",
}


def follow(launcher: Launcher, handle: Handle) -> RunResult:
    """Print the run's log and one line with its status until it has ended, then return its result.

    Raises LaunchError if it did not succeed, and Interrupted after a signal to stop, while the run continues.
    """
    try:
        status = launcher.status(handle)
        if status.settled:  # a local run has ended by now
            return launcher.result(handle)
        with _Progress(launcher, handle, status.attempt) as progress:
            for line in launcher.logs(handle, follow=True):
                if not is_result_row(line.text):  # the result is printed at the end
                    progress.show(line)
        while not launcher.status(handle).settled:
            time.sleep(launcher.poll_s)
        print(f"{handle}: {_ended(launcher.status(handle))}", flush=True)
        return launcher.result(handle)
    except LaunchError as error:
        if launcher.capabilities.remote and may_go_on(launcher, handle):
            error.add_note(detached(launcher, handle))
        raise
    except (KeyboardInterrupt, SystemExit) as error:
        signum = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal_of_exit(error)
        if signum is None:
            raise
        raise Interrupted(detached(launcher, handle), signum) from None


def wait(launcher: Launcher, handle: Handle, *, sleep: Callable[[float], None] = time.sleep) -> RunResult:
    """Wait until the run has finished and return its result. Raises LaunchError if it did not succeed."""
    while not launcher.status(handle).settled:
        sleep(launcher.poll_s)
    return launcher.result(handle)


def may_go_on(launcher: Launcher, handle: Handle) -> bool:
    """Return whether a run has not ended, or nobody can tell: credentials have expired, or the network is away."""
    try:
        return not launcher.status(handle).finished
    except LaunchError:
        return True


def detached(launcher: Launcher, handle: Handle) -> str:
    """Say how to return to what continues without this process, and how to end it."""
    name, deploys = launcher.name_of(handle), launcher.capabilities.deploys
    return (
        f"The {'deployment' if deploys else 'run'} continues without this terminal: {handle}\n"
        f"Follow it:  {commands.launchers('attach', *name)}\n"
        f"{'End it:   ' if deploys else 'Stop it:  '}  {commands.launchers('cancel', *name)}"
    )


def ask_after_each_epoch(launcher: Launcher, handle: Handle, watch: "Watch") -> bool:
    """Report each epoch to `watch` once, as it is logged, until the run has ended.

    Return True if `watch` asked to end the training early.
    """
    reported = 0
    for line in launcher.logs(handle, follow=True):
        found = Epoch.find(line.text)
        if found and found.epoch > reported:  # an attempt after an interruption may repeat some
            reported = found.epoch
            if watch(reported, {"val/loss": found.val_loss, "val/acc": found.val_acc}):
                return reported < found.epochs
    return False


class _Progress:
    """Prints log lines, labelled if there are several attempts or nodes, and the run's status below them.

    On a terminal the status is one line that is updated; elsewhere it is a new line whenever the phase changes. An
    interruption is said also where no poll has seen it. attempt: of the run as it begins to be followed.
    """

    def __init__(self, launcher: Launcher, handle: Handle, attempt: int) -> None:
        self.launcher, self.handle, self._since = launcher, handle, attempt
        self._status: Status | None = None
        self._epoch = ""
        self._attempt, self._recovery_told = 1, False
        self._began = time.monotonic()
        self._live = sys.stdout.isatty()
        self._lock = threading.Lock()
        self._ending = threading.Event()

    def __enter__(self) -> "_Progress":
        self._thread = threading.Thread(target=self._poll, daemon=True)
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
                if line.attempt > max(self._attempt, self._since) and not self._recovery_told:
                    print(f"{self.handle}: {_WORDS[Phase.RECOVERING]}")
                print(f"--- attempt {line.attempt} ---")
                self._attempt, self._recovery_told = line.attempt, False
            label = f"[{line.node}] " if line.node else ""
            print(f"{label}{line.text}", flush=True)
            if found := Epoch.find(line.text):
                self._epoch = f"epoch {found.epoch}/{found.epochs}, val/acc {found.val_acc:.3f}"
            self._draw()

    def _poll(self) -> None:
        """Poll the status while the main thread waits for the log."""
        pause = max(0.5, self.launcher.poll_s)
        while not self._ending.is_set():
            try:
                status = self.launcher.status(self.handle)
            except Exception:  # the log reader gets the same error and raises it
                return
            with self._lock:
                if self._ending.is_set():
                    return
                changed = self._status is None or self._status.phase != status.phase
                self._status = status
                self._clear()
                if changed and not status.settled:
                    print(f"{self.handle}: {self._words()}", flush=True)
                    self._recovery_told = self._recovery_told or status.phase is Phase.RECOVERING
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
    cost = "" if status.usd is None else f", {status.cost_words} by list price"
    tries = f" after {status.attempt} attempts" if status.attempt > 1 else ""
    return f"{status.phase}{tries}{cost}"
