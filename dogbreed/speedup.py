"""How much faster several machines train one model than one machine does, on paper. Loads no torch.

- Ring all-reduce: each of N processes sends and receives 2 (N-1)/N of the gradient in 2 (N-1) messages, one after the
  other, and no algorithm sends less (Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of
  workstations, J. Parallel Distrib. Comput. 69, 117-124).
- Overlap: gradients are gathered in buckets in the order in which the backward pass finishes them, and a full one is
  reduced while the pass goes on, one after the other (PyTorch Distributed, arXiv 2006.15704, section 3.2).

Batches are per process, so that a step of N has N times the photos. Left out: what sums, copies and encryption cost the
processor, machines that are slower than others (a step takes as long as the slowest), input that cannot keep up.
"""

from collections.abc import Iterator, Mapping
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


@dataclass(frozen=True)
class Stage:
    """A part of a backbone. gflop: of its forward pass over one photo of 224 px, 2 x multiply-adds. inputs: the numbers
    that it is handed for one photo, which are its features where what comes before is frozen."""

    weights: int
    gflop: float
    inputs: int


# in the order of the forward pass, counted by hooks on the networks themselves; a test counts them again
BACKBONES: Mapping[str, Mapping[str, Stage]] = {
    "resnet50": {
        "conv1": Stage(9_408, 0.236, 150_528),
        "bn1": Stage(128, 0, 802_816),
        "layer1": Stage(215_808, 1.336, 200_704),
        "layer2": Stage(1_219_584, 2.055, 802_816),
        "layer3": Stage(7_098_368, 2.929, 401_408),
        "layer4": Stage(14_964_736, 1.618, 200_704),
    },
    "tf_efficientnet_lite0": {
        "conv_stem": Stage(864, 0.02168, 150_528),
        "bn1": Stage(64, 0, 401_408),
        "blocks.0": Stage(896, 0.02007, 401_408),
        "blocks.1": Stage(13_968, 0.1099, 200_704),
        "blocks.2": Stage(39_712, 0.07587, 75_264),
        "blocks.3": Stage(198_480, 0.08702, 31_360),
        "blocks.4": Stage(446_784, 0.172, 15_680),
        "blocks.5": Stage(1_652_640, 0.1823, 21_952),
        "blocks.6": Stage(605_440, 0.05882, 9_408),
        "conv_head": Stage(409_600, 0.04014, 15_680),
        "bn2": Stage(2_560, 0, 62_720),
    },
}
WIDTHS = {"resnet50": 2048, "tf_efficientnet_lite0": 1280}  # numbers that the head is handed


@dataclass(frozen=True)
class Work:
    """What training does to one photo, in GFLOP of a forward pass; gradients in the order of the backward pass."""

    frozen_gflop: float
    trained_gflop: float
    feature_bytes: int  # what the frozen part makes of it, in fp32
    trained: tuple[Stage, ...]  # the last layer first

    def step(self, batch_size: int, flops_per_s: float, *, cached: bool) -> Step:
        """cached: the frozen part's features are there, so that it is not run."""
        per_gflop_s = batch_size * 1e9 / flops_per_s
        parts = tuple(Part(stage.weights * FLOAT_BYTES, 2 * stage.gflop * per_gflop_s) for stage in self.trained)
        forward = self.trained_gflop + (0 if cached else self.frozen_gflop)
        return Step(parts, forward * per_gflop_s + STEP_OVERHEAD_S)


def work(backbone: str, trainable: str, classes: int, *, image_px: int = 224) -> Work | None:
    """Null for a network that is not in the table or a part that it has not.

    Of a part within a stage, such as layer4.2, the whole stage is taken: more than is trained.
    """
    stages = BACKBONES.get(backbone)
    if stages is None:
        return None
    names = list(stages)
    if trainable in ("all", "head"):
        first = 0 if trainable == "all" else len(names)
    else:
        found = [
            n
            for n, name in enumerate(names)
            if f"{name}.".startswith(f"{trainable}.") or trainable.startswith(f"{name}.")
        ]
        if not found:
            return None
        first = found[0]
    width, area = WIDTHS[backbone], (image_px / 224) ** 2
    scaled = [replace(stage, gflop=stage.gflop * area, inputs=round(stage.inputs * area)) for stage in stages.values()]
    head = Stage((width + 1) * classes, 2 * width * classes / 1e9, width)
    ahead, trained = scaled[:first], [*scaled[first:], head]
    return Work(
        frozen_gflop=sum(stage.gflop for stage in ahead),
        trained_gflop=sum(stage.gflop for stage in trained),
        feature_bytes=trained[0].inputs * FLOAT_BYTES if ahead else 0,
        trained=tuple(reversed(trained)),
    )
