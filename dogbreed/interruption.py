"""Handle SIGTERM and Ctrl-C as a request to stop where no work is lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from dogbreed.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


_early: list[int] = []


def note(signum: int) -> None:
    """Record a signal that arrived before training listens: a library being imported may swallow the exception."""
    _early.append(signum)


class Interruption:
    """A context in which SIGTERM and SIGINT raise Interrupted, at once or, in `deferred()`, when the caller checks.

    A signal that was recorded by `note` before raises on entering. Training defers, so that a signal in the middle of a
    step waits for the step's end and its checkpoint. A second signal is not deferred. Outside the main thread, where
    Python allows no handlers, signals are not handled.
    """

    def __init__(self) -> None:
        self.signum: int | None = None  # of the pending signal
        self._deferred = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        self._before = self.listen()
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
        return {number: signal.signal(number, self._heed) for number in SIGNALS}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._give_back()
        if self.signum is not None and isinstance(error, Exception) and not isinstance(error, Interrupted):
            self.stop("at once")  # a library caught our exception and raised its own

    def _give_back(self) -> None:
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
        first, self.signum = self.signum is None, signum
        if not (self._deferred and first):
            self.stop("at once" if not first else "before training had begun or after it had ended")
