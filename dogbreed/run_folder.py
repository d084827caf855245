"""The run folder: what lies where in it, and how a file gets there whole."""

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogbreed.errors import StorageError


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run's outputs. Nothing is created until something is written."""

    path: Path

    config = property(lambda self: self.path / "config.yaml")  # resolved; authoritative on resume
    environment = property(lambda self: self.path / "environment.json")  # package versions, commit, seed, device
    metrics = property(lambda self: self.path / "metrics.json")  # flat, of best.ckpt
    history = property(lambda self: self.path / "metrics.csv")  # one row an epoch
    predictions = property(lambda self: self.path / "predictions.csv")  # one row a test photo
    skipped = property(lambda self: self.path / "skipped.csv")  # photos left out, with the reason
    report = property(lambda self: self.path / "report.html")
    fit = property(lambda self: self.path / "fit.json")  # there once training has ended: epochs, steps, seconds
    log = property(lambda self: self.path / "train.log")
    checkpoints = property(lambda self: self.path / "checkpoints")
    best = property(lambda self: self.path / "checkpoints" / "best.ckpt")
    last = property(lambda self: self.path / "checkpoints" / "last.ckpt")
    previous = property(lambda self: self.path / "checkpoints" / "previous.ckpt")  # the one before last.ckpt


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` so that after a crash at any moment `path` holds either the old content or the new, never a part.

    Raises StorageError where the disk is full or the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
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
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def storage_error(path: Path, error: OSError) -> StorageError:
    """The same failure in words that tell what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(
            f"No room to write {path} ({error.strerror}). What was saved before is intact.\n"
            "Try: free some space, then resume; or hydra.run.dir=<a folder on another disk>"
        )
    return StorageError(
        f"Cannot write {path}: {error.strerror or error}.\nTry: hydra.run.dir=<a folder you may write to>"
    )


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (POSIX; a no-op where folders cannot be opened)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
