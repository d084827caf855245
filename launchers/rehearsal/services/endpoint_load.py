"""What an instance of an endpoint is busy with: requests in it, and threads that work on them, over time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Totals:
    """Integrals over real time until a moment: requests inside, and busy threads, in seconds of each."""

    moment: float
    inside_s: float
    busy_s: float


class Load:
    """The requests at one instance, each of which keeps a thread busy. Used by the threads of all requests.

    threads: as many as the instance has vCPUs. service_s: how long a thread works on a request, by waiting if its
    container is done sooner; with 0 it is as fast as this machine, and takes as many requests as come. Service times
    are real: no clock makes a model faster.
    """

    def __init__(self, threads: int, service_s: float) -> None:
        self.threads, self.service_s = threads, service_s
        self._free = threading.Semaphore(threads) if service_s else None
        self._lock = threading.Lock()
        self._inside, self._totals = 0, Totals(time.monotonic(), 0.0, 0.0)

    @contextmanager
    def request(self, timeout_s: float) -> Iterator[bool]:
        """Stay inside for one request. Yields whether a thread has taken it up in time."""
        self._change(1)
        try:
            if self._free is None:
                yield True
            elif not self._free.acquire(timeout=timeout_s):
                yield False
            else:
                until = time.monotonic() + self.service_s
                try:
                    yield True
                finally:
                    time.sleep(max(until - time.monotonic(), 0))
                    self._free.release()
        finally:
            self._change(-1)

    def totals(self) -> Totals:
        """Return the integrals until now."""
        with self._lock:
            return self._pass()

    def _change(self, by: int) -> None:
        with self._lock:
            self._pass()
            self._inside += by

    def _pass(self) -> Totals:
        before, now = self._totals, time.monotonic()
        passed, busy = now - before.moment, min(self._inside, self.threads)
        self._totals = Totals(now, before.inside_s + passed * self._inside, before.busy_s + passed * busy)
        return self._totals
