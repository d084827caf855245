"""The run folder: the paths of its files, and how to write files atomically."""

import errno
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dogbreed.errors import StorageError

TEMPORARY = re.compile(r"\..+\.tmp-(?P<pid>\d+)")  # the name of a file that process `pid` has not finished writing


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run's outputs. Nothing is created until something is written."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, which a resumed run uses."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Package versions, commit, seed, device, photos."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """The metrics of best.ckpt, flat."""
        return self.path / "metrics.json"

    @property
    def history(self) -> Path:
        """The metrics of training, one row per epoch."""
        return self.path / "metrics.csv"

    @property
    def predictions(self) -> Path:
        """The predictions, one row per test photo."""
        return self.path / "predictions.csv"

    @property
    def skipped(self) -> Path:
        """The skipped photos, each with its reason."""
        return self.path / "skipped.csv"

    @property
    def report(self) -> Path:
        """The report, a self-contained page."""
        return self.path / "report.html"

    @property
    def model(self) -> Path:
        """The artifact for serving, made from best.ckpt."""
        return self.path / "model.tar.gz"

    @property
    def fit(self) -> Path:
        """Exists once training has finished: epochs, steps, seconds."""
        return self.path / "fit.json"

    @property
    def log(self) -> Path:
        """The log of all attempts."""
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The best checkpoint by the monitored metric, which is tested and exported."""
        return self.path / "checkpoints/best.ckpt"

    @property
    def last(self) -> Path:
        """The checkpoint that a resumed run starts from."""
        return self.path / "checkpoints/last.ckpt"

    @property
    def previous(self) -> Path:
        """The checkpoint before last.ckpt."""
        return self.path / "checkpoints/previous.ckpt"

    @property
    def frozen(self) -> Path:
        """The frozen part of the network, which last.ckpt lacks in a run on cached features."""
        return self.path / "checkpoints/frozen.ckpt"


def temporary_path(path: Path) -> Path:
    """Return where this process writes the file before renaming it to `path`. TEMPORARY matches its name."""
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` atomically: after a crash at any moment `path` holds either the old content or the new.

    Raises StorageError if the disk is full or the folder cannot be written.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def write_text(path: Path, text: str) -> None:
    # file names in it may contain bytes that are not UTF-8
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def storage_error(path: Path, error: OSError) -> StorageError:
    """Translate an OSError into a StorageError that says what to do."""
    elsewhere = "name a folder elsewhere (hydra.run.dir=, data.root=, or DOGBREED_CACHE in the environment)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(
            f"No room to write {path} ({error.strerror}). What was saved before is intact.\n"
            f"Try: free some space, then resume; or {elsewhere}"
        )
    return StorageError(f"Cannot write {path}: {error.strerror or error}.\nTry: {elsewhere}")


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (POSIX; a no-op where folders cannot be opened)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_json(path: Path) -> dict[str, float]:
    return cast(dict[str, float], json.loads(path.read_text()))
