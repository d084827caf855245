"""How much faster several machines train one model than one machine does, on paper. Loads no torch.

- Ring all-reduce: each of N processes sends and receives 2 (N-1)/N of the gradient in 2 (N-1) messages, one after the
  other, and no algorithm sends less (Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of
  workstations, J. Parallel Distrib. Comput. 69, 117-124).
- Overlap: gradients are gathered in buckets in the order in which the backward pass finishes them, and a full one is
  reduced while the pass goes on, one after the other (PyTorch Distributed, arXiv 2006.15704, section 3.2).

Batches are per process, so that a step of N has N times the photos. Left out: what sums, copies and encryption cost the
processor, machines that are slower than others (a step takes as long as the slowest), input that cannot keep up.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

MIB = 2**20
BUCKET_BYTES, FIRST_BUCKET_BYTES = 25 * MIB, 1 * MIB  # DDP's own; the first is small, so that reducing begins early
FLOAT_BYTES = 4
STEP_OVERHEAD_S = 5e-3  # what a step costs however small it is: 12,000 images/s of cached features, 64 to a batch


@dataclass(frozen=True)
class Network:
    """Between two machines. latency_s: of one message, what sending and receiving it costs included."""

    bytes_per_s: float
    latency_s: float

    def all_reduce_s(self, size_bytes: float, processes: int) -> float:
        rounds = processes - 1 if size_bytes else 0
        return 2 * rounds / processes * size_bytes / self.bytes_per_s + 2 * rounds * self.latency_s


@dataclass(frozen=True)
class Part:
    """A stretch of the backward pass. Its gradients are finished evenly over its time."""

    gradient_bytes: float
    backward_s: float


@dataclass(frozen=True)
class Step:
    """One training step of one process. parts: as the backward pass meets them, the head first. other_s: the rest."""

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
        """The same step with times that were measured, the backward pass divided as here."""
        factor = backward_s / self.backward_s
        return Step(tuple(replace(part, backward_s=part.backward_s * factor) for part in self.parts), other_s)

    def buckets(self) -> Iterator[tuple[float, float]]:
        """When each is full, in seconds from the start of the backward pass, and its bytes; in order.

        Weights are divided between buckets at any byte; DDP keeps each tensor whole, so that its buckets are a little
        larger.
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
    """A step of so many processes: each bucket is reduced once it is full and the one before it is done."""
    if processes == 1:
        return step.compute_s
    free = 0.0
    for full, size in step.buckets():
        free = max(free, full) + network.all_reduce_s(size, processes)
    return step.other_s + max(step.backward_s, free)


def least_step_s(step: Step, network: Network, processes: int) -> float:
    """The closed form, a lower bound: one message, hidden behind the whole backward pass as far as that reaches."""
    return step.compute_s + max(0.0, network.all_reduce_s(step.gradient_bytes, processes) - step.backward_s)


def speed_up(step: Step, network: Network, machines: int, *, per_machine: int = 1) -> float:
    """Images/s of so many machines, as a multiple of one machine's.

    per_machine: processes in each (its GPUs). The ring passes each machine's network once in and once out; what goes on
    inside a machine is taken to cost nothing.
    """
    if machines == 1:
        return 1.0
    return machines * (step.compute_s / step_s(step, network, machines * per_machine))  # so that rounding adds nothing
