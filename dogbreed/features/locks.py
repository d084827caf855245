"""File locks that are released when the process that holds them ends, however it ends."""

import errno
import os
import time
import weakref
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no lock can be taken, and processes do not share work
    fcntl = None  # type: ignore[assignment]

_POLL_S = 0.005
_HELD = (errno.EAGAIN, errno.EACCES)


class FileLock:
    """An exclusive lock on the file at `path`, which is created if it is missing.

    flock(2) locks an open file, so that two of these exclude each other within one process as well. The kernel releases
    it when the process ends; forked children do not prolong it. Works on NFS with a lock service.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, timeout_s: float = 0.0) -> bool:
        """Take the lock and return True; return False if another holder kept it for `timeout_s`.

        Raises OSError if the folder cannot be written or its file system has no locks.
        """
        if fcntl is None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        end = time.monotonic() + timeout_s
        while True:
            descriptor = _open(self.path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_still(self.path, descriptor):  # otherwise its last holder has deleted it
                    self._descriptor, descriptor = descriptor, -1
                    _held.add(self)
                    return True
            except OSError as error:
                if error.errno not in _HELD:
                    raise
                if time.monotonic() >= end:
                    return False
                time.sleep(_POLL_S)
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def release(self, *, delete: bool = False) -> None:
        """Release the lock; do nothing if it is not held. delete: also delete the file."""
        if self._descriptor is None:
            return
        if delete:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        _held.discard(self)
        descriptor, self._descriptor = self._descriptor, None
        os.close(descriptor)

    def __del__(self) -> None:
        self.release()


_held: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY)  # another user's file; enough for a lock, except on NFS


def _is_still(path: Path, descriptor: int) -> bool:
    ours = os.fstat(descriptor)
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _let_go_in_child() -> None:
    """Close the locks' descriptors in a forked child: a lock lasts until every copy of its descriptor is closed, and a
    child may outlive its parent.
    """
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
