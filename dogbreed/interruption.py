"""Handle SIGTERM, Ctrl-C and a closed terminal as a request to stop where no work is lost."""

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from dogbreed.errors import Interrupted

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

HANG_UP: int | None = getattr(signal, "SIGHUP", None)  # the terminal or its ssh connection ends; Windows has none
_TERMINALS = [number for number in (0, 1, 2) if os.isatty(number)]
_early: list[int] = []
_entered: list["Interruption"] = []


def pending() -> "Interruption | None":
    """Return the context that has received a signal and defers it; None if there is none.

    A wait that may take long asks here, because the caller that would check next comes after it.
    """
    return next((context for context in _entered if context.signum is not None), None)


def signals() -> list[signal.Signals]:
    """Return the signals that ask this process to stop: SIGHUP is none of them if it is ignored, as under nohup."""
    found = [signal.SIGTERM, signal.SIGINT]
    if HANG_UP is not None and signal.getsignal(HANG_UP) is not signal.SIG_IGN:
        found.append(signal.Signals(HANG_UP))
    return found


def signal_of_exit(error: SystemExit) -> signal.Signals | None:
    """Return the signal that ended the process outside training, by its exit status; None if it was none."""
    numbers = [number for number in (signal.SIGTERM, HANG_UP) if number is not None]
    return next((signal.Signals(number) for number in numbers if error.code == 128 + number), None)


def let_go_of_terminal() -> None:
    """Send further output nowhere if the terminal has gone: each line would raise an error in the midst of saving."""
    for number in _TERMINALS:
        if not os.isatty(number):
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)
            os.close(nowhere)


class _Terminal(io.FileIO):
    """Output to a terminal that may go: its lines are lost then, and raise no error."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO or os.isatty(self.fileno()):
                raise
            let_go_of_terminal()
            return memoryview(data).nbytes


def outlive_terminal() -> None:
    """Let stdout and stderr outlive their terminal: a line printed before SIGHUP arrives would end the run unsaved."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream.isatty():
            stream.flush()
            lasting = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(lasting, stream.encoding, stream.errors, line_buffering=True))


def note(signum: int) -> None:
    """Record a signal that arrived before training listens: a library being imported may swallow the exception."""
    _early.append(signum)


class Interruption:
    """A context in which a signal to stop raises Interrupted, at once or, in `deferred()`, when the caller checks.

    A signal that was recorded by `note` before raises on entering. Training defers, so that a signal in the middle of a
    step waits for the step's end and its checkpoint. A second signal is not deferred; SIGHUP does not count for that,
    because a terminal that closes sends several, and SIGTERM with them. Outside the main thread, where Python allows no
    handlers, signals are not handled.
    """

    def __init__(self) -> None:
        self.signum: int | None = None  # of the pending signal
        self._deferred = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        self._before = self.listen()
        _entered.append(self)
        if _early:
            self.signum = _early.pop()
            _early.clear()
            try:
                self.check()
            except Interrupted:
                self._give_back()
                raise
        return self

    def listen(self) -> dict[signal.Signals, Any]:
        """Install our signal handlers (again), and return the previous ones."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {number: signal.signal(number, self._heed) for number in signals()}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._give_back()
        if self.signum is not None and isinstance(error, Exception) and not isinstance(error, Interrupted):
            self.stop("at once")  # a library caught our exception and raised its own

    def _give_back(self) -> None:
        if self in _entered:
            _entered.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this context only record a first signal in `signum`; the caller calls `stop` when it is safe."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def check(self) -> None:
        """Stop now if a signal's exception was lost, in a destructor or in a library that catches everything."""
        if self.signum is not None:
            self.stop("between two stages of the run")

    def stop(self, where: str, signum: int | None = None) -> None:
        """Raise Interrupted for the signal received here or in another process of the run. where: for the message."""
        signum = signum or self.signum
        assert signum is not None
        raise Interrupted(f"Stopped by {signal.Signals(signum).name} {where}.", signum)

    def _heed(self, signum: int, frame: FrameType | None) -> None:
        if signum == HANG_UP:
            let_go_of_terminal()
            signal.signal(signum, signal.SIG_IGN)  # the next one may come while the end of the run is being recorded
            self._before.pop(signal.Signals(signum), None)
            if self.signum is not None:
                return
        first, self.signum = self.signum in (None, HANG_UP), signum
        if not (self._deferred and first):
            self.stop("at once" if not first else "before training had begun or after it had ended")
