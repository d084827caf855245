"""Which processors each slot of a search keeps to."""

import os

from dogbreed.hardware import available_cpus


def all_cpus() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(available_cpus()))


def cpus_of(slot: int, parallel: int) -> tuple[int, ...] | None:
    """A slot's share of the processors: disjoint where there are enough, else one each in turn.

    None where a container's quota is less than the processors it sees: the same few would be pinned by all containers.
    """
    cpus = sorted(all_cpus())
    if available_cpus() < len(cpus):
        return None
    if parallel >= len(cpus):
        return (cpus[slot % len(cpus)],)
    return tuple(cpus[slot * len(cpus) // parallel : (slot + 1) * len(cpus) // parallel])
