"""All connections of a server: how many there may be, and which one goes where a new one finds no room."""

import logging
import resource
import time
from typing import Protocol

log = logging.getLogger("dogbreed.serving")

_OTHER_FILES = 256  # that a process has open besides its connections, and those that were accepted but not counted yet
_JUST_COME_S = 0.1  # a request may be on its way


class Idle(Protocol):
    """A connection as `Connections` sees it."""

    def give_way(self) -> None:
        """End, for another one."""


class Connections:
    """Counts connections and ends one without a request where a new one comes and there are `most`.

    Those between two requests, or about to end, go first, then those that have sent nothing; the oldest of each.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: set[Idle] = set()
        self._idle: dict[Idle, None] = {}  # those that had a request, in the order in which it was answered
        self._new: dict[Idle, float] = {}  # those that had none yet, and since when they are there

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, connection: Idle) -> bool:
        """Count a new connection. Return False if there is no room and none that could make some."""
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
    """Raise the soft limit of open files as far as `connections` need it; return how many of them fit, at least 1."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fit = max(1, soft - _OTHER_FILES)
    if fit < connections:
        log.warning(
            "At most %d connections, not %d: this process may open %d files. Try: ulimit -Hn", fit, connections, soft
        )
    return fit
