"""Profile training steps, and compare the speed of their convolutions with what the machine can reach."""

import copy
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.profiler import DeviceType, ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from dogbreed.model import DogBreedClassifier

PROFILED = "model._target_=dogbreed.benchmark.profiling.ProfiledClassifier"  # an override
_GROUPS = {  # part of an operation's name: its group; the first match counts
    "conv": "convolutions",
    "batch_norm": "batch norm",
    "relu": "ReLU",
    "clamp_min": "ReLU",
    "threshold": "ReLU",
    "pool": "pooling",
    "adam": "optimizer",
    "sgd": "optimizer",
    "optimizer": "optimizer",
    "norm": "gradient clipping",
    "add": "additions",
}


class StepProfile(Callback):
    """Records all steps of the second epoch; the first one is the warm-up."""

    def __init__(self) -> None:
        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * torch.cuda.is_available()]
        self._profiler = profile(activities=activities)
        self._began = self._seconds = 0.0
        self._images = 0
        self._gflop_per_image = 0.0
        self._bf16 = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            self._profiler.start()
            self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch != 1:
            return
        self._images += len(batch[1])
        if batch_idx + 1 == trainer.num_training_batches:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._seconds = time.perf_counter() - self._began
            self._profiler.stop()
            self._gflop_per_image = _convolution_gflop(pl_module, batch[0].shape[-1])
            self._bf16 = str(trainer.precision).startswith("bf16")

    def summary(self) -> dict[str, Any]:
        """Return the profile. groups: shares of the steps' time by kind of operation. *_gflops: GFLOP/s; conv: of all
        convolutions of a step, forward and backward; matmul: of one large matrix product with as many threads, the best
        that the processor reaches in practice. conv_limit: images/s if only convolutions took time; matmul_limit: if
        they also were as fast as the matrix product.
        """
        on_gpu = torch.cuda.is_available()
        groups: dict[str, float] = {}
        for event in self._profiler.key_averages():
            if event.device_type != DeviceType.CPU:
                continue  # kernels are counted with the operations that launched them
            microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            group = next((name for part, name in _GROUPS.items() if part in event.key.lower()), "other operations")
            groups[group] = groups.get(group, 0.0) + microseconds / 1e6
        groups["between operations"] = max(0.0, self._seconds - sum(groups.values()))
        matmul_gflops = _matmul_gflops(bf16=self._bf16)
        conv_gflops = self._gflop_per_image * self._images / groups["convolutions"]
        ordered = sorted(groups.items(), key=lambda item: -item[1])
        return {
            "groups": {name: round(seconds / self._seconds, 4) for name, seconds in ordered},
            "images_per_s": self._images / self._seconds,
            "gflop_per_image": self._gflop_per_image,
            "conv_gflops": conv_gflops,
            "matmul_gflops": matmul_gflops,
            "conv_limit": conv_gflops / self._gflop_per_image,
            "matmul_limit": matmul_gflops / self._gflop_per_image,
        }


PROFILE = StepProfile()  # of this process's one run


class ProfiledClassifier(DogBreedClassifier):
    def configure_callbacks(self) -> list[Callback]:
        return [*super().configure_callbacks(), PROFILE]


def _convolution_gflop(model: LightningModule, image_px: int) -> float:
    """Count the convolutions' GFLOP of a training step per image, from shapes alone, on torch's meta device."""
    sketch = copy.deepcopy(model).to("meta").train()
    counter = FlopCounterMode(display=False)
    with counter:
        sketch(torch.empty(2, 3, image_px, image_px, device="meta")).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    return sum(count for operation, count in counts.items() if "conv" in str(operation)) / 2e9


def _matmul_gflops(*, bf16: bool) -> float:
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 2048)
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the GPU
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e9
