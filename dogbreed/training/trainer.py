"""Build Lightning's Trainer for every part of a run, and configure the hardware."""

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.strategies import DDPStrategy

from dogbreed import checkpoints
from dogbreed.distributed import ranks
from dogbreed.errors import ConfigError, DogBreedError
from dogbreed.hardware import available_cpus, keep_freed_memory
from dogbreed.model import DogBreedClassifier
from dogbreed.run_folder import RunFolder


def use_hardware() -> None:
    """Configure this process for training: threads, memory, arithmetic."""
    keep_freed_memory()
    torch.set_num_threads(available_cpus())  # by default torch counts the machine's, not the container's
    torch.set_float32_matmul_precision("high")  # TF32 where a GPU has it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and nothing here reads such memory


class _ProgressBar(RichProgressBar):
    """Lightning's progress bar with the epoch's running loss and accuracy, and epochs counted from 1 as elsewhere."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        model = cast(DogBreedClassifier, pl_module)
        if not trainer.training:
            return {}
        loss, right = model.train_averages
        return {"loss": f"{loss:.2f}", "acc": f"{right:.0%}"}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"


def progress_bar() -> list[Callback]:
    return [_ProgressBar()] if sys.stdout.isatty() else []


def make_trainer(config: Mapping[str, Any], here: RunFolder, callbacks: list[Callback], logger: Any) -> Trainer:
    settings = dict(config["trainer"])
    if settings.get("precision") == "auto":
        settings["precision"] = "bf16-mixed" if _has_bf16(settings) else "32-true"
    processes: dict[str, Any] = {}
    plugins: list[Any] = [checkpoints.DurableCheckpointIO()]
    if (all_of_us := ranks.here()).several:
        settings |= {"devices": all_of_us.local_world_size, "num_nodes": all_of_us.nodes}
        # buffers that training changes (BatchNorm's running statistics) are broadcast before they are used
        strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
        processes = {"strategy": strategy, "use_distributed_sampler": False}  # our loaders shard already
        plugins.append(TorchElasticEnvironment())
    trainer: Trainer = build(
        settings,
        callbacks=callbacks,
        logger=logger,
        plugins=plugins,
        **processes,
        default_root_dir=str(here.path),
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    if all_of_us.several:  # Lightning's SIGTERM handler would start a collective while others may be in another
        cast(Any, trainer)._signal_connector.register_signal_handlers = lambda: None
    return trainer


def build(node: Mapping[str, Any], **arguments: Any) -> Any:
    """Instantiate a config node; unwrap our own errors from Hydra's exceptions."""
    try:
        return instantiate(dict(node), **arguments, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, DogBreedError):
            raise error.__cause__ from None
        raise ConfigError(f"Cannot build {node['_target_']}: {error.__cause__ or error}") from error


def _has_bf16(settings: Mapping[str, Any]) -> bool:
    """Return whether to use bf16 by default: on GPUs only. On CPUs it makes a ResNet50 twice as fast, but depthwise
    convolutions slower.
    """
    wants_gpu = settings.get("accelerator") in ("auto", "gpu", "cuda")
    return wants_gpu and torch.cuda.is_available() and bool(torch.cuda.is_bf16_supported(including_emulation=False))


@contextmanager
def only_useful_warnings() -> Iterator[None]:
    """Ignore Lightning's warnings about settings that are intended here."""
    with warnings.catch_warnings():
        for remark in (
            "Found .* module.* in eval mode",  # the frozen modules
            ".*does not have many workers.*",  # as many as there are CPUs
            ".*smaller than the logging interval.*",
            "Checkpoint directory .* exists and is not empty",  # a resumed run's
            ".*`LeafSpec` is deprecated.*",  # between Lightning and torch
            ".*treespec, LeafSpec.*",
            "The `srun` command is available",
            "GPU available but not used",
            "`broadcast_buffers` is deprecated",  # its successor is not in all versions of torch
            "It is recommended to use `self.log",  # logged values are already reduced over all processes
            "Trying to infer the `batch_size`",
        ):
            warnings.filterwarnings("ignore", message=remark)
        yield


def describe_device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    processes = f"{ranks.here().world_size} x " if ranks.here().several else ""
    if device.type == "cuda":
        return f"{processes}{torch.cuda.get_device_name(device)}, {trainer.precision}"
    return f"{processes}{device.type}, {torch.get_num_threads()} threads"
