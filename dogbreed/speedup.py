"""Estimate how much faster several machines train one model than one machine. Loads no torch.

- Ring all-reduce: each of N processes sends and receives 2 (N-1)/N of the gradient in 2 (N-1) messages, one after the
  other, and no algorithm sends less (Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of
  workstations, J. Parallel Distrib. Comput. 69, 117-124).
- Overlap: gradients are collected in buckets in the order in which the backward pass finishes them, and full buckets
  are reduced one after the other while the pass continues (PyTorch Distributed, arXiv 2006.15704, section 3.2).

Batches are per process, so a step of N processes has N times the photos. Not modelled: the CPU time of sums, copies and
encryption, stragglers (a step takes as long as the slowest machine), input that cannot keep up.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

MIB = 2**20
BUCKET_BYTES, FIRST_BUCKET_BYTES = 25 * MIB, 1 * MIB  # DDP's; the first is small, so that reducing starts early
FLOAT_BYTES = 4
STEP_OVERHEAD_S = 5e-3  # the least time of a step, from 12,000 images/s of cached features in batches of 64


@dataclass(frozen=True)
class Network:
    """The network between two machines. latency_s: of one message, including the cost of sending and receiving."""

    bytes_per_s: float
    latency_s: float

    def all_reduce_s(self, size_bytes: float, processes: int) -> float:
        rounds = processes - 1 if size_bytes else 0
        return 2 * rounds / processes * size_bytes / self.bytes_per_s + 2 * rounds * self.latency_s


@dataclass(frozen=True)
class Part:
    """A part of the backward pass, whose gradients become ready evenly over its time."""

    gradient_bytes: float
    backward_s: float


@dataclass(frozen=True)
class Step:
    """One training step of one process. parts: in the order of the backward pass, head first. other_s: the rest."""

    parts: tuple[Part, ...]
    other_s: float

    @property
    def backward_s(self) -> float:
        return sum(part.backward_s for part in self.parts)

    @property
    def gradient_bytes(self) -> float:
        return sum(part.gradient_bytes for part in self.parts)

    @property
    def compute_s(self) -> float:
        return self.backward_s + self.other_s

    def timed(self, backward_s: float, other_s: float) -> "Step":
        """Return the same step with measured times, with the backward pass divided in the same proportions."""
        factor = backward_s / self.backward_s
        return Step(tuple(replace(part, backward_s=part.backward_s * factor) for part in self.parts), other_s)

    def buckets(self) -> Iterator[tuple[float, float]]:
        """Yield when each bucket is full, in seconds from the start of the backward pass, and its bytes; in order.

        Splits weights between buckets at any byte; DDP keeps each tensor whole, so its buckets are a little larger.
        """
        began, held, room = 0.0, 0.0, float(FIRST_BUCKET_BYTES)
        ready = 0.0  # of the last gradient so far
        for part in self.parts:
            done = 0.0
            while part.gradient_bytes - done >= room - held:
                done += room - held
                yield began + part.backward_s * min(1.0, done / part.gradient_bytes), room
                held, room = 0.0, float(BUCKET_BYTES)
            held += part.gradient_bytes - done
            began += part.backward_s
            if part.gradient_bytes:
                ready = began
        if held:
            yield ready, held


def step_s(step: Step, network: Network, processes: int) -> float:
    """Return the time of a step: each bucket is reduced once it is full and the previous one is done."""
    if processes == 1:
        return step.compute_s
    free = 0.0
    for full, size in step.buckets():
        free = max(free, full) + network.all_reduce_s(size, processes)
    return step.other_s + max(step.backward_s, free)


def least_step_s(step: Step, network: Network, processes: int) -> float:
    """Return a closed-form lower bound: one message, hidden behind the backward pass as far as possible."""
    return step.compute_s + max(0.0, network.all_reduce_s(step.gradient_bytes, processes) - step.backward_s)


def speed_up(step: Step, network: Network, machines: int, *, per_machine: int = 1) -> float:
    """Return the images/s of several machines as a multiple of one machine's.

    per_machine: processes on each (its GPUs). The ring enters and leaves each machine once; communication inside a
    machine is assumed to be free.
    """
    if machines == 1:
        return 1.0
    return machines * (step.compute_s / step_s(step, network, machines * per_machine))  # so that rounding adds nothing
