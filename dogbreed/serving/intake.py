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
from urllib.parse import unquote

from PIL import Image

from dogbreed.serving import forms
from dogbreed.serving.limits import Limits
from dogbreed.serving.problems import Problem

FORMATS = ("JPEG", "PNG", "WEBP")
BYTES_TYPES = ("image/*", "application/x-image", "application/octet-stream")
JSON_TYPE, FORM_TYPE = "application/json", "multipart/form-data"
MAX_TOP = 1000
# A JPEG is decoded at a reduced scale, the others are whole in memory, with transparency at 12 and 20 bytes a pixel
_MAX_PIXELS = {"JPEG": 50_000_000, "PNG": 12_500_000, "WEBP": 9_000_000}
_NARROW_PX = 1000  # a JPEG whose shorter side is below is hardly reduced, and costs as much as the others
_MAX_SCANNED_PIXELS = (
    150_000_000  # of a JPEG, pixels times passes over them: a few bytes can ask for hundreds of passes
)
_MAX_PROGRESSIVE_PIXELS = 25_000_000  # all coefficients are kept until the last pass


@dataclass(frozen=True)
class Asked:
    """One request. batch: whether it asked for a list of answers. top: how many breeds. heat_map: of the first one."""

    pictures: Sequence[bytes]
    batch: bool
    top: int
    heat_map: bool


def check_type(content_type: str) -> None:
    """Raise Problem for a Content-Type that is not taken; an empty one is."""
    found = _media_type(content_type)
    if found == FORM_TYPE:
        forms.boundary(content_type)
    elif found == "application/x-www-form-urlencoded":
        raise Problem(
            "unsupported_type",
            f"Content-Type {found!a}, as curl sends it where nothing else is said. "
            "Try: curl -F file=@photo.jpg, or --data-binary @photo.jpg with -H 'Content-Type: image/jpeg'",
        )
    elif not found.startswith("image/") and found not in (*BYTES_TYPES, JSON_TYPE, ""):
        raise Problem(
            "unsupported_type",
            f"Content-Type {found[:60]!a} is not taken. Try: {', '.join(BYTES_TYPES)} with the picture's bytes, "
            f'{FORM_TYPE} with files, or {JSON_TYPE} with {{"image": "<base64>"}}',
        )


def asked(content_type: str, body: bytes, query: Mapping[str, str], limits: Limits) -> Asked:
    """What a request with this body wants. Raises Problem."""
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
        raise Problem("bad_json", f"The body does not parse as JSON: {str(error)[:200]}") from error
    return _from_json(found, top, heat_map, limits)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _from_form(pictures: list[bytes], top: int, heat_map: bool, limits: Limits) -> Asked:
    """One file is a request for one picture, several are a batch."""
    if not pictures:
        raise Problem("empty", "There is no file in the form. Try: curl -F file=@photo.jpg, with the @")
    _check_number(len(pictures), limits)
    return Asked(pictures, len(pictures) > 1, top, heat_map)


def _check_number(pictures: int, limits: Limits) -> None:
    if pictures > limits.pictures:
        raise Problem(
            "too_many_pictures", f"{pictures} pictures are more than the {limits.pictures} that a request may have"
        )


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
    _check_number(len(texts), limits)
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
    """The bytes that base64 stands for, alone or in a data URL, which browsers make: data:image/jpeg;base64,..."""
    if text[:5].lower() == "data:":
        text = _of_data_url(text)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem("bad_base64", f"This is no base64: {error}") from error


def _of_data_url(url: str) -> str:
    head, _, content = url.partition(",")
    if not head.lower().rstrip().endswith(";base64"):
        raise Problem("bad_base64", f"The data URL {head[:60]!a} is not one of base64. Try: data:image/jpeg;base64,...")
    return unquote(content) if "%" in content else content


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
