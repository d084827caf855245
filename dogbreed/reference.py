"""Draw the pictures whose answers an artifact's manifest holds, so that it can be checked without torch.

They are computed with whole numbers, so they are the same on every machine, and have other colours in each channel and
fine detail: another order of the channels, normalisation, crop or interpolation changes the answers.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIZES = ((400, 300), (333, 500), (640, 480))  # width and height


def pictures() -> list[Image.Image]:
    """Return the pictures, RGB, always the same."""
    return [Image.fromarray(_pattern(width, height, number)) for number, (width, height) in enumerate(_SIZES, 1)]


def _pattern(width: int, height: int, number: int) -> NDArray[np.uint8]:
    x, y = np.arange(width, dtype=np.int64)[None, :], np.arange(height, dtype=np.int64)[:, None]
    red = 255 * x // width
    green = ((x * x + number * y * y) // 97) % 256  # rings that become finer outwards
    blue = 40 * ((x // (8 * number) + y // 12) % 2) + 120 * y // height
    return np.stack(np.broadcast_arrays(red, green, blue), axis=-1).astype(np.uint8)
