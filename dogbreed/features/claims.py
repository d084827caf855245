"""Divide the rows of a feature store between the processes that compute them, with locks that end with a process."""

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

_MUTEX_TIMEOUT_S = 10.0  # it is held for milliseconds; after a longer wait a process stops sharing work


class Claims:
    """Record which process computes which rows of a store.

    Each process holds a lock on a file of its own while it uses the store, and lists its claims beside it. If another
    process can take the lock, its owner has ended and the list is void. Where the file system has no locks or cannot be
    written, processes do not see each other's claims, and each computes everything.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._held: set[RowKey] = set()
        self._mine: FileLock | None = None
        self._process = 0
        self._leave: Callable[[], object] = lambda: None

    def take(self, choose: Callable[[Collection[RowKey]], list[RowKey]]) -> list[RowKey]:
        """Claim and return the rows that `choose` picks, given the rows that are already claimed."""
        with self._lock, mutex(self._folder):
            self.join()
            # read the claims before the disk: a row that is written in between is found on disk
            chunk = choose(self._held | self._of_others())
            self._held.update(chunk)
            self._record()
            return chunk

    def release(self, rows: Iterable[RowKey]) -> None:
        with self._lock:
            self._held.difference_update(rows)
            self._record()

    def join(self) -> None:
        """Register this process as a user of the store."""
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
            except StorageError as error:  # at worst another process repeats our work
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
    """Return whether a live process holds the lock on `path`.

    delete: also delete the files of a holder that has ended. unsure: the answer if locks do not work here.
    """
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
    """Enter alone, unless the file system has no locks or the holder does not release it within the timeout."""
    lock = FileLock(folder / "mutex")
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(_MUTEX_TIMEOUT_S)
    try:
        yield
    finally:
        lock.release()
