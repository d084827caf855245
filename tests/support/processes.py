"""Whether a process of this machine still runs."""

import psutil


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended may be there as a zombie until somebody asks for its status."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
