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
from contextlib import contextmanager, suppress
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
_CONNECT_S = 2.0  # of each attempt: signals are heard between them
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
        _group.leave()
    except RuntimeError as error:
        if _is_of_peers(error):
            raise _lost(ranks, timeout_s, error) from error
        raise
    finally:
        if _group is not None and not _group.left:
            _group.pulse.say_gone()
        _group = None


class _Group:
    """Torch's process group, one of the first process of each machine, and who lives."""

    def __init__(self, ranks: Ranks, timeout_s: float) -> None:
        import torch
        import torch.distributed as dist

        on_gpu = torch.cuda.is_available() and ranks.local_rank < torch.cuda.device_count()
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        if on_gpu:
            torch.cuda.set_device(ranks.local_rank)
        timeout = timedelta(seconds=timeout_s)
        dist.init_process_group(
            backend, timeout=timeout, store=_store(ranks, timeout_s), rank=ranks.rank, world_size=ranks.world_size
        )
        leaders = range(0, ranks.world_size, ranks.local_world_size)
        self.leaders: Any = dist.new_group(leaders, backend="gloo", timeout=timeout)
        self.ranks, self.timeout_s = ranks, timeout_s
        self.pulse = _Pulse(ranks)
        self._board = _Board(ranks)
        self._meetings = 0
        self.left = False

    def meet(self) -> None:
        """Wait for all, however long their work takes, as long as they live."""
        self._meetings += 1
        began = looked = time.monotonic()
        last: dict[int, tuple[int, float]] = {}  # of each rank: its latest beat, and when that came
        arrived = self._board.arrive(self._meetings)
        while not arrived():
            time.sleep(_POLL_S)
            if (now := time.monotonic()) - looked < _PULSE_S:
                continue
            looked = now
            if gone := self._board.gone():
                said = f"{str(self.ranks).capitalize()} has lost process {', '.join(map(str, gone))}, which has ended"
                raise PeerLost(said, consequence=True)
            for rank, (_, beat) in enumerate(self._board.beats()):
                if rank not in last or last[rank][0] != beat:
                    last[rank] = beat, now
            silent = [rank for rank, (_, since) in last.items() if now - since > self.timeout_s]
            if silent or now - began > STAGE_TIMEOUT_S:
                raise _hangs(self.ranks, silent, self.timeout_s)

    def leave(self) -> None:
        import torch.distributed as dist

        self.left = True
        self.pulse.end()
        dist.destroy_process_group()


_group: _Group | None = None


def _address() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def _store(ranks: Ranks, timeout_s: float) -> Any:
    """Torch's store, which process 0 keeps, or torchrun; once all have come to it. Raises PeerLost with who has not.

    Torch's own way waits in C++, where no signal is heard, and names nobody.
    """
    import torch.distributed as dist

    host, port = _address()
    by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    until, store = time.monotonic() + timeout_s, None
    while store is None:
        try:
            store = dist.TCPStore(  # type: ignore[attr-defined]
                host,
                port,
                ranks.world_size,
                is_master=ranks.first and not by_torchrun,
                timeout=timedelta(seconds=_CONNECT_S),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except dist.DistError as error:
            if re.search(r"EADDRINUSE|already in use", str(error)):
                said = f"{str(ranks).capitalize()}: port {port} of this machine is in use by another program.\n"
                raise PeerLost(f"{said}Try: another MASTER_PORT; or once more", consequence=False) from error
            if time.monotonic() > until:
                raise _not_met(ranks, timeout_s, str(error).strip().splitlines()[0]) from error
            time.sleep(_POLL_S)
    store.set(f"dogbreed/here/{ranks.rank}", "")
    keys = [f"dogbreed/here/{rank}" for rank in range(ranks.world_size)]
    while not store.check(keys):
        if time.monotonic() > until:
            missing = ", ".join(str(rank) for rank, key in enumerate(keys) if not store.check([key]))
            raise _not_met(ranks, timeout_s, f"process {missing} has not come")
        time.sleep(_POLL_S)
    store.set_timeout(timedelta(seconds=timeout_s))
    return store


def _not_met(ranks: Ranks, timeout_s: float, why: str) -> PeerLost:
    host, port = _address()
    return PeerLost(
        f"{str(ranks).capitalize()}: not all have met at {host}:{port} within {timeout_s:g} s ({why}).\n"
        "Try: the logs of the others; a security group that lets the machines of a job reach each other on all ports",
        consequence=False,
    )


class _Board:
    """What processes write for each other into the store that torch keeps in process 0."""

    def __init__(self, ranks: Ranks) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self.ranks = ranks
        host, port = _address()
        # a connection of its own: one that waits for an answer keeps all others of its process waiting
        self._store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))

    def write(self, name: str, text: str) -> None:
        self._store.set(f"dogbreed/{name}/{self.ranks.rank}", text)

    def arrive(self, number: int) -> Callable[[], bool]:
        """At a meeting. Returns what tells whether all have."""
        self.write(f"met {number}", "")
        keys = self._keys(f"met {number}")
        return lambda: bool(self._store.check(keys))

    def gone(self) -> list[int]:
        return [rank for rank, key in enumerate(self._keys("gone")) if self._store.check([key])]

    def beats(self) -> list[tuple[int, int]]:
        """(how far it is, how often it has said so) of each rank."""
        keys = self._keys("pulse")
        said = [self._store.get(key).decode() if self._store.check([key]) else "0 0" for key in keys]
        return [(int(count), int(beat)) for count, beat in (text.split() for text in said)]

    def _keys(self, name: str) -> list[str]:
        return [f"dogbreed/{name}/{rank}" for rank in range(self.ranks.world_size)]


class _Pulse(threading.Thread):
    """Says every second that this process lives, and how far it is, so that one that hangs can be named."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(daemon=True, name="pulse")
        self.count = 0
        self._board, self._ending = _Board(ranks), threading.Event()
        self.start()

    def run(self) -> None:
        beat = 0
        while not self._ending.wait(_PULSE_S):
            beat += 1
            try:
                self._board.write("pulse", f"{self.count} {beat}")
            except Exception:  # a pause of the network; or process 0 has ended, which others say
                continue

    def end(self) -> None:
        self._ending.set()
        self.join(2 * _PULSE_S)

    def say_gone(self) -> None:
        """That this process ends in the middle of the run."""
        self.end()
        with suppress(Exception):  # the store is with process 0, which may be the one that is gone
            self._board.write("gone", "")

    def behind(self) -> list[int]:
        """Ranks that have stood still for some seconds; else those that are a step behind the others, if any are."""
        try:
            before = self._board.beats()
            time.sleep(3 * _PULSE_S)
            now = self._board.beats()
        except Exception:  # process 0, which keeps the store, does not answer
            return [0]
        others = [rank for rank in range(len(now)) if rank != self._board.ranks.rank]
        silent = [rank for rank in others if now[rank][1] == before[rank][1]]
        return silent or [rank for rank in others if now[rank][0] < max(now)[0]]


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


def _hangs(ranks: Ranks, who: Sequence[int], timeout_s: float) -> PeerLost:
    names = ", ".join(map(str, who)) or "another than this"
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
        listed = ", ".join(map(str, others))
        raise DataError(
            f"Not all processes have the same {what}: those of {listed} differ from those of process 0.\n"
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
