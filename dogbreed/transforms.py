"""Augment training photos: crop and flip as a pure function of a key, change of light for a whole batch."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dogbreed.preprocess import Box, Interpolation, PictureSource, compact, read_region

_LOG_RATIO = math.log(4 / 3)  # the longer side of a crop is at most 4/3 of the shorter one
_TRIES = 10
_CHUNK = 8


class Augment:
    """A random crop, a flip and a change of light.

    scale: the crop's share of the photo's area (Inception-style cropping, arXiv 1409.4842; the distribution is that of
    torchvision's RandomResizedCrop). flip: probability of a mirror image. jitter: brightness, contrast and saturation
    are scaled by up to 1 +- jitter; 0 leaves colours alone.
    """

    def __init__(self, scale: Sequence[float] = (0.35, 1.0), flip: float = 0.5, jitter: float = 0.2) -> None:
        self.scale, self.flip, self.jitter = (scale[0], scale[1]), flip, jitter

    def view(
        self, picture: PictureSource, *, image_px: int, interpolation: Interpolation, key: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return the view of a photo for `key` (integers >= 0, as for NumPy's SeedSequence).

        Returns the pixels, uint8 [image_px, image_px, 3], RGB, cropped, resized and perhaps mirrored, and the light for
        `relight`: factors of brightness, contrast and saturation, float32 [3], ones if jitter=0.

        A pure function of the picture's bytes and the key: the same in any process and order. It neither uses nor
        changes the global random state. The crop is drawn from the size in the file's header, so that a JPEG is decoded
        no larger than needed. Raises DataError if it does not decode.
        """
        rng = np.random.default_rng(key)
        region = read_region(picture, lambda width, height: self._crop(rng, width, height), image_px)
        # torch's resize, not Pillow's: the same filter up to rounding, in a quarter of the time
        # the batch stride must be the image's size, which unsqueeze does not set: torch recognises channels_last by it,
        # which is twice as fast
        pixels = region.pixels()
        batch = torch.from_numpy(pixels.reshape(1, *pixels.shape)).permute(0, 3, 1, 2)
        resized = F.interpolate(batch, (image_px, image_px), mode=interpolation, antialias=True)
        mirrored = rng.random() < self.flip
        light = rng.uniform(max(0.0, 1 - self.jitter), 1 + self.jitter, 3).astype(np.float32)
        if mirrored:  # as stored, where left and right may be up and down
            resized = resized.flip(2 if region.on_its_side else 3)
        return compact(region.upright(resized.squeeze(0).permute(1, 2, 0).numpy())), light

    def _crop(self, rng: np.random.Generator, width: int, height: int) -> Box:
        for _ in range(_TRIES):
            area = width * height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(-_LOG_RATIO, _LOG_RATIO))
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                left = int(rng.integers(width - crop_width + 1))
                top = int(rng.integers(height - crop_height + 1))
                return left, top, left + crop_width, top + crop_height
        # fall back to the center of a very long picture
        ratio = min(max(width / height, 3 / 4), 4 / 3)
        crop_width, crop_height = min(width, round(height * ratio)), min(height, round(width / ratio))
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        return left, top, left + crop_width, top + crop_height


def relight(images: Tensor, light: Tensor) -> Tensor:
    """Scale brightness, then contrast, then saturation of each image by its own factors.

    images: uint8 [N, 3, H, W], RGB, on any device and in any layout, which the result keeps. light: float32 [N, 3].
    Equals torchvision's adjust_brightness, adjust_contrast and adjust_saturation in sequence, truncating fractions and
    clamping to 0..255 after each, to within one level.
    """
    light = light.to(images.device, non_blocking=True)
    relit = torch.empty_like(images)
    if images.device.type != "cpu":
        return relit.copy_(_relit_planes(images.contiguous(), light))
    # as many at a time as fit a core's cache; NumPy splits and joins colour planes twice as fast as torch
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        planes = torch.empty(images[part].shape, dtype=torch.uint8)
        _copy_planes(images[part], planes)
        _copy_planes(_relit_planes(planes, light[part]), relit[part])
    return relit


def normalised(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return images * scale + shift as float32 in the images' layout: uint8 [N, 3, H, W], float32 [1, 3, 1, 1] twice.

    In channels_last layout torch would process three numbers at a time; by rows it is 5 times as fast on a CPU.
    """
    if not images.is_contiguous(memory_format=torch.channels_last):
        return images.float().mul_(scale).add_(shift)
    count, _, height, width = images.shape
    rows = images.permute(0, 2, 3, 1).reshape(count * height, width * 3).float()
    rows.mul_(scale.reshape(3).repeat(width)).add_(shift.reshape(3).repeat(width))
    return rows.view(count, height, width, 3).permute(0, 3, 1, 2)


def _relit_planes(images: Tensor, light: Tensor) -> Tensor:
    """Relight images in planar layout; in channels_last layout, computing grey would read every third number."""
    brightness, contrast, saturation = light.view(-1, 3, 1, 1, 1).unbind(1)
    pixels = images.to(torch.float32)
    pixels.mul_(brightness).clamp_(max=255).floor_()
    # the mean grey; torchvision rounds each pixel down, on average by half a level
    middle = _grey(pixels.mean((2, 3), keepdim=True)) - 0.5
    pixels.mul_(contrast).add_((1 - contrast) * middle).clamp_(0, 255).floor_()
    grey = _grey(pixels).floor_().mul_(1 - saturation)
    pixels.mul_(saturation).add_(grey).clamp_(0, 255)
    return pixels.to(torch.int16).to(torch.uint8)  # in two steps, which have SIMD instructions


def _copy_planes(source: Tensor, target: Tensor) -> None:
    for channel in range(3):
        np.copyto(target[:, channel].numpy(), source[:, channel].numpy())


def _grey(pixels: Tensor) -> Tensor:
    red, green, blue = (pixels[:, n : n + 1] for n in range(3))
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)  # torchvision's weights
