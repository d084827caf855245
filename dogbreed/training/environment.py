"""Record a run's settings, machine and packages."""

import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning import Trainer
from omegaconf import OmegaConf

from dogbreed.data import DogBreedData
from dogbreed.distributed import ranks
from dogbreed.model import DogBreedClassifier
from dogbreed.run_folder import RunFolder, write_json, write_text
from dogbreed.training.trainer import describe_device


def write_config(config: Mapping[str, Any], here: RunFolder) -> None:
    write_text(here.config, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def write_environment(config: Mapping[str, Any], here: RunFolder, data: DogBreedData, trainer: Trainer) -> None:
    if here.environment.exists():
        return  # a resumed run: the file describes the run's start
    photos = data.photos
    write_json(
        here.environment,
        {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": describe_device(trainer),
            "processes": ranks.here().world_size,
            "seed": config["seed"],
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv),
            "git": config.get("git"),
            "classes": list(photos.classes),
            "photos": {split: len(part) for split, part in photos.splits.items()},
            "photos_digest": photos.digest,
            "skipped": len(photos.skipped),
            "packages": _packages(),
        },
    )


def _packages() -> dict[str, str]:
    """List the installed packages by their folders' names: reading each one's metadata would take half a second."""
    folders = sorted(folder.stem for place in sys.path for folder in Path(place).glob("*.dist-info"))
    return dict(name.rsplit("-", 1) for name in folders if "-" in name)


def describe_model(model: DogBreedClassifier) -> str:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    total = sum(p.numel() for p in model.parameters()) / 1e6
    share = f"{trained:.2f}" if model.released else f"{trained:.2f} of {total:.2f}"  # its backbone is not in memory
    return f"{model.hparams['backbone']}, {model.hparams['trainable']}: {share} M weights"
