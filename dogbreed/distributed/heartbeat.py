"""Heartbeats: each process of a run tells the others every second that it lives, and notices which of them does not."""

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
_GRACE_S = 20.0  # for a process to notice by itself that it waits for one that is lost


@dataclass(frozen=True)
class _Beat:
    """What a process reports. count: how far it is. number: of the report. barriers: how many it has reached.
    gone: that it ends in the middle of the run. done: that it will report nothing more.
    """

    count: int = 0
    number: int = 0
    barriers: int = 0
    gone: int = 0
    done: int = 0


class Heartbeat(threading.Thread):
    """Reports every second that this process lives, and how far it is, and receives the same of all others, so that one
    that hangs can be named.

    Through the store that process 0 keeps, or torchrun. A thread that asks the store waits in C++, where it receives no
    signal, and for ever where process 0 is stopped: this thread alone asks, and others read what it has received.
    """

    def __init__(self, ranks: Ranks, timeout_s: float) -> None:
        super().__init__(daemon=True, name="heartbeat")
        self.count = 0
        self._ranks, self._timeout_s, self._address = ranks, timeout_s, address()
        self._barriers, self._gone = 0, False
        self._store: Any = None
        self._received: list[_Beat] = []  # the last of each; empty until all have connected
        self._came: set[int] = set()
        self._since: list[float] = []  # when each has last changed
        self._answered = time.monotonic()  # by the store
        self._failure: PeerLost | None = None
        self._refusal = ""  # the store's last
        self._news, self._ending = threading.Event(), False
        self.start()
        threading.Thread(target=self._watch, daemon=True, name="watch").start()

    # --- this thread ---

    def run(self) -> None:
        by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._store = self._connected(serves=self._ranks.first and not by_torchrun)
        # a connection of its own: one that waits for an answer keeps all others of its process waiting
        board = self._connected(serves=False)
        number = 0
        while board is not None:
            number += 1
            last = self._ending
            try:
                words = self.count, number, self._barriers, int(self._gone), int(last)
                board.set(self._key(self._ranks.rank), " ".join(map(str, words)))
                self._receive(board)
            except Exception as error:  # a pause of the network; or process 0 has ended, which others say
                self._refusal = str(error)
            if last:
                return
            waits = not self._received or any(beat.barriers < self._barriers for beat in self._received)
            self._news.wait(POLL_S if waits else _BEAT_S)
            self._news.clear()

    def _key(self, rank: int) -> str:
        return f"dogbreed/heartbeat/{rank}"

    def _connected(self, *, serves: bool) -> Any:
        """Connect to the store; None where this thread is ending, or cannot."""
        import torch.distributed as dist

        host, port = self._address
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
                if re.search(r"EADDRINUSE|already in use", str(error)):
                    said = f"{str(self._ranks).capitalize()}: port {port} of this machine is in use by another program"
                    self._failure = PeerLost(f"{said}.\nTry: another MASTER_PORT; or once more", consequence=False)
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
        """End this process if it waits in C++ for one that is lost; as a rule it learns of it there after a while."""
        looked = awake = time.monotonic()
        while not self._ending:
            time.sleep(_BEAT_S)
            before, looked = looked, time.monotonic()
            if looked - before > _GRACE_S:  # all were stopped, perhaps, as by Ctrl-Z, and report anew
                awake = looked
            lost = self.lost(_GRACE_S) if self._received and looked - awake > _GRACE_S else None
            if lost and not self._ending:
                this_process.last_words(lost)
                os._exit(1)

    # --- others ---

    def store(self) -> Any:
        """Return torch's store once all processes have connected. Raises PeerLost that names those which have not."""
        until = time.monotonic() + self._timeout_s
        while not self._received:
            time.sleep(POLL_S)
            if self._failure:
                raise self._failure
            if time.monotonic() > until:
                missing = ", ".join(str(rank) for rank in range(self._ranks.world_size) if rank not in self._came)
                why = f"process {missing} has not come" if self._came else self._refusal or "process 0 does not answer"
                raise not_met(self._ranks, self._timeout_s, why)
        self._store.set_timeout(timedelta(seconds=self._timeout_s))
        return self._store

    def reach_barrier(self) -> Callable[[], bool]:
        """Report that this process is at a barrier. Returns a function that tells whether all have reached it."""
        self._barriers = number = self._barriers + 1
        self._news.set()
        return lambda: all(beat.barriers >= number for beat in self._received)

    def lost(self, grace_s: float = 0.0) -> PeerLost | None:
        """Return which process has ended, or not reported for as long as a step may take and `grace_s`; else None."""
        gone = [rank for rank, beat in enumerate(self._received) if beat.gone]
        if gone and not grace_s:
            said = f"{str(self._ranks).capitalize()} has lost process {listed(gone)}, which has ended"
            return PeerLost(said, consequence=True)
        silent = self._silent(self._timeout_s + grace_s)
        return hangs(self._ranks, silent, self._timeout_s) if silent else None

    def _silent(self, seconds: float) -> list[int]:
        now = time.monotonic()
        if now - self._answered > seconds:
            return [0]  # which keeps the store
        known = enumerate(zip(self._since, self._received, strict=True))
        return [rank for rank, (at, beat) in known if self._answered - at > seconds and not beat.done]

    def behind(self) -> list[int]:
        """Return the ranks that have stood still for some seconds, else those a step behind the others, if any are."""
        me, most = self._ranks.rank, max(beat.count for beat in self._received)
        silent = [rank for rank in self._silent(3 * _BEAT_S) if rank != me]
        return silent or [rank for rank, beat in enumerate(self._received) if rank != me and beat.count < most]

    def end(self, *, gone: bool = False) -> None:
        """Stop reporting. gone: in the middle of the run, which is then reported to the others."""
        self._gone, self._ending = gone, True
        self._news.set()
        self.join(_CONNECT_S + _BEAT_S)  # the store is with process 0, which may be the one that is lost
