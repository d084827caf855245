"""Who computes which rows of a feature store: work is shared by locks that end with their process."""

import json
import logging
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dogbreed.errors import StorageError
from dogbreed.features.locks import FileLock
from dogbreed.features.shards import RowKey, write_file

log = logging.getLogger("dogbreed")

_MUTEX_TIMEOUT_S = 10.0  # it is held for milliseconds; who waits longer goes on without sharing the work


class Claims:
    """Who computes which rows of a store.

    Everyone holds a lock on a file of their own, as long as they use the store, and beside it lists what they have
    claimed. A lock that can be had belongs to nobody any more, and then the list counts for nothing. All this may
    fail, where there are no locks or nothing can be written: then nobody knows of the others, and each does it all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._held: set[RowKey] = set()
        self._mine: FileLock | None = None
        self._process = 0
        self._leave: Callable[[], object] = lambda: None

    def take(self, choose: Callable[[Collection[RowKey]], list[RowKey]]) -> list[RowKey]:
        """What `choose` makes of the rows that are claimed by now."""
        with self._lock, mutex(self._folder):
            self.join()
            # claims before the disk: a row that is written in between is seen there
            chunk = choose(self._held | self._of_others())
            self._held.update(chunk)
            self._record()
            return chunk

    def release(self, rows: Iterable[RowKey]) -> None:
        with self._lock:
            self._held.difference_update(rows)
            self._record()

    def join(self) -> None:
        """Be known to others as a user of the store."""
        with self._lock:
            if self._mine and self._process == os.getpid():
                return
            if self._process != os.getpid():
                self._held.clear()  # those of the process that this one was forked from
            self._process, self._mine = os.getpid(), None
            lock = FileLock(self._folder / f"{secrets.token_hex(8)}.lock")
            try:
                if lock.acquire(1.0):
                    self._mine = lock
                    self._leave = weakref.finalize(self, _withdraw, lock, os.getpid())
            except OSError as error:
                log.debug("Work on %s is not shared with other processes: %s", self._folder.parent, error)
                with suppress(OSError):
                    lock.path.unlink(missing_ok=True)

    def leave(self) -> None:
        with self._lock:
            self._leave()
            self._held.clear()
            self._mine = None

    def _record(self) -> None:
        if self._mine and self._process == os.getpid():
            try:
                write_file(self._mine.path.with_suffix(".json"), [json.dumps(sorted(self._held)).encode()], sync=False)
            except StorageError as error:  # others may do our work twice, no more
                log.debug("%s", error)

    def _of_others(self) -> set[RowKey]:
        claimed: set[RowKey] = set()
        for lock in self._folder.glob("*.lock"):
            if self._mine and lock == self._mine.path:
                continue
            if is_held(lock, delete=True):
                with suppress(OSError, ValueError, TypeError):
                    claimed |= {(digest, view) for digest, view in json.loads(lock.with_suffix(".json").read_bytes())}
        return claimed


def _withdraw(lock: FileLock, process: int) -> None:
    if process == os.getpid():  # not in a child made by fork
        with suppress(OSError):
            lock.path.with_suffix(".json").unlink(missing_ok=True)
        lock.release(delete=True)


def is_held(path: Path, *, unsure: bool = False, delete: bool = False) -> bool:
    """delete: what its dead holder left goes. unsure: the answer where it cannot be told."""
    lock = FileLock(path)
    try:
        if not lock.acquire():
            return True
        if delete:
            path.with_suffix(".json").unlink(missing_ok=True)
    except OSError:
        return unsure
    finally:
        lock.release(delete=delete)
    return False


@contextmanager
def mutex(folder: Path) -> Iterator[None]:
    """One at a time, except where there are no locks, or its holder sleeps."""
    lock = FileLock(folder / "mutex")
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(_MUTEX_TIMEOUT_S)
    try:
        yield
    finally:
        lock.release()
