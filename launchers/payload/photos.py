"""Pack photos of this machine for rented ones: identified by their content, sent once, as a few large files."""

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dogbreed.cache import cache_folder
from dogbreed.errors import DataError
from dogbreed.run_folder import write_json
from dogbreed.scanning.layout import SPLITS, Layout, understand

SHARD_BYTES = 64_000_000  # a request for each photo would cost more time than its bytes
MANIFEST = "manifest.json"
FEATURES = "features"  # the folder of features of photos: in the bucket, and below a run's checkpoints
FEATURES_ABOUT = "about.json"  # in that folder: which photos the features belong to

_AT_ONCE = 8  # files that are read in parallel


@dataclass(frozen=True)
class SentFolder:
    """A data folder as it would be sent, scanned but not packed.

    digest: of all names and contents, so the same photos have the same digest anywhere. shards: bytes of photos in
    each shard, in order. by_folder: number of files in each split, or below each folder of the root.
    """

    root: str
    digest: str
    files: int
    size: int
    shards: tuple[int, ...]
    findings: tuple[str, ...] = ()
    by_folder: Mapping[str, int] = field(default_factory=dict)

    def counts(self, data: Mapping[str, Any]) -> dict[str, int]:
        """Return the number of photos by split, before damaged ones are left out. data: the config node."""
        divided = "train" in self.by_folder and self.by_folder.keys() <= set(SPLITS)
        known = {split: self.by_folder[split] for split in SPLITS if divided and split in self.by_folder}
        source = known.pop("train", self.files)
        lacking = [split for split in SPLITS[1:] if split not in known]
        held_out = {split: round(source * float(data.get(f"{split}_fraction") or 0)) for split in lacking}
        counts = {"train": max(0, source - sum(held_out.values())), **known, **held_out}
        return {split: counts[split] for split in SPLITS}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        return cls(**{**fields, "shards": tuple(fields["shards"]), "findings": tuple(fields["findings"])})


@dataclass(frozen=True)
class _File:
    name: str  # below the root, with slashes
    size: int
    mtime_ns: int
    sha256: str


def scan(root: Path, cache: Path | None = None) -> SentFolder:
    """Scan the files of `root` that would be sent: all that are not hidden.

    cache: a folder for digests by size and date, so that the next scan reads no photo; None for the library's own.
    """
    cache = cache or digests_folder()
    root = root.expanduser()
    if not root.is_dir():
        finding = f"The data folder {root} does not exist.\nTry: data.root=<the folder that holds your photos>"
        return SentFolder(str(root), "", 0, 0, (), (finding,))
    files = _files(root, cache)
    if not files:
        return SentFolder(str(root), "", 0, 0, (), (f"The data folder {root} is empty.",))
    shards = tuple(sum(file.size for file in shard) for shard in _shards(files))
    layout = understand(root)
    by_folder = dict(Counter(_part(file.name, layout) for file in files))
    return SentFolder(str(root), _digest(files), len(files), sum(shards), shards, layout.findings, by_folder)


def _part(name: str, layout: Layout) -> str:
    """Return the split that a file is in, or the first folder of its path."""
    splits = layout.folders.items() if layout.splits else ()
    return next((split for split, folder in splits if name.startswith(f"{folder}/")), name.partition("/")[0])


def pack(folder: SentFolder, cache: Path, *, have: Collection[str] = ()) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each shard that has not been sent yet: the same bytes for the same photos.

    have: names of the shards that have been sent. Raises DataError if a photo has changed since the scan.
    """
    root = Path(folder.root)
    files = _files(root, cache)
    changed = f"The photos in {root} changed while they were being sent"
    if _digest(files) != folder.digest:
        raise DataError(f"{changed}.\nTry: the same command again, while nothing writes there")
    for number, shard in enumerate(_shards(files)):
        if shard_name(number) in have:
            continue
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for file in shard:
                try:
                    content = (root / file.name).read_bytes()
                except OSError as error:
                    raise DataError(f"{changed}: {file.name} cannot be read ({error.strerror}).") from error
                if hashlib.sha256(content).hexdigest() != file.sha256:
                    raise DataError(f"{changed}: {file.name}.\nTry: the same command again, while nothing writes there")
                entry = tarfile.TarInfo(file.name)
                entry.size, entry.mtime, entry.mode = len(content), 0, 0o644
                archive.addfile(entry, io.BytesIO(content))
        yield shard_name(number), buffer.getvalue()


def digests_folder() -> Path:
    """Return the library's own folder for digests."""
    return cache_folder() / "digests"


def of_photos(photos: SentFolder | None, data: Mapping[str, Any]) -> dict[str, Any]:
    """Describe which photos a run uses, as far as its settings say. data: the config node."""
    if photos is not None:
        return {"digest": photos.digest}
    return {"source": data["source"]} if data.get("source") else {"root": str(data["root"]).rstrip("/")}


def features_key(photos: SentFolder | None, data: Mapping[str, Any]) -> str:
    """Return the key under which features of these photos are stored.

    Different photos may share one, because each row of features is identified by its photo.
    """
    if photos is not None:
        return photos.digest
    return hashlib.sha256(json.dumps(of_photos(photos, data), sort_keys=True).encode()).hexdigest()[:32]


def shard_name(number: int) -> str:
    return f"{number:05d}.tar"


def _digest(files: list[_File]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.sha256}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _shards(files: list[_File]) -> Iterator[list[_File]]:
    """Divide files, in order of their names, into shards of a little over SHARD_BYTES."""
    shard: list[_File] = []
    size = 0
    for file in files:
        shard.append(file)
        size += file.size
        if size >= SHARD_BYTES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _files(root: Path, cache: Path) -> list[_File]:
    """List the files of a folder, sorted by name. A file of unchanged size and date is not read again."""
    known_file = cache / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]}.json"
    try:
        known = {name: _File(name, *rest) for name, rest in json.loads(known_file.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        known = {}

    def inspect(path: Path) -> _File | None:
        name = path.relative_to(root).as_posix()
        try:
            stat = path.stat()
            before = known.get(name)
            if before and (before.size, before.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                return before
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None  # just removed; the changed number of files reveals it
        return _File(name, stat.st_size, stat.st_mtime_ns, digest)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = [file for file in pool.map(inspect, _paths(root)) if file is not None]
    fields = {file.name: (file.size, file.mtime_ns, file.sha256) for file in found}
    if fields != {name: (file.size, file.mtime_ns, file.sha256) for name, file in known.items()}:
        known_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(known_file, fields)
    return found


def _paths(root: Path) -> list[Path]:
    """List the files of a folder, following links, but none to a folder that it is in: that would never end."""
    found, to_read = [], [(root, frozenset[tuple[int, int]]())]
    while to_read:
        folder, above = to_read.pop()
        try:
            identity = folder.stat()
            entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
        except OSError:
            continue
        here = (identity.st_dev, identity.st_ino)
        if here not in above:
            found += [path for path in entries if path.is_file()]
            to_read += [(path, above | {here}) for path in entries if path.is_dir()]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())
