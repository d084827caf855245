"""The run folder: what lies where in it, and how a file gets there whole."""

import errno
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dogbreed.errors import StorageError

# SageMaker's agent saves the run folder of a rented machine in S3. It leaves out files whose names end with the first
# of these, and writes the two others beside each file, where they come and go as it uploads
# (https://github.com/aws/sagemaker-xgboost-container, checkpointing.py)
NOT_SAVED = ".sagemaker-ignore"
_MARKERS = (".sagemaker-uploading", ".sagemaker-uploaded")

SEARCH_FILE = "best.json"  # in a search's folder: its result

# the name of a file that the process `pid` has not written whole yet
TEMPORARY = re.compile(rf"\..+\.tmp-(?P<pid>\d+){re.escape(NOT_SAVED)}")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run's outputs. Nothing is created until something is written."""

    path: Path

    @classmethod
    def of(cls, folder: Path) -> "RunFolder":
        """Return the run in `folder`, or the best trial's run if a search is there."""
        return cls(best_trial(folder) or folder)

    @property
    def config(self) -> Path:
        """Resolved; authoritative on resume."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Package versions, commit, seed, device, photos."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """Flat; of best.ckpt."""
        return self.path / "metrics.json"

    @property
    def history(self) -> Path:
        """One row an epoch."""
        return self.path / "metrics.csv"

    @property
    def predictions(self) -> Path:
        """One row a test photo."""
        return self.path / "predictions.csv"

    @property
    def skipped(self) -> Path:
        """Photos that were skipped, each with its reason."""
        return self.path / "skipped.csv"

    @property
    def copies(self) -> Path:
        """Photos that are in two splits or two classes."""
        return self.path / "copies.csv"

    @property
    def report(self) -> Path:
        """One self-contained page."""
        return self.path / "report.html"

    @property
    def model(self) -> Path:
        """The artifact that is served; of best.ckpt."""
        return self.path / "model.tar.gz"

    @property
    def fit(self) -> Path:
        """There once training has ended: epochs, steps, seconds."""
        return self.path / "fit.json"

    @property
    def log(self) -> Path:
        """Of all attempts."""
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """By the monitored metric; tested and exported."""
        return self.path / "checkpoints/best.ckpt"

    @property
    def last(self) -> Path:
        """Where a resumed run goes on."""
        return self.path / "checkpoints/last.ckpt"

    @property
    def previous(self) -> Path:
        """The one before last.ckpt."""
        return self.path / "checkpoints/previous.ckpt"

    @property
    def frozen(self) -> Path:
        """Of a run on cached features: the part of the network that is not trained, and so not in last.ckpt."""
        return self.path / "checkpoints/frozen.ckpt"


def trial_folder(search: Path, number: int) -> Path:
    return search / f"{number:05d}"


def best_trial(search: Path) -> Path | None:
    """Return the folder of a search's best trial so far; None if the search has none, or if this is no search."""
    try:
        return trial_folder(search, json.loads((search / SEARCH_FILE).read_bytes())["trial"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def temporary_path(path: Path) -> Path:
    """Return where this process writes what becomes `path` once it is whole. TEMPORARY matches its name."""
    return path.with_name(f".{path.name}.tmp-{os.getpid()}{NOT_SAVED}")


def is_passing(name: str) -> bool:
    """Return whether a file is only temporary: half-written, or a marker of SageMaker's agent.

    name: of the file, or its path. Such files may vanish at any moment.
    """
    return name.endswith((NOT_SAVED, *_MARKERS))


def lasting_files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder in order, except the temporary ones (see `is_passing`)."""
    for path in sorted(folder.rglob("*")):
        if not is_passing(path.name) and path.is_file():
            yield path


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` so that after a crash at any moment `path` holds either the old content or the new, never a part.

    Raises StorageError where the disk is full or the place cannot be written.
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
    # names of files may hold bytes that are not UTF-8
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def storage_error(path: Path, error: OSError) -> StorageError:
    """The same failure in words that tell what to do."""
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
