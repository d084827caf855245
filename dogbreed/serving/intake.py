"""From a request's body to pictures that are worth decoding: types, sizes and formats, judged before any pixel is.

What a body says of itself (Content-Type, file name) chooses how it is read, never how it is decoded: the bytes do that.
"""

import base64
import binascii
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dogbreed.serving.problems import Problem

FORMATS = ("JPEG", "PNG", "WEBP")
BYTES_TYPES = ("image/jpeg", "image/png", "image/webp", "application/x-image", "application/octet-stream")
MAX_TOP = 1000
# A JPEG is decoded at a reduced scale, the others are whole in memory, with transparency at 12 and 20 bytes a pixel
_MAX_PIXELS = {"JPEG": 50_000_000, "PNG": 12_500_000, "WEBP": 9_000_000}
_NARROW_PX = 1000  # a JPEG whose shorter side is below is hardly reduced, and costs as much as the others
_MAX_SCANNED_PIXELS = (
    150_000_000  # of a JPEG, pixels times passes over them: a few bytes can ask for hundreds of passes
)
_MAX_PROGRESSIVE_PIXELS = 25_000_000  # all coefficients are kept until the last pass


@dataclass(frozen=True)
class Limits:
    """body_bytes: of a request. pictures: of a batch. deadline_s: from a request's first byte to its answer's.

    waiting: requests that are read, decoded or computed at a time; more are refused at once.
    """

    body_bytes: int = 6 * 1024 * 1024  # as much as SageMaker passes on
    pictures: int = 16
    deadline_s: float = 10.0  # SageMaker gives up after 60
    waiting: int = 32


@dataclass(frozen=True)
class Asked:
    """One request. batch: whether it asked for a list of answers. top: how many breeds. heat_map: of the first one."""

    pictures: Sequence[bytes]
    batch: bool
    top: int
    heat_map: bool


def content_type(header: str | None) -> str:
    """The media type of a Content-Type header, without its parameters. Raises Problem for one that is not taken."""
    found = (header or "application/octet-stream").partition(";")[0].strip().lower()
    if found not in (*BYTES_TYPES, "application/json"):
        raise Problem(
            "unsupported_type",
            f"Content-Type {found[:60]!a} is not taken. Try: {', '.join(BYTES_TYPES)} with the picture's bytes, "
            'or application/json with {"image": "<base64>"}',
        )
    return found


def asked(media_type: str, body: bytes, query: Mapping[str, str], limits: Limits) -> Asked:
    """What a request with this body wants. Raises Problem."""
    if not body:
        raise Problem("empty", "The body is empty. Try: the bytes of a JPEG, PNG or WebP picture")
    top, heat_map = _top(query.get("top", "5")), _flag(query.get("heat_map", "false"))
    if media_type != "application/json":
        return Asked([body], False, top, heat_map)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem("bad_json", f"The body does not parse as JSON: {str(error)[:200]}") from error
    return _from_json(found, top, heat_map, limits)


def _from_json(found: Any, top: int, heat_map: bool, limits: Limits) -> Asked:
    expected = 'Try: {"image": "<base64>"} or {"images": ["<base64>", ...]}, with "top" and "heat_map" if you like'
    if not isinstance(found, dict):
        raise Problem("bad_request_fields", f"The JSON is a {type(found).__name__}, not an object. {expected}")
    if unknown := sorted(found.keys() - {"image", "images", "top", "heat_map"}):
        raise Problem("bad_request_fields", f"There is no field {unknown[0][:40]!a}. {expected}")
    if ("image" in found) == ("images" in found):
        raise Problem("bad_request_fields", f"One of image and images is needed, not both. {expected}")
    if not isinstance(found.get("heat_map", False), bool):
        raise Problem("bad_parameter", "heat_map is true or false")
    top, heat_map = _top(found.get("top", top)), found.get("heat_map", heat_map)
    batch = "images" in found
    texts = found["images"] if batch else [found["image"]]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Problem("bad_request_fields", f"Pictures are strings of base64. {expected}")
    if len(texts) > limits.pictures:
        raise Problem(
            "too_many_pictures", f"{len(texts)} pictures are more than the {limits.pictures} that a request may have"
        )
    return Asked(each(_from_base64, texts, batch=batch), batch, top, heat_map)


def each(use: Any, items: Sequence[Any], *, batch: bool) -> list[Any]:
    """`use` of each item; in a batch, one Problem that lists all that were raised, each with its place."""
    results, problems = [], []
    for place, item in enumerate(items):
        try:
            results.append(use(item))
        except Problem as problem:
            if not batch:
                raise
            problems.append({"picture": place, "code": problem.code, "detail": problem.detail})
    if problems:
        raise Problem("bad_pictures", f"{len(problems)} of {len(items)} pictures cannot be used", problems)
    return results


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(
            "bad_base64", f"This is no base64: {error}. Try: without a prefix such as data:image/..."
        ) from error


def _top(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not (
        text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MAX_TOP
    ):
        raise Problem("bad_parameter", f"top is a whole number from 1 to {MAX_TOP}")
    return int(text)


def _flag(value: str) -> bool:
    if value not in ("true", "false"):
        raise Problem("bad_parameter", "heat_map is true or false")
    return value == "true"


def examine(picture: bytes) -> None:
    """Look at a picture's header alone. Raises Problem where it is of another format or too large to decode."""
    if not picture:
        raise Problem("empty", "The picture is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
                kind, (width, height) = str(image.format), image.size
                progressive = bool(image.info.get("progressive"))
    except Image.DecompressionBombError as error:
        raise Problem("too_many_pixels", f"It has more pixels than the {_MAX_PIXELS['JPEG']:,} allowed") from error
    # Pillow's plugins meet damaged files with nearly every built-in exception
    except Exception as error:
        raise Problem(
            "unsupported_format", "Its bytes are not those of a JPEG, PNG or WebP picture. Try: convert it to JPEG"
        ) from error
    kind = "JPEG" if kind == "MPO" else kind  # several JPEGs in one file, of some phones
    pixels, most = width * height, _MAX_PIXELS[kind]
    if kind == "JPEG":
        scans = picture.count(b"\xff\xda")
        if min(width, height) < _NARROW_PX:
            most = _MAX_PIXELS["PNG"]
        if progressive:
            most = min(most, _MAX_PROGRESSIVE_PIXELS)
        most = min(most, _MAX_SCANNED_PIXELS // max(1, scans))
    if pixels > most:
        raise Problem(
            "too_many_pixels",
            f"{width} x {height} pixels are more than the {most:,} that such a picture may have. Try: a smaller copy",
        )
