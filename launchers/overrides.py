"""Hydra overrides as text: their keys, their quoting, and which of them stay on this machine."""

import re
from collections.abc import Iterable

from dogbreed.errors import ConfigError

ABOUT_THIS_COMMAND = frozenset({"resume", "run_id", "dry_run", "debug"})  # keys that say nothing about the run itself
STAYS_HERE = ABOUT_THIS_COMMAND | {"launcher", "aws", "hpo", "hydra"}  # about machines: a resumed run may change them

_RENAMED = {"aws.trouble": "aws.faults"}


def refuse_renamed(overrides: Iterable[str]) -> None:
    """Raise ConfigError if an override sets a key that was renamed, or a key below it."""
    for text in overrides:
        typed = key_path(override_key(text))
        for old, new in _RENAMED.items():
            if typed[: len(key_path(old))] == key_path(old):
                rest = "".join(f".{part}" for part in typed[len(key_path(old)) :])
                value = "".join(text.partition("=")[1:])
                raise ConfigError(f"{old} is now {new}, got {text}.\nTry: +{new}{rest}{value}")


def override(key: str, value: str) -> str:
    """Return `key=value`, quoted so that Hydra reads back exactly `value`."""
    if re.fullmatch(r"[\w./@:+%-]+", value, re.ASCII):
        return f"{key}={value}"
    # Inside quotes Hydra wants a backslash before each quote, and doubled backslashes only in front of a quote.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"{key}='{escaped}'"


def key_path(key: str) -> list[str]:
    """Split a key, which Hydra allows to be written in two ways: `a.b[c]` becomes a, b, c."""
    return re.findall(r"[^.\[\]]+", key)


def unquoted(value: str) -> str:
    """Return the text as Hydra would read it: inside quotes, a backslash escapes only a quote that follows it."""
    quote = value[:1]
    if len(value) < 2 or quote not in ("'", '"') or value[-1] != quote:
        return value
    return re.sub(rf"(\\+)(?={quote}|\Z)", lambda found: found[1][: len(found[1]) // 2], value[1:-1])


def root_key(text: str) -> str:
    return re.split(r"[.=@/]", text.lstrip("+~"), maxsplit=1)[0]


def override_key(text: str) -> str:
    return text.lstrip("+~").partition("=")[0]
