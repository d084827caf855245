"""Benchmark decoding and augmenting photos on one core against torchvision's standard pipeline."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from dogbreed.benchmark.harness import PROCESS, Benchmark, Row, Sample, Setup
from dogbreed.benchmark.pictures import make_photos

if TYPE_CHECKING:
    from torch import Tensor

Epoch: TypeAlias = "Callable[[], Iterator[Tensor]]"  # a new pass over the photos at each call
IMAGE_PX, BATCH_SIZE = 224, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def reference(photos: Path) -> Epoch:
    """Load normalised batches, float32 [n, 3, 224, 224], as in torchvision's tutorials."""
    from torch.utils.data import DataLoader
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    transform = T.Compose(
        [
            T.RandomResizedCrop(IMAGE_PX, scale=(0.35, 1.0)),
            T.RandomHorizontalFlip(),
            T.ColorJitter(0.2, 0.2, 0.2),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )
    loader = DataLoader(ImageFolder(str(photos / "train"), transform), BATCH_SIZE, shuffle=True)
    return lambda: (images for images, _ in loader)


def ours(photos: Path) -> Epoch:
    """Load the same batches with DogBreedData, including everything up to the first layer."""
    from dogbreed.data import DogBreedData
    from dogbreed.hardware import keep_freed_memory
    from dogbreed.model import DogBreedClassifier
    from dogbreed.transforms import Augment

    keep_freed_memory()  # as every run does
    data = DogBreedData(photos, batch_size=BATCH_SIZE, image_px=IMAGE_PX, augment=Augment(), workers=0)
    data.setup()
    model = DogBreedClassifier(data.classes, library="timm", backbone="test_resnet", weights=None, mean=MEAN, std=STD)
    loader = data.train_dataloader()
    # Lightning calls on_after_batch_transfer once a batch is on its device
    return lambda: (model.normalised(data.on_after_batch_transfer(batch, 0)[0]) for batch in loader)


def _prepare(setup: Setup) -> None:
    from dogbreed.drawn import DrawnDogs

    # only whole batches: dogbreed drops an incomplete one
    width, height, train = (300, 225, 32) if setup.quick else (900, 675, 96)
    make_photos(setup.place("input"), classes=4, train=train, valid=4, test=4, width=width, height=height)
    drawn = (
        DrawnDogs(train=4, valid=1, test=1, breeds=8) if setup.quick else DrawnDogs(train=2, valid=1, test=1, breeds=96)
    )
    drawn.prepare(setup.place("drawn") / "photos")


def _measure(setup: Setup, side: str) -> Sample:
    _on_one_core(setup)
    sample: Sample = {}
    for name, photos in (("photos", setup.place("input")), ("drawn", setup.place("drawn") / "photos")):
        epoch = (ours if side == "ours" else reference)(photos)
        for _ in epoch():  # warm-up: files into memory, code paths taken once
            pass
        images, seconds = 0, 0.0
        for _ in range(1 if setup.quick else 3):
            since = time.perf_counter()
            images += sum(len(batch) for batch in epoch())
            seconds += time.perf_counter() - since
        sample[f"{name}_per_s"] = images / seconds
    return sample


def _on_one_core(setup: Setup) -> None:
    import torch

    os.environ["DOGBREED_CACHE"] = str(setup.place("cache"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _profile(setup: Setup) -> Sample:
    """Profile one epoch of photos on both sides: the share of time by function, from 2 % up."""
    import cProfile
    import pstats

    _on_one_core(setup)
    found: Sample = {}
    for name, side in (("reference", reference), ("ours", ours)):  # the order matters: ours changes malloc's settings
        epoch = side(setup.place("input"))
        for _ in epoch():
            pass
        with cProfile.Profile() as profiler:
            for _ in epoch():
                pass
        entries: dict[Any, Any] = vars(pstats.Stats(profiler))["stats"]
        total = sum(entry[2] for entry in entries.values())
        shares = Counter[str]()
        for (_, _, function), entry in entries.items():
            shares[function] += entry[2] / total
        found[name] = {function: round(share, 4) for function, share in shares.most_common() if share >= 0.02}
    return found


def _explain(profile: Sample) -> list[str]:
    return [
        f"profile of {side}, on photos: "
        + ", ".join(f"{name.strip('<>')} {share:.0%}" for name, share in shares.items())
        for side, shares in profile.items()
        if side != PROCESS
    ]


def _rows(setup: Setup) -> Sequence[Row]:
    return [
        Row("input, photos", ("ours", "photos_per_s"), ("reference", "photos_per_s"), "images/s", goal=2.5),
        Row("input, drawn dogs", ("ours", "drawn_per_s"), ("reference", "drawn_per_s"), "images/s"),
    ]


BENCHMARK = Benchmark(
    name="input",
    about=(
        "Images/s of one process with one thread, pinned to one core, from JPEG files to normalised float batches at "
        "224 px: random crop, flip, change of brightness, contrast and saturation. Photos are 900x675 of about 115 KB, "
        "drawn dogs 200 to 330 px a side. Baseline: ImageFolder, torchvision's transforms on Pillow, DataLoader. "
        "dogbreed: DogBreedData's loader, its step on the device, and the model's normalisation."
    ),
    repeats=5,
    prepare=_prepare,
    sides={"reference": lambda setup: _measure(setup, "reference"), "ours": lambda setup: _measure(setup, "ours")},
    rows=_rows,
    profile=_profile,
    explain=_explain,
)
