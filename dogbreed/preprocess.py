"""Decode photos and prepare network inputs: one code path for training, evaluation, tests and serving.

Needs only Pillow, NumPy and simplejpeg, so that a server without torch can use it.

`read_region` decodes a JPEG at a half, a quarter or an eighth of its scale (in the DCT, see libjpeg's scale_denom) if
the requested region has pixels to spare. `decode` is for displaying the whole picture.
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
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError, features

from dogbreed.errors import DataError

Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
PictureSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # MPO, which some phones write, is opened as JPEG
MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: a third of a gigabyte once decoded
MAX_BYTES = 6 * MAX_PIXELS  # of a file: as large as a photo gets with 16 bits a channel and no compression
_UPRIGHT = {  # by EXIF's Orientation: the operation that makes the picture upright
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
_REDUCTIONS = (8, 4, 2)  # of a JPEG's sides; libjpeg-turbo has no SIMD code for other scales
_SUPPORT = {"bilinear": 1, "bicubic": 2}  # the filters' radius, in pixels of the result
_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocess:
    """Preprocesses a photo for evaluation: center crop, resize, normalise.

    image_px: side of the square that the network sees. crop_pct: its share of the photo's shorter side, in (0, 1].
    mean, std: per channel (RGB), for values in 0..1. The defaults are ImageNet's.
    """

    image_px: int = 224
    crop_pct: float = 0.875
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def pixels(self, picture: PictureSource) -> NDArray[np.uint8]:
        """Return the photo's center crop as uint8 [image_px, image_px, 3], RGB. Raises DataError if it does not decode.

        A Pillow image is used at its own scale; a JPEG's path or bytes are decoded at a reduced one if that is enough,
        so the numbers differ a little (see `read_region`).
        """
        region = read_region(picture, self._middle, self.image_px)
        image, box = region.surroundings(_SUPPORT[self.interpolation], self.image_px)
        # resample only the crop's box, instead of resizing everything and then cropping
        square = image.resize((self.image_px, self.image_px), _RESAMPLE[self.interpolation], box=box)
        return compact(region.upright(np.asarray(square)))

    def _middle(self, width: int, height: int) -> Box:
        side = min(width, height) * self.crop_pct
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalise uint8 [N, H, W, 3] to float32 [N, 3, H, W] with the network's mean and standard deviation."""
        mean, std = (np.asarray(values, dtype=np.float32) for values in (self.mean, self.std))
        normalised = (pixels.astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class Region:
    """A region of a photo as stored, perhaps rotated or mirrored, perhaps at a reduced scale.

    stored: the whole photo, RGB; an array is uint8 [H, W, 3]. box: the requested region, in pixels of `stored`.
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
        """Copy the region, with its edges rounded to whole pixels: uint8 [H, W, 3], as stored, contiguous."""
        size = self.stored.size if isinstance(self.stored, Image.Image) else self.stored.shape[1::-1]
        left, top, right, bottom = (math.floor(edge + 0.5) for edge in self.box)
        left, top = min(left, size[0] - 1), min(top, size[1] - 1)
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        if isinstance(self.stored, Image.Image):
            return np.array(self.stored.crop((left, top, right, bottom)))
        return self.stored[top:bottom, left:right].copy()

    def surroundings(self, support: int, image_px: int) -> tuple[Image.Image, Box]:
        """Return the region with the margin that a filter to image_px reads, as an image, and the box within it."""
        if isinstance(self.stored, Image.Image):
            return self.stored, self.box
        left, top, right, bottom = self.box
        margin = 2 + math.ceil(support * max(1.0, max(right - left, bottom - top) / image_px))
        x, y = max(0, math.floor(left) - margin), max(0, math.floor(top) - margin)
        cut = self.stored[y : math.ceil(bottom) + margin, x : math.ceil(right) + margin]
        return Image.fromarray(cut), (left - x, top - y, right - x, bottom - y)

    def upright(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an upright view of pixels [H, W, 3] that are oriented as stored."""
        if self.orientation in _MIRRORED_IN_X:
            pixels = pixels[:, ::-1]
        if self.orientation in _MIRRORED_IN_Y:
            pixels = pixels[::-1]
        return pixels.transpose(1, 0, 2) if self.on_its_side else pixels


def read_region(picture: PictureSource, choose: Callable[[int, int], Box], image_px: int) -> Region:
    """Decode the region of a photo that `choose` returns for the width and height of the upright photo.

    A JPEG is decoded at the largest reduction (2, 4 or 8) that leaves the box at least image_px on both sides;
    everything else, Pillow images included, at full size. Both decoders are libjpeg-turbo with the accurate DCT and
    return the same pixels; simplejpeg avoids converting to Pillow's format. Pillow decides about files that simplejpeg
    rejects or warns about. Accepts and rejects the same pictures as `decode`.
    """
    with _data_errors(picture), _quiet(), _open(picture) as (image, content):
        # a caller's image, or another format, can only be decoded at full scale
        scalable = content is not None and isinstance(image, JpegImagePlugin.JpegImageFile)
        if not scalable:
            image.load()  # before its EXIF: for that Pillow reads a PNG to the end and hides damage
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
    """Return the pixels [H, W, 3] in C order; copies mirrored or rotated ones by channel, which is 8 times as fast."""
    if pixels.flags["C_CONTIGUOUS"]:
        return pixels
    copy = np.empty(pixels.shape, np.uint8)
    for channel in range(pixels.shape[2]):
        copy[:, :, channel] = pixels[:, :, channel]
    return copy


def decode(picture: PictureSource) -> Image.Image:
    """Decode a photo of any common kind as an upright 8-bit RGB image at full size.

    Takes a path, bytes or a Pillow image. Converts grey, palette, CMYK and 16-bit pictures, puts transparent ones on
    white, applies the EXIF rotation, and takes the first frame of an animation.
    Reads AVIF and HEIC where Pillow can, HEIC with the package pillow-heif.
    Raises DataError if it is empty, truncated, not a photo, of another format, above MAX_PIXELS or above MAX_BYTES.
    Does not detect damage that still decodes: a JPEG with a few wrong bits gives a picture with stripes.
    """
    with _data_errors(picture), _quiet(), _open(picture) as (image, _):
        image.load()
        return _to_rgb(_upright(image))


def probe(content: bytes) -> tuple[int, int]:
    """Return width and height (upright) of a photo that `decode` accepts; otherwise raise DataError with the reason.

    Cheaper than `decode`: a JPEG is decoded at an eighth of its size, which still reads the file to its end.
    """
    try:
        with _quiet(), _open(content) as (image, _):
            size = image.size
            image.draft(image.mode, (max(1, size[0] // 8), max(1, size[1] // 8)))
            image.load()
            _to_rgb(image.crop((0, 0, 1, 1)))  # checks that this mode can be converted
            return size[::-1] if _orientation(image) in _ON_THEIR_SIDE else size
    except DataError:
        raise
    except Exception as error:  # as in decode
        raise DataError(_reason(error)) from error


def read_picture(path: str | os.PathLike[str]) -> bytes:
    """Read a picture file. Never blocks on a pipe, nor reads a device or a disk image into memory.

    Raises DataError with the reason if it is not a picture file, OSError if it cannot be read.
    """
    seen = Path(path).stat()
    if stat.S_ISDIR(seen.st_mode):
        raise DataError("a folder, not a picture file")
    if not stat.S_ISREG(seen.st_mode):
        raise DataError("not a regular file, but a pipe, a socket or a device")
    if not seen.st_size:
        raise DataError("the file is empty (0 bytes)")
    if seen.st_size > MAX_BYTES:
        raise DataError(f"{seen.st_size:,} bytes, more than the limit of {MAX_BYTES:,} for a photo")
    with Path(path).open("rb") as file:
        return file.read(seen.st_size)


@contextlib.contextmanager
def _data_errors(picture: PictureSource) -> Iterator[None]:
    """Turn any error in this context into a DataError that names the picture."""
    name = os.fspath(picture) if isinstance(picture, str | os.PathLike) else "the picture"
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    # Pillow's plugins raise nearly every built-in exception for damaged files (struct.error, SyntaxError, ...)
    except Exception as error:
        raise DataError(f"{name}: {_reason(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata, and about sizes that are checked here
        yield


@contextlib.contextmanager
def _open(picture: PictureSource) -> Iterator[tuple[Image.Image, bytes | None]]:
    """Open an image and read its header; yield it with the file's bytes (None for the caller's image, left open)."""
    if isinstance(picture, Image.Image):
        _check_size(picture)
        yield picture, None
        return
    content = picture if isinstance(picture, bytes) else read_picture(picture)
    if not content:
        raise DataError("the file is empty (0 bytes)")
    formats = _formats(content)
    try:
        opened = Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        if formats == FORMATS:
            raise
        name = {"HEIF": "HEIC"}.get(formats[-1], formats[-1])
        raise DataError(f"a damaged {name} photo, or of a kind that cannot be read here: convert it to JPEG") from error
    with opened as image:
        _check_size(image)
        yield image, content


_AVIF, _HEIC = {b"avif", b"avis"}, {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


def _formats(content: bytes) -> tuple[str, ...]:
    """Return the formats to open a file with. Raises DataError for a HEIC or AVIF photo that needs more.

    Both begin with a box "ftyp", which lists their brands (ISO/IEC 14496-12, 4.3).
    """
    if content[4:8] != b"ftyp":
        return FORMATS
    end = min(int.from_bytes(content[:4]), 128)
    brands = {content[8:12], *(content[n : n + 4] for n in range(16, end, 4))}
    if brands & _AVIF:
        if not features.check("avif"):
            raise DataError(
                "an AVIF photo, which this Pillow cannot read: pip install -U pillow, or convert it to JPEG"
            )
        return (*FORMATS, "AVIF")
    if brands & _HEIC:
        try:
            import pillow_heif  # an optional package, loaded for the first photo that needs it
        except ImportError:
            raise DataError(
                "a HEIC photo, which Pillow cannot read alone: pip install 'dogbreed[heif]', or convert it to JPEG"
            ) from None
        pillow_heif.register_heif_opener(thumbnails=False)
        return (*FORMATS, "HEIF")
    raise DataError("a video, not a photo")


def _read_jpeg(content: bytes, width: int, height: int) -> NDArray[np.uint8] | None:
    """Decode a JPEG scaled to width x height: uint8 [height, width, 3]; return None to let Pillow try."""
    # a buffer of this size limits the memory if the decoder reads the header differently from Pillow
    buffer = np.empty((height, width, 3), np.uint8)
    try:
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=height, min_width=width, buffer=buffer, strict=True)
    except Exception:  # truncated, or damaged
        return None
    return pixels if pixels.shape == buffer.shape else None


def _as_stored(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Convert a box in the upright photo to one in the stored photo of `size` (width, height)."""
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
        raise DataError(f"{width} x {height} pixels, more than the limit of {MAX_PIXELS:,} for a photo")
    if not width * height:
        raise DataError(f"{width} x {height} pixels: the image is empty")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more pixels than the limit of {MAX_PIXELS:,} for a photo"
    if isinstance(error, UnidentifiedImageError):
        return "not a photo of a known format (" + ", ".join(FORMATS) + ")"
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or str(error)
    return f"damaged: {error or type(error).__name__}"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels may be fine even if the EXIF data is broken
        return 1


def _upright(image: Image.Image) -> Image.Image:
    # not ImageOps.exif_transpose: it also copies upright pictures, and fails if EXIF cannot be written back
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
    """Convert grey values of more than 8 bits, or floats, to 8 bits."""
    values = grey.astype(np.float32)
    np.nan_to_num(values, copy=False)  # in place: a large scan takes hundreds of megabytes
    top = float(values.max(initial=0))
    if grey.dtype.kind == "f":
        white = 1.0 if top <= 1 else 255.0
    elif grey.dtype.itemsize == 2:
        white = 65535.0
    else:  # 32-bit integers hold 8 or 16 bits in practice; the values show which
        white = next(w for w in (255.0, 65535.0, 2.0**32) if top <= w)
    values *= 255 / white
    np.rint(values, out=values)
    np.clip(values, 0, 255, out=values)
    return values.astype(np.uint8)
