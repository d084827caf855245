"""Extract pictures from a request's body, and check types, sizes and formats before decoding any pixels.

The Content-Type selects how the body is parsed; a picture's format is detected from its bytes only.
"""

import base64
import binascii
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from PIL import Image

from dogbreed.serving import forms
from dogbreed.serving.limits import Limits
from dogbreed.serving.problems import Problem

FORMATS = ("JPEG", "PNG", "WEBP")
BYTES_TYPES = ("image/*", "application/x-image", "application/octet-stream")
JSON_TYPE, FORM_TYPE = "application/json", "multipart/form-data"
MAX_TOP = 1000
# a JPEG is decoded at a reduced scale; PNG and WebP at full size, with transparency at 12 and 20 bytes per pixel
_MAX_PIXELS = {"JPEG": 50_000_000, "PNG": 12_500_000, "WEBP": 9_000_000}
_NARROW_PX = 1000  # a JPEG with a shorter side below this is hardly reduced, and costs as much as the others
_MAX_SCANNED_PIXELS = 150_000_000  # pixels times scans of a JPEG: a few bytes can request hundreds of scans
_MAX_PROGRESSIVE_PIXELS = 25_000_000  # all coefficients are kept in memory until the last scan


@dataclass(frozen=True)
class Asked:
    """One parsed request. batch: whether to return a list. top: how many breeds. heat_map: for the first breed."""

    pictures: Sequence[bytes]
    batch: bool
    top: int
    heat_map: bool


def check_type(content_type: str) -> None:
    """Raise Problem if a Content-Type is not supported; an empty one is."""
    found = _media_type(content_type)
    if found == FORM_TYPE:
        forms.boundary(content_type)
    elif found == "application/x-www-form-urlencoded":
        raise Problem(
            "unsupported_type",
            f"Content-Type {found!a}, curl's default, is not supported. "
            "Try: curl -F file=@photo.jpg, or --data-binary @photo.jpg with -H 'Content-Type: image/jpeg'",
        )
    elif not found.startswith("image/") and found not in (*BYTES_TYPES, JSON_TYPE, ""):
        raise Problem(
            "unsupported_type",
            f"Content-Type {found[:60]!a} is not supported. Try: {', '.join(BYTES_TYPES)} with the picture's bytes, "
            f'{FORM_TYPE} with files, or {JSON_TYPE} with {{"image": "<base64>"}}',
        )


def asked(content_type: str, body: bytes, query: Mapping[str, str], limits: Limits) -> Asked:
    """Parse a request's body and query parameters. Raises Problem."""
    if not body:
        raise Problem("empty", "The body is empty. Try: the bytes of a JPEG, PNG or WebP picture")
    top, heat_map = _top(query.get("top", "5")), _flag(query.get("heat_map", "false"))
    media_type = _media_type(content_type)
    if media_type == FORM_TYPE:
        return _from_form(forms.pictures(body, content_type), top, heat_map, limits)
    if media_type != JSON_TYPE:
        return Asked([body], False, top, heat_map)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem("bad_json", f"The body is not valid JSON: {str(error)[:200]}") from error
    return _from_json(found, top, heat_map, limits)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _from_form(pictures: list[bytes], top: int, heat_map: bool, limits: Limits) -> Asked:
    """Treat one file as a single picture, and several as a batch."""
    if not pictures:
        raise Problem("empty", "The form contains no file. Try: curl -F file=@photo.jpg, with the @")
    _check_number(len(pictures), limits)
    return Asked(pictures, len(pictures) > 1, top, heat_map)


def _check_number(pictures: int, limits: Limits) -> None:
    if pictures > limits.pictures:
        raise Problem(
            "too_many_pictures", f"The request has {pictures} pictures, more than the limit of {limits.pictures}"
        )


def _from_json(found: Any, top: int, heat_map: bool, limits: Limits) -> Asked:
    expected = 'Try: {"image": "<base64>"} or {"images": ["<base64>", ...]}, with optional "top" and "heat_map"'
    if not isinstance(found, dict):
        raise Problem("bad_request_fields", f"The JSON is a {type(found).__name__}, not an object. {expected}")
    if unknown := sorted(found.keys() - {"image", "images", "top", "heat_map"}):
        raise Problem("bad_request_fields", f"Unknown field {unknown[0][:40]!a}. {expected}")
    if ("image" in found) == ("images" in found):
        raise Problem("bad_request_fields", f"Exactly one of image and images is required. {expected}")
    if not isinstance(found.get("heat_map", False), bool):
        raise Problem("bad_parameter", "heat_map must be true or false")
    top, heat_map = _top(found.get("top", top)), found.get("heat_map", heat_map)
    batch = "images" in found
    texts = found["images"] if batch else [found["image"]]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Problem("bad_request_fields", f"Pictures must be base64 strings. {expected}")
    _check_number(len(texts), limits)
    return Asked(each(_from_base64, texts, batch=batch), batch, top, heat_map)


def each(use: Any, items: Sequence[Any], *, batch: bool) -> list[Any]:
    """Apply `use` to each item; in a batch, raise one Problem that lists all failures with their positions."""
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
    """Decode base64, plain or in a data URL as browsers create it: data:image/jpeg;base64,..."""
    if text[:5].lower() == "data:":
        text = _of_data_url(text)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem("bad_base64", f"The picture is not valid base64: {error}") from error


def _of_data_url(url: str) -> str:
    head, _, content = url.partition(",")
    if not head.lower().rstrip().endswith(";base64"):
        raise Problem(
            "bad_base64", f"The data URL {head[:60]!a} is not base64-encoded. Try: data:image/jpeg;base64,..."
        )
    return unquote(content) if "%" in content else content


def _top(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not (
        text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MAX_TOP
    ):
        raise Problem("bad_parameter", f"top must be a whole number from 1 to {MAX_TOP}")
    return int(text)


def _flag(value: str) -> bool:
    if value not in ("true", "false"):
        raise Problem("bad_parameter", "heat_map must be true or false")
    return value == "true"


def examine(picture: bytes) -> None:
    """Inspect only a picture's header. Raises Problem if its format is not supported or it is too large to decode."""
    if not picture:
        raise Problem("empty", "The picture is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata
            with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
                kind, (width, height) = str(image.format), image.size
                progressive = bool(image.info.get("progressive"))
    except Image.DecompressionBombError as error:
        raise Problem("too_many_pixels", f"The picture has more than {_MAX_PIXELS['JPEG']:,} pixels") from error
    # Pillow's plugins raise nearly every built-in exception for damaged files
    except Exception as error:
        raise Problem(
            "unsupported_format", "The picture is not a JPEG, PNG or WebP file. Try: convert it to JPEG"
        ) from error
    kind = "JPEG" if kind == "MPO" else kind  # several JPEGs in one file, as written by some phones
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
            f"The picture has {width} x {height} pixels, more than the limit of {most:,} for its kind. "
            "Try: a smaller copy",
        )
