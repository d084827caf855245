"""Load batches that worker processes decode: through shared memory, through pipes if that is small, never for ever."""

import atexit
import functools
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dogbreed import interruption
from dogbreed.errors import ConfigError, DataError
from dogbreed.hardware import available_memory_bytes
from dogbreed.interruption import HANG_UP

log = logging.getLogger("dogbreed")

Batch = tuple[Tensor, ...]  # the first is the images, uint8 [N, 3, H, W] in channels_last strides
KEPT_SHARE = 1 / 8  # of available memory: the limit for a decoded evaluation set
STALLED_S = 300.0  # without a batch from any worker, the run ends
_POLL_S = 5.0  # how often the caller looks whether it should stop waiting
_SHARED_MEMORY = "/dev/shm"
_LEFT_FREE = 1 / 4  # of shared memory: for semaphores, and for batches that are allocated at the same moment


class _Piped(NamedTuple):
    """A batch as arrays, which are sent through a pipe. The images are [N, H, W, 3]."""

    columns: list[NDArray[Any]]


class PhotoLoader(DataLoader[Batch]):
    """Loads batches of photos, decoded in worker processes. Raises DataError for a photo that can no longer be read.

    dataset: returns, for each key in the lists that `batches` yields, a tuple of an image, uint8 [H, W, 3], and further
    numbers or arrays; a DataError in place of the tuple is raised here. Batches hold them stacked, the images as
    [N, 3, H, W].
    keep: keep the batches of the first complete pass if all fit in KEPT_SHARE of available memory, and repeat them:
    later passes decode nothing, ignore changed files, and need no workers, which end. Only for keys and images that
    stay the same.

    waited_s: how long the caller has waited for batches so far, over all passes, in seconds.
    """

    def __init__(self, dataset: Dataset[Any], workers: int, batches: Any, *, keep: bool = False) -> None:
        self.waited_s = 0.0
        self._keep, self._kept = keep, list[Batch]()
        self._told = False  # of batches that came through pipes
        workers = workers if workers and _can_start_workers() else 0
        super().__init__(
            cast("Dataset[Batch]", dataset),
            batch_sampler=batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            timeout=_POLL_S if workers else 0,
            collate_fn=_collate,
            worker_init_fn=quiet_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the loader must not advance the global random number generator
        )

    def __iter__(self) -> Any:
        return self._batches()

    def _batches(self) -> Iterator[Batch]:
        if self._kept:
            yield from self._kept
            return
        batches = self._decoded_batches()
        if not self._keep:
            yield from batches
            return
        seen: list[Batch] | None = []
        for batch in batches:
            if seen == [] and _bytes(batch) * len(self) > KEPT_SHARE * available_memory_bytes():
                seen = None
            if seen is not None:
                # workers send batches through /dev/shm, which is small in a container
                seen.append(tuple(part.clone() if part.untyped_storage().is_shared() else part for part in batch))
            yield batch
        if seen:
            self._kept = seen
            self._iterator = None  # ends the workers

    def _decoded_batches(self) -> Iterator[Batch]:
        begun = time.perf_counter()
        batches = self._restarted()
        while True:
            try:
                batch: Any = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader timed out" not in str(error):
                    raise
                self._keep_waiting(time.perf_counter() - begun)
                continue
            self.waited_s += time.perf_counter() - begun
            if isinstance(batch, DataError):
                raise DataError(f"A photo that existed before training can no longer be read.\n{batch}")
            yield self._unpiped(batch) if isinstance(batch, _Piped) else batch
            begun = time.perf_counter()

    def _restarted(self) -> Any:
        """Begin a pass. Workers of an earlier one answer first, for which torch cannot wait in several steps."""
        running = self._iterator
        if running is None:
            return super().__iter__()
        running._timeout = STALLED_S
        try:
            batches: Any = super().__iter__()
        except RuntimeError as error:
            if "DataLoader timed out" in str(error):
                self._keep_waiting(STALLED_S)
            raise
        batches._timeout = _POLL_S
        return batches

    def _keep_waiting(self, waited_s: float) -> None:
        """Return if it makes sense to wait longer. Raises Interrupted after a signal, ConfigError after STALLED_S."""
        if (stop := interruption.pending()) is not None:
            stop.stop("while it waited for photos")
        if waited_s >= STALLED_S:
            raise ConfigError(
                f"The {self.num_workers} processes that decode photos sent nothing for {waited_s:.0f} s"
                f"{_shared_memory_in_words()}.\n"
                "Try: data.workers=0; in a container more shared memory (docker run --shm-size=2g); or a faster disk "
                "for the photos"
            )

    def _unpiped(self, batch: _Piped) -> Batch:
        if not self._told:
            self._told = True
            log.warning(
                "Shared memory is too small for batches of %s%s, so they go through pipes, which is slower. "
                "In a container: docker run --shm-size=2g",
                f"{sum(column.nbytes for column in batch.columns) / 1e6:.1f} MB",
                _shared_memory_in_words(),
            )
        pictures, *rest = (torch.from_numpy(column) for column in batch.columns)
        return pictures.permute(0, 3, 1, 2), *rest


def _collate(samples: Sequence[tuple[Any, ...] | DataError]) -> Batch | _Piped | DataError:
    read = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        read.append(sample)
    columns = [np.stack(column) for column in zip(*read, strict=True)]
    tensors = [torch.from_numpy(column) for column in columns]
    if get_worker_info() is not None and not _share(tensors):
        return _Piped(columns)
    pictures, *rest = tensors
    return pictures.permute(0, 3, 1, 2), *rest


def _share(tensors: Sequence[Tensor]) -> bool:
    """Move a worker's batch into shared memory; return False if there is no room.

    Here, where an error can be handled: torch would move it while sending, where an error loses the batch, and the
    caller would wait for it for ever (https://github.com/pytorch/pytorch/issues/5040).
    """
    if _room_left() < sum(tensor.nbytes for tensor in tensors):
        return False
    try:
        for tensor in tensors:
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError):  # another process was quicker
        return False
    return True


def _room_left() -> float:
    """Return the bytes of shared memory that batches may still take; infinity where it is no file system."""
    if not sys.platform.startswith("linux"):
        return float("inf")
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return 0
    return found.f_frsize * (found.f_bavail - _LEFT_FREE * found.f_blocks)


def _shared_memory_in_words() -> str:
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return ""
    free, total = (found.f_frsize * blocks / 1e6 for blocks in (found.f_bavail, found.f_blocks))
    return f" ({_SHARED_MEMORY}: {free:,.0f} of {total:,.0f} MB are free)"


@functools.cache
def _can_start_workers() -> bool:
    """Return whether processes can talk to each other here: their queues need semaphores, which lie in /dev/shm."""
    try:
        multiprocessing.Semaphore()
    except (OSError, ImportError) as error:
        log.warning(
            "Photos are decoded without worker processes, because this machine has no room for semaphores: %s%s. "
            "In a container: docker run --shm-size=2g",
            error,
            _shared_memory_in_words(),
        )
        return False
    return True


def _bytes(batch: Batch) -> int:
    return sum(part.nbytes for part in batch)


def quiet_worker(worker_id: int) -> None:
    """Ignore signals for the whole process group (Ctrl-C, a closed terminal) in a worker: the main process saves.

    A second SIGTERM ends the worker, so that it can be stopped even if its parent is stuck.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if HANG_UP is not None:
        signal.signal(HANG_UP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


@atexit.register  # runs before multiprocessing's handler, which sends one SIGTERM and waits forever
def _end_workers() -> None:
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
