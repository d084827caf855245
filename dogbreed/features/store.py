"""Rows of numbers that are dear to compute, kept on disk and known by what they were computed from.

A store is a folder, named after the digest of its recipe:

    recipe.json            everything that changes the numbers
    used                   its date: when the rows were last asked for
    shards/S.npy           up to 256 rows: header, numbers, seal
    shards/S.json          whose rows these are, and a checksum of the .npy file
    claims/                who computes what at the moment

The data file is written first, then its index, each under another name until it is whole: a shard is there once its
index is. So a crash at any moment leaves a store that reads right. Files are never changed once they have their name.

The seal at a data file's end is a digest of the recipe and of the index's rows. With it a data file that was swapped,
or an index that was changed, is noticed when the shard is first looked at, without reading the numbers. Flipped bits
in the numbers are found by `damages` alone, which reads everything.

Needs neither torch nor lightning.
"""

import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

import numpy as np
from numpy.typing import NDArray

from dogbreed.errors import CacheError, StorageError
from dogbreed.features.locks import FileLock
from dogbreed.photos import cache_folder
from dogbreed.run_folder import storage_error

log = logging.getLogger("dogbreed")

RowKey = tuple[str, int]
"""A photo's digest, and which view of it this is (0 where there is one)."""

SHARD_BYTES = 64 * 2**20
SHARD_ROWS = 256
# NumPy has no bfloat16: its bits are kept, torch reads them with .view(torch.bfloat16)
_ON_DISK = {"float32": "<f4", "bfloat16": "<u2"}
_LAYOUT = 1
_SEAL_BYTES = 16
_PIECE_BYTES = 8 * 2**20
_MUTEX_TIMEOUT_S = 10.0  # it is held for milliseconds; who waits longer goes on without sharing the work
_SHARD_NAME = re.compile(r"[0-9a-f]{32}")
_STORE_NAME = re.compile(r"([A-Za-z0-9._-]+-)?[0-9a-f]{16}")
_TRASH = ".removed-"
_SEE_LIST = "Try: python -m dogbreed.features list"


@dataclass(frozen=True)
class Recipe:
    """What rows were computed from and with, photos and views aside.

    fields: everything that changes the numbers: weights, preprocessing, engine, versions... Values are what JSON has,
    and a float is another value than an int. shape: of one row. dtype: "float32", or "bfloat16", whose bits are kept
    as uint16.
    """

    fields: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in _ON_DISK:
            raise ValueError(f"dtype is {self.dtype!r}, not one of {', '.join(_ON_DISK)}")
        if not all(isinstance(n, int) and n > 0 for n in self.shape):
            raise ValueError(f"shape is {self.shape}; each of its numbers must be an int above 0")
        if not all(isinstance(name, str) for name in self.fields):
            raise TypeError("the names of fields must be text")
        # a copy, of plain lists and dicts, that nobody else can change
        object.__setattr__(self, "fields", json.loads(json.dumps(dict(self.fields), allow_nan=False)))
        object.__setattr__(self, "shape", tuple(self.shape))

    def as_dict(self) -> dict[str, Any]:
        return {"layout": _LAYOUT, "fields": self.fields, "shape": list(self.shape), "dtype": self.dtype}

    @cached_property
    def digest(self) -> str:
        """16 hex digits. Equal for equal recipes, whatever the order of their fields."""
        return _hash(_canonical(self.as_dict())).hexdigest()[:16]

    @property
    def array_dtype(self) -> np.dtype[Any]:
        """float32, or uint16 for bfloat16."""
        return np.dtype(_ON_DISK[self.dtype])

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.array_dtype.itemsize

    @property
    def shard_rows(self) -> int:
        """The most rows in one shard, and in one claim."""
        return max(1, min(SHARD_ROWS, SHARD_BYTES // self.row_bytes))


class FeatureStore:
    """The rows of one recipe. May be used by several processes and threads at once, some writing and some reading.

    name: for people, the folder begins with it. folder: that of all stores; by default features/ in
    `dogbreed.photos.cache_folder()`. Creates what is missing.

    Raises CacheError where the folder is there and holds another recipe or a damaged one, and StorageError where it
    cannot be made.
    """

    def __init__(self, recipe: Recipe, name: str = "", folder: Path | None = None) -> None:
        self.recipe = recipe
        label = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:48]
        self.path = (folder or stores_folder()) / "-".join(filter(None, (label, recipe.digest)))
        self._lock = threading.RLock()
        self._shards: dict[str, _Shard] = {}
        self._places: dict[RowKey, tuple[str, int]] = {}  # shard and place in it
        self._claims = _Claims(self.path / "claims")
        self._create()

    @classmethod
    def at(cls, path: Path) -> "FeatureStore":
        """The store in this folder. Raises CacheError where there is none, or its recipe is damaged."""
        recipe = _read_recipe(path)
        if recipe is None:
            raise CacheError(f"{path} is no store of features: it has no recipe.json.\n{_SEE_LIST}")
        if not path.name.endswith(recipe.digest):
            raise _wrong_recipe(path, "is that of another store")
        store = cls.__new__(cls)
        store.recipe, store.path = recipe, path
        store._lock, store._shards, store._places = threading.RLock(), {}, {}
        store._claims = _Claims(path / "claims")
        return store

    def rows(self) -> list[RowKey]:
        """All rows that are there."""
        with self._lock:
            self._refresh()
            return list(self._places)

    def missing(self, rows: Sequence[RowKey]) -> list[RowKey]:
        """Those of `rows` that are not there, in the given order, each once. Looks at the disk afresh."""
        wanted = _distinct(rows)
        with self._lock:
            self._refresh()
            return [row for row in wanted if row not in self._places]

    def claim(self, rows: Sequence[RowKey]) -> Iterator["Claim"]:
        """Missing rows to compute now, at most `recipe.shard_rows` at a time and in the given order.

        Rows that another process has claimed and not yet written are passed over, and so are those of a claim from
        here that is still open; a process that ends frees its claims, however it ends. So processes that are given
        the same rows, or some of the same, in any order, share them. Several claims may be open at once.

        When the iteration is over, every row is there or claimed by somebody: look at `missing`, wait, claim again.
        Where the file system has no locks nobody knows of the others: work is done twice, and the rows are right.
        """
        self._create()
        left = _distinct(rows)

        def next_free(claimed: Collection[RowKey]) -> list[RowKey]:
            nonlocal left
            left = self.missing(left)
            free = (row for row in left if row not in claimed)
            return [row for _, row in zip(range(self.recipe.shard_rows), free, strict=False)]

        while chunk := self._claims.take(next_free):
            yield Claim(self, tuple(chunk))

    def read(self, rows: Sequence[RowKey]) -> "Features":
        """The rows in the given order (a row may come more than once), mapped and not yet read.

        Raises CacheError if any is missing.
        """
        self._claims.join()  # from here on `prune` leaves the store alone
        with self._lock:
            if missing := self.missing(rows):
                digest, view = missing[0]
                raise CacheError(
                    f"{len(missing):,} of {len(set(rows)):,} rows are not in {self.path} (first: view {view} of photo "
                    f"{digest}).\nTry: start the run again, it computes what is missing"
                )
            with suppress(OSError):  # a store that is read only
                (self.path / "used").touch()
            places = [self._places[row] for row in rows]
            names = sorted({name for name, _ in places})
            number = {name: n for n, name in enumerate(names)}
            return Features(
                self.recipe,
                [(self.path / "shards" / f"{name}.npy", len(self._shards[name].rows)) for name in names],
                np.array([number[name] for name, _ in places], dtype=np.int32),
                np.array([place for _, place in places], dtype=np.int64),
                self._claims,
            )

    def close(self) -> None:
        """Let go of all claims. What was read stays readable."""
        self._claims.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r})"

    # --- for looking after it: python -m dogbreed.features ---

    @property
    def nbytes(self) -> int:
        """On disk, all that lies in its folder."""
        return _folder_bytes(self.path)

    @property
    def last_used(self) -> float:
        """Seconds since 1970: when rows were last read or written."""
        return last_used(self.path)

    def damages(self) -> Iterator[tuple[str, str]]:
        """Read everything; yield the name of each shard, and what is wrong with it, "" where nothing is."""
        for name in sorted(self._listed()):
            try:
                self._check_sum(self._check(name))
            except _Damaged as damage:
                yield name, str(damage)
            except FileNotFoundError:  # removed meanwhile
                continue
            else:
                yield name, ""

    def discard(self, name: str) -> None:
        """Remove a shard; its rows are missing from then on. Raises StorageError."""
        index = self.path / "shards" / f"{name}.json"
        try:
            index.unlink(missing_ok=True)  # first: from now on nobody looks for the data
            index.with_suffix(".npy").unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(index, error) from error

    # --- inside ---

    def _create(self) -> None:
        try:
            for folder in ("shards", "claims"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not (self.path / "recipe.json").exists():  # else it is there to be read, and cannot be written
                raise storage_error(self.path, error) from error
        there = _read_recipe(self.path)
        if there is None:
            content = json.dumps(self.recipe.as_dict(), indent=2).encode() + b"\n"
            _write_file(self.path / "recipe.json", [content])
        elif there.digest != self.recipe.digest or _canonical(there.as_dict()) != _canonical(self.recipe.as_dict()):
            raise _wrong_recipe(self.path, "is not the recipe that its folder is named after")

    def _listed(self) -> dict[str, tuple[Any, ...]]:
        """The shards that have an index, each with what changes when its files do."""
        seen: dict[str, dict[str, tuple[int, ...]]] = {}
        try:
            with os.scandir(self.path / "shards") as entries:
                for entry in entries:
                    name, _, suffix = entry.name.partition(".")
                    if suffix in ("npy", "json") and _SHARD_NAME.fullmatch(name):
                        with suppress(FileNotFoundError):
                            stat = entry.stat()
                            state = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
                            seen.setdefault(name, {})[suffix] = state
        except FileNotFoundError:
            return {}
        return {name: (files["json"], files.get("npy")) for name, files in seen.items() if "json" in files}

    def _refresh(self) -> None:
        listed = self._listed()
        known = {name: shard for name, shard in self._shards.items() if shard.state == listed.get(name)}
        changed = len(known) < len(self._shards)
        fresh = []
        for name in sorted(listed.keys() - known.keys()):
            try:
                shard = self._check(name, listed[name])
            except FileNotFoundError:  # removed since it was listed
                continue
            except _Damaged as damage:
                self._set_aside(name, str(damage))
                continue
            known[name] = shard
            fresh.append(name)
        self._shards = known
        if changed:
            self._places, fresh = {}, list(known)
        for name in fresh:
            for place, row in enumerate(known[name].rows):
                self._places[row] = (name, place)

    def _set_aside(self, name: str, damage: str) -> None:
        data = self.path / "shards" / f"{name}.npy"
        log.warning("%s is damaged (%s) and passed over; its rows are computed again.", data, damage)
        with suppress(OSError):  # where it cannot be renamed it is passed over every time
            data.with_suffix(".json").replace(data.with_suffix(".damaged"))  # `prune` removes it

    def _check(self, name: str, state: tuple[Any, ...] = ()) -> "_Shard":
        """Whether index and data belong together and to this recipe; the numbers are not read."""
        data = self.path / "shards" / f"{name}.npy"
        try:
            index = json.loads(data.with_suffix(".json").read_bytes())
            rows = tuple((str(digest), int(view)) for digest, view in index["rows"])
            checksum = str(index["checksum"])
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise _Damaged("its index cannot be read") from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _Damaged(f"its index cannot be read: {error.strerror}") from error
        header = _header(len(rows), self.recipe)
        size = len(header) + len(rows) * self.recipe.row_bytes + _SEAL_BYTES
        try:
            with data.open("rb") as file:
                seen = os.fstat(file.fileno()).st_size
                if seen != size:
                    raise _Damaged(f"{seen:,} bytes where {size:,} are due")
                start = file.read(len(header))
                file.seek(-_SEAL_BYTES, os.SEEK_END)
                end = file.read()
        except FileNotFoundError:
            raise _Damaged("its data are missing") from None
        except OSError as error:
            raise _Damaged(f"its data cannot be read: {error.strerror}") from error
        if start != header:
            raise _Damaged("its header is garbled")
        if end != _seal(self.recipe, rows):
            raise _Damaged("its index and its data do not belong together")
        return _Shard(name, rows, checksum, state)

    def _check_sum(self, shard: "_Shard") -> None:
        digest = _hash()
        try:
            with (self.path / "shards" / f"{shard.name}.npy").open("rb") as file:
                while piece := file.read(_PIECE_BYTES):
                    digest.update(piece)
        except OSError as error:
            raise _Damaged(f"its data cannot be read: {error.strerror}") from error
        if digest.hexdigest() != shard.checksum:
            raise _Damaged("its checksum differs")

    def _write(self, rows: tuple[RowKey, ...], array: NDArray[Any]) -> None:
        shape, dtype = (len(rows), *self.recipe.shape), self.recipe.array_dtype
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"rows must be {dtype.name} {list(shape)}, not {array.dtype.name} {list(array.shape)}")
        numbers = np.ascontiguousarray(array).data.cast("B")
        seal = _seal(self.recipe, rows)
        digest = _hash()

        def pieces() -> Iterator[bytes | memoryview]:
            """Small ones: no second copy of the numbers in memory."""
            yield _header(len(rows), self.recipe)
            for start in range(0, len(numbers), _PIECE_BYTES):
                yield numbers[start : start + _PIECE_BYTES]
            yield seal

        # never a name that somebody else writes, too: their data with our checksum would look damaged
        data = self.path / "shards" / f"{seal.hex()[:16]}{secrets.token_hex(8)}.npy"
        self._create()
        _write_file(data, pieces(), digest)
        index = {"rows": rows, "checksum": digest.hexdigest()}
        try:
            _write_file(data.with_suffix(".json"), [json.dumps(index).encode()])
        except StorageError:
            data.unlink(missing_ok=True)
            raise
        with suppress(OSError):
            (self.path / "used").touch()


class Claim:
    """Rows that nobody else computes as long as this is open. Leaving it as a context closes it."""

    def __init__(self, store: FeatureStore, rows: tuple[RowKey, ...]) -> None:
        self._store = store
        self.rows = rows
        self._open = True

    def write(self, array: NDArray[Any]) -> None:
        """Keep [len(rows), *recipe.shape] of recipe.array_dtype, and release.

        Raises ValueError for another shape or dtype, StorageError where the disk is full; nothing is kept then.
        """
        try:
            self._store._write(self.rows, array)
        finally:
            self.release()

    def release(self) -> None:
        """Others may compute what was not written. Does nothing the second time."""
        if self._open:
            self._open = False
            self._store._claims.release(self.rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class Features:
    """Rows of a store, in the order in which they were asked for. Made by `FeatureStore.read`.

    May be pickled: the receiver maps the files itself. Raises CacheError where a file is gone by then.
    """

    def __init__(
        self,
        recipe: Recipe,
        shards: Sequence[tuple[Path, int]],
        shard_of: NDArray[np.int32],
        place_of: NDArray[np.int64],
        in_use: object = None,
    ) -> None:
        self.recipe = recipe
        self._shards = shards  # path, rows
        self._shard_of = shard_of
        self._place_of = place_of
        self._in_use = in_use  # alive as long as this is, so that `prune` leaves the files alone
        self._array: NDArray[Any] | None = None
        self._lock = threading.Lock()
        self._maps: dict[int, NDArray[Any]] = {}  # the one used last comes last
        self._most_maps = _most_maps()
        for number in range(min(len(shards), self._most_maps)):
            self._mapped(number)

    def __len__(self) -> int:
        return len(self._place_of)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return self.recipe.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the arrays: float32, or uint16 for the bits of bfloat16."""
        return self.recipe.array_dtype

    @property
    def nbytes(self) -> int:
        """In memory, once loaded."""
        return len(self) * self.recipe.row_bytes

    @property
    def array(self) -> NDArray[Any] | None:
        """All rows, [len(self), *shape], where they are held in memory: the array itself, not to be changed."""
        return self._array

    def take(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """The rows at `indices` (int [N], 0 to len(self) - 1, in any order) as a new array [N, *shape].

        Raises IndexError for an index out of range, CacheError where a file is gone.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"indices must be 0 to {len(self) - 1}, not {indices.min()} to {indices.max()}")
        if self._array is not None:
            return self._array[indices]
        taken = np.empty((len(indices), *self.shape), self.dtype)
        shards, places = self._shard_of[indices], self._place_of[indices]
        order = np.lexsort((places, shards))  # each file from its beginning to its end
        first_of_shard = np.flatnonzero(np.diff(shards[order], prepend=-1))
        for part in np.split(order, first_of_shard[1:]) if len(order) else ():
            taken[part] = self._mapped(int(shards[part[0]]))[places[part]]
        return taken

    def load(self) -> "Features":
        """The same rows, held in memory as one array of `nbytes`."""
        if self._array is not None:
            return self
        loaded = Features(self.recipe, (), self._shard_of, self._place_of)
        loaded._array = self.take(np.arange(len(self)))
        return loaded

    def _mapped(self, number: int) -> NDArray[Any]:
        """A map keeps a file open, and there may be more shards than files that may be open."""
        with self._lock:
            array = self._maps.pop(number, None)
            if array is None:
                while len(self._maps) >= self._most_maps:
                    del self._maps[next(iter(self._maps))]
                array = _map(*self._shards[number], self.recipe)
            self._maps[number] = array
            return array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_maps": {}, "_in_use": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def stores_folder() -> Path:
    return cache_folder() / "features"


def store_paths(folder: Path | None = None) -> list[Path]:
    """The folders of all stores, damaged ones included, sorted by name."""
    try:
        entries = sorted((folder or stores_folder()).iterdir())
    except FileNotFoundError:
        return []
    return [path for path in entries if _STORE_NAME.fullmatch(path.name) and path.is_dir()]


def last_used(path: Path) -> float:
    """Seconds since 1970: when rows of the store in this folder were last read or written."""
    for name in ("used", "recipe.json", "."):
        with suppress(OSError):
            return (path / name).stat().st_mtime
    return 0.0


def in_use(path: Path) -> bool:
    """Whether a live process builds or reads the store in this folder; True where that cannot be told."""
    return any(_is_held(lock, unsure=True) for lock in (path / "claims").glob("*.lock"))


def leftovers(path: Path) -> list[Path]:
    """What interrupted processes have left in a store's folder, and shards that were set aside.

    Of a store that is not `in_use`; else some of it is being written.
    """
    found = [*path.glob(".*.tmp-*"), *(path / "claims").glob("[!m]*"), *(path / "claims").glob(".*.tmp-*")]
    shards = path / "shards"
    for file in shards.iterdir() if shards.is_dir() else ():
        whole = _SHARD_NAME.fullmatch(file.stem) and file.suffix in (".npy", ".json")
        if not (whole and file.with_suffix(".json").exists()):
            found.append(file)
    return sorted(set(found))


def half_removed(folder: Path | None = None) -> list[Path]:
    """Folders of stores whose removal was interrupted."""
    return sorted((folder or stores_folder()).glob(f"{_TRASH}*"))


def remove(path: Path) -> bool:
    """Delete the store in this folder; False where it is in use. Raises StorageError."""
    with unused(path) as free:
        if not free:
            return False
        trash = path.with_name(f"{_TRASH}{path.name}-{secrets.token_hex(4)}")
        try:
            path.rename(trash)  # gone at once for everybody
            shutil.rmtree(trash)
        except OSError as error:
            raise storage_error(path, error) from error
        return True


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Whether nobody uses the store in this folder; in here nobody begins to."""
    with _mutex(path / "claims"):
        yield not in_use(path)


class _Damaged(Exception):  # noqa: N818 (a finding)
    """A shard is no use; the text says why."""


@dataclass(frozen=True)
class _Shard:
    name: str
    rows: tuple[RowKey, ...]
    checksum: str
    state: tuple[Any, ...]  # of its files when they were checked


class _Claims:
    """Who computes which rows of a store.

    Everyone holds a lock on a file of their own, as long as they use the store, and beside it lists what they have
    claimed. A lock that can be had belongs to nobody any more, and then the list counts for nothing. All this may
    fail, where there are no locks or nothing can be written: then nobody knows of the others, and each does it all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._held: set[RowKey] = set()
        self._mine: FileLock | None = None
        self._process = 0
        self._leave: Callable[[], object] = lambda: None

    def take(self, choose: Callable[[Collection[RowKey]], list[RowKey]]) -> list[RowKey]:
        """What `choose` makes of the rows that are claimed by now."""
        with self._lock, _mutex(self._folder):
            self.join()
            # claims before the disk: a row that is written in between is seen there
            chunk = choose(self._held | self._of_others())
            self._held.update(chunk)
            self._record()
            return chunk

    def release(self, rows: Iterable[RowKey]) -> None:
        with self._lock:
            self._held.difference_update(rows)
            self._record()

    def join(self) -> None:
        """Be known to others as a user of the store."""
        with self._lock:
            if self._mine and self._process == os.getpid():
                return
            if self._process != os.getpid():
                self._held.clear()  # those of the process that this one was forked from
            self._process, self._mine = os.getpid(), None
            lock = FileLock(self._folder / f"{secrets.token_hex(8)}.lock")
            try:
                if lock.acquire(1.0):
                    self._mine = lock
                    self._leave = weakref.finalize(self, _withdraw, lock, os.getpid())
            except OSError as error:
                log.debug("Work on %s is not shared with other processes: %s", self._folder.parent, error)

    def leave(self) -> None:
        with self._lock:
            self._leave()
            self._held.clear()
            self._mine = None

    def _record(self) -> None:
        if self._mine and self._process == os.getpid():
            try:
                _write_file(self._mine.path.with_suffix(".json"), [json.dumps(sorted(self._held)).encode()], sync=False)
            except StorageError as error:  # others may do our work twice, no more
                log.debug("%s", error)

    def _of_others(self) -> set[RowKey]:
        claimed: set[RowKey] = set()
        for lock in self._folder.glob("*.lock"):
            if self._mine and lock == self._mine.path:
                continue
            if _is_held(lock, delete=True):
                with suppress(OSError, ValueError, TypeError):
                    claimed |= {(digest, view) for digest, view in json.loads(lock.with_suffix(".json").read_bytes())}
        return claimed


def _withdraw(lock: FileLock, process: int) -> None:
    if process == os.getpid():  # not in a child made by fork
        with suppress(OSError):
            lock.path.with_suffix(".json").unlink(missing_ok=True)
        lock.release(delete=True)


def _is_held(path: Path, *, unsure: bool = False, delete: bool = False) -> bool:
    """delete: what its dead holder left goes. unsure: the answer where it cannot be told."""
    lock = FileLock(path)
    try:
        if not lock.acquire():
            return True
        if delete:
            path.with_suffix(".json").unlink(missing_ok=True)
    except OSError:
        return unsure
    finally:
        lock.release(delete=delete)
    return False


@contextmanager
def _mutex(folder: Path) -> Iterator[None]:
    """One at a time, except where there are no locks, or its holder sleeps."""
    lock = FileLock(folder / "mutex")
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(_MUTEX_TIMEOUT_S)
    try:
        yield
    finally:
        lock.release()


def _distinct(rows: Iterable[RowKey]) -> list[RowKey]:
    distinct = list(dict.fromkeys(rows))
    if not all(digest for digest, _ in distinct):
        raise ValueError("a row needs the digest of its photo: all photos without one would be the same")
    return distinct


def _read_recipe(path: Path) -> Recipe | None:
    """None where there is none."""
    try:
        found = json.loads((path / "recipe.json").read_bytes())
        recipe = Recipe(found["fields"], tuple(found["shape"]), found["dtype"])
        if found != recipe.as_dict():
            raise ValueError("it has other entries")
        return recipe
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _wrong_recipe(path, f"cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _wrong_recipe(path, "is damaged") from error


def _wrong_recipe(path: Path, seen: str) -> CacheError:
    return CacheError(
        f"{path / 'recipe.json'} {seen}, so its rows cannot be trusted.\n"
        "Try: python -m dogbreed.features verify --repair, which removes this store"
    )


def _header(count: int, recipe: Recipe) -> bytes:
    """Of NumPy's format 1.0, made here so that the same rows have the same bytes with every NumPy.

    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    shape = (count, *recipe.shape)
    text = f"{{'descr': '{_ON_DISK[recipe.dtype]}', 'fortran_order': False, 'shape': {shape!r}, }}"
    length = -(len(text) + 11) % 64 + len(text) + 1  # the numbers begin at a multiple of 64
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.encode().ljust(length - 1) + b"\n"


def _seal(recipe: Recipe, rows: Sequence[RowKey]) -> bytes:
    return _hash(_canonical([recipe.digest, rows])).digest()


def _map(path: Path, count: int, recipe: Recipe) -> NDArray[Any]:
    header = _header(count, recipe)
    try:
        if path.stat().st_size != len(header) + count * recipe.row_bytes + _SEAL_BYTES:
            raise ValueError("it has another size")
        array = np.memmap(path, recipe.array_dtype, "r", len(header), (count, *recipe.shape))
    except (OSError, ValueError) as error:
        raise CacheError(
            f"{path} cannot be read any more: {error}.\nTry: start the run again, it computes what is missing"
        ) from error
    return np.asarray(array)  # the plain class is indexed faster


def _most_maps() -> int:
    if resource is None:
        return 64
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else max(8, soft // 4)


def _write_file(path: Path, pieces: Iterable[bytes | memoryview], digest: Any = None, *, sync: bool = True) -> None:
    """As `dogbreed.run_folder.write_bytes`, piece by piece, and with a name that no other thread uses.

    digest: updated with what is written. sync: the content is on the disk before it has its name. Raises StorageError.
    """
    temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                if digest is not None:
                    digest.update(piece)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)  # a power cut may undo this for some files and not for others: `_check` notices
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise storage_error(path, error) from error
        raise


def _folder_bytes(path: Path) -> int:
    total = 0
    for file in path.rglob("*"):
        with suppress(OSError):
            total += file.lstat().st_size
    return total


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _hash(content: bytes = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(content, digest_size=16)
