"""Hydra overrides as text: their keys, which of them stay on this machine, and what resuming a run leaves out."""

import re
from collections.abc import Iterable

from dogbreed import commands
from dogbreed.errors import ConfigError

ABOUT_THIS_COMMAND = frozenset({"resume", "run_id", "dry_run", "debug"})  # keys that say nothing about the run itself
STAYS_HERE = ABOUT_THIS_COMMAND | {
    "launcher",
    "aws",
    "hpo",
    "hydra",
    "name",
    "checkpoint",
    "limits",
}  # about machines: a resumed run may change them

_RENAMED = {"aws.trouble": "aws.faults"}


def refuse_renamed(overrides: Iterable[str]) -> None:
    """Raise ConfigError if an override sets a key that was renamed, or a key below it."""
    for text in overrides:
        typed = key_path(override_key(text))
        for old, new in _RENAMED.items():
            if typed[: len(key_path(old))] == key_path(old):
                rest = "".join(f".{part}" for part in typed[len(key_path(old)) :])
                value = "".join(text.partition("=")[1:])
                raise ConfigError(f"{old} is now {new}, got {text}.\nTry: {commands.shell(f'+{new}{rest}{value}')}")


def without_faults(overrides: Iterable[str]) -> list[str]:
    """Leave out the faults that a rehearsal was told to inject: a command that goes on does not replay them."""
    return [text for text in overrides if not _injects(text)]


def _injects(text: str) -> bool:
    path = key_path(override_key(text))
    more_reclaims = path == ["aws", "reclaims"] and text.partition("=")[2].strip() != "0"
    return path[:2] == ["aws", "faults"] or more_reclaims


def about_waiting(text: str) -> bool:
    """Whether an override says if the command that submits a run waits for it, which the next command may not want."""
    return key_path(override_key(text)) == ["launcher", "wait"]


def key_path(key: str) -> list[str]:
    """Split a key, which Hydra allows to be written in two ways: `a.b[c]` becomes a, b, c."""
    return re.findall(r"[^.\[\]]+", key)


def root_key(text: str) -> str:
    return re.split(r"[.=@/]", text.lstrip("+~"), maxsplit=1)[0]


def override_key(text: str) -> str:
    return text.lstrip("+~").partition("=")[0]
