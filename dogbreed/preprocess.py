"""From the bytes of a photo to the numbers that a network sees: one path for training, evaluation, tests and serving.

Needs Pillow, NumPy and simplejpeg only, so that a server without torch can use it.

`read_region` decodes: a JPEG at a half, a quarter or an eighth of its scale (whole blocks of the cosine transform, see
libjpeg's scale_denom) where the part that is wanted has pixels to spare. `decode` is for looking at the whole picture.
"""

import contextlib
import io
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError

from dogbreed.errors import DataError

Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
PictureSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom

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
_MIRRORED_IN_X, _MIRRORED_IN_Y = (2, 3, 7, 8), (3, 4, 6, 7)  # as stored, before a swap of the axes
_REDUCTIONS = (8, 4, 2)  # of a JPEG's sides; libjpeg-turbo has no SIMD code for those between
_SUPPORT = {"bilinear": 1, "bicubic": 2}  # how far the filters reach, in pixels of the result
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
        """The photo's middle as uint8 [image_px, image_px, 3], RGB. Raises DataError if it does not decode.

        A Pillow image is used at the scale it has; a JPEG's path or bytes are decoded at a reduced one where that is
        enough, so the numbers differ a little (see `read_region`).
        """
        region = read_region(picture, self._middle, self.image_px)
        image, box = region.surroundings(_SUPPORT[self.interpolation], self.image_px)
        # one resampling of the box that is kept, not a resize of everything followed by a crop
        square = image.resize((self.image_px, self.image_px), _RESAMPLE[self.interpolation], box=box)
        return compact(region.upright(np.asarray(square)))

    def _middle(self, width: int, height: int) -> Box:
        side = min(width, height) * self.crop_pct
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W, 3] to float32 [N, 3, H, W] with the network's mean and standard deviation."""
        mean, std = (np.asarray(values, dtype=np.float32) for values in (self.mean, self.std))
        normalised = (pixels.astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class Region:
    """A part of a photo, as stored: maybe on its side or mirrored, maybe at a reduced scale.

    stored: all of the photo, RGB; an array is uint8 [H, W, 3]. box: the part that was asked for, in pixels of `stored`.
    orientation: EXIF's, 1..8. reduction: `stored` has 1/reduction of the file's pixels on each side, rounded up.
    """

    stored: Image.Image | NDArray[np.uint8]
    box: Box
    orientation: int
    reduction: int

    @property
    def on_its_side(self) -> bool:
        return self.orientation in _ON_THEIR_SIDE

    def pixels(self) -> NDArray[np.uint8]:
        """A copy of the part, its edges at the nearest whole pixels: uint8 [H, W, 3], as stored, contiguous."""
        size = self.stored.size if isinstance(self.stored, Image.Image) else self.stored.shape[1::-1]
        left, top, right, bottom = (math.floor(edge + 0.5) for edge in self.box)
        left, top = min(left, size[0] - 1), min(top, size[1] - 1)
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        if isinstance(self.stored, Image.Image):
            return np.array(self.stored.crop((left, top, right, bottom)))
        return self.stored[top:bottom, left:right].copy()

    def surroundings(self, support: int, image_px: int) -> tuple[Image.Image, Box]:
        """The part with all that a filter to image_px sees around it, as an image, and the box in that."""
        if isinstance(self.stored, Image.Image):
            return self.stored, self.box
        left, top, right, bottom = self.box
        margin = 2 + math.ceil(support * max(1.0, max(right - left, bottom - top) / image_px))
        x, y = max(0, math.floor(left) - margin), max(0, math.floor(top) - margin)
        cut = self.stored[y : math.ceil(bottom) + margin, x : math.ceil(right) + margin]
        return Image.fromarray(cut), (left - x, top - y, right - x, bottom - y)

    def upright(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view of pixels [H, W, 3], which lie as stored, the way the photo is looked at."""
        if self.orientation in _MIRRORED_IN_X:
            pixels = pixels[:, ::-1]
        if self.orientation in _MIRRORED_IN_Y:
            pixels = pixels[::-1]
        return pixels.transpose(1, 0, 2) if self.on_its_side else pixels


def read_region(picture: PictureSource, choose: Callable[[int, int], Box], image_px: int) -> Region:
    """Decode the part of a photo that `choose` picks, once it knows the width and height of the upright photo.

    A JPEG is decoded at the largest reduction (2, 4 or 8) that leaves the box at least image_px on both sides;
    everything else, Pillow images included, at its full size. Both decoders are libjpeg-turbo with the accurate
    transform and give the same pixels; simplejpeg spends no time on Pillow's own format. What it refuses, or what is
    only damaged enough for a warning, is Pillow's to judge. Takes and refuses the same pictures as `decode`.
    """
    with _data_errors(picture), _quiet(), _open(picture) as (image, content):
        # neither a caller's image nor another format has a scale to choose
        scalable = content is not None and isinstance(image, JpegImagePlugin.JpegImageFile)
        if not scalable:
            image.load()  # before its EXIF, which Pillow reads a PNG to the end for and then hides what is damaged
        orientation, size = _orientation(image), image.size
        on_its_side = orientation in _ON_THEIR_SIDE
        box = _as_stored(choose(*(size[::-1] if on_its_side else size)), size, orientation)
        reduction = 1
        if content is not None and scalable:
            side = min(box[2] - box[0], box[3] - box[1])
            reduction = next((n for n in _REDUCTIONS if side >= n * image_px), 1)
            box = (box[0] / reduction, box[1] / reduction, box[2] / reduction, box[3] / reduction)
            if image.mode in ("RGB", "L"):
                pixels = _read_jpeg(content, *(-(-pixels // reduction) for pixels in size))
                if pixels is not None:
                    return Region(pixels, box, orientation, reduction)
            if reduction > 1:
                image.draft(image.mode, (size[0] // reduction, size[1] // reduction))
        image.load()
        return Region(_to_rgb(image), box, orientation, reduction)


def compact(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same pixels [H, W, 3] in C order; mirrored or turned ones copied by channel, 8 times as fast as at once."""
    if pixels.flags["C_CONTIGUOUS"]:
        return pixels
    copy = np.empty(pixels.shape, np.uint8)
    for channel in range(pixels.shape[2]):
        copy[:, :, channel] = pixels[:, :, channel]
    return copy


def decode(picture: PictureSource) -> Image.Image:
    """A photo of any common kind as an upright 8-bit RGB image, in its full size.

    Takes a path, bytes or a Pillow image. Grey, palette, CMYK and 16-bit pictures are converted, transparency is laid
    on white, EXIF rotation is applied, of an animation the first frame counts.
    Raises DataError if it is empty, truncated, no photo, of another format than FORMATS, above MAX_PIXELS or above
    MAX_BYTES. Does not notice damage that still decodes: a JPEG with a few wrong bits gives a picture with stripes.
    """
    with _data_errors(picture), _quiet(), _open(picture) as (image, _):
        image.load()
        return _to_rgb(_upright(image))


def probe(content: bytes) -> tuple[int, int]:
    """Width and height, once upright, of a photo that `decode` takes; raises DataError (the reason alone) otherwise.

    Cheaper than `decode`: a JPEG is decoded at an eighth of its size, which still reads the file to its end.
    """
    try:
        with _quiet(), _open(content) as (image, _):
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
def _data_errors(picture: PictureSource) -> Iterator[None]:
    """Whatever goes wrong inside is a DataError that names the picture."""
    name = os.fspath(picture) if isinstance(picture, str | os.PathLike) else "the picture"
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    # Pillow's plugins meet damaged files with nearly every built-in exception (struct.error, SyntaxError, ...)
    except Exception as error:
        raise DataError(f"{name}: {_reason(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, and on sizes that are judged here
        yield


@contextlib.contextmanager
def _open(picture: PictureSource) -> Iterator[tuple[Image.Image, bytes | None]]:
    """The image, its header read, and the file's bytes; None for an image that is the caller's, who closes it."""
    if isinstance(picture, Image.Image):
        _check_size(picture)
        yield picture, None
        return
    content = picture if isinstance(picture, bytes) else read_picture(picture)
    if not content:
        raise DataError("the file is empty (0 bytes)")
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        _check_size(image)
        yield image, content


def _read_jpeg(content: bytes, width: int, height: int) -> NDArray[np.uint8] | None:
    """A JPEG at the scale that makes it width x height: uint8 [height, width, 3]; None if that is Pillow's to try."""
    # a buffer of this size, so that a header which Pillow understands otherwise cannot make it take more memory
    buffer = np.empty((height, width, 3), np.uint8)
    try:
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=height, min_width=width, buffer=buffer, strict=True)
    except Exception:  # truncated, or damaged
        return None
    return pixels if pixels.shape == buffer.shape else None


def _as_stored(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """A box in the upright photo as one in the photo of `size` (width, height) that is stored."""
    left, top, right, bottom = box
    if orientation in _ON_THEIR_SIDE:
        left, top, right, bottom = top, left, bottom, right
    if orientation in _MIRRORED_IN_X:
        left, right = size[0] - right, size[0] - left
    if orientation in _MIRRORED_IN_Y:
        top, bottom = size[1] - bottom, size[1] - top
    return left, top, right, bottom


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
