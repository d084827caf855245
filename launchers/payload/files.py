"""Choose the project's files that are sent: those that git tracks or would track, without results and data.

Where git cannot be asked, as in an unpacked archive or in a folder of another owner, the .gitignore files decide alone.
Submodules, repositories inside the project and linked folders are sent like other folders.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launchers.payload import ignored

MOST_FILES = 20_000

# where git is not asked
_DERIVED = frozenset({"__pycache__", "runs", "sweeps", "deployments", "build", "dist", "node_modules"})
_RUN_FILES = ("state.json", "launched.json", "config.yaml")  # beside spec.json, in the folder of a run
_SEARCH_FILES = ("study.db", "multirun.yaml")  # in the folder of a search, of a grid
_SHOWN_NAMES, _SHOWN_RULES = 3, 12
_NOT_ASKED = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}  # a git hook sets them for its own repository


@dataclass
class Choice:
    """The files of a project that are sent, and what is left out.

    files: path by name in the bundle. left_out: names by the rule that leaves them out; that of a folder ends with a
    slash. without_git: why git did not choose; empty if it did.
    """

    files: dict[str, Path] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    without_git: str = ""

    @property
    def too_many(self) -> bool:
        return len(self.files) > MOST_FILES

    def rule_of(self, name: str) -> str | None:
        """Return the rule that leaves out a file; None if there is none."""
        found = (
            rule
            for rule, names in self.left_out.items()
            if any(name == each or (each.endswith("/") and name.startswith(each)) for each in names)
        )
        return next(found, None)

    def lines(self) -> tuple[str, ...]:
        """Return what is left out, in words: a line for each rule."""
        rules = list(self.left_out.items())
        lines = [f"{_some(names)}: {rule}" for rule, names in rules[:_SHOWN_RULES]]
        if len(rules) > _SHOWN_RULES:
            lines.append(f"and more, by {len(rules) - _SHOWN_RULES} further rules")
        return (*([f"git was not asked, {self.without_git}"] if self.without_git else []), *lines)


def choose(project: Path, stays: Mapping[Path, str]) -> Choice:
    """Choose the files of the project that are sent.

    stays: folders that are never sent, with the reason.
    """
    real = {folder.resolve(): reason for folder, reason in stays.items()}
    chooser = _Chooser(project, {folder: reason for folder, reason in real.items() if folder != project.resolve()})
    chooser.add(project, "", (project.resolve(),))
    return chooser.choice


@dataclass
class _Chooser:
    """Adds folder after folder to a choice. stays: real folders that are never sent, with the reason."""

    project: Path
    stays: Mapping[Path, str]
    choice: Choice = field(default_factory=Choice)
    _reasons: dict[Path, str] = field(default_factory=dict)  # by folder: why it stays; "" if it does not

    def add(self, folder: Path, at: str, within: tuple[Path, ...]) -> None:
        """Add the files of a folder. at: the beginning of their names. within: real folders that are being added."""
        listed = _listed_by_git(folder)
        if not isinstance(listed, str) and folder == self.project and "train.py" not in listed:
            listed = "which ignores train.py here" if (folder / "train.py").is_file() else listed
        if isinstance(listed, str):
            if folder == self.project:
                self.choice.without_git = listed
            self._walk(folder, at, within, ignored.rules_above(folder))
            return
        reasons: dict[str, str] = {}  # by folder below this one: why it stays; "" if it does not
        for name in listed:
            if self.choice.too_many:
                break
            if not self._left_out_with_its_folder(folder, name, at, reasons):
                self._entry(folder / name, at + name, within)
        for name, rule in _ignored_by_git(folder):
            self._leave_out(at + name, rule)

    def _entry(self, path: Path, name: str, within: tuple[Path, ...]) -> None:
        """Add what git lists: a file, a link, or a folder that is a repository of its own."""
        if path.is_file():
            self.choice.files[name] = path
        elif path.is_symlink():
            self._link(path, name, within)
        elif path.is_dir():
            if reason := self._reason(path):
                self._leave_out(f"{name}/", reason)
            elif any(path.iterdir()):
                self.add(path, f"{name}/", within)
            else:
                self._leave_out(f"{name}/", "an empty submodule; git submodule update --init fetches it")

    def _link(self, path: Path, name: str, within: tuple[Path, ...]) -> None:
        """Add the folder that a link leads to."""
        if not path.is_dir():
            self._leave_out(name, f"a link to {path.readlink()}, which does not exist")
            return
        target = path.resolve()
        if target in within or path.parent.resolve().is_relative_to(target):
            self._leave_out(name, "a link to a folder that contains it")
        elif reason := self._reason(target):
            self._leave_out(f"{name}/", reason)
        else:
            self.add(target, f"{name}/", (*within, target))

    def _walk(self, folder: Path, at: str, within: tuple[Path, ...], rules: tuple[ignored.Rules, ...]) -> None:
        """Add the files of a folder as its .gitignore files say."""
        rules = (*rules, *ignored.read(folder / ".gitignore", folder))
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            self._leave_out(at, f"it cannot be read: {error.strerror}")
            return
        for path in entries:
            name = at + path.name
            is_folder = path.is_dir() and not path.is_symlink()
            shown = f"{name}/" if is_folder else name
            if self.choice.too_many:
                return
            if rule := ignored.rule_for(path, rules, folder=is_folder):
                self._leave_out(shown, rule)
            elif path.name.startswith("."):
                self._leave_out(shown, "hidden")
            elif path.is_symlink() and not path.is_file():
                self._link(path, name, within)
            elif is_folder:
                derived = path.name in _DERIVED or path.name.endswith(".egg-info")
                if reason := "derived" if derived else self._reason(path):
                    self._leave_out(shown, reason)
                else:
                    self._walk(path, f"{name}/", within, rules)
            elif path.is_file():
                self.choice.files[name] = path

    def _left_out_with_its_folder(self, root: Path, name: str, at: str, reasons: dict[str, str]) -> bool:
        """Return whether a folder above `name`, but below `root`, stays here, and record the outermost."""
        place = name.find("/")
        while place >= 0:
            above = name[:place]
            if above not in reasons:
                reasons[above] = self._reason(root / above)
            if reasons[above]:
                self._leave_out(f"{at}{above}/", reasons[above])
                return True
            place = name.find("/", place + 1)
        return False

    def _reason(self, folder: Path) -> str:
        """Return why a folder stays here; an empty string if it is sent."""
        if folder not in self._reasons:
            real = folder.resolve()
            given = next((reason for kept, reason in self.stays.items() if real.is_relative_to(kept)), "")
            self._reasons[folder] = given or _kind(real)
        return self._reasons[folder]

    def _leave_out(self, name: str, rule: str) -> None:
        names = self.choice.left_out.setdefault(rule, [])
        if name not in names[-1:]:
            names.append(name)


def _kind(folder: Path) -> str:
    """Return why a folder's own files tell that it is not code; an empty string if they do not."""
    if (folder / "spec.json").is_file() and any((folder / name).is_file() for name in _RUN_FILES):
        return "the results of a run"
    if any((folder / name).is_file() for name in _SEARCH_FILES):
        return "the results of a search"
    return "a Python environment" if (folder / "pyvenv.cfg").is_file() else ""


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")


# --- git ---


def _listed_by_git(folder: Path) -> list[str] | str:
    """Return the names that git tracks or would track below a folder; or why it cannot say, in words.

    Repositories inside the folder and links to folders are one name each.
    """
    try:
        listed = _git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    except FileNotFoundError:
        return "which is not installed"
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().partition("\n")[0].removeprefix("fatal: ")
        return "because this is no repository" if said.startswith("not a git repository") else f"which says: {said}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"which failed: {error}"
    names = sorted({os.fsdecode(name).rstrip("/") for name in listed.split(b"\0") if name})
    return names or "which ignores this folder"


def _ignored_by_git(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the rule of each file and folder that git ignores."""
    try:
        names = _git(folder, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory")
        if not names:
            return
        told = _git(folder, "check-ignore", "-z", "--verbose", "--stdin", said=names)
    except (OSError, subprocess.SubprocessError):
        return
    fields = [os.fsdecode(part) for part in told.split(b"\0")]
    for source, line, pattern, name in zip(*(fields[n::4] for n in range(4)), strict=False):
        yield name, f"{source}:{line} {pattern}"


def _git(folder: Path, *words: str, said: bytes = b"") -> bytes:
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_ASKED}
    return subprocess.run(
        ["git", *words], cwd=folder, env=environment, input=said, capture_output=True, check=True, timeout=60
    ).stdout
