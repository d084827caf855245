"""What a person typed, in a form that Hydra reads: paths are made absolute, and quoted if they need it."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dogbreed import commands
from dogbreed.errors import ConfigError

_FOLDERS = frozenset(
    {"data.root", "hydra.run.dir", "hydra.sweep.dir", "aws.state_dir", "launcher.runs_dir", "launcher.sweeps_dir"}
)
_FILES = frozenset({"model.weights"})  # or a name or address, so only if there is such a file
_TEXTS = frozenset({"data.source.url", "hpo.storage", "launcher.image", "launcher.owner", "logger.project"})
_WITH_VALUE = frozenset(
    {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"}
    | {"--info", "-i", "--experimental-rerun"}
)  # Hydra's flags that take the next word
_EXPRESSION = re.compile(r"[\[{]|\w+\(")


def readable(typed: Sequence[str]) -> list[str]:
    """Return the words of a command with overrides that Hydra reads, and paths that are the same from every folder.

    Raises ConfigError for words that Hydra could not read, with the same command quoted for the shell.
    """
    made = [_readable(text) for text in typed]
    unreadable = dict(_unreadable(made))
    if unreadable:
        listed = "\n".join(f"{made[n]}: {problem}" for n, problem in unreadable.items())
        raise ConfigError(f"{listed}\nTry: {commands.train(*_quoted(made, unreadable))}")
    return made


def _readable(text: str) -> str:
    key, assigned, value = text.partition("=")
    name = key.lstrip("+~")
    if not assigned or value in ("", "null", "???") or "${" in value:
        return text
    if name in _FOLDERS:
        return _path(key, value, lambda path: path if commands.is_address(path) else str(absolute(path)))
    if name in _FILES:
        return _path(key, value, lambda path: str(absolute(path)) if absolute(path).is_file() else path)
    if name in _TEXTS and _parsed(text) is None and not _EXPRESSION.match(value):
        return commands.override(key, value)
    return text


def absolute(path: str) -> Path:
    """Return a path as one that does not depend on the folder in which it was typed."""
    try:
        return commands.working_folder() / Path(path).expanduser()
    except RuntimeError:  # ~name of an unknown user
        return commands.working_folder() / path


def _path(key: str, value: str, changed: Callable[[str], str]) -> str:
    """Return `key=value` with one path, or with each path of a sweep, changed and quoted."""
    from hydra.core.override_parser.types import ChoiceSweep, QuotedString

    parsed = None if absolute(value).exists() else _parsed(f"{key}={value}")
    if parsed is None:  # the name of what exists is not a sweep, whatever it contains
        return commands.override(key, changed(value))
    if not parsed.is_sweep_override():
        plain = parsed.value()
        return commands.override(key, changed(plain if isinstance(plain, str) else value))
    sweep: Any = parsed.value()
    texts = [item.text if isinstance(item, QuotedString) else item for item in getattr(sweep, "list", [None])]
    if not isinstance(sweep, ChoiceSweep) or not all(isinstance(text, str) for text in texts):
        return f"{key}={value}"
    return f"{key}={','.join(commands.override('', changed(text))[1:] for text in texts)}"


def _parsed(text: str) -> Any | None:
    """Return the override as Hydra's parser reads it; None if it cannot."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def _unreadable(words: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the position of each word that Hydra cannot read, and what is wrong with it."""
    for n, text in enumerate(words):
        if text.startswith("-") or (n and words[n - 1] in _WITH_VALUE) or text.startswith("resume="):
            continue
        if "=" not in text and not text.startswith("~"):
            yield n, "this word has no key; a value with spaces needs quotes"
        elif _parsed(text) is None:
            value = text.partition("=")[2]
            yield n, "its brackets or quotes do not match" if _EXPRESSION.match(value) else "Hydra needs quotes here"


def _quoted(words: Sequence[str], unreadable: dict[int, str]) -> list[str]:
    """Return the words with those that Hydra cannot read quoted, or joined to the value before them."""
    made: list[str] = []
    for n, text in enumerate(words):
        key, assigned, value = text.partition("=")
        if n in unreadable and assigned:
            made.append(commands.override(key, value))
        elif n in unreadable and made and "=" in made[-1]:
            key, _, value = made[-1].partition("=")
            made[-1] = commands.override(key, f"{commands.unquoted(value)} {text}")
        elif n not in unreadable:
            made.append(text)
    return made
