"""Benchmark full fine-tuning of a ResNet50 against torchvision's loop, at fixed and at growing image sizes."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogbreed.benchmark.harness import Benchmark, Row, Sample, Setup, steady_seconds
from dogbreed.benchmark.pictures import make_photos
from dogbreed.hardware import available_cpus, cpu_multiplies_bf16

START_PX, FULL_PX = 128, 224
REFERENCE, OURS, GROWING = "reference", "ours", "ours, growing"
OURS_BF16, GROWING_BF16 = "ours, bf16", "growing, bf16"
BF16 = "trainer.precision=bf16-mixed"


@dataclass(frozen=True)
class _Sizes:
    photos: int
    batch_size: int
    epochs: int
    growing_epochs: int


def _sizes(setup: Setup) -> _Sizes:
    if setup.quick:
        return _Sizes(photos=8, batch_size=4, epochs=2, growing_epochs=4)
    if setup.gpu:
        return _Sizes(photos=4096, batch_size=128, epochs=4, growing_epochs=8)
    return _Sizes(photos=128, batch_size=16, epochs=2, growing_epochs=8)


def reference(photos: Path, *, epochs: int, batch_size: int) -> dict[str, Any]:
    """Train like torchvision's references/classification/train.py by default: NCHW, fp32, no AMP.

    With its presets, metrics and order of calls, without validation and the parts that are off by default
    (distribution, EMA, mixup); with AdamW in place of SGD, and label smoothing, as dogbreed has.
    """
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import models
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    cores = available_cpus()
    torch.set_num_threads(cores)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset = T.Compose(
        [
            T.RandomResizedCrop(FULL_PX, scale=(0.35, 1.0)),
            T.RandomHorizontalFlip(),
            T.ColorJitter(0.2, 0.2, 0.2),  # the preset has none, but dogbreed does
            T.PILToTensor(),
            T.ConvertImageDtype(torch.float),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    dataset = ImageFolder(str(photos / "train"), preset)
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=min(cores, 16), pin_memory=device.type == "cuda")
    model = models.resnet50(weights=None, num_classes=len(dataset.classes)).to(device).train()
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    timed: list[list[tuple[float, int]]] = []
    for _ in range(epochs):
        timed.append([])
        since = time.perf_counter()
        for image, target in loader:
            image, target = image.to(device), target.to(device)
            output = model(image)
            loss = criterion(output, target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            top5 = output.topk(min(5, output.shape[1])).indices == target[:, None]
            _ = (loss.item(), top5[:, 0].sum().item(), top5.sum().item())  # its metric_logger also waits for these
            timed[-1].append((time.perf_counter() - since, len(target)))
            since = time.perf_counter()
    seconds = [[step for step, _ in epoch] for epoch in timed]
    images = sum(count for epoch in timed for _, count in epoch)
    return {"images_per_s": images / steady_seconds(seconds), "steps": seconds}


def _prepare(setup: Setup) -> None:
    make_photos(setup.place("finetune"), classes=4, train=_sizes(setup).photos, valid=8, test=8)


def _reference(setup: Setup) -> Sample:
    sizes = _sizes(setup)
    return reference(setup.place("finetune"), epochs=sizes.epochs, batch_size=sizes.batch_size)


def _ours(setup: Setup) -> Sample:
    return _run(setup, _sizes(setup).epochs)


def _growing(setup: Setup) -> Sample:
    return _run(setup, _sizes(setup).growing_epochs, f"data.start_px={START_PX}")


def _ours_bf16(setup: Setup) -> Sample:
    return _run(setup, _sizes(setup).epochs, BF16)


def _growing_bf16(setup: Setup) -> Sample:
    return _run(setup, _sizes(setup).growing_epochs, f"data.start_px={START_PX}", BF16)


def _run(setup: Setup, epochs: int, *more: str) -> Sample:
    os.environ["DOGBREED_CACHE"] = str(setup.place("cache"))
    from dogbreed.benchmark import runs

    runs.train(_overrides(setup, epochs, *more), setup.fresh("run"))
    found = runs.STEPS.summary()
    return {name: found[name] for name in ("images_per_s", "waiting", "px", "steps")}


def _overrides(setup: Setup, epochs: int, *more: str) -> list[str]:
    from dogbreed.benchmark import runs

    return [
        "data=folder",
        f"data.root={setup.place('finetune')}",
        f"data.batch_size={_sizes(setup).batch_size}",
        "model=resnet50",
        "model.weights=null",
        "model.trainable=all",
        "model.lr=1e-3",
        f"trainer.max_epochs={epochs}",
        runs.CLOCKED,
        *more,
    ]


def _rows(setup: Setup) -> Sequence[Row]:
    metric = "images_per_s"
    if setup.gpu:
        return [
            Row("finetune", (OURS, metric), (REFERENCE, metric), "images/s", goal=2),
            Row("finetune 128-224 px", (GROWING, metric), (REFERENCE, metric), "images/s"),
            Row("finetune, waiting", (OURS, "waiting"), None, "share", goal=0.05, at_most=True),
        ]
    rows = [
        Row("finetune 224 px", (OURS, metric), (REFERENCE, metric), "images/s", goal=1.6),
        Row("finetune 128-224 px", (GROWING, metric), (REFERENCE, metric), "images/s", goal=2.5),
    ]
    if cpu_multiplies_bf16():
        rows += [
            Row("  224 px, bf16", (OURS_BF16, metric), (REFERENCE, metric), "images/s"),
            Row("  128-224 px, bf16", (GROWING_BF16, metric), (REFERENCE, metric), "images/s"),
        ]
    return rows


def _profile(setup: Setup) -> Sample:
    os.environ["DOGBREED_CACHE"] = str(setup.place("cache"))
    from dogbreed.benchmark import profiling, runs

    runs.train([*_overrides(setup, 2), profiling.PROFILED], setup.fresh("run"))
    return profiling.PROFILE.summary()


def _explain(profile: Sample) -> list[str]:
    groups = ", ".join(f"{name} {share:.0%}" for name, share in profile["groups"].items() if share >= 0.005)
    return [
        f"profile of dogbreed's steps, {profile['images_per_s']:.2f} images/s under the profiler: {groups}",
        f"convolutions: {profile['gflop_per_image']:.1f} GFLOP per image, at {profile['conv_gflops']:,.0f} GFLOP/s; "
        f"a large matrix product reaches {profile['matmul_gflops']:,.0f} GFLOP/s on this machine",
        f"if only convolutions took time: {profile['conv_limit']:.2f} images/s; "
        f"if they also were as fast as the matrix product: {profile['matmul_limit']:.2f} images/s",
    ]


BENCHMARK = Benchmark(
    name="finetune",
    about=(
        "Images/s of training all of a ResNet50 from JPEGs of 900x675 at 224 px, AdamW, each side with its own input "
        "pipeline and the same number of threads; validation and warm-up steps are not counted. Baseline: "
        "torchvision's reference script (NCHW, fp32). dogbreed: training.run with the settings of conf/ (fp32 on CPUs, "
        "bf16-mixed on a GPU that has it); bf16: with trainer.precision=bf16-mixed on a CPU that has it. 128-224 px: "
        f"a whole schedule of growing images (data.start_px={START_PX}), all epochs counted."
    ),
    repeats=3,
    prepare=_prepare,
    sides={REFERENCE: _reference, OURS: _ours, GROWING: _growing, OURS_BF16: _ours_bf16, GROWING_BF16: _growing_bf16},
    rows=_rows,
    profile=_profile,
    explain=_explain,
)
