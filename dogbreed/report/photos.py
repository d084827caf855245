"""Make thumbnails of photos as data URIs."""

import base64
import io
from pathlib import Path, PurePosixPath

from dogbreed.errors import DataError

EDGE_PX = 192  # shown at about half this size, for screens with two pixels per CSS pixel


class NoThumbnailError(Exception):
    """A photo cannot be shown; the message is short enough to appear in its place."""


def thumbnail(root: Path, path: str) -> str:
    """Return a JPEG of at most EDGE_PX x EDGE_PX as a data URI, upright and converted as for the network.

    path: relative to `root`, with /. Raises NoThumbnailError for any problem with the file.
    """
    from PIL import Image

    from dogbreed.preprocess import decode

    place = PurePosixPath(path)
    if not path or place.is_absolute() or ".." in place.parts:
        raise NoThumbnailError("outside the data folder")
    try:
        if not (root / place).exists():
            raise NoThumbnailError("photo not found")
        if not (root / place).is_file():  # opening a pipe would block forever
            raise NoThumbnailError("not a file")
        image = decode(root / place)
    except (DataError, OSError, ValueError) as error:  # ValueError: a null character in the path
        raise NoThumbnailError("photo unreadable") from error
    image.thumbnail((EDGE_PX, EDGE_PX), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
