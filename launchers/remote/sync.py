"""Save a run's folder to S3 while it trains, and bring it back on the next machine.

A file is uploaded as a new object, named by its content. Then one small object, the pointer, is replaced, which lists
all files of the folder. So a reader never finds a part of a file, nor files that do not belong together, and what was
half-sent when a machine ended is never read. The pointer is replaced on the condition that it is still the one that
this machine wrote last: once the next machine has taken it over, an earlier one can save no more.

RUN/saved.json                the pointer
RUN/saved/<sha256>            the contents
RUN/checkpoints/features/     features, each file of which is written once: under their own names, for other runs

Uses the standard library alone, and a boto3 client that it is given: launchers/remote/ec2.py loads it from the code
that was sent.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

POINTER = "saved.json"
CONTENTS = "saved/"  # before the digest of a content
FEATURES = "checkpoints/features/"
LOGS = "logs/"
LOG_PART = 1 << 20  # bytes of a log in one object

_LASTING_FEATURE = re.compile(r"[^/]+/(?:recipe\.json|shards/[0-9a-f]{32}\.(?:npy|json))")  # as in aws/transfer.py
_PASSING = (".sagemaker-ignore", ".sagemaker-uploading", ".sagemaker-uploaded")  # as in dogbreed.run_folder
_AT_ONCE = 8
_IN_MEMORY = 16 << 20  # a smaller file is read at once: it may be one that is written in place, such as a log
_TRIES = 5


class Superseded(Exception):  # noqa: N818 (what has happened to this machine)
    """Another machine has taken over the run, so that this one may save nothing more."""


@dataclass(frozen=True)
class SavedFile:
    """A file of the run's folder as it was saved. written: seconds since 1970."""

    sha256: str
    size: int
    written: float


@dataclass(frozen=True)
class Pointer:
    """What was saved last.

    attempt: of the machine that saved it. files: by name below the run's folder. plain: nothing has been saved in this
    way yet, so that what is in RUN/checkpoints under the files' own names counts: another launcher saved it.
    """

    attempt: int
    files: Mapping[str, SavedFile]
    plain: bool = False

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Pointer":
        fields = json.loads(content)
        files = {name: SavedFile(**each) for name, each in fields["files"].items()}
        return cls(int(fields["attempt"]), files, bool(fields["plain"]))


def is_safe(name: str) -> bool:
    """Return whether a name stays below the folder that it is put into."""
    return not name.startswith("/") and ".." not in name.split("/")


class Sync:
    """The saved files of one run, as one attempt writes them.

    run: the prefix of its keys, PREFIX/runs/<run id>. folder: the run's folder on this machine. attempt: from 1; a
    later one takes over. encryption: the arguments of each upload.
    """

    def __init__(
        self, s3: Any, bucket: str, run: str, folder: Path, attempt: int, encryption: Mapping[str, str] | None = None
    ) -> None:
        self._s3, self._bucket, self._run = s3, bucket, run.rstrip("/")
        self.folder, self.attempt, self._encryption = folder, attempt, dict(encryption or {})
        self._etag: str | None = None
        self._files: dict[str, SavedFile] = {}  # as the pointer lists them
        self._plain = True
        self._fresh: set[str] = set()  # contents that were sent, and that the pointer does not list yet
        self._seen: dict[str, tuple[tuple[int, int, int], SavedFile]] = {}  # stamp of a file that is in S3
        self._features: set[str] = set()
        self._unused: set[str] = set()  # contents that the pointer before the last one named
        self._logged = 0  # whole parts of the log that are in S3
        self._log_size = -1

    # --- at the start of a machine ---

    def take_over(self) -> None:
        """Make this attempt the one that saves. Raises Superseded if a later one does already."""
        for _ in range(_TRIES):
            self._etag, before = self._read()
            if before is not None and before.attempt > self.attempt:
                break
            self._files, self._plain = ({}, True) if before is None else (dict(before.files), before.plain)
            if self._replace(self._files, plain=self._plain):
                return
        raise Superseded(f"attempt {self.attempt} was superseded by a later one")

    def restore(self) -> int:
        """Bring the saved files to the folder, and return how many. A content that is damaged is left out."""
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = [(name, each) for name, each in self._files.items() if is_safe(name)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            whole = sum(pool.map(lambda item: self._bring(*item), wanted))
            if self._plain:
                whole += self._restore_plain(pool)
            features = [name for name, _ in self._listed(FEATURES) if is_safe(name)]
            list(pool.map(lambda name: self._bring_plain(FEATURES, name, self.folder / "features"), features))
            self._features.update(features)
        self._remove_unlisted()
        return whole

    def _bring(self, name: str, saved: SavedFile) -> bool:
        path = self.folder / name
        temporary = path.with_name(f".{path.name}{_PASSING[0]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._s3.download_file(self._bucket, self._key(CONTENTS + saved.sha256), str(temporary))
            with temporary.open("rb") as file:
                if _digest(file) != saved.sha256:
                    raise ValueError("its content is not the one that was saved")
        except Exception as error:  # of boto3, which says what is missing
            temporary.unlink(missing_ok=True)
            print(f"{name} was saved, and cannot be read: {error}", flush=True)
            return False
        os.utime(temporary, (saved.written, saved.written))
        temporary.replace(path)
        self._seen[name] = (_stamp(path.stat()), saved)
        return True

    def _restore_plain(self, pool: ThreadPoolExecutor) -> int:
        """Bring what a machine of another launcher has saved under the files' own names."""
        names = [name for name, _ in self._listed("checkpoints/") if is_safe(name) and not name.endswith(_PASSING)]
        names = [name for name in names if not name.startswith("features/")]
        return len(list(pool.map(lambda name: self._bring_plain("checkpoints/", name, self.folder), names)))

    def _bring_plain(self, prefix: str, name: str, folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}{_PASSING[0]}")
        self._s3.download_file(self._bucket, self._key(prefix + name), str(temporary))
        temporary.replace(path)

    def _remove_unlisted(self) -> None:
        """Remove contents that an earlier machine sent and that no pointer has listed."""
        listed = {each.sha256 for each in self._files.values()}
        self._delete(name for name, _ in self._listed(CONTENTS) if name not in listed)

    # --- while it trains ---

    def save(self) -> bool:
        """Save what has changed. Return whether anything had. Raises Superseded if a later attempt saves now."""
        self._save_features()
        before, files = self._files, {}
        for name in self._names():
            with suppress(FileNotFoundError):  # replaced or deleted in this moment: the next time tells
                files[name] = self._sent(name)
        if files == before:
            return False
        if not self._replace(files, plain=False):
            raise Superseded(f"attempt {self.attempt} was superseded by a later one")
        self._files, self._plain = files, False
        self._fresh.clear()
        kept = {each.sha256 for each in [*files.values(), *before.values()]}
        self._delete(self._unused - kept)
        self._unused = {each.sha256 for each in before.values()} - {each.sha256 for each in files.values()}
        return True

    def save_log(self, log: Path) -> None:
        """Upload what was added to the log of this attempt. A whole part of it is uploaded once."""
        try:
            size = log.stat().st_size
        except FileNotFoundError:
            return
        if size == self._log_size:
            return
        with log.open("rb") as file:
            file.seek(self._logged * LOG_PART)
            while content := file.read(LOG_PART):
                self._put(log_key(self.attempt, self._logged), content)
                if len(content) < LOG_PART:
                    break
                self._logged += 1
        self._log_size = size

    def _names(self) -> Iterator[str]:
        """Yield the files to save, checkpoints before the small files that tell of them."""
        found = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        lasting = (name for name in found if not name.endswith(_PASSING) and not name.startswith("features/"))
        yield from sorted(lasting, key=lambda name: (not name.endswith(".ckpt"), name))

    def _sent(self, name: str) -> SavedFile:
        """Upload a file if its content is not in S3 yet."""
        path = self.folder / name
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            seen = self._seen.get(name)
            if seen is not None and seen[0] == _stamp(stat) and self._has(seen[1]):
                return seen[1]
            if stat.st_size <= _IN_MEMORY:
                content = file.read()
                saved = SavedFile(hashlib.sha256(content).hexdigest(), len(content), stat.st_mtime)
                if not self._has(saved):
                    self._put(CONTENTS + saved.sha256, content)
            else:  # replaced by renaming, so that what was opened stays as it is
                saved = SavedFile(_digest(file), stat.st_size, stat.st_mtime)
                if not self._has(saved):
                    file.seek(0)
                    key = self._key(CONTENTS + saved.sha256)
                    self._s3.upload_fileobj(_Kept(file), self._bucket, key, ExtraArgs=self._encryption)
        self._fresh.add(saved.sha256)
        self._seen[name] = (_stamp(stat), saved)
        return saved

    def _has(self, saved: SavedFile) -> bool:
        """Return whether a content is in S3: an earlier file had it, as last.ckpt becomes previous.ckpt."""
        return saved.sha256 in self._fresh or any(each.sha256 == saved.sha256 for each in self._files.values())

    def _save_features(self) -> None:
        """Upload features, the numbers before the index that makes them readable."""
        folder = self.folder / "features"
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        new = {name for name in found - self._features if _LASTING_FEATURE.fullmatch(name)}
        for name in sorted(new, key=lambda name: (not name.endswith(".npy"), name)):
            with suppress(FileNotFoundError):
                self._put(FEATURES + name, (folder / name).read_bytes())
                self._features.add(name)

    # --- the pointer ---

    def _read(self) -> tuple[str | None, Pointer | None]:
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=self._key(POINTER))
        except self._s3.exceptions.NoSuchKey:
            return None, None
        return str(answer["ETag"]), Pointer.from_json(answer["Body"].read())

    def _replace(self, files: Mapping[str, SavedFile], *, plain: bool) -> bool:
        """Replace the pointer, unless a later attempt has done so. Return whether it was replaced."""
        from botocore.exceptions import ClientError

        content = Pointer(self.attempt, files, plain).to_json()
        for _ in range(_TRIES):
            condition = {"IfMatch": self._etag} if self._etag is not None else {"IfNoneMatch": "*"}
            try:
                self._etag = str(self._put(POINTER, content, **condition)["ETag"])
                return True
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                if code not in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409"):
                    raise
                etag, found = self._read()
                if found is not None and found.attempt > self.attempt:
                    return False
                if found is not None and found.to_json() == content:  # its answer was lost, and it was sent again
                    self._etag = etag
                    return True
                self._etag = etag
        return False

    # --- objects ---

    def _put(self, name: str, content: bytes, **condition: str) -> Any:
        key = self._key(name)
        return self._s3.put_object(Bucket=self._bucket, Key=key, Body=content, **self._encryption, **condition)

    def _listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        whole = self._key(prefix)
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=whole):
            for item in page.get("Contents", []):
                yield item["Key"][len(whole) :], item["Size"]

    def _delete(self, digests: Any) -> None:
        for digest in list(digests):
            self._s3.delete_object(Bucket=self._bucket, Key=self._key(CONTENTS + digest))

    def _key(self, name: str) -> str:
        return f"{self._run}/{name}"


def log_key(attempt: int, part: int) -> str:
    """Return the name of an object that holds a part of an attempt's log, below the run."""
    return f"{LOGS}{attempt:05d}/{part:05d}.txt"


class _Kept:
    """A file that boto3 does not close."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        return self._file.read(count)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _digest(file: BinaryIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _stamp(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
