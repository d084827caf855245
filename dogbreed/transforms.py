"""Augmentation of training photos, as a pure function of (seed, epoch, index)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from dogbreed.preprocess import Interpolation


class Augment:
    """A random crop, a flip and a change of light.

    scale: the crop's share of the photo's area (Inception-style cropping, arXiv 1409.4842). flip: probability of a
    mirror image. jitter: brightness, contrast and saturation are scaled by up to 1 +- jitter; 0 leaves colours alone.
    """

    def __init__(self, scale: Sequence[float] = (0.35, 1.0), flip: float = 0.5, jitter: float = 0.2) -> None:
        self.scale, self.flip, self.jitter = (scale[0], scale[1]), flip, jitter

    def build(self, image_px: int, interpolation: Interpolation) -> v2.Transform:
        """The transform for one network's input size: Pillow image to Pillow image, image_px on each side."""
        steps: list[v2.Transform] = [
            v2.RandomResizedCrop(image_px, scale=self.scale, interpolation=InterpolationMode(interpolation)),
            v2.RandomHorizontalFlip(self.flip),
        ]
        if self.jitter:
            steps.append(v2.ColorJitter(self.jitter, self.jitter, self.jitter))
        return v2.Compose(steps)


def augmented_pixels(
    image: Image.Image, transform: v2.Transform, *, seed: int, epoch: int, index: int
) -> NDArray[np.uint8]:
    """The view of a photo that belongs to (seed, epoch, index), as uint8 [H, W, 3].

    torchvision draws from torch's global CPU generator, so that one is set for the while and put back: the result is
    the same in any worker process and in any order, and leaves no trace in the caller's random numbers.
    """
    key = int(np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0])
    before = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(key)  # torch.manual_seed would set the GPU's generators as well
        return np.asarray(transform(image))
    finally:
        torch.set_rng_state(before)
