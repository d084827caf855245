"""Describe the machine of the measurements: processor, memory, GPU, system, versions and commit."""

import platform
import subprocess
import textwrap
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from dogbreed.hardware import available_cpus, cpu_flags, cpuinfo

PROJECT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "torchvision", "lightning", "onnxruntime", "pillow", "simplejpeg", "numpy")
_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "neon", "asimd")


def machine() -> dict[str, Any]:
    """Return a flat description for JSON; unknown values are None. Imports torch only to look for a GPU."""
    return {
        "cpu": _cpu(),
        "cpu_features": _cpu_features(),
        "cores": available_cpus(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": gpu(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "commit": _commit(),
    }


def gpu() -> str | None:
    """Return the name of the first GPU; None if torch can use none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def in_words(found: dict[str, Any]) -> list[str]:
    """Format the description as lines of at most 80 characters."""
    features = f", {', '.join(found['cpu_features'])}" if found["cpu_features"] else ""
    versions = [f"{name} {found[name]}" for name in ("python", *_PACKAGES) if found[name]]
    return [
        f"{found['cpu']}{features}"[:80],
        f"{found['cores']} cores for this process, {found['memory_gb']:.0f} GB, {found['gpu'] or 'no GPU'}"[:80],
        f"{found['system']}, commit {found['commit'] or 'unknown'}"[:80],
        *textwrap.wrap(", ".join(versions), 80),
    ]


def _cpu() -> str:
    return cpuinfo("model name") or platform.processor() or platform.machine()


def _cpu_features() -> list[str]:
    """Return the CPU features that determine the speed of convolutions."""
    return [name for name in _CPU_FEATURES if name in cpu_flags()]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=10).stdout
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + (" with changes" if changes.strip() else "")
