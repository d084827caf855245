"""The checkpoint folder of a training job: an agent of SageMaker's keeps a copy of it in S3 while the job runs.

It behaves as users and AWS's own containers have seen it. Beside each file it writes a marker, FILE.sagemaker-uploading
and then FILE.sagemaker-uploaded (https://github.com/aws/sagemaker-xgboost-container, checkpointing.py). What is in S3
lags behind, what is deleted on the machine is deleted there as well
(https://docs.aws.amazon.com/sagemaker/latest/dg/model-checkpoints.html), and nothing more is uploaded once the job's
command has ended (https://docs.aws.amazon.com/sagemaker/latest/dg/model-train-storage-env-var-summary.html).
"""

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dogbreed.run_folder import is_passing
from launchers.aws.s3 import split_uri
from launchers.rehearsal.access import StoreOfRole
from launchers.rehearsal.machine import Machine
from launchers.rehearsal.services.training_container import ML
from launchers.rehearsal.services.training_record import JobRecord

_Stamp = tuple[int, int]  # a file's time and size
_MARKERS = (".sagemaker-uploading", ".sagemaker-uploaded")  # what follows a file's name


class Checkpoints:
    """Syncs the checkpoints of one job, if it has a CheckpointConfig. lag_s: the maximum delay of uploads to S3."""

    def __init__(self, job: JobRecord, store: StoreOfRole, lag_s: float) -> None:
        self.store, self.lag_s = store, lag_s
        config = job.request.get("CheckpointConfig")
        self._place = None if config is None else str(config.get("LocalPath", f"{ML}/checkpoints"))
        self._bucket, self._prefix = ("", "") if config is None else split_uri(config["S3Uri"])
        self._saved: dict[str, _Stamp] = {}  # as it is in S3
        self._due: dict[str, float] = {}  # when what has changed will have been uploaded
        self._random, self._job = random.Random(job.name), job.name

    def download(self, machines: Sequence[Machine]) -> None:
        """Download the checkpoints in S3 to fresh machines. Only the first of them uploads."""
        if self._place is not None:
            folders = [machine.path(self._place) for machine in machines]
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                self.store.download(self._bucket, self._prefix, folder)
            self._saved, self._due = _scan(folders[0])[0], {}

    def sync(self, machine: Machine, moment: float) -> None:
        """Perform the deletions and uploads that are due. moment: seconds, always on the same clock."""
        if self._place is None:
            return
        folder = machine.path(self._place)
        found, markers = _scan(folder)
        for name in self._saved.keys() - found.keys():
            del self._saved[name]
            self.store.delete(self._bucket, self._key(name))
        for name in (self._saved.keys() | self._due.keys()) - found.keys():
            self._due.pop(name, None)
        for name, stamp in found.items():
            if name not in self._due and self._saved.get(name) != stamp:
                # in no reliable order
                self._due[name] = moment + self.lag_s * self._random.uniform(0.3, 1)
                with suppress(FileNotFoundError):  # of the file's folder
                    _marker(folder / name, "uploading").touch()
        for name in [name for name, due in self._due.items() if due <= moment]:
            del self._due[name]
            self._upload(folder, name)
        for marker in markers:
            if marker.rpartition(".")[0] not in found:
                (folder / marker).unlink(missing_ok=True)

    def last_written(self, machine: Machine) -> _Stamp | None:
        """Return a stamp that changes each time last.ckpt is written, or None if it does not exist."""
        if self._place is not None:
            with suppress(FileNotFoundError):
                place = machine.path(self._place)
                of_trial = place / self._job / "checkpoints"  # all trials of a search share one place in S3
                stat = ((of_trial if of_trial.exists() else place / "checkpoints") / "last.ckpt").stat()
                return stat.st_ino, stat.st_mtime_ns
        return None

    def _upload(self, folder: Path, name: str) -> None:
        path = folder / name
        with suppress(FileNotFoundError):
            stamp = _stamp(path.stat())
            self.store.put(self._bucket, self._key(name), path.read_bytes())
            self._saved[name] = stamp
            _marker(path, "uploading").unlink()
            _marker(path, "uploaded").unlink(missing_ok=True)
            _marker(path, "uploaded").touch()

    def _key(self, name: str) -> str:
        return f"{self._prefix.rstrip('/')}/{name}"


def _marker(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.sagemaker-{what}")


def _scan(folder: Path) -> tuple[dict[str, _Stamp], list[str]]:
    """Return the stamps of all files that the agent saves, in order, and its markers; by names relative to the folder.

    It looks often, and most of the server's time went into this: hence os.scandir, and one pass for both.
    """
    stamps, markers = {}, []
    for name, entry in sorted(_files(str(folder), ""), key=lambda found: found[0]):
        if name.endswith(_MARKERS):
            markers.append(name)
        elif not is_passing(entry.name):
            with suppress(FileNotFoundError):
                stamps[name] = _stamp(entry.stat())
    return stamps, markers


def _files(folder: str, below: str) -> "Iterator[tuple[str, os.DirEntry[str]]]":
    """Yield all files below a folder. below: what begins their names; empty, or with a slash at its end."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, f"{below}{entry.name}/")
            elif entry.is_file():
                yield f"{below}{entry.name}", entry


def _stamp(stat: os.stat_result) -> _Stamp:
    return stat.st_mtime_ns, stat.st_size
