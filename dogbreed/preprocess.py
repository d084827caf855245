"""From the bytes of a photo to the numbers that a network sees: one path for training's evaluation, tests and serving.

Needs Pillow and NumPy only, so that a server without torch can use it.
"""

import io
import os
import warnings
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dogbreed.errors import DataError

Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
PictureSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "MPO")  # MPO: JPEGs of some phones and stereo cameras
MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: a quarter of a gigabyte as RGB
_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocess:
    """How a photo becomes a network's input at evaluation: the middle square, resized, then normalised.

    image_px: side of the square that the network sees. crop_pct: its share of the photo's shorter side, in (0, 1].
    mean, std: per channel (RGB), for values in 0..1. The defaults are ImageNet's.
    """

    image_px: int = 224
    crop_pct: float = 0.875
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def pixels(self, picture: PictureSource) -> NDArray[np.uint8]:
        """The photo's middle as uint8 [image_px, image_px, 3], RGB. Raises DataError if it does not decode."""
        image = decode(picture)
        width, height = image.size
        side = min(width, height) * self.crop_pct
        left, top = (width - side) / 2, (height - side) / 2
        # one resampling of the box that is kept, not a resize of everything followed by a crop
        square = image.resize(
            (self.image_px, self.image_px),
            _RESAMPLE[self.interpolation],
            box=(left, top, left + side, top + side),
        )
        return np.asarray(square)

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W, 3] to float32 [N, 3, H, W] with the network's mean and standard deviation."""
        mean, std = (np.asarray(values, dtype=np.float32) for values in (self.mean, self.std))
        normalised = (pixels.astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def decode(picture: PictureSource) -> Image.Image:
    """A photo of any common kind as an upright 8-bit RGB image.

    Takes a path, bytes or a Pillow image. Grey, palette, CMYK and 16-bit pictures are converted, transparency is laid
    on white, EXIF rotation is applied, of an animation the first frame counts.
    Raises DataError if it is empty, truncated, no photo, of another format than FORMATS or above MAX_PIXELS.
    """
    if isinstance(picture, Image.Image):
        return _to_rgb(picture)
    name = "the picture" if isinstance(picture, bytes) else os.fspath(picture)
    try:
        with _open(picture) as image:
            image.load()
            return _to_rgb(_upright(image))
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    # Pillow's plugins meet damaged files with nearly every built-in exception (struct.error, SyntaxError, ...)
    except Exception as error:
        raise DataError(f"{name}: {_reason(error)}") from error


def probe(content: bytes) -> tuple[int, int]:
    """Width and height of a photo whose pixels are all there; raises DataError (the reason alone) otherwise.

    Cheaper than `decode`: a JPEG is decoded at an eighth of its size, which still reads the file to its end.
    """
    try:
        with _open(content) as image:
            size = image.size
            image.draft(image.mode, (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
            _to_rgb(image.crop((0, 0, 1, 1)))  # can this mode be converted at all?
            return size
    except DataError:
        raise
    except Exception as error:  # as in decode
        raise DataError(_reason(error)) from error


def _open(picture: str | os.PathLike[str] | bytes) -> Image.Image:
    if isinstance(picture, bytes) and not picture:
        raise DataError("the file is empty (0 bytes)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, and on sizes that are judged here
        image = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise DataError(f"{width} x {height} pixels are more than the {MAX_PIXELS:,} that a photo may have")
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more pixels than the {MAX_PIXELS:,} that a photo may have"
    if isinstance(error, UnidentifiedImageError):
        return "not a photo of a known format (" + ", ".join(FORMATS) + ")"
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or str(error)
    return f"damaged: {error or type(error).__name__}"


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data says nothing about the pixels
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(grey: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey values of more than 8 bits, or floats, as 8 bits."""
    values = np.nan_to_num(grey.astype(np.float32))
    top = float(values.max(initial=0))
    if grey.dtype.kind == "f":
        white = 1.0 if top <= 1 else 255.0
    elif grey.dtype.itemsize == 2:
        white = 65535.0
    else:  # 32-bit integers carry 8 or 16 bits in practice; the values tell which
        white = next(w for w in (255.0, 65535.0, 2.0**32) if top <= w)
    scaled: NDArray[np.uint8] = np.clip(values * (255 / white), 0, 255).astype(np.uint8)
    return scaled
