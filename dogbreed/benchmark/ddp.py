"""Benchmark two processes of one thread each that train one model, against one such process."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dogbreed.benchmark import overhead
from dogbreed.benchmark.harness import Benchmark, Row, Sample, Setup, timed
from dogbreed.benchmark.pictures import make_photos
from dogbreed.distributed import ranks
from dogbreed.run_folder import write_json

_HEAD_BATCHES = (64, 512)  # of features, for each process


@dataclass(frozen=True)
class _Sizes:
    train: int
    batch_size: int  # of each process
    epochs: int
    head_epochs: int


def _sizes(setup: Setup) -> _Sizes:
    if setup.quick:
        return _Sizes(train=16, batch_size=2, epochs=1, head_epochs=1)
    return _Sizes(train=256, batch_size=32, epochs=1, head_epochs=10)


def _prepare(setup: Setup) -> None:
    classes, sizes = 4, _sizes(setup)
    make_photos(setup.place("ddp"), classes=classes, train=sizes.train, valid=classes, test=classes)
    # many, so that the pass over them dominates the time
    many = 8 * classes if setup.quick else 2000
    overhead.prepare_features(setup)
    make_photos(setup.place("ddp-many"), classes=classes, train=many, valid=40, test=40, width=450, height=338)


def _together(setup: Setup, processes: int, photos: Path, *overrides: str) -> Sample:
    """Train with this many processes, each on a CPU of its own; return the measurements of process 0."""
    folder = setup.fresh("ddp")
    words = [f"data.root={photos}", *overrides]
    settings = {"words": words, "folder": str(folder / "run"), "sample": str(folder / "sample.json")}
    os.environ |= {"DOGBREED_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    timed([*command, "-m", "dogbreed.benchmark.ddp", json.dumps(settings)], folder / "output.txt")
    sample: Sample = json.loads((folder / "sample.json").read_text())
    return sample


def _photos(processes: int, setup: Setup) -> Sample:
    sizes = _sizes(setup)
    trained = ["model.trainable=all", "features.mode=off", f"data.batch_size={sizes.batch_size}"]
    return _together(setup, processes, setup.place("ddp"), *trained, f"trainer.max_epochs={sizes.epochs}")


def _features(processes: int, setup: Setup) -> Sample:
    epochs = f"trainer.max_epochs={_sizes(setup).head_epochs}"
    head = ["model.trainable=head", "features.mode=cached", "data.batch_size=32", epochs]
    return _together(setup, processes, setup.place("ddp-many"), *head)


def _head(processes: int, batch_size: int, setup: Setup) -> Sample:
    """Measure the steps of a head alone, on as many precomputed features as dogImages has photos."""
    words = [text for text in overhead.feature_overrides(setup) if not text.startswith(("data.root=", "data.batch"))]
    return _together(setup, processes, setup.place("features"), *words, f"data.batch_size={batch_size}")


def _rows(setup: Setup) -> Sequence[Row]:
    speed = "images_per_s"
    heads = [
        Row(f"ddp: head, {size}", (f"head {size}, 2", speed), (f"head {size}, 1", speed), "images/s")
        for size in _HEAD_BATCHES
    ]
    return [
        Row("ddp: photos", ("photos, 2", speed), ("photos, 1", speed), "images/s", goal=1.85),
        Row("ddp: features", ("features, 2", "run_s"), ("features, 1", "run_s"), "s", goal=1.85),
        *heads,
    ]


def _one_process(settings: dict[str, Any]) -> None:
    """Run one process of `_together`; torchrun starts it."""
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[ranks.here().local_rank % len(cpus)]})
    sample = _trained(settings)
    if ranks.here().first:
        write_json(Path(settings["sample"]), sample)


def _trained(settings: dict[str, Any]) -> Sample:
    from dogbreed.benchmark import runs

    own = ["data=folder", "model=resnet50", "model.weights=null", "data.workers=0", "logger=none", "test=false"]
    composed = runs.settings([*own, runs.CLOCKED, *settings["words"]])
    folder = Path(settings["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    from dogbreed import training

    began = time.perf_counter()
    training.run(composed, folder)
    run_s = time.perf_counter() - began
    summary = runs.STEPS.summary()
    world = ranks.here().world_size
    return {"run_s": run_s, "images_per_s": world * summary["images_per_s"], "step_s": summary["step_s"]}


BENCHMARK = Benchmark(
    name="ddp",
    about=(
        "Training by two processes, each on its own CPU with one thread, against one such process; each has its own "
        "batch, so that two take half the steps. photos: images/s of full fine-tuning of a ResNet50 at 224 px, batches "
        "of 32. features: seconds from the photos to the trained head, including the pass over 2,000 photos, of which "
        "each computes its share. head: images/s of the steps of a head alone, on precomputed features, where "
        "all_reduce of 1 MB of gradients takes longer than a small step."
    ),
    repeats=3,
    prepare=_prepare,
    sides={
        **{f"photos, {n}": partial(_photos, n) for n in (1, 2)},
        **{f"features, {n}": partial(_features, n) for n in (1, 2)},
        **{f"head {size}, {n}": partial(_head, n, size) for size in _HEAD_BATCHES for n in (1, 2)},
    },
    rows=_rows,
)

if __name__ == "__main__":
    _one_process(json.loads(sys.argv[1]))
