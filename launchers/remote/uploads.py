"""Wait on a rented machine until SageMaker's agent has saved what the next machine resumes from.

The agent copies the run folder to S3 while the job runs. Beside each file it writes a marker, FILE.sagemaker-uploading
and then FILE.sagemaker-uploaded. AWS does not document that it saves anything after the job's command has ended.
Uses the standard library alone: launchers/remote/entry.py loads it from the code that was sent.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_UPLOADING, _UPLOADED, _IGNORED = ".sagemaker-uploading", ".sagemaker-uploaded", ".sagemaker-ignore"
_CHECKPOINT, _STUDY = "checkpoints/last.*", "study.db"  # of a run, or each of a search's trials; of a search
_FEATURES = "features"
_POLL_S = 0.05

Stamp = tuple[int, int]


def longest_s() -> float:
    """Return how long a machine may stay for its uploads after a signal, of the 120 s until SageMaker kills it.

    0 where launchers/remote/ec2.py saves them.
    """
    return float(os.environ.get("DOGBREED_UPLOADS_S", "100"))


def stamps(folder: Path) -> dict[Path, Stamp]:
    """Return all files below the folder that the agent saves, with a stamp that changes whenever one is written."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.endswith((_IGNORED, _UPLOADING, _UPLOADED)):
            with suppress(FileNotFoundError):  # deleted in the meantime
                found[path] = _stamp(path)
    return found


def needed(folder: Path, before: Mapping[Path, Stamp], *, failed: bool, tuned: bool = False) -> list[Path]:
    """Return what the next machine resumes from or, of a run that has succeeded, the features for later runs.

    before: the stamps at the start of the machine. Unchanged files are already in S3. tuned: whether it is a trial of
    SageMaker's tuner, whose result is fetched from where it was saved.
    """
    changed = (path for path, stamp in stamps(folder).items() if before.get(path) != stamp)
    if tuned and not failed:
        return list(changed)
    if failed:
        return [path for path in changed if path.relative_to(folder).match(_CHECKPOINT) or path == folder / _STUDY]
    return [path for path in changed if path.relative_to(folder).parts[0] == _FEATURES]


def wait_for(files: Sequence[Path], folder: Path, *, until: float) -> bool:
    """Wait until the agent has marked all of these files as uploaded and no other upload is in progress.

    If the agent writes no markers at all, wait for a fifth of `longest_s`. until: when to give up, by
    time.monotonic(). Return whether the files are known to be in S3.
    """
    if not files:
        return True
    # a marker may belong to the previous upload, and the agent may not have seen other changes yet
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
    """Return whether the marker is newer than the file's last write and rename; True for a deleted file."""
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
