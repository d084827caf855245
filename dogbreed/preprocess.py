"""From the bytes of a photo to the numbers that a network sees: one path for training's evaluation, tests and serving.

Needs Pillow and NumPy only, so that a server without torch can use it.
"""

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from dogbreed.errors import DataError

Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
PictureSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # MPO, of some phones, is opened as JPEG
MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: a third of a gigabyte once decoded
MAX_BYTES = 6 * MAX_PIXELS  # of a file: as large as a photo gets with 16 bits a channel and no compression
_UPRIGHT = {  # EXIF's Orientation: what brings the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THEIR_SIDE = (5, 6, 7, 8)
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
    Raises DataError if it is empty, truncated, no photo, of another format than FORMATS, above MAX_PIXELS or above
    MAX_BYTES. Does not notice damage that still decodes: a JPEG with a few wrong bits gives a picture with stripes.
    """
    name = os.fspath(picture) if isinstance(picture, str | os.PathLike) else "the picture"
    try:
        with _quiet(), _open(picture) as image:
            image.load()
            return _to_rgb(_upright(image))
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    # Pillow's plugins meet damaged files with nearly every built-in exception (struct.error, SyntaxError, ...)
    except Exception as error:
        raise DataError(f"{name}: {_reason(error)}") from error


def probe(content: bytes) -> tuple[int, int]:
    """Width and height, once upright, of a photo that `decode` takes; raises DataError (the reason alone) otherwise.

    Cheaper than `decode`: a JPEG is decoded at an eighth of its size, which still reads the file to its end.
    """
    try:
        with _quiet(), _open(content) as image:
            size = image.size
            image.draft(image.mode, (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
            _to_rgb(image.crop((0, 0, 1, 1)))  # can this mode be converted at all?
            return size[::-1] if _orientation(image) in _ON_THEIR_SIDE else size
    except DataError:
        raise
    except Exception as error:  # as in decode
        raise DataError(_reason(error)) from error


def read_picture(path: str | os.PathLike[str]) -> bytes:
    """The content of a picture file. Never waits for a pipe, nor reads a device or a disk image into memory.

    Raises DataError (the reason alone) where there is no picture file, OSError where it cannot be read.
    """
    seen = Path(path).stat()
    if stat.S_ISDIR(seen.st_mode):
        raise DataError("a folder, not a picture file")
    if not stat.S_ISREG(seen.st_mode):
        raise DataError("not a regular file, but a pipe, a socket or a device")
    if not seen.st_size:
        raise DataError("the file is empty (0 bytes)")
    if seen.st_size > MAX_BYTES:
        raise DataError(f"{seen.st_size:,} bytes are more than the {MAX_BYTES:,} that a photo may have")
    with Path(path).open("rb") as file:
        return file.read(seen.st_size)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, and on sizes that are judged here
        yield


@contextlib.contextmanager
def _open(picture: PictureSource) -> Iterator[Image.Image]:
    if isinstance(picture, Image.Image):  # the caller's, who closes it
        _check_size(picture)
        yield picture
        return
    content = picture if isinstance(picture, bytes) else read_picture(picture)
    if not content:
        raise DataError("the file is empty (0 bytes)")
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        _check_size(image)
        yield image


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{width} x {height} pixels are more than the {MAX_PIXELS:,} that a photo may have")
    if not width * height:
        raise DataError(f"{width} x {height} pixels: there is nothing to see")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more pixels than the {MAX_PIXELS:,} that a photo may have"
    if isinstance(error, UnidentifiedImageError):
        return "not a photo of a known format (" + ", ".join(FORMATS) + ")"
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or str(error)
    return f"damaged: {error or type(error).__name__}"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF data says nothing about the pixels
        return 1


def _upright(image: Image.Image) -> Image.Image:
    # not ImageOps.exif_transpose: it copies upright pictures too, and gives up where EXIF cannot be written back
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGB", rgba.size, "white")
        ground.paste(rgba, mask=rgba)
        return ground
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bit(grey: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey values of more than 8 bits, or floats, as 8 bits."""
    values = grey.astype(np.float32)
    np.nan_to_num(values, copy=False)  # all in place: a large scan takes hundreds of megabytes
    top = float(values.max(initial=0))
    if grey.dtype.kind == "f":
        white = 1.0 if top <= 1 else 255.0
    elif grey.dtype.itemsize == 2:
        white = 65535.0
    else:  # 32-bit integers carry 8 or 16 bits in practice; the values tell which
        white = next(w for w in (255.0, 65535.0, 2.0**32) if top <= w)
    values *= 255 / white
    np.rint(values, out=values)
    np.clip(values, 0, 255, out=values)
    return values.astype(np.uint8)
