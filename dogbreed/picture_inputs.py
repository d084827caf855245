"""Convert the inputs of `Predictor.predict` to what `Preprocess` accepts."""

import os
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dogbreed.errors import DataError
from dogbreed.preprocess import MAX_BYTES, PictureSource

PictureInput: TypeAlias = PictureSource | bytearray | memoryview | BinaryIO | NDArray[Any]

_TAKEN = (
    "a path, the bytes of a picture file, a file opened in binary mode, a Pillow image, or a NumPy array of integers "
    "0..255, [height, width, 3] in RGB"
)


def picture_source(given: PictureInput) -> PictureSource:
    """Return `given` as a path, bytes or a Pillow image.

    A file is rewound if possible, read, and left open. An array is [H, W], [H, W, 1] (grey), [H, W, 3] (RGB) or
    [H, W, 4] (RGBA) with integers 0..255. Raises DataError for anything else, naming what was passed.
    """
    if isinstance(given, str | os.PathLike | bytes | Image.Image):
        return given
    if isinstance(given, bytearray | memoryview):
        return bytes(given)
    if isinstance(given, np.ndarray):
        return _from_array(given)
    if hasattr(given, "read"):
        return _from_file(given)
    if isinstance(given, list | tuple):
        raise DataError(f"a {type(given).__name__} is not a single picture. Try: predict_many for several")
    raise DataError(f"{type(given).__name__} is not a supported type of picture. Try: {_TAKEN}")


def _from_file(file: Any) -> bytes:
    if callable(getattr(file, "seekable", None)) and file.seekable():
        file.seek(0)  # a BytesIO that was just written is at its end
    content = file.read(MAX_BYTES + 1)
    if isinstance(content, str):
        raise DataError("the file is open in text mode. Try: open(path, 'rb')")
    if not isinstance(content, bytes | bytearray):
        raise DataError(f"read() of {type(file).__name__} returned {type(content).__name__}, not bytes. Try: {_TAKEN}")
    if len(content) > MAX_BYTES:
        raise DataError(f"the file exceeds the limit of {MAX_BYTES:,} bytes for a photo")
    return bytes(content)


def _from_array(array: NDArray[Any]) -> Image.Image:
    shape = array.shape if array.ndim != 2 else (*array.shape, 1)
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or not array.size:
        raise DataError(f"{_seen(array)} is not supported. Try: [height, width, 3], RGB; one photo, channels last")
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise DataError(f"{_seen(array)} is not supported. Try: integers 0..255, as in (255 * array).astype('uint8')")
    pixels = array.astype(np.uint8).reshape(shape)
    return Image.fromarray(pixels[:, :, 0] if shape[2] == 1 else pixels)


def _seen(array: NDArray[Any]) -> str:
    size = f"an array of {array.dtype} {list(array.shape)}"
    return f"{size} with values {array.min():g}..{array.max():g}" if array.size and array.dtype.kind in "iuf" else size
