"""Apply .gitignore files without git. pathspec reads their patterns; it is imported where git cannot be asked."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dogbreed.errors import ConfigError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


@dataclass(frozen=True)
class Rules:
    """The patterns of one file. base: the folder that they are relative to."""

    file: Path
    base: Path
    lines: tuple[str, ...]
    spec: "GitIgnoreSpec"

    def verdict(self, path: Path, *, folder: bool) -> tuple[bool, str] | None:
        """Return whether the path is ignored, and by which line; None if no line applies. Folders above count not."""
        found = self.spec.check_file(path.relative_to(self.base).as_posix() + ("/" if folder else ""))
        if found.include is None or found.index is None:
            return None
        return found.include, f"{self.file.name}:{found.index + 1} {self.lines[found.index].strip()}"


def rule_for(path: Path, rules: Sequence[Rules], *, folder: bool) -> str:
    """Return the line that ignores a path whose folder is not ignored; an empty string if none does.

    rules: the outermost first. The last line that applies decides, as in git.
    """
    for each in reversed(rules):
        if (found := each.verdict(path, folder=folder)) is not None:
            return found[1] if found[0] else ""
    return ""


def read(file: Path, base: Path) -> tuple[Rules, ...]:
    """Read a file of patterns; return nothing if there is none."""
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError:
        return ()
    try:
        from pathspec import GitIgnoreSpec
    except ImportError as error:
        raise ConfigError(
            "git cannot be asked which files to send, and reading .gitignore without it needs pathspec.\n"
            "Try: pip install -e '.[aws]'"
        ) from error
    lines = [line.rstrip("\r") for line in text.split("\n")]
    for number, line in enumerate(lines):
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:  # git, too, passes over a line that is no pattern
            lines[number] = ""
    return (Rules(file, base, tuple(lines), GitIgnoreSpec.from_lines(lines)),)


def rules_above(folder: Path) -> tuple[Rules, ...]:
    """Return the rules that apply to a folder from outside: the user's own, and those of the folders above it.

    A file that ignores the whole folder, or its train.py, is not about this project and is left out: it belongs, for
    example, to a repository of dotfiles around it.
    """
    top = next((each for each in (folder, *folder.parents) if (each / ".git").exists()), folder)
    files = [(_users_file(), top), (top / ".git" / "info" / "exclude", top)]
    files += [(above / ".gitignore", above) for above in reversed(folder.parents)]
    found = [rules for file, base in files if file is not None for rules in read(file, base)]
    return tuple(rules for rules in found if not _ignores_all(rules, folder))


def _ignores_all(rules: Rules, folder: Path) -> bool:
    between = [folder, *folder.parents]
    inside = [each for each in between[: between.index(rules.base)] if each != rules.base]
    paths = [(each, True) for each in inside] + [(folder / "train.py", False)]
    return any((rules.verdict(path, folder=is_folder) or (False,))[0] for path, is_folder in paths)


def _users_file() -> Path | None:
    """Return the file of patterns for all of the user's repositories (core.excludesFile); None if it is not known."""
    words = ["git", "config", "--global", "--type=path", "core.excludesFile"]
    try:
        told = subprocess.run(words, capture_output=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        told = b""
    if told:
        return Path(os.fsdecode(told))
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home, "git", "ignore").expanduser()
