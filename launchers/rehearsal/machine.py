"""A rented machine of the rehearsal cloud: a command in a private folder."""

import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from launchers.runs.processes import living_process

PROCESSES = "processes.json"


@dataclass
class Machine:
    """One host of one attempt. folder: stands for the root of its disk; ml: for /opt/ml."""

    folder: Path
    name: str  # algo-1
    address: str
    stream: str
    process: subprocess.Popen[bytes] | None = None
    tmp: Path | None = None  # a short name of `work`, while the process runs
    read: int = 0  # bytes of its output
    held_back: list[dict[str, Any]] = field(default_factory=list)  # log events that are not in CloudWatch yet

    @property
    def ml(self) -> Path:
        return self.folder / "ml"

    @property
    def work(self) -> Path:
        """For /tmp and the home directory."""
        return self.folder / "work"

    @property
    def output(self) -> Path:
        return self.folder / "output.log"

    def signal(self, number: int) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    def kill(self) -> None:
        """With all that it has started."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.tmp is not None:
            shutil.rmtree(self.tmp.parent, ignore_errors=True)


def sweep_left_over(place: Path) -> None:
    """End processes that outlived a server which was killed, and remove their machines."""
    with suppress(OSError, ValueError):
        for pid, started in json.loads((place / PROCESSES).read_bytes()):
            if living_process(pid, started):
                os.killpg(pid, signal.SIGKILL)
        (place / PROCESSES).unlink()
    shutil.rmtree(place / "machines", ignore_errors=True)


def identity(process: "subprocess.Popen[bytes]") -> tuple[int, float]:
    try:
        return process.pid, psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:
        return process.pid, 0.0
