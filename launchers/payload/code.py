"""Pack the project's code as one file that is the same for the same code, and refuse what must not be in it."""

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from dogbreed.errors import ConfigError
from launchers.payload import secrets, weights
from launchers.payload.files import MOST_FILES, Choice, choose

BUNDLE_FILE, ENTRY_FILE = "bundle.tar.gz", "remote.py"
TOOLKIT_FILE = "sourcedir.tar.gz"  # the first program again, as the toolkit of AWS's images unpacks it
MAX_BYTES = 50_000_000
CONFIGS = "config-dirs"  # in the bundle: folders of YAML files that the command named

_secrets: dict[str, tuple[tuple[int, str], ...]] = {}  # by SHA-256: who plans many runs looks for them once

_MAX_DIFF = 100_000  # characters that are kept for people to read; the bundle itself has all


@dataclass(frozen=True)
class CodeBundle:
    """The code that will be sent, scanned but not yet packed.

    files: (name in the bundle, bytes, SHA-256), sorted by name. sources: paths of those files that are not in the
    project under that name. config_dirs: folders in the bundle that Hydra searches, in order. diff: of tracked files
    against the commit, for people. findings: reasons not to send it. secrets: (name in the bundle,
    line, kind) of each string that looks like a key. left_out: what is not sent, in words, a line for each rule.
    """

    digest: str
    files: tuple[tuple[str, int, str], ...]
    config_dirs: tuple[str, ...] = ()
    diff: str = ""
    findings: tuple[str, ...] = ()
    sources: tuple[tuple[str, str], ...] = ()
    secrets: tuple[tuple[str, int, str], ...] = ()
    left_out: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Build a bundle from JSON fields, in which tuples have become lists."""
        tuples = {
            key: tuple(tuple(item) if isinstance(item, list) else item for item in value)
            for key, value in fields.items()
            if isinstance(value, list | tuple)
        }
        return cls(**{**fields, **tuples})

    def as_sent(self) -> Self:
        """Return the description that is sent along: it does not name files that stay here."""
        return replace(self, left_out=())

    @property
    def size(self) -> int:
        """Bytes, before compression."""
        return sum(size for _, size, _ in self.files)

    def largest(self, count: int) -> list[tuple[str, int]]:
        """Return name and bytes of the largest files, the largest first."""
        return [(name, size) for name, size, _ in sorted(self.files, key=lambda file: -file[1])[:count]]


def scan(
    project: Path,
    config_dirs: Sequence[Path] = (),
    *,
    stays: Mapping[Path, str] | None = None,
    model_weights: object = None,
) -> CodeBundle:
    """Scan the files of `project` that would be sent: those that git tracks or would track.

    config_dirs: further folders, whose YAML files are sent too. stays: folders that are never sent, with the reason.
    model_weights: the setting; a file of the project that it names is sent, whatever .gitignore says.
    """
    choice = choose(project, stays or {})
    unsent = weights.include(model_weights, project, choice)
    chosen = choice.files
    named = {f"{CONFIGS}/{number}": folder for number, folder in enumerate(config_dirs)}
    for name, folder in named.items():
        chosen |= {f"{name}/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*.yaml")}
    files, found, digest = [], list[tuple[str, int, str]](), hashlib.sha256()
    for name in sorted(chosen):
        content = _content(chosen[name])
        if content is None:
            continue  # deleted, but still in git's index
        executable = os.access(chosen[name], os.X_OK)
        sha = hashlib.sha256(content).hexdigest()
        digest.update(f"{name}\0{executable:d}\0{sha}\n".encode(errors="surrogateescape"))
        files.append((name, len(content), sha))
        if sha not in _secrets:
            _secrets[sha] = tuple(secrets.found_in(content))
        found += [(name, line, kind) for line, kind in _secrets[sha]]
    return CodeBundle(
        digest=digest.hexdigest()[:32],
        files=tuple(files),
        config_dirs=tuple(named),
        diff=_diff(project),
        findings=(
            *_size_finding(files),
            *_choice_findings(project, stays or {}, choice),
            *unsent,
        ),
        sources=tuple((name, str(chosen[name])) for name, _, _ in files if chosen[name] != project / name),
        secrets=tuple(found),
        left_out=choice.lines(),
    )


def _choice_findings(project: Path, stays: Mapping[Path, str], choice: Choice) -> Iterator[str]:
    """Yield what is wrong with the choice of files."""
    for folder, reason in stays.items():
        if project.resolve().is_relative_to(folder.resolve()):
            yield (
                f"The project {project} is inside {folder} ({reason}), which is not sent.\n"
                f"Try: another folder for {reason}, beside the project or below it"
            )
    if choice.too_many:
        yield (
            f"The project has more than {MOST_FILES:,} files to send.\n"
            "Try: list folders that are not code in .gitignore; data belongs in data.root"
        )
    elif "train.py" not in choice.files:
        if (project / "train.py").is_file():
            rule = choice.rule_of("train.py")
            yield f"train.py would not be sent, by the rule {rule}.\nTry: a line !/train.py after it, and others"
        else:
            yield f"{project} has no train.py to run.\nTry: a clone of the project"


def _size_finding(files: Sequence[tuple[str, int, str]]) -> Iterator[str]:
    total = sum(size for _, size, _ in files)
    if total > MAX_BYTES:
        largest = sorted(files, key=lambda file: -file[1])[:5]
        listed = "\n".join(f"{size / 1e6:8.1f} MB  {name}" for name, size, _ in largest)
        yield (
            f"The code is {total / 1e6:.0f} MB, but at most {MAX_BYTES / 1e6:.0f} MB can be sent. The largest files:\n"
            f"{listed}\nTry: list files that are not code in .gitignore; data belongs in data.root, weights at a URL"
        )


def pack(project: Path, bundle: CodeBundle) -> bytes:
    """Pack the code as tar.gz: the same bytes for the same code, whenever and wherever it is packed.

    Raises ConfigError if a file has changed since the scan.
    """
    sources, tar_bytes = dict(bundle.sources), io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, size, sha in bundle.files:
            path = Path(sources.get(name, project / name))
            content = _content(path)
            if content is None or hashlib.sha256(content).hexdigest() != sha:
                raise ConfigError(f"{path} changed while the run was being planned.\nTry: the same command again")
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = size, 0
            entry.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(tar_bytes.getvalue(), compresslevel=6, mtime=0)


def pack_entry(content: bytes) -> bytes:
    """Pack the first program alone: the same bytes for the same program."""
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo(ENTRY_FILE)
        entry.size, entry.mode = len(content), 0o644
        archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(tar_bytes.getvalue(), mtime=0)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _diff(project: Path) -> str:
    try:
        run = subprocess.run(
            ["git", "diff", "HEAD", "--no-color", "--no-ext-diff"],
            cwd=project,
            capture_output=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    if any(secrets.found_in(run.stdout)):  # a secret that was removed is still in the diff
        return "(left out: it seems to hold a secret)\n"
    text = run.stdout.decode(errors="replace")
    return text if len(text) <= _MAX_DIFF else text[:_MAX_DIFF] + "\n... (cut here; the bundle has all of it)\n"
