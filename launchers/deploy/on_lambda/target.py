"""Where a function runs: which Python, on which processor. Pure."""

import platform
import sys
from dataclasses import dataclass

from launchers.base import Cloud

PYTHON = "3.13"  # of Lambda's runtime; AWS supports it until June 2029
_MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}  # Lambda's name of a processor -> the name in wheels
ARCHITECTURES = tuple(_MACHINES)


@dataclass(frozen=True)
class Target:
    """python: such as 3.13. architecture: as Lambda names it."""

    python: str
    architecture: str

    @property
    def runtime(self) -> str:
        """Lambda's name of the Python."""
        return f"python{self.python}"

    @property
    def machine(self) -> str:
        """The processor as wheels name it."""
        return _MACHINES[self.architecture]


def here() -> Target:
    """Return what this process is."""
    names = {"AMD64": "x86_64", "aarch64": "arm64"}
    machine = platform.machine()
    return Target(f"{sys.version_info.major}.{sys.version_info.minor}", names.get(machine, machine))


def of(cloud: Cloud, architecture: str) -> Target:
    """Return where functions of a cloud run; those of a rehearsal run on this machine, with this Python."""
    return Target(PYTHON if cloud.bills else here().python, architecture)
