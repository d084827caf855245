"""The processes of a rehearsed machine, or of a unit on one of EC2, found by a mark in their environment.

Neither a session nor a parent tells whose they are: what begins a session of its own, or whose parent ends, keeps it.
"""

from contextlib import suppress

import psutil

MACHINE = "DOGBREED_REHEARSED_MACHINE"  # the folder of one of EC2
FOLDER = "DOGBREED_REHEARSED_FOLDER"  # the folder of one of another service
UNIT = "DOGBREED_REHEARSED_UNIT"  # the unit's file


def marked(mark: str, value: str) -> list[psutil.Process]:
    """Return all processes with a mark, apart from those that have ended."""
    return [process for process in psutil.process_iter() if _has(process, mark, value)]


def signal_marked(mark: str, value: str, number: int) -> None:
    for process in marked(mark, value):
        with suppress(psutil.Error):
            process.send_signal(number)


def kill_marked(mark: str, value: str) -> None:
    """Kill all processes with a mark, and those that they start meanwhile."""
    while found := marked(mark, value):
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.2)


def _has(process: psutil.Process, mark: str, value: str) -> bool:
    with suppress(psutil.Error, OSError):
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.environ().get(mark) == value)
    return False
