"""Commands that messages tell people to type, quoted for the shell and, in overrides of train.py, for Hydra too.

Every command in a message that has a name or a value in it is built here, so that it works when it is pasted.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

_TRAIN = Path(__file__).resolve().parents[1] / "train.py"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PLAIN = re.compile(r"[\w./@:+%-]+", re.ASCII)  # read by Hydra as it is
_NOT_TEXT = re.compile(r"null|true|false|nan|[+-]?inf|[+-]?[\d_.]+(e[+-]?\d+)?", re.I)  # read as another type


def train(*words: str) -> str:
    """Return a command of train.py for the folder that the person is in. words: flags, and overrides as Hydra reads
    them, such as those that `override` returns.
    """
    return shell("python", shown_path(_TRAIN) if _TRAIN.exists() else _TRAIN.name, *words)


def in_project(*words: str) -> str:
    """Return the same command for the project's folder, wherever this process is: plans do not depend on that."""
    return shell("python", _TRAIN.name, *words)


def module(name: str, *words: str) -> str:
    """Return the command `python -m NAME WORDS`."""
    return shell("python", "-m", name, *words)


def launchers(*words: str) -> str:
    """Return the command `python -m launchers WORDS`."""
    return module("launchers", *words)


def setting(key: str, value: object) -> str:
    """Return `key=value` as it is typed in a shell, to be added to a command of train.py."""
    return shell(override(key, str(value)) if isinstance(value, str | Path) else f"{key}={value}")


def shell(*words: str) -> str:
    """Return words as one line of a shell."""
    return shlex.join(words)


def words(text: str) -> list[str]:
    """Return the words of a line, read as a shell reads it. Raises ValueError for an open quote."""
    return shlex.split(text)


def override(key: str, value: str) -> str:
    """Return `key=value`, quoted so that Hydra reads back exactly the text `value`."""
    if _PLAIN.fullmatch(value) and not _NOT_TEXT.fullmatch(value):
        return f"{key}={value}"
    quote = "'" if '"' in value else '"'
    # Inside quotes Hydra wants a backslash before each such quote, and doubled backslashes only in front of one.
    escaped = re.sub(rf"(\\*)({quote}|\Z)", lambda found: found[1] * 2 + (f"\\{quote}" if found[2] else ""), value)
    return f"{key}={quote}{escaped}{quote}"


def unquoted(value: str) -> str:
    """Return the text as Hydra would read it: inside quotes, a backslash escapes only a quote that follows it."""
    quote = value[:1]
    if len(value) < 2 or quote not in ("'", '"') or value[-1] != quote:
        return value
    return re.sub(rf"(\\+)(?={quote}|\Z)", lambda found: found[1][: len(found[1]) // 2], value[1:-1])


def is_address(text: str) -> bool:
    """Return whether it is SCHEME://..., such as a handle or s3://BUCKET/photos, and no path."""
    return bool(_SCHEME.match(text))


def photos_elsewhere(root: str) -> str:
    """Return how to get photos whose `data.root` is an address, such as s3://BUCKET/photos; "" if it is a path."""
    if not is_address(root):
        return ""
    scheme, _, rest = root.partition("://")
    folder = rest.rstrip("/").rpartition("/")[2] or "photos"
    fetch = shell("aws", "s3", "sync", root, folder) if scheme == "s3" else f"download {root}"
    return (
        f"data.root={root} is not a folder of this machine, and training here reads the photos from one.\n"
        f"Try: {fetch}\nthen the same command with {setting('data.root', folder)}"
    )


def one_per_line(commands: Iterable[str], first: str = "Try: ") -> str:
    """Return alternatives on lines of their own, so that each can be copied to its end."""
    others = f"\n{'or: ':>{len(first)}}"
    return first + others.join(commands)


def working_folder() -> Path:
    """Return the folder in which the command was typed; with hydra.job.chdir=true the process is in another one."""
    hydra = sys.modules.get("hydra.core.hydra_config")
    if hydra is not None and hydra.HydraConfig.initialized():
        return Path(hydra.HydraConfig.get().runtime.cwd)
    return Path.cwd()


def shown_path(path: Path) -> str:
    """Return `path` as a person would type it: relative to the folder that they are in if that is shorter."""
    try:
        here = working_folder()
        relative = os.path.relpath(here / path, here)
    except (ValueError, OSError):  # another drive; or the current folder is gone
        return str(path)
    return min(relative, str(path), key=len)
