"""Heartbeats: each process of a run reports every second that it is alive, and detects processes that are not."""

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dogbreed.distributed import ranks as this_process
from dogbreed.distributed.ranks import PeerLost, Ranks, address, hangs, listed, not_met

_BEAT_S = 1.0
POLL_S = 0.05
_CONNECT_S = 2.0  # of each attempt
_TAKEN_S = 5.0  # how long a port may be another program's that is ending
_GRACE_S = 20.0  # for a process to notice by itself that it is waiting for a lost one


@dataclass(frozen=True)
class _Beat:
    """A heartbeat. count: the process's progress. number: of the heartbeat. barriers: how many it has reached.
    gone: it ends in the middle of the run. done: it sends no more heartbeats.
    """

    count: int = 0
    number: int = 0
    barriers: int = 0
    gone: int = 0
    done: int = 0


class Heartbeat(threading.Thread):
    """Sends the heartbeat and progress of this process every second, and receives those of all others, so that an error
    can name a process that hangs.

    They go through the store of process 0 or torchrun. A thread that queries the store waits in C++, where it gets no
    signals, and forever if process 0 is stopped: so only this thread queries it, and others read what it has received.
    """

    def __init__(self, ranks: Ranks, timeout_s: float) -> None:
        super().__init__(daemon=True, name="heartbeat")
        self.count = 0
        self._ranks, self._timeout_s, self._address = ranks, timeout_s, address()
        self._serves = ranks.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # torchrun's store
        self._barriers, self._gone, self._leaving = 0, False, False
        self._store: Any = None
        self._received: list[_Beat] = []  # the last heartbeat of each process; empty until all have connected
        self._came: set[int] = set()
        self._since: list[float] = []  # when each process last changed
        self._answered = time.monotonic()  # when the store last answered
        self._failure: PeerLost | None = None
        self._refusal = ""  # the store's last error
        self._news, self._ending = threading.Event(), False
        self.start()
        threading.Thread(target=self._watch, daemon=True, name="watch").start()

    # --- this thread ---

    def run(self) -> None:
        self._store = self._connected(serves=self._serves)
        # a connection of its own: a request that waits for an answer blocks all others on the same connection
        board = self._connected(serves=False)
        number = 0
        while board is not None:
            number += 1
            last = self._ending
            try:
                words = self.count, number, self._barriers, int(self._gone), int(last)
                board.set(self._key(self._ranks.rank), " ".join(map(str, words)))
                self._receive(board)
            except Exception as error:  # a network outage, or process 0 has ended, which others report
                self._refusal = str(error)
            if last:
                return
            behind = not self._received or any(beat.barriers < self._barriers for beat in self._received)
            waits = behind or self._leaving
            self._news.wait(POLL_S if waits else _BEAT_S)
            self._news.clear()

    def _key(self, rank: int) -> str:
        return f"dogbreed/heartbeat/{rank}"

    def _connected(self, *, serves: bool) -> Any:
        """Connect to the store; return None if this thread is ending or cannot connect."""
        import torch.distributed as dist

        host, port = self._address
        until = time.monotonic() + _TAKEN_S
        while not self._ending:
            try:
                return dist.TCPStore(  # type: ignore[attr-defined]
                    host,
                    port,
                    self._ranks.world_size,
                    is_master=serves,
                    timeout=timedelta(seconds=_CONNECT_S),
                    wait_for_workers=False,
                    multi_tenant=True,
                )
            except Exception as error:
                self._refusal = str(error).strip().splitlines()[0]
                if time.monotonic() > until and re.search(r"EADDRINUSE|already in use", str(error)):
                    problem = f"{str(self._ranks).capitalize()}: another program on this machine uses port {port}"
                    self._failure = PeerLost(f"{problem}.\nTry: another MASTER_PORT, or try again", consequence=False)
                    return None
                time.sleep(POLL_S)
        return None

    def _receive(self, board: Any) -> None:
        keys = [self._key(rank) for rank in range(self._ranks.world_size)]
        if not self._received:
            self._came = {rank for rank, key in enumerate(keys) if board.check([key])}
            if len(self._came) < len(keys):
                return
        received = [_Beat(*map(int, text.split())) for text in board.multi_get(keys)]
        now = time.monotonic()
        before = self._received or [_Beat()] * len(received)
        since = self._since or [now] * len(received)
        self._since = [now if a != b else at for a, b, at in zip(received, before, since, strict=True)]
        self._received, self._answered = received, now

    def _watch(self) -> None:
        """End this process if it waits in C++ for a lost one and torch does not notice within the grace time."""
        looked = awake = time.monotonic()
        while not self._ending:
            time.sleep(_BEAT_S)
            before, looked = looked, time.monotonic()
            if looked - before > _GRACE_S:  # all may have been suspended, as by Ctrl-Z, and report again
                awake = looked
            lost = self.lost(_GRACE_S) if self._received and looked - awake > _GRACE_S else None
            if lost and not self._ending:
                this_process.last_words(lost)
                os._exit(1)

    # --- others ---

    def store(self) -> Any:
        """Return torch's store once all processes have connected. Raises PeerLost naming those that have not."""
        meeting_s = this_process.meeting_s(self._timeout_s)
        until = time.monotonic() + meeting_s
        while not self._received:
            time.sleep(POLL_S)
            if self._failure:
                raise self._failure
            if time.monotonic() > until:
                missing = ", ".join(str(rank) for rank in range(self._ranks.world_size) if rank not in self._came)
                why = f"process {missing} is missing" if self._came else self._refusal or "process 0 does not answer"
                raise not_met(self._ranks, meeting_s, why)
        self._store.set_timeout(timedelta(seconds=self._timeout_s))
        return self._store

    def reach_barrier(self) -> Callable[[], bool]:
        """Report that this process has reached a barrier. Return a function that says whether all have reached it."""
        self._barriers = number = self._barriers + 1
        self._news.set()
        return lambda: all(beat.barriers >= number for beat in self._received)

    def lost(self, grace_s: float = 0.0) -> PeerLost | None:
        """Return an error if a process has ended, or sent no heartbeat for the timeout plus `grace_s`; else None."""
        gone = [rank for rank, beat in enumerate(self._received) if beat.gone]
        if gone and not grace_s:
            problem = f"{str(self._ranks).capitalize()} has lost process {listed(gone)}, which has ended"
            return PeerLost(problem, consequence=True)
        silent = self._silent(self._timeout_s + grace_s)
        return hangs(self._ranks, silent, self._timeout_s) if silent else None

    def _silent(self, seconds: float) -> list[int]:
        now = time.monotonic()
        if now - self._answered > seconds:
            return [0]  # process 0 holds the store
        known = enumerate(zip(self._since, self._received, strict=True))
        return [rank for rank, (at, beat) in known if self._answered - at > seconds and not beat.done]

    def behind(self) -> list[int]:
        """Return the ranks without progress for some seconds, or else those that are a step behind the others."""
        me, most = self._ranks.rank, max(beat.count for beat in self._received)
        silent = [rank for rank in self._silent(3 * _BEAT_S) if rank != me]
        return silent or [rank for rank, beat in enumerate(self._received) if rank != me and beat.count < most]

    def end(self, *, gone: bool = False) -> None:
        """Stop the heartbeat. gone: the process ends in the middle of the run; report this to the others.

        Otherwise the process that holds the store waits until all others have left as well: one that is late still
        learns from the store that all have reached a barrier.
        """
        self._leaving = self._serves and not gone
        self._news.set()
        until = time.monotonic() + _GRACE_S
        while self._leaving and time.monotonic() < until:
            self._leaving = not all(beat.done or beat.gone for beat in self._received[1:])
            time.sleep(POLL_S)
        self._gone, self._ending = gone, True
        self._news.set()
        self.join(_CONNECT_S + _BEAT_S)  # process 0 holds the store and may be the lost one
