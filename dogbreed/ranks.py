"""The processes that train one run together: which of them this one is, and what they tell each other.

torchrun, or launchers/remote.py, starts `train.py` once for each of them, and says in the environment which is which
(https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables). Without that there is one process, and
everything in here is free.

Torch is imported by what needs the others: who only asks for the rank does without.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from dogbreed.errors import DataError, DogBreedError

log = logging.getLogger("dogbreed")

T = TypeVar("T")

STAGE_TIMEOUT_S = 3600.0  # for what takes the time that it takes: downloads, the pass over all photos
_PULSE_S = 1.0
_POLL_S = 0.05
_AGREE_EVERY_S = 0.5
_CONNECT_S = 2.0  # of each attempt
_GRACE_S = 20.0  # for a process to notice by itself that it waits for one that is lost
_GLOO = re.compile(r"gloo|Connection (closed|reset)|timed? ?out|NCCL|monitoredBarrier|Broken pipe", re.I)


class PeerLost(DogBreedError):  # noqa: N818 (what happened, not a mistake)
    """Another process of the same run has ended, hangs or cannot be reached.

    consequence: whether that one may say more about why.
    """

    def __init__(self, message: str, *, consequence: bool) -> None:
        super().__init__(message)
        self.consequence = consequence


@dataclass(frozen=True)
class Ranks:
    """This process among all. rank: from 0; local_rank: on its machine, which `local_world_size` of them share."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the run folder."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.world_size > 1

    @property
    def nodes(self) -> int:
        return max(1, self.world_size // self.local_world_size)

    def share(self, count: int) -> slice:
        """Its part of `count` things in order. The parts differ by one at most, and together are the whole."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world_size}"


def here() -> Ranks:
    """As the environment says."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    rank, world, local_rank, local_world = (int(os.environ.get(name, name.endswith("SIZE"))) for name in names)
    return Ranks(rank, world, local_rank, local_world) if world > 1 else Ranks()


@contextmanager
def joined(timeout_s: float) -> Iterator[Ranks]:
    """In here the processes of this run can talk to each other.

    timeout_s: how long they wait for one that has not come, or does not take its step. Raises PeerLost.
    """
    ranks = here()
    if not ranks.several:
        yield ranks
        return
    global _group
    try:
        _group = _Group(ranks, timeout_s)
        if not ranks.first:
            log.info("%s trains along; the log of the run is that of process 0", str(ranks).capitalize())
            log.setLevel(logging.ERROR)
        yield ranks
        part()
    except RuntimeError as error:
        if _is_of_peers(error):
            raise _lost(ranks, timeout_s, error) from error
        raise
    finally:
        if _group is not None:
            _group.pulse.end(gone=True)
        _group = None


def part() -> None:
    """From here on no process needs another. All call it, each when it is there."""
    global _group
    if _group is not None:
        _group.leave()
        _group = None


class _Group:
    """Torch's process group, one of the first process of each machine, and who lives."""

    def __init__(self, ranks: Ranks, timeout_s: float) -> None:
        self.ranks = ranks
        self.pulse = _Pulse(ranks, timeout_s)
        try:
            self._join(self.pulse.store(), timeout_s)
        except BaseException:
            self.pulse.end(gone=True)
            raise

    def _join(self, store: Any, timeout_s: float) -> None:
        import torch
        import torch.distributed as dist

        ranks = self.ranks
        on_gpu = torch.cuda.is_available() and ranks.local_rank < torch.cuda.device_count()
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        if on_gpu:
            torch.cuda.set_device(ranks.local_rank)
        timeout = timedelta(seconds=timeout_s)
        dist.init_process_group(backend, timeout=timeout, store=store, rank=ranks.rank, world_size=ranks.world_size)
        leaders = range(0, ranks.world_size, ranks.local_world_size)
        self.leaders: Any = dist.new_group(leaders, backend="gloo", timeout=timeout)

    def meet(self) -> None:
        """Wait for all, however long their work takes, as long as they live."""
        began = time.monotonic()
        everybody_came = self.pulse.meets()
        while not everybody_came():
            time.sleep(_POLL_S)
            if lost := self.pulse.lost():
                raise lost
            if time.monotonic() - began > STAGE_TIMEOUT_S:
                raise _hangs(self.ranks, self.pulse.behind(), STAGE_TIMEOUT_S)

    def leave(self) -> None:
        import torch.distributed as dist

        self.pulse.end()
        dist.destroy_process_group()


_group: _Group | None = None


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


class _Pulse(threading.Thread):
    """Says every second that this process lives, and how far it is, and hears that of all others, so that one that
    hangs can be named.

    Through the store that process 0 keeps, or torchrun. Who asks that waits in C++, where no signal is heard, and for
    ever where process 0 is stopped: this thread alone asks, and others look at what it has heard.
    """

    def __init__(self, ranks: Ranks, timeout_s: float) -> None:
        super().__init__(daemon=True, name="pulse")
        self.count = 0
        self._ranks, self._timeout_s, self._address = ranks, timeout_s, _address()
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
            self._news.wait(_POLL_S if waits else _PULSE_S)
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
                time.sleep(_POLL_S)
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
                last_words(lost)
                os._exit(1)

    # --- others ---

    def store(self) -> Any:
        """Torch's, once all have come to it. Raises PeerLost with who has not."""
        until = time.monotonic() + self._timeout_s
        while not self._heard:
            time.sleep(_POLL_S)
            if self._trouble:
                raise self._trouble
            if time.monotonic() > until:
                missing = ", ".join(str(rank) for rank in range(self._ranks.world_size) if rank not in self._came)
                why = f"process {missing} has not come" if self._came else self._refusal or "process 0 does not answer"
                raise _not_met(self._ranks, self._timeout_s, why)
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
            said = f"{str(self._ranks).capitalize()} has lost process {_listed(gone)}, which has ended"
            return PeerLost(said, consequence=True)
        silent = self._silent(self._timeout_s + grace_s)
        return _hangs(self._ranks, silent, self._timeout_s) if silent else None

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


def last_words(lost: PeerLost) -> None:
    """What a process says that is ended by its own watch, as no exception reaches where it waits; a launcher says more
    by putting its own function here.
    """
    log.error("%s", lost)


def _address() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))


def moved_on() -> None:
    """To be called at each part of a step, so that a process that hangs is seen to be behind."""
    if _group is not None:
        _group.pulse.count += 1


def _is_of_peers(error: RuntimeError) -> bool:
    """Whether it is what torch says where a process is not heard of any more."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or _GLOO.search(str(error)) is not None


def _lost(ranks: Ranks, timeout_s: float, error: RuntimeError) -> PeerLost:
    first = str(error).strip().splitlines()[0]
    if _group is None:
        return _not_met(ranks, timeout_s, first)
    if re.search(r"time", first, re.I) and (behind := _group.pulse.behind()):
        return _hangs(ranks, behind, timeout_s)
    said = f"{str(ranks).capitalize()} has lost another one, which has ended or cannot be reached: {first}"
    return PeerLost(said, consequence=True)


def _not_met(ranks: Ranks, timeout_s: float, why: str) -> PeerLost:
    host, port = _address()
    return PeerLost(
        f"{str(ranks).capitalize()}: not all have met at {host}:{port} within {timeout_s:g} s ({why}).\n"
        "Try: the logs of the others; a security group that lets the machines of a job reach each other on all ports",
        consequence=False,
    )


def _hangs(ranks: Ranks, who: Sequence[int], timeout_s: float) -> PeerLost:
    names = _listed(who) or "another than this"
    return PeerLost(
        f"{str(ranks).capitalize()}: process {names} hangs: nothing has come of it for {timeout_s:g} s.\n"
        "Try: the log of that process; a larger ranks.timeout_s where a step may take that long",
        consequence=False,
    )


# --- what they tell each other; all of them call the same, in the same order ---


def from_first(make: Callable[[], T]) -> T:
    """What process 0 makes, for all."""
    if _group is None:
        return make()
    import torch.distributed as dist

    box: list[Any] = [make() if here().first else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[no-any-return]


def gathered(value: T, *, stage: bool = False) -> list[T]:
    """Everybody's, in the order of ranks. stage: after work that takes as long as it takes."""
    if _group is None:
        return [value]
    import torch.distributed as dist

    if stage:
        _group.meet()
    values: list[Any] = [None] * here().world_size
    dist.all_gather_object(values, value)
    return values


def any_of(reason: str) -> str:
    """The first reason that any of them has, after a stage of any length; empty where nobody has one."""
    return next(filter(None, gathered(reason, stage=True)), "")


def check_alike(what: str, digest: str) -> None:
    """Raises DataError where not all processes have the same: each would train on something else, and nobody notice.

    what: a plural, for people.
    """
    everyones = gathered(digest, stage=True)
    if others := [rank for rank, value in enumerate(everyones) if value != everyones[0]]:
        raise DataError(
            f"Not all processes have the same {what}: those of {_listed(others)} differ from those of process 0.\n"
            "Try: the same data.root on each machine, with the same content"
        )


def total(values: Sequence[float]) -> list[float]:
    """Sums over all."""
    if _group is None:
        return list(values)
    import torch
    import torch.distributed as dist

    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()


def take_over_buffers(module: Any) -> None:
    """Buffers of a torch module, BatchNorm's running statistics among them, become those of process 0."""
    if _group is not None:
        import torch.distributed as dist

        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def met() -> None:
    """Wait until all are here, after work that takes as long as it takes."""
    if _group is not None:
        _group.meet()


@contextmanager
def leaders_first() -> Iterator[None]:
    """The first process of each machine goes through this, then the others, which find on the disk what it did."""
    leads = here().local_rank == 0
    if not leads:
        met()
    yield
    if leads:
        met()


def sent_to_all_machines(rows: Any, sender: int, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of the first process of machine `sender` (from 0), for that of each other one; null for the rest.

    rows: there the array; elsewhere ignored. shape, dtype: NumPy's, of that array.
    """
    import numpy as np
    import torch
    import torch.distributed as dist

    ranks = here()
    if _group is None or ranks.local_rank != 0:
        return None
    root = sender * ranks.local_world_size
    array = np.ascontiguousarray(rows) if ranks.rank == root else np.empty(shape, dtype)
    dist.broadcast(torch.from_numpy(array.reshape(-1).view(np.uint8)), src=root, group=_group.leaders)
    return array


class Agreement:
    """Stopping and saving after the same step, on all processes.

    Whether it is time is a matter of each one's signals and clock. They find it out together every half second or so,
    after a number of steps that they have agreed on before: a message for each step would cost as much as some steps.
    """

    def __init__(self) -> None:
        self._steps, self._ask_at, self._asked = 0, 1, time.monotonic()

    def reached(self, signum: int | None, due: bool, *, now: bool = False) -> tuple[int | None, bool]:
        """To be called after each step: the signal that any process has had, and whether the first one wants to save.

        now: ask at this step; the same on all processes. Alone, the own answer comes back at once.
        """
        if _group is None:
            return signum, due
        self._steps += 1
        if self._steps < self._ask_at and not now:
            return None, False
        import torch
        import torch.distributed as dist

        each = (time.monotonic() - self._asked) / self._steps
        further = max(1, int(_AGREE_EVERY_S / max(each, 1e-6)))
        first = here().first
        asked = torch.tensor([signum or 0, due and first, further if first else 0])
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        heard, save, further = asked.tolist()
        self._steps, self._ask_at, self._asked = 0, further, time.monotonic()
        return heard or None, bool(save)
