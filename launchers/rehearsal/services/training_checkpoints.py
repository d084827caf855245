"""The checkpoint folder of a training job: SageMaker keeps a copy of it in S3 while the job runs."""

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from launchers.aws.s3 import split_uri
from launchers.rehearsal.machine import Machine
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.services.training_container import ML
from launchers.rehearsal.services.training_record import JobRecord

_Stamp = tuple[int, int]  # a file's time and size


class Checkpoints:
    """Those of one job; without a CheckpointConfig there is nothing to do."""

    def __init__(self, job: JobRecord, store: ObjectStore) -> None:
        self.store = store
        config = job.request.get("CheckpointConfig")
        self._place = None if config is None else str(config.get("LocalPath", f"{ML}/checkpoints"))
        self._bucket, self._prefix = ("", "") if config is None else split_uri(config["S3Uri"])
        self._uploaded: dict[str, _Stamp] = {}
        self._random = random.Random(job.name)

    def download(self, machines: Sequence[Machine]) -> None:
        """Bring what S3 has to fresh machines. The first of them is the one that uploads."""
        if self._place is not None:
            folders = [machine.path(self._place) for machine in machines]
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                self.store.download(self._bucket, self._prefix, folder)
            self._uploaded = {name: _stamp(path) for name, path in _files(folders[0])}

    def upload(self, machine: Machine) -> None:
        """Upload what has changed, in no order that one could rely on."""
        if self._place is None:
            return
        found = list(_files(machine.path(self._place)))
        self._random.shuffle(found)
        for name, path in found:
            with suppress(FileNotFoundError):
                stamp = _stamp(path)
                if self._uploaded.get(name) != stamp:
                    self.store.put(self._bucket, f"{self._prefix.rstrip('/')}/{name}", path.read_bytes())
                    self._uploaded[name] = stamp

    def last_written(self, machine: Machine) -> _Stamp | None:
        """Something that differs each time last.ckpt is written; None while there is none."""
        if self._place is not None:
            with suppress(FileNotFoundError):
                stat = (machine.path(self._place) / "checkpoints" / "last.ckpt").stat()
                return stat.st_ino, stat.st_mtime_ns
        return None


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def _stamp(path: Path) -> _Stamp:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size
