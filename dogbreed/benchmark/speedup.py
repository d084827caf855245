"""Estimate how many times as fast several rented machines would train one model: measured steps, simulated network."""

import os
import time
from collections.abc import Sequence

from dogbreed import speedup
from dogbreed.benchmark import overhead
from dogbreed.benchmark.harness import Benchmark, Row, Sample, Samples, Setup, quantity
from dogbreed.benchmark.pictures import make_photos
from dogbreed.speedup import Network, Step
from dogbreed.workload import work

ALL, LAYER4, HEAD = "all", "layer4", "head"  # the trainable part of a ResNet50
CLASSES, BATCH_SIZE = 133, 64  # per process
NUMBERS = (2, 4, 8, 16, 32, 64)
THREADS = 2  # as many as an ml.m5.large has
CPU, GPU = "ml.m5.large", "ml.g5.xlarge"
# Network and floating point operations a second, as launchers/cost/prices.yaml states them; a test holds them equal
MACHINES = {CPU: (Network(0.75e9 / 8, 100e-6), 60e9), GPU: (Network(2.5e9 / 8, 100e-6), 12e12)}
HERE_FLOPS = 175e9  # of convolutions on two Zen 4 cores (finetune --profile), on which the steps are measured


def _prepare(setup: Setup) -> None:
    classes, train, valid = overhead.feature_sizes(setup)
    make_photos(setup.place("features"), classes=classes, train=train, valid=valid, test=classes, width=44, height=40)


def _step(setup: Setup, trainable: str, photos: int) -> Sample:
    """Time the fastest of five bare steps: its backward pass and its rest, for BATCH_SIZE photos, on THREADS threads.

    The frozen part does not run: its features are random numbers. photos: the batch size that is measured.
    """
    import torch
    from torch import nn

    from dogbreed import training
    from dogbreed.model import DogBreedClassifier

    training.use_hardware()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    classes = [str(n) for n in range(CLASSES)]
    model = DogBreedClassifier(classes, weights=None, trainable=trainable)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
    labels = torch.randint(CLASSES, (photos,))
    shape = {ALL: (3, 224, 224), LAYER4: (1024, 14, 14), HEAD: (2048,)}[trainable]
    inputs = torch.rand(photos, *shape)
    if inputs.ndim == 4:
        inputs = inputs.to(memory_format=torch.channels_last)
    backward, other = [], []
    for _ in range(2 if setup.quick else 6):
        began = time.perf_counter()
        optimizer.zero_grad()
        logits = model(inputs) if trainable == ALL else model.from_features(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        forward_done = time.perf_counter()
        loss.backward()  # type: ignore[no-untyped-call]
        backward_done = time.perf_counter()
        optimizer.step()
        backward.append(backward_done - forward_done)
        other.append(time.perf_counter() - began - backward[-1])
    scale = BATCH_SIZE / photos
    return _sample(*(scale * min(times[1:]) for times in (backward, other)))


def _sample(backward_s: float, other_s: float) -> Sample:
    return {
        "step_ms": 1000 * (backward_s + other_s),
        "backward_s": backward_s,
        "other_s": other_s,
        "images_per_s": BATCH_SIZE / (backward_s + other_s),
    }


def _head(setup: Setup) -> Sample:
    """Measure a real run on cached features: the loop dominates so small a step, so it must be dogbreed's."""
    os.environ["DOGBREED_CACHE"] = str(setup.place("cache"))
    from dogbreed.benchmark import runs

    assert overhead.FEATURE_BATCH == BATCH_SIZE
    backward_s = _step(setup, HEAD, BATCH_SIZE)["backward_s"]
    runs.train([*overhead.feature_overrides(setup), runs.CLOCKED], setup.fresh("run"))
    return _sample(backward_s, max(0.0, runs.STEPS.summary()["step_s"] - backward_s))


def steps(samples: Samples) -> dict[tuple[str, str], Step]:
    """Return steps by machine and trainable part: measured and scaled for the CPU, from its rated speed for the GPU."""
    found = {}
    for trainable in (ALL, LAYER4, HEAD):
        of_one = work("resnet50", trainable, CLASSES)
        assert of_one is not None
        least = min(samples[trainable], key=lambda sample: float(sample["step_ms"]))  # the machine may not be idle
        backward_s, other_s = least["backward_s"], least["other_s"]
        slower = HERE_FLOPS / MACHINES[CPU][1]
        stated = of_one.step(BATCH_SIZE, MACHINES[GPU][1], cached=trainable != ALL)
        found[CPU, trainable] = stated.timed(backward_s * slower, other_s * slower)
        found[GPU, trainable] = stated
    return found


def simulated(samples: Samples) -> list[str]:
    """Format the speed-ups as Markdown, at most 80 characters wide."""
    cells = [("machine, trained", "1, img/s", *map(str, NUMBERS))]
    found = steps(samples)
    for machine, (network, _) in MACHINES.items():
        for trainable in (ALL, LAYER4, HEAD):
            step = found[machine, trainable]
            gains = (speedup.speed_up(step, network, n) for n in NUMBERS)
            alone = quantity(BATCH_SIZE / step.compute_s, "images/s").removesuffix(" img/s")
            cells.append((f"{machine}, {trainable}", alone, *(f"{gain:.{2 if gain < 10 else 1}f}" for gain in gains)))
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return ["Images/s of one machine, and the estimated speed-up by several:", "", *lines]


def _rows(setup: Setup) -> Sequence[Row]:
    return [Row(f"step, {trainable}", (trainable, "step_ms"), None, "ms") for trainable in (ALL, LAYER4, HEAD)]


BENCHMARK = Benchmark(
    name="speedup",
    about=(
        f"A training step of ResNet50 on {BATCH_SIZE} photos of 224 px, measured here on {THREADS} threads of the CPU: "
        "all of it (from batches of 16), layer4 and the head on precomputed features. From these, assumed to take "
        f"{HERE_FLOPS / MACHINES[CPU][1]:.1f} times as long on {CPU}, and from {MACHINES[GPU][1] / 1e12:.0f} TFLOP/s "
        f"for {GPU}: the speed-up of {NUMBERS[0]} to {NUMBERS[-1]} machines in data-parallel training, by a simulation "
        "of gradient buckets in a ring. Network: "
        f"{MACHINES[CPU][0].bytes_per_s * 8e-9:g} and {MACHINES[GPU][0].bytes_per_s * 8e-9:g} Gbit/s, "
        f"{MACHINES[CPU][0].latency_s * 1e6:.0f} us per message. Nothing was run on such machines."
    ),
    repeats=3,
    prepare=_prepare,
    sides={
        ALL: lambda setup: _step(setup, ALL, 2 if setup.quick else 16),
        LAYER4: lambda setup: _step(setup, LAYER4, BATCH_SIZE),
        HEAD: _head,
    },
    rows=_rows,
    after=simulated,
)
