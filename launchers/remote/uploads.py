"""Wait on a rented machine until SageMaker's agent has saved what the next machine resumes from.

The agent copies the run folder to S3 while the job runs. Beside each file it writes a marker, FILE.sagemaker-uploading
and then FILE.sagemaker-uploaded. That it saves anything after the job's command has ended is promised nowhere.
Uses the standard library alone: launchers/remote/entry.py loads it from the code that was sent.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_UPLOADING, _UPLOADED, _IGNORED = ".sagemaker-uploading", ".sagemaker-uploaded", ".sagemaker-ignore"
_CHECKPOINT, _STUDY = "checkpoints/last.ckpt", "study.db"  # of a run, or each of a search's trials; of a search
_FEATURES = "features"
_POLL_S = 0.05

Stamp = tuple[int, int]


def longest_s() -> float:
    """Return how long a machine may stay for its uploads after a signal, of the 120 s until SageMaker kills it."""
    return float(os.environ.get("DOGBREED_UPLOADS_S", "100"))


def stamps(folder: Path) -> dict[Path, Stamp]:
    """Return all files below the folder that the agent saves, with what differs each time one of them is written."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.endswith((_IGNORED, _UPLOADING, _UPLOADED)):
            with suppress(FileNotFoundError):  # deleted meanwhile
                found[path] = _stamp(path)
    return found


def needed(folder: Path, before: Mapping[Path, Stamp], *, failed: bool) -> list[Path]:
    """Return what the next machine resumes from or, of a run that has succeeded, the features for later runs.

    before: the stamps as the machine began. What has not changed since is in S3 already.
    """
    changed = (path for path, stamp in stamps(folder).items() if before.get(path) != stamp)
    if failed:
        return [path for path in changed if path.relative_to(folder).match(_CHECKPOINT) or path == folder / _STUDY]
    return [path for path in changed if path.relative_to(folder).parts[0] == _FEATURES]


def wait_for(files: Sequence[Path], folder: Path, *, until: float) -> bool:
    """Stay until the agent has marked all of these files of the folder as uploaded, and uploads no other one.

    Where the agent shows no markers at all, which tells nothing, a fifth of `longest_s` must do. until: when to give
    up, by time.monotonic(). Return whether the files are known to be in S3.
    """
    if not files:
        return True
    # a marker may tell of the upload before, and the agent may not have seen yet what else has changed
    settling_s, silent_s = longest_s() / 50, longest_s() / 5
    began = time.monotonic()
    done_at: float | None = None
    while (moment := time.monotonic()) < until:
        if all(map(_is_uploaded, files)) and not any(folder.rglob(f"*{_UPLOADING}")):
            done_at = done_at or moment
            if moment - done_at >= settling_s:
                return True
        else:
            done_at = None
            silent = not any(folder.rglob(f"*{_UPLOADING}")) and not any(folder.rglob(f"*{_UPLOADED}"))
            if silent and moment - began > silent_s:
                return False
        time.sleep(_POLL_S)
    return False


def _is_uploaded(path: Path) -> bool:
    """Whether the marker is newer than the file and the name that it was given. A file that is gone needs none."""
    try:
        written = path.stat()
    except FileNotFoundError:
        return True
    try:
        marked = path.with_name(path.name + _UPLOADED).stat()
    except FileNotFoundError:
        return False
    return marked.st_mtime_ns >= max(written.st_mtime_ns, written.st_ctime_ns)


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns
