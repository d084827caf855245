"""Determine what this process may use of the machine, including container limits."""

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from dogbreed.distributed.ranks import here

_CGROUPS = Path("/sys/fs/cgroup")  # version 2; version 1 puts the controllers in folders of their own
_OWN_CGROUPS = Path("/proc/self/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def available_cpus() -> int:
    """Return the number of CPUs that this process may use, within its affinity and cgroup quota; at least 1.

    Processes that train one run together divide the CPUs of their machine.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(max(1, min(affinity, _cgroup_cpu_quota()) // here().local_world_size))


def available_memory_bytes() -> int:
    """Return this process's share of the bytes that are free before the machine or one of its cgroups runs out."""
    import psutil  # imported here: the server does not need it

    free = int(psutil.virtual_memory().available)
    for controller, limit_file, used_file, cache in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for group in _own_cgroups(controller):
            limit = _read(group / limit_file)
            if limit.isdigit():
                # the page cache counts as used, but is freed on demand
                stat = dict(line.split() for line in _read(group / "memory.stat").splitlines())
                used = int(_read(group / used_file) or 0) - int(stat.get(cache, 0))
                free = min(free, max(0, int(limit) - used))
    return free // here().local_world_size


def cpu_flags() -> frozenset[str]:
    """Return the processor's instruction sets by Linux's names, such as avx2; empty on other systems."""
    return frozenset((cpuinfo("flags") or cpuinfo("Features") or "").split())


def cpu_multiplies_bf16() -> bool:
    """Return whether this processor has native bfloat16, faster than float32 (x86: AVX-512 BF16 or AMX)."""
    return not cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"})


def cpu_multiplies_int8() -> bool:
    """Return whether this processor has exact 8-bit dot products, faster than floats: VNNI, AMX, on Arm dotprod.

    Without these, sums of two products saturate at 16 bits, and a quantised network loses accuracy.
    """
    return not cpu_flags().isdisjoint({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})


def cpuinfo(field: str) -> str | None:
    """Return a field of the first processor in Linux's /proc/cpuinfo; None if it is missing."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return None
    found = re.search(rf"^{field}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None


def keep_freed_memory() -> None:
    """Keep large freed blocks in this process for its next step; glibc on Linux only.

    Otherwise glibc maps each activation anew and unmaps it after use, and the kernel clears it page by page: a sixth of
    a training step on a CPU (torch's tuning guide recommends another allocator for that reason).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        most = 2**31 - 1
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(parameter, most)


def give_back_freed_memory() -> None:
    """Return freed memory to the system; glibc on Linux only, which keeps small blocks otherwise."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # musl has none
            trim(0)


def _cgroup_cpu_quota() -> float:
    """Return the CPUs that this process's cgroups allow, at least 1: the smallest quota, since all of them apply."""
    quotas = [float("inf")]
    for group in _own_cgroups(""):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit():  # not "max"
            quotas.append(int(quota) / int(period))
    for group in _own_cgroups("cpu"):
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota.isdigit():  # not -1
            quotas.append(int(quota) / int(period))
    return max(1.0, min(quotas))


def _own_cgroups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and its ancestors, innermost first, the root of the mount last.

    controller: of version 1, such as cpu; empty for version 2. A container may see the host's cgroup names without
    folders for them: then only the root exists, which is its own cgroup.
    """
    for line in _read(_OWN_CGROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            names = (controller, controllers)  # cpu, which may be a link to cpu,cpuacct, or be missing
            root = next((_CGROUPS / name for name in names if (_CGROUPS / name).is_dir()), _CGROUPS)
            own = root / path.lstrip("/")
            if ".." in own.parts:  # it was moved outside the container's view
                own = root
            yield from (group for group in (own, *own.parents) if group.is_relative_to(root))
            return
    yield _CGROUPS / controller


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
