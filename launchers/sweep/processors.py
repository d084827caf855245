"""Assign CPUs to the slots of a search."""

import os

from dogbreed.hardware import available_cpus


def all_cpus() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(available_cpus()))


def cpus_of(slot: int, parallel: int) -> tuple[int, ...] | None:
    """Return the CPUs of a slot: disjoint sets if there are enough CPUs, otherwise one each in turn.

    Return None if a container's quota is lower than the CPUs it sees: all containers would pin the same few CPUs.
    """
    cpus = sorted(all_cpus())
    if available_cpus() < len(cpus):
        return None
    if parallel >= len(cpus):
        return (cpus[slot % len(cpus)],)
    return tuple(cpus[slot * len(cpus) // parallel : (slot + 1) * len(cpus) // parallel])
