"""Benchmark training the head of a frozen ResNet50 with cached features against a plain PyTorch script."""

import os
from collections.abc import Sequence
from pathlib import Path

from dogbreed.benchmark.harness import PROCESS, Benchmark, Row, Sample, Setup
from dogbreed.benchmark.pictures import make_photos
from dogbreed.hardware import available_cpus

EPOCHS, BATCH_SIZE = 10, 64
PHOTOS = (800, 100, 100)  # train, valid, test: in the proportions of dogImages, at an eighth of its size


def plain(photos: Path, *, epochs: int, batch_size: int, image_px: int = 224, network: str = "resnet50") -> list[float]:
    """Train as in a tutorial: PIL transforms, DataLoader, frozen network, Adam. Return the mean loss of each epoch."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import models
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    cores = available_cpus()
    torch.set_num_threads(cores)  # as many as dogbreed uses
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    normalise = [T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    augment = T.Compose([T.RandomResizedCrop(image_px), T.RandomHorizontalFlip(), *normalise])
    middle = T.Compose([T.Resize(round(image_px * 8 / 7)), T.CenterCrop(image_px), *normalise])
    photos_of = {  # by split
        "train": ImageFolder(str(photos / "train"), augment),
        "valid": ImageFolder(str(photos / "valid"), middle),
        "test": ImageFolder(str(photos / "test"), middle),
    }
    train, valid, test = (
        DataLoader(found, batch_size, shuffle=split == "train", num_workers=min(cores, 8))
        for split, found in photos_of.items()
    )
    classes, count = len(photos_of["train"].classes), len(photos_of["train"])

    model = models.get_model(network, weights=None)
    model.requires_grad_(False)
    model.fc = nn.Linear(model.fc.in_features, classes)
    model.to(device).eval()  # BatchNorm of a frozen network keeps its statistics
    optimizer = torch.optim.Adam(model.fc.parameters(), lr=1e-3)

    @torch.no_grad()
    def accuracy(loader: "DataLoader[tuple[torch.Tensor, torch.Tensor]]") -> float:
        hits = torch.cat([model(images.to(device)).argmax(1).cpu() == labels for images, labels in loader])
        return hits.float().mean().item()

    losses = []
    for _ in range(epochs):
        total = 0.0
        for images, labels in train:
            images, labels = images.to(device), labels.to(device)
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(labels)
        losses.append(total / count)
        print(f"loss {losses[-1]:.3f}  val acc {accuracy(valid):.3f}", flush=True)
    print(f"test acc {accuracy(test):.3f}")
    return losses


def _prepare(setup: Setup) -> None:
    train, valid, test = (16, 8, 8) if setup.quick else PHOTOS
    make_photos(setup.place("photos"), classes=4 if setup.quick else 20, train=train, valid=valid, test=test)


def epochs(setup: Setup) -> int:
    return 2 if setup.quick else EPOCHS


def _plain(setup: Setup) -> Sample:
    return {"losses": plain(setup.place("photos"), epochs=epochs(setup), batch_size=BATCH_SIZE)}


def _ours(setup: Setup) -> Sample:
    cold = setup.fresh("cold-cache")  # empty: it has neither features nor scan results of these photos
    os.environ["DOGBREED_CACHE"] = str(cold)
    from dogbreed.benchmark import runs

    metrics = runs.train(_overrides(setup), setup.fresh("run"))
    return {"training_s": metrics["train/seconds"], "images_per_s": metrics["train/images_per_s"]}


def _overrides(setup: Setup) -> list[str]:
    return [
        "data=folder",
        f"data.root={setup.place('photos')}",
        f"data.batch_size={BATCH_SIZE}",
        "model=resnet50",
        "model.weights=null",  # random ones: there may be no network connection, and they are as fast
        "model.trainable=head",
        f"trainer.max_epochs={epochs(setup)}",
    ]


def _rows(setup: Setup) -> Sequence[Row]:
    return [Row("frozen", ("ours", PROCESS), ("plain", PROCESS), "s", goal=15)]


BENCHMARK = Benchmark(
    name="frozen",
    about=(
        f"{EPOCHS} epochs of training the head of a frozen ResNet50 (random weights), then the test photos; "
        f"{PHOTOS[0]} + {PHOTOS[1]} + {PHOTOS[2]} photos of 900x675, batches of {BATCH_SIZE}. Whole processes, from "
        "the command to the end, imports included. Baseline: the plain loop in dogbreed/benchmark/frozen.py, which "
        "validates after each epoch. dogbreed: training.run from an empty cache, features, calibration and report "
        "included; it trains on center crops (features.views=1), the plain loop on random crops."
    ),
    repeats=1,
    prepare=_prepare,
    sides={"plain": _plain, "ours": _ours},
    rows=_rows,
)
