"""Small photos and small settings, so that a real run takes seconds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

MakePhotos = Callable[..., Path]


def make_photos(root: Path, *, classes: int = 3, train: int = 8, valid: int = 3, test: int = 3, px: int = 40) -> Path:
    """Noisy coloured squares, in the layout of dogImages; the colour tells the class."""
    rng = np.random.default_rng(0)
    colours = rng.permutation(np.stack(np.meshgrid(*[[40, 120, 210]] * 3), -1).reshape(-1, 3))
    for split, count in (("train", train), ("valid", valid), ("test", test)):
        for label in range(classes):
            folder = root / split / f"{label + 1:03d}.Class_{label + 1}"
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = colours[label] + rng.normal(0, 30, (px, px + 10, 3))
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{n:03d}.jpg", quality=92)
    return root


def tiny_settings(photos: Path) -> list[str]:
    """Overrides for a run of a few seconds: a small network without pretrained weights, all of it trained."""
    return [
        "data=folder",
        f"data.root={photos}",
        "data.batch_size=4",
        "data.workers=0",
        "model.library=timm",
        "model.backbone=test_resnet",
        "model.weights=null",
        "model.image_px=32",
        "model.trainable=all",
        "trainer.max_epochs=2",
        "logger=csv",
    ]
