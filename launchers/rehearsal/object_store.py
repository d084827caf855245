"""The rehearsal's S3 on disk: objects survive a restart of the server."""

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeBucket, S3Backend, s3_backends

from launchers.rehearsal.names import ACCOUNT

_NAME_MAX = 200  # of a file; a key may have 1,024 bytes
_REPLACED_S = 10.0  # within which an object that another thread closes is replaced, or gone


class ObjectStore:
    """A folder for each bucket, a file for each object. moto answers from memory; the disk has a copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()

    @property
    def backend(self) -> S3Backend:
        return s3_backends[ACCOUNT]["aws"]

    def load(self) -> None:
        """Load the objects on disk into moto's memory."""
        # moto applies a bucket's policy without its conditions; `access.authorize` has applied all of it by then
        FakeBucket.get_permission = lambda *_: PermissionResult.NEUTRAL  # type: ignore[method-assign]
        for place in sorted(self.folder.glob("*")):
            if not place.is_dir():
                continue
            bucket = unquote(place.name)
            self.backend.create_bucket(bucket, "us-east-1")
            for path in sorted(place.rglob("*")):
                if path.is_file() and not path.name.startswith(".tmp-"):
                    key = unquote("".join(path.relative_to(place).parts).removesuffix("="))
                    found = self.backend.put_object(bucket, key, path.read_bytes(), disable_notification=True)
                    # resuming a run compares dates; moto's are UTC without a time zone
                    found.last_modified = datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(tzinfo=None)

    def put(self, bucket: str, key: str, content: bytes) -> None:
        """Store an object. Raises KeyError if the bucket does not exist."""
        if bucket not in self.backend.buckets:
            raise KeyError(bucket)
        self.backend.put_object(bucket, key, content, disable_notification=True)
        self.follow(bucket, key)

    def delete(self, bucket: str, key: str) -> None:
        if self.has_bucket(bucket):
            self.backend.delete_object(bucket, key)
            self.follow(bucket, key)

    def get(self, bucket: str, key: str) -> bytes | None:
        """Return an object's content, or None if it does not exist."""
        until = time.monotonic() + _REPLACED_S
        while (found := self._stored(bucket).get(key)) is not None:
            try:
                return bytes(found.value)
            except ValueError:  # moto closes an object a moment before it puts another in its place, or deletes it
                if time.monotonic() > until:
                    raise
                time.sleep(0.001)
        return None

    def keys(self, bucket: str, prefix: str) -> list[str]:
        stored = self._stored(bucket)
        return sorted(key for key in list(stored) if key.startswith(prefix) and stored.get(key) is not None)

    def download(self, bucket: str, prefix: str, folder: Path) -> int:
        """Write all objects under a prefix to a folder, named as SageMaker names those of an S3Prefix.

        Returns the number of objects. Skips keys that would be written outside the folder.
        """
        keys = self.keys(bucket, prefix)
        base = prefix if prefix.endswith("/") else prefix.rpartition("/")[0] + "/"
        if not prefix.endswith("/") and any(key.startswith(f"{prefix}/") for key in keys):
            base = f"{prefix}/"
        base = base.lstrip("/")
        for key in keys:
            path = folder / (key[len(base) :] if key.startswith(base) else key.rpartition("/")[2])
            if key.endswith("/") or not path.resolve().is_relative_to(folder.resolve()):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.get(bucket, key) or b"")
        return len(keys)

    def has_bucket(self, bucket: str) -> bool:
        return bucket in self.backend.buckets

    def follow(self, bucket: str, key: str | None = None) -> None:
        """Update the copy on disk of one object, or of a whole bucket."""
        with self._lock:
            place = self.folder / quote(bucket, safe="")
            if not self.has_bucket(bucket):
                _remove(place)
                return
            place.mkdir(parents=True, exist_ok=True)
            if key is not None:
                self._follow_one(bucket, place, key)
                return
            on_disk = {path for path in place.rglob("*") if path.is_file()}
            wanted = {_file(place, name): name for name in self.keys(bucket, "")}
            for path in on_disk - wanted.keys():
                path.unlink()
            for path, name in wanted.items():
                if path not in on_disk:
                    self._follow_one(bucket, place, name)

    def _follow_one(self, bucket: str, place: Path, key: str) -> None:
        path, content = _file(place, key), self.get(bucket, key)
        if content is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{threading.get_ident()}")
        temporary.write_bytes(content)
        temporary.replace(path)

    def _stored(self, bucket: str) -> Mapping[str, Any]:
        """Return moto's objects of a bucket by key, which threads of other requests change meanwhile."""
        found = self.backend.buckets.get(bucket)
        return {} if found is None else found.keys


def _file(place: Path, key: str) -> Path:
    """Return the file of a key: one name if that is short enough, else folders of pieces."""
    name = quote(key, safe="")
    pieces = [name[n : n + _NAME_MAX] for n in range(0, len(name), _NAME_MAX)]
    # a cut must not fall into the three characters of an escape
    for n in range(len(pieces) - 1):
        cut = next((k for k in (1, 2) if pieces[n][-k] == "%"), 0)
        if cut:
            pieces[n], pieces[n + 1] = pieces[n][:-cut], pieces[n][-cut:] + pieces[n + 1]
    return place.joinpath(*pieces[:-1], pieces[-1] + "=")  # "=" is never in a quoted name: no file is another's folder


def _remove(place: Path) -> None:
    if place.exists():
        for path in sorted(place.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        place.rmdir()
