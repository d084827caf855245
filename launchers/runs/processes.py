"""Check whether a process of this machine is alive, and lock a folder for one process."""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_SAME_START_S = 2.0  # psutil derives start times from the wall clock, which may be set a little meanwhile


def living_process(pid: int, started: float) -> Any | None:
    """Return the psutil.Process; None if it has ended, or if its number now belongs to another process.

    started: seconds since 1970.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < _SAME_START_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def this_host() -> str:
    """Identify the machine since its last boot, and the container: within them a process number is unambiguous."""
    parts = [platform.node()]
    for path, read in (("/proc/sys/kernel/random/boot_id", Path.read_text), ("/proc/self/ns/pid", Path.readlink)):
        try:
            parts.append(str(read(Path(path))).strip())
        except OSError:
            parts.append("")
    return "/".join(parts)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Lock a folder, so that only one process at a time checks whether its run is alive and claims it."""
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network disks cannot lock; the check alone then has to do
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
