"""End a run of this process after limits.max_hours, as SIGTERM does: it saves and can be resumed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class TimeLimit:
    """The limit of a run. reached: whether it has ended the run."""

    hours: float | None
    reached: bool = False

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the time from here on."""
        if self.hours is None:
            yield
            return
        timer = threading.Timer(3600 * self.hours, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end(self) -> None:
        self.reached = True
        os.kill(os.getpid(), signal.SIGTERM)

    def __str__(self) -> str:
        return f"limits.max_hours={self.hours:g} was reached; the progress is saved"
