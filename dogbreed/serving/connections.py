"""Limit the number of open connections, and choose which one to close when a new one exceeds the limit."""

import logging
import resource
import time
from typing import Protocol

log = logging.getLogger("dogbreed.serving")

_OTHER_FILES = 256  # open files besides counted connections, including accepted connections that are not counted yet
_JUST_COME_S = 0.1  # its first request may still be in transit


class Idle(Protocol):
    """A connection as `Connections` sees it."""

    def give_way(self) -> None:
        """Close, to make room for another connection."""


class Connections:
    """Counts connections; at the limit of `most`, closes an idle one for a new one.

    Connections between requests, or closing, go first, then those that have sent nothing; the oldest of each first.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: set[Idle] = set()
        self._idle: dict[Idle, None] = {}  # after at least one request, in the order of their last response
        self._new: dict[Idle, float] = {}  # without a request so far: when they were opened

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, connection: Idle) -> bool:
        """Count a new connection. Return False if the limit is reached and no connection can be closed."""
        now = time.monotonic()
        room = len(self._open) < self.most
        if not room and (leaves := self._can_leave(now)) is not None:
            self.closed(leaves)
            leaves.give_way()
            room = True
        self._open.add(connection)
        self._new[connection] = now
        return room

    def busy(self, connection: Idle) -> None:
        self._idle.pop(connection, None)
        self._new.pop(connection, None)

    def idle(self, connection: Idle) -> None:
        if connection in self._open:
            self.busy(connection)
            self._idle[connection] = None

    def closed(self, connection: Idle) -> None:
        self._open.discard(connection)
        self.busy(connection)

    def _can_leave(self, now: float) -> Idle | None:
        if self._idle:
            return next(iter(self._idle))
        oldest, since = next(iter(self._new.items()), (None, now))
        return oldest if now - since >= _JUST_COME_S else None


def that_fit(connections: int) -> int:
    """Raise the soft limit on open files as `connections` requires; return how many connections fit, at least 1."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fit = max(1, soft - _OTHER_FILES)
    if fit < connections:
        log.warning(
            "Limited to %d connections instead of %d: this process may open only %d files. Try: ulimit -Hn",
            fit,
            connections,
            soft,
        )
    return fit
