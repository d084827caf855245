"""Tells the other processes of a run every second that this one lives, and notices which of them does not."""

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

_PULSE_S = 1.0
POLL_S = 0.05
_CONNECT_S = 2.0  # of each attempt
_GRACE_S = 20.0  # for a process to notice by itself that it waits for one that is lost


@dataclass(frozen=True)
class _Said:
    """What a process says of itself. count: how far it is. met: how many meetings it has come to. gone: that it ends in
    the middle of the run. done: that it will say nothing more.
    """

    count: int = 0
    beat: int = 0
    met: int = 0
    gone: int = 0
    done: int = 0


class Pulse(threading.Thread):
    """Says every second that this process lives, and how far it is, and hears that of all others, so that one that
    hangs can be named.

    Through the store that process 0 keeps, or torchrun. Who asks that waits in C++, where no signal is heard, and for
    ever where process 0 is stopped: this thread alone asks, and others look at what it has heard.
    """

    def __init__(self, ranks: Ranks, timeout_s: float) -> None:
        super().__init__(daemon=True, name="pulse")
        self.count = 0
        self._ranks, self._timeout_s, self._address = ranks, timeout_s, address()
        self._met, self._gone = 0, False
        self._store: Any = None
        self._heard: list[_Said] = []  # of all; empty until all have come
        self._came: set[int] = set()
        self._since: list[float] = []  # when each has last been heard
        self._answered = time.monotonic()  # by the store
        self._trouble: PeerLost | None = None
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
        beat = 0
        while board is not None:
            beat += 1
            last = self._ending
            try:
                words = self.count, beat, self._met, int(self._gone), int(last)
                board.set(self._key(self._ranks.rank), " ".join(map(str, words)))
                self._hear(board)
            except Exception as error:  # a pause of the network; or process 0 has ended, which others say
                self._refusal = str(error)
            if last:
                return
            waits = not self._heard or any(said.met < self._met for said in self._heard)
            self._news.wait(POLL_S if waits else _PULSE_S)
            self._news.clear()

    def _key(self, rank: int) -> str:
        return f"dogbreed/pulse/{rank}"

    def _connected(self, *, serves: bool) -> Any:
        """Null where nobody wants it any more."""
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
                    self._trouble = PeerLost(f"{said}.\nTry: another MASTER_PORT; or once more", consequence=False)
                    return None
                time.sleep(POLL_S)
        return None

    def _hear(self, board: Any) -> None:
        keys = [self._key(rank) for rank in range(self._ranks.world_size)]
        if not self._heard:
            self._came = {rank for rank, key in enumerate(keys) if board.check([key])}
            if len(self._came) < len(keys):
                return
        heard = [_Said(*map(int, text.split())) for text in board.multi_get(keys)]
        now = time.monotonic()
        before = self._heard or [_Said()] * len(heard)
        since = self._since or [now] * len(heard)
        self._since = [now if a != b else at for a, b, at in zip(heard, before, since, strict=True)]
        self._heard, self._answered = heard, now

    def _watch(self) -> None:
        """Who waits in C++ for one that is lost hears of it there after a while, as a rule; if not, it ends here."""
        looked = awake = time.monotonic()
        while not self._ending:
            time.sleep(_PULSE_S)
            before, looked = looked, time.monotonic()
            if looked - before > _GRACE_S:  # all were stopped, perhaps, as by Ctrl-Z, and are to be heard anew
                awake = looked
            lost = self.lost(_GRACE_S) if self._heard and looked - awake > _GRACE_S else None
            if lost and not self._ending:
                this_process.last_words(lost)
                os._exit(1)

    # --- others ---

    def store(self) -> Any:
        """Torch's, once all have come to it. Raises PeerLost with who has not."""
        meeting_s = this_process.meeting_s(self._timeout_s)
        until = time.monotonic() + meeting_s
        while not self._heard:
            time.sleep(POLL_S)
            if self._trouble:
                raise self._trouble
            if time.monotonic() > until:
                missing = ", ".join(str(rank) for rank in range(self._ranks.world_size) if rank not in self._came)
                why = f"process {missing} has not come" if self._came else self._refusal or "process 0 does not answer"
                raise not_met(self._ranks, meeting_s, why)
        self._store.set_timeout(timedelta(seconds=self._timeout_s))
        return self._store

    def meets(self) -> Callable[[], bool]:
        """To be called at a meeting. Returns what tells whether all have come to it."""
        self._met = number = self._met + 1
        self._news.set()
        return lambda: all(said.met >= number for said in self._heard)

    def lost(self, grace_s: float = 0.0) -> PeerLost | None:
        """Who has ended, or has not been heard for as long as a step may take, and `grace_s`."""
        gone = [rank for rank, said in enumerate(self._heard) if said.gone]
        if gone and not grace_s:
            said = f"{str(self._ranks).capitalize()} has lost process {listed(gone)}, which has ended"
            return PeerLost(said, consequence=True)
        silent = self._silent(self._timeout_s + grace_s)
        return hangs(self._ranks, silent, self._timeout_s) if silent else None

    def _silent(self, seconds: float) -> list[int]:
        now = time.monotonic()
        if now - self._answered > seconds:
            return [0]  # which keeps the store
        heard = zip(self._since, self._heard, strict=True)
        return [rank for rank, (at, said) in enumerate(heard) if self._answered - at > seconds and not said.done]

    def behind(self) -> list[int]:
        """Ranks that have stood still for some seconds; else those that are a step behind the others, if any are."""
        me, most = self._ranks.rank, max(said.count for said in self._heard)
        silent = [rank for rank in self._silent(3 * _PULSE_S) if rank != me]
        return silent or [rank for rank, said in enumerate(self._heard) if rank != me and said.count < most]

    def end(self, *, gone: bool = False) -> None:
        """gone: in the middle of the run, which others are to hear."""
        self._gone, self._ending = gone, True
        self._news.set()
        self.join(_CONNECT_S + _PULSE_S)  # the store is with process 0, which may be the one that is lost
