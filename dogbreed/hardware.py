"""What this process may use of the machine, limits of containers included."""

import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")  # version 2; version 1 puts the controllers in folders of their own


def available_cpus() -> int:
    """The number of CPUs this process may keep busy: affinity and cgroup quota included, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(max(1, min(affinity, _cgroup_cpu_quota())))


def available_memory_bytes() -> int:
    """How many bytes this process may still take before the machine or its cgroup runs out."""
    free = int(psutil.virtual_memory().available)
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit = _read(limit_file)
        if limit.isdigit():
            free = min(free, max(0, int(limit) - int(_read(used_file) or 0)))
    return free


def _cgroup_cpu_quota() -> float:
    quota, _, period = _read("cpu.max").partition(" ")
    if not quota:
        quota, period = _read("cpu/cpu.cfs_quota_us"), _read("cpu/cpu.cfs_period_us")
    if quota in ("", "max", "-1"):
        return float("inf")
    return max(1.0, int(quota) / int(period))


def _read(name: str) -> str:
    try:
        return (_CGROUP / name).read_text().strip()
    except OSError:
        return ""
