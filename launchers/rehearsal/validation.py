"""Checks a request against AWS's own model of it: patterns, enums, lengths and ranges, which botocore leaves out."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import regex  # \p{L} and the like, which Python's re does not know

_SHOWN = 60  # characters of a value


@lru_cache
def _pattern(text: str) -> "regex.Pattern[str] | None":
    try:
        return regex.compile(text)
    except regex.error:  # a pattern in Java's dialect; only the service itself can check it
        return None


def findings(shape: Any, value: Any, at: str = "") -> Iterator[str]:
    """Yield what AWS would refuse in `value`. shape: botocore's, of an operation's input or a part of it."""
    where, kind = at or "the request", shape.type_name
    if kind == "structure":
        yield from _structure(shape, value, at, where)
    elif kind == "list":
        if not isinstance(value, list | tuple):
            yield _not_a(where, value, "list")
            return
        yield from _range(shape, len(value), where, "length")
        for number, item in enumerate(value):
            yield from findings(shape.member, item, f"{at}[{number}]")
    elif kind == "map":
        if not isinstance(value, Mapping):
            yield _not_a(where, value, "map")
            return
        yield from _range(shape, len(value), where, "length")
        for key, item in value.items():
            yield from findings(shape.key, key, f"{at} key")
            yield from findings(shape.value, item, f"{at}.{key}")
    elif kind == "string":
        yield from _string(shape, value, where)
    elif kind in ("integer", "long", "float", "double"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield _not_a(where, value, "number")
        else:
            yield from _range(shape, value, where, "value")
    elif kind == "boolean" and not isinstance(value, bool):
        yield _not_a(where, value, "boolean")


def _structure(shape: Any, value: Any, at: str, where: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield _not_a(where, value, "structure")
        return
    for name in shape.required_members:
        if value.get(name) is None:
            yield f"{where}: member {name} is required"
    for name, item in value.items():
        if name not in shape.members:
            yield f"{where}: unknown member {name}"
        elif item is not None:
            yield from findings(shape.members[name], item, f"{at}.{name}".lstrip("."))
    if getattr(shape, "is_tagged_union", False) and len(value) != 1:
        yield f"{where}: exactly one of {', '.join(shape.members)} must be set"


def _string(shape: Any, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield _not_a(where, value, "string")
        return
    yield from _range(shape, len(value), where, "length")
    if shape.enum and value not in shape.enum:
        examples = ", ".join(shape.enum[:3])
        yield f"{where}: {value!r} is not one of the {len(shape.enum)} allowed values, such as {examples}"
    text = shape.metadata.get("pattern")
    pattern = _pattern(text) if text else None
    if pattern is not None and not pattern.fullmatch(value):
        yield f"{where}: {value[:_SHOWN]!r} does not satisfy the pattern {text}"


def _range(shape: Any, size: float, where: str, what: str) -> Iterator[str]:
    least, most = (shape.metadata.get(name) for name in ("min", "max"))
    if least is not None and size < float(least):
        yield f"{where}: {what} {size} is less than {least}"
    if most is not None and size > float(most):
        yield f"{where}: {what} {size} is more than {most}"


def _not_a(where: str, value: Any, kind: str) -> str:
    return f"{where}: {str(value)[:_SHOWN]!r} is not a {kind}"
