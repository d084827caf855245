"""Join the process group of a run, and exchange values between its processes.

With a single process (see `ranks`) every function returns at once. Torch is imported only if there are several.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from dogbreed.distributed.heartbeat import POLL_S, Heartbeat
from dogbreed.distributed.ranks import PeerLost, Ranks, hangs, here, listed, not_met
from dogbreed.errors import DataError

log = logging.getLogger("dogbreed")

T = TypeVar("T")

STAGE_TIMEOUT_S = 3600.0  # for stages without a time limit of their own: downloads, the pass over all photos
_AGREE_EVERY_S = 0.5
_GLOO = re.compile(r"gloo|Connection (closed|reset)|timed? ?out|NCCL|monitoredBarrier|Broken pipe", re.I)


@contextmanager
def joined(timeout_s: float) -> Iterator[Ranks]:
    """Join the process group; within this context the processes of the run can communicate.

    timeout_s: how long to wait for a process that has not joined or has not finished its step. Raises PeerLost.
    """
    ranks = here()
    if not ranks.several:
        yield ranks
        return
    global _group
    try:
        _group = _Group(ranks, timeout_s)
        if not ranks.first:
            log.info("%s has joined; the run is logged by process 0", str(ranks).capitalize())
            log.setLevel(logging.ERROR)
        yield ranks
        leave()
    except RuntimeError as error:
        if _is_of_peers(error):
            raise _lost(ranks, timeout_s, error) from error
        raise
    finally:
        if _group is not None:
            _group.heartbeat.end(gone=True)
        _group = None


def leave() -> None:
    """Leave the process group, once this process no longer needs the others. Every process calls it."""
    global _group
    if _group is not None:
        _group.leave()
        _group = None


class _Group:
    """Torch's process group, a second one of each machine's first process, and the heartbeats of all processes."""

    def __init__(self, ranks: Ranks, timeout_s: float) -> None:
        self.ranks = ranks
        self.heartbeat = Heartbeat(ranks, timeout_s)
        try:
            self._join(self.heartbeat.store(), timeout_s)
        except BaseException:
            self.heartbeat.end(gone=True)
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

    def barrier(self) -> None:
        """Wait for all processes, however long their work takes, as long as they are alive."""
        began = time.monotonic()
        all_reached = self.heartbeat.reach_barrier()
        while not all_reached():
            time.sleep(POLL_S)
            if (lost := self.heartbeat.lost()) and not all_reached():  # others may have gone on from here, and ended
                raise lost
            if time.monotonic() - began > STAGE_TIMEOUT_S:
                raise hangs(self.ranks, self.heartbeat.behind(), STAGE_TIMEOUT_S)

    def leave(self) -> None:
        import torch.distributed as dist

        self.heartbeat.end()
        dist.destroy_process_group()


_group: _Group | None = None


def moved_on() -> None:
    """Count a part of a step as done, so that a process that hangs falls behind visibly."""
    if _group is not None:
        _group.heartbeat.count += 1


def _is_of_peers(error: RuntimeError) -> bool:
    """Return whether torch raised this error because it lost another process."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or _GLOO.search(str(error)) is not None


def _lost(ranks: Ranks, timeout_s: float, error: RuntimeError) -> PeerLost:
    first = str(error).strip().splitlines()[0]
    if _group is None:
        return not_met(ranks, timeout_s, first)
    if re.search(r"time", first, re.I) and (behind := _group.heartbeat.behind()):
        return hangs(ranks, behind, timeout_s)
    problem = f"{str(ranks).capitalize()} has lost another process, which has ended or cannot be reached: {first}"
    return PeerLost(problem, consequence=True)


# --- collectives: all processes call the same, in the same order ---


def broadcast(make: Callable[[], T]) -> T:
    """Return, in all processes, what `make` returns in process 0."""
    if _group is None:
        return make()
    import torch.distributed as dist

    box: list[Any] = [make() if here().first else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[no-any-return]


def all_gather(value: T, *, stage: bool = False) -> list[T]:
    """Return the values of all processes, in the order of ranks. stage: after work that may take very long."""
    if _group is None:
        return [value]
    import torch.distributed as dist

    if stage:
        _group.barrier()
    values: list[Any] = [None] * here().world_size
    dist.all_gather_object(values, value)
    return values


def any_of(reason: str) -> str:
    """Return the first reason that any process has, after work that may take very long; "" if none has one."""
    return next(filter(None, all_gather(reason, stage=True)), "")


def check_alike(what: str, digest: str) -> None:
    """Raise DataError unless all processes have the same digest: otherwise they would silently train on different data.

    what: a plural noun for the message.
    """
    everyones = all_gather(digest, stage=True)
    if others := [rank for rank, value in enumerate(everyones) if value != everyones[0]]:
        raise DataError(
            f"Not all processes have the same {what}: those of {listed(others)} differ from those of process 0.\n"
            "Try: the same data.root on each machine, with the same content"
        )


def all_reduce(values: Sequence[float]) -> list[float]:
    """Return the sums over all processes."""
    if _group is None:
        return list(values)
    import torch
    import torch.distributed as dist

    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()


def broadcast_buffers(module: Any) -> None:
    """Replace the buffers of a torch module, BatchNorm's running statistics among them, by those of process 0."""
    if _group is not None:
        import torch.distributed as dist

        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def barrier() -> None:
    """Wait until all processes have reached this call, after work that may take very long."""
    if _group is not None:
        _group.barrier()


@contextmanager
def leaders_first() -> Iterator[None]:
    """Run this block in the first process of each machine, then in the others, which find its results on disk."""
    leads = here().local_rank == 0
    if not leads:
        barrier()
    yield
    if leads:
        barrier()


def broadcast_rows(rows: Any, sender: int, shape: tuple[int, ...], dtype: Any) -> Any:
    """Broadcast an array from machine `sender` (from 0) to the other machines, between their first processes.

    rows: the array on the sender; ignored elsewhere. shape, dtype: NumPy's, of that array. Return None in the other
    processes of each machine.
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
    """Lets all processes stop and save after the same step.

    Each process has its own signals and clock. They all_reduce them about every half second, after an agreed number
    of steps: a message in each step would cost as much as some steps take.
    """

    def __init__(self) -> None:
        self._steps, self._ask_at, self._asked = 0, 1, time.monotonic()

    def reached(self, signum: int | None, due: bool, *, now: bool = False) -> tuple[int | None, bool]:
        """Return the signal that any process has received, and whether process 0 wants to save; after each step.

        now: exchange at this step; the same on all processes. A single process gets its own values back.
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
        received, save, further = asked.tolist()
        self._steps, self._ask_at, self._asked = 0, further, time.monotonic()
        return received or None, bool(save)
