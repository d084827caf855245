"""Find out on a rented machine whether CUDA can use its GPUs.

A driver that is older than the image's CUDA would go unnoticed: nvidia-smi lists the GPUs, and torch quietly trains
on the CPU. Uses the standard library alone: launchers/remote/entry.py loads it from the code that was sent.
"""

import os
import subprocess
import sys
from pathlib import Path

# the driver's part of a newer CUDA, for older drivers (https://docs.nvidia.com/deploy/cuda-compatibility/)
_COMPAT = Path("/usr/local/cuda/compat")
_PROBE = "import sys, torch; print(torch.version.cuda or 'none'); sys.exit(not torch.cuda.is_available())"


def make_usable(compat: Path = _COMPAT) -> tuple[dict[str, str], str]:
    """Return the variables with which CUDA works here, and why the machine cannot be used; one of them is empty.

    Each try imports torch, which takes seconds. compat: where the image has the libraries for older drivers.
    """
    usable, cuda = _probe({})
    if usable:
        return {}, ""
    tried = ""
    if (compat / "libcuda.so.1").exists():
        variables = {"LD_LIBRARY_PATH": ":".join(filter(None, [str(compat), os.environ.get("LD_LIBRARY_PATH")]))}
        usable, cuda = _probe(variables)
        if usable:
            return variables, ""
        tried = f", not even with the libraries in {compat}"
    return {}, (
        f"[bad_config] CUDA {cuda} of the image's torch cannot use this machine's GPU, whose driver is {_driver()}"
        f"{tried}. The run stops here rather than train on the CPU at the price of a GPU. "
        "Try: launcher.image=<one with an older CUDA>, or another launcher.instance_type"
    )


def _probe(variables: dict[str, str]) -> tuple[bool, str]:
    """Return whether a process with these variables can use a GPU, and the CUDA that its torch is built for."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False, env={**os.environ, **variables}
    )
    return done.returncode == 0, done.stdout.strip() or "of an unknown version"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    except (OSError, subprocess.SubprocessError):
        shown = []
    return shown[0] if shown else "of an unknown version"
