"""Benchmark the overhead of Lightning and dogbreed's callbacks against a bare loop with the same model and data."""

import os
import time
from collections.abc import Sequence
from typing import Any

from dogbreed.benchmark.harness import Benchmark, Row, Sample, Setup, steady_seconds
from dogbreed.benchmark.pictures import make_photos

IMAGE_PX, BATCH_SIZE = 128, 16  # of the network's steps
FEATURES, CLASSES, FEATURE_BATCH = 2048, 133, 64  # ResNet50's, for dogImages
NETWORK, NETWORK_BARE = "network, Lightning", "network, bare"
HEAD, HEAD_BARE = "features, Lightning", "features, bare"


def _network_overrides(setup: Setup) -> list[str]:
    return [
        "data=folder",
        "data._target_=dogbreed.benchmark.in_memory.InMemoryData",
        f"data.root={setup.place('network')}",
        f"data.batch_size={8 if setup.quick else 128 if setup.gpu else BATCH_SIZE}",
        "data.workers=0",
        "model=efficientnet_lite0",
        "model.weights=null",
        "model.trainable=all",
        f"model.image_px={IMAGE_PX}",
        "trainer.max_epochs=2",
        "model._target_=dogbreed.benchmark.runs.ClockedClassifier",
    ]


def feature_overrides(setup: Setup) -> list[str]:
    return [
        "data=folder",
        f"data.root={setup.place('features')}",
        f"data.batch_size={FEATURE_BATCH}",
        "model=resnet50",
        "model.weights=null",
        "model.trainable=head",
        "model.dropout=0",  # the bare layer has none
        "model.image_px=32",  # the features have the same size as at 224 px, and are computed faster
        f"trainer.max_epochs={_feature_epochs(setup)}",
    ]


def feature_sizes(setup: Setup) -> tuple[int, int, int]:
    """Return the numbers of classes, training photos and validation photos, as in dogImages."""
    return (8, 256, 64) if setup.quick else (CLASSES, 6680, 835)


def _feature_epochs(setup: Setup) -> int:
    return 2 if setup.quick else 10


def _prepare(setup: Setup) -> None:
    photos = 32 if setup.quick else 4096 if setup.gpu else 384
    make_photos(setup.place("network"), classes=4, train=photos, valid=8, test=8, width=160, height=140)
    prepare_features(setup)


def prepare_features(setup: Setup) -> None:
    """Create the photos of `feature_overrides`."""
    classes, train, valid = feature_sizes(setup)
    make_photos(setup.place("features"), classes=classes, train=train, valid=valid, test=classes, width=44, height=40)


def _network(setup: Setup) -> Sample:
    found = _run(setup, _network_overrides(setup))
    return {"step_ms": 1000 * found["step_s"], "steps": found["steps"]}


def _network_bare(setup: Setup) -> Sample:
    """Train the same network with the same loader, loss, clipping, optimizer and schedule in a minimal loop."""
    os.environ["DOGBREED_CACHE"] = str(setup.place("cache"))
    import torch
    from hydra.utils import instantiate
    from torch import nn

    from dogbreed import training
    from dogbreed.benchmark import runs

    settings = runs.settings(_network_overrides(setup))
    training.use_hardware()
    torch.manual_seed(settings["seed"])
    data = instantiate(settings["data"])
    data.setup()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = instantiate(settings["model"], classes=list(data.classes)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    timed: list[list[float]] = []
    for _ in range(settings["trainer"]["max_epochs"]):
        timed.append([])
        since = time.perf_counter()
        for images, labels in data.train_dataloader():
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if device.type == "cuda" and len(timed[-1]) + 1 == len(data.train_dataloader()):
                torch.cuda.synchronize()  # as `runs.Steps` does: a GPU may work ahead within an epoch
            timed[-1].append(time.perf_counter() - since)
            since = time.perf_counter()
    return {"step_ms": 1000 * steady_seconds(timed) / sum(map(len, timed)), "steps": timed}


def _head(setup: Setup) -> Sample:
    from dogbreed.benchmark import runs

    found = _run(setup, [*feature_overrides(setup), runs.CLOCKED])
    return {name: found[name] for name in ("fit_s", "steps_and_validation_s", "step_s")}


def head_bare(setup: Setup) -> Sample:
    """Train a linear layer on as many rows in memory: cross entropy, AdamW, accuracy; validation after each epoch."""
    import torch
    from torch import nn

    from dogbreed import training

    training.use_hardware()
    torch.manual_seed(0)
    classes, *counts = feature_sizes(setup)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    (x, y), (val_x, val_y) = (
        (torch.randn(count, FEATURES, device=device), torch.randint(classes, (count,), device=device))
        for count in counts
    )
    head = nn.Linear(FEATURES, classes).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)
    began = time.perf_counter()
    for _ in range(_feature_epochs(setup)):
        right = 0
        for rows in torch.split(torch.randperm(len(x), device=device), FEATURE_BATCH):
            logits = head(x[rows])
            loss = nn.functional.cross_entropy(logits, y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            right += int((logits.argmax(1) == y[rows]).sum())
        with torch.no_grad():
            for rows in torch.split(torch.arange(len(val_x), device=device), FEATURE_BATCH):
                right += int((head(val_x[rows]).argmax(1) == val_y[rows]).sum())
    return {"fit_s": time.perf_counter() - began}


def _run(setup: Setup, overrides: Sequence[str]) -> dict[str, Any]:
    os.environ["DOGBREED_CACHE"] = str(
        setup.place("cache")
    )  # the first run computes the features, all others reuse them
    from dogbreed.benchmark import runs

    runs.train(overrides, setup.fresh("run"))
    return runs.STEPS.summary()


def _rows(setup: Setup) -> Sequence[Row]:
    bare = (HEAD_BARE, "fit_s")
    return [
        Row("overhead, network", (NETWORK, "step_ms"), (NETWORK_BARE, "step_ms"), "ms", goal=1.03, at_most=True),
        Row("overhead, features", (HEAD, "fit_s"), bare, "s", goal=2.5, at_most=True),
        Row("  without saving", (HEAD, "steps_and_validation_s"), bare, "s", at_most=True),
    ]


BENCHMARK = Benchmark(
    name="overhead",
    about=(
        f"Network: a training step of EfficientNet-Lite0 on {BATCH_SIZE} images of {IMAGE_PX} px in memory; a bare "
        "loop with the same network, loader, loss, clipping, optimizer and schedule against training.run; first steps "
        "are not counted. Features: 10 epochs of 6,680 + 835 cached rows of 2,048 numbers, 133 classes, batches of 64, "
        "the whole fit from first step to last checkpoint; against a bare linear layer on random rows in memory."
    ),
    repeats=5,
    prepare=_prepare,
    sides={NETWORK_BARE: _network_bare, NETWORK: _network, HEAD_BARE: head_bare, HEAD: _head},
    rows=_rows,
)
