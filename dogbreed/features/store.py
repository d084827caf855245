"""Cache feature rows on disk, keyed by everything that they were computed from.

A store is a folder, named after the digest of its recipe:

    recipe.json            everything that changes the numbers
    used                   its modification time: when rows were last read
    shards/S.npy           up to 256 rows: header, numbers, seal
    shards/S.json          the keys of its rows, and a checksum of the .npy file
    claims/                which process is computing which rows

The data file is written first, then its index, each under a temporary name until it is complete: a shard exists once
its index does. So a crash at any moment leaves a valid store. Files are never changed once they have their final name.

Missing, truncated, swapped or invalid files are detected when a shard is first opened, and its rows count as missing.
Only `inspect(numbers=True)`, which reads everything, detects flipped bits within the numbers.

Needs neither torch nor lightning.
"""

import itertools
import json
import logging
import os
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dogbreed.cache import cache_folder
from dogbreed.errors import CacheError
from dogbreed.features.claims import Claims
from dogbreed.features.imported import bring
from dogbreed.features.mapped import Features
from dogbreed.features.shards import (
    SHARD_NAME,
    Damaged,
    Recipe,
    RowKey,
    Shard,
    check,
    check_numbers,
    read_recipe,
    write_file,
    write_shard,
    wrong_recipe,
)
from dogbreed.run_folder import storage_error

log = logging.getLogger("dogbreed")

__all__ = ["Claim", "FeatureStore", "Recipe", "RowKey", "stores_folder"]

_State = tuple[tuple[int, ...] | None, ...]


class FeatureStore:
    """The rows of one recipe. Several processes and threads may read and write it at once.

    name: a readable prefix of the folder's name. folder: the folder of all stores, by default `stores_folder()`.
    Creates missing folders. Includes the rows that `dogbreed.features.imported` copies from the store of this name on
    other machines.

    Raises CacheError if the folder exists and holds another recipe or a damaged one, StorageError if it cannot be
    created.
    """

    def __init__(self, recipe: Recipe, name: str = "", folder: Path | None = None) -> None:
        self.recipe = recipe
        label = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:48]
        self.path = (folder or stores_folder()) / "-".join(filter(None, (label, recipe.digest)))
        self._start()
        self._create()
        if brought := bring(self.path.name, self._listed()):
            self._folders.append(brought)

    @classmethod
    def at(cls, path: Path) -> "FeatureStore":
        """Open the store in this folder. Raises CacheError if there is none or its recipe is damaged."""
        recipe = read_recipe(path)
        if recipe is None:
            raise CacheError(
                f"{path} is not a feature store: it has no recipe.json.\nTry: python -m dogbreed.features list"
            )
        if not path.name.endswith(recipe.digest):
            raise wrong_recipe(path, "belongs to another store")
        store = cls.__new__(cls)
        store.recipe, store.path = recipe, path
        store._start()
        return store

    def _start(self) -> None:
        self._lock = threading.RLock()
        self._shards: dict[str, tuple[_State, Shard]] = {}
        self._damaged: dict[str, _State] = {}
        self._places: dict[RowKey, tuple[str, int]] = {}  # shard and place in it
        self._folders = [self.path / "shards"]
        self._folder_of: dict[str, Path] = {}  # by shard, for imported shards
        self._claims = Claims(self.path / "claims")

    def rows(self) -> list[RowKey]:
        """Return the keys of all rows in the store."""
        with self._lock:
            self._refresh()
            return list(self._places)

    def missing(self, rows: Sequence[RowKey]) -> list[RowKey]:
        """Return those of `rows` that are missing, in the given order, each once. Rereads the disk."""
        wanted = _distinct(rows)
        with self._lock:
            self._refresh()
            return [row for row in wanted if row not in self._places]

    def claim(self, rows: Sequence[RowKey]) -> Iterator["Claim"]:
        """Claim missing rows to compute now, at most `recipe.shard_rows` at a time and in the given order.

        Skips rows that any open claim holds, of another process or this one; claims end with their process, however
        it ends. So processes that are given overlapping rows, in any order, share the work. Several claims may be open
        at once.

        When the iteration ends, every row is written or claimed: check `missing`, wait, claim again. If the file system
        has no locks, processes do not see each other's claims: rows are computed twice, but correct.
        """
        self._create()
        left = iter(_distinct(rows))  # each is checked once: there may be a million, and this happens under a lock

        def next_free(claimed: Collection[RowKey]) -> list[RowKey]:
            with self._lock:
                self._refresh()
                free = (row for row in left if row not in self._places and row not in claimed)
                return list(itertools.islice(free, self.recipe.shard_rows))

        while chunk := self._claims.take(next_free):
            yield Claim(self, tuple(chunk))

    def read(self, rows: Sequence[RowKey]) -> Features:
        """Return the rows in the given order (repeats are allowed), memory-mapped and not yet read.

        Raises CacheError if any is missing.
        """
        self._claims.join()  # from here on `prune` does not remove the store
        with self._lock:
            if missing := self.missing(rows):
                digest, view = missing[0]
                raise CacheError(
                    f"{len(missing):,} of {len(set(rows)):,} rows are not in {self.path} (first: view {view} of photo "
                    f"{digest}).\nTry: start the run again; it recomputes what is missing"
                )
            with suppress(OSError):  # the store may be read-only
                (self.path / "used").touch()
            places = [self._places[row] for row in rows]
            names = sorted({name for name, _ in places})
            number = {name: n for n, name in enumerate(names)}
            return Features(
                self.recipe,
                [(self._data(name), len(self._shards[name][1].rows)) for name in names],
                np.array([number[name] for name, _ in places], dtype=np.int32),
                np.array([place for _, place in places], dtype=np.int64),
                self._claims,
            )

    def close(self) -> None:
        """Release all claims. Rows that were read stay readable."""
        self._claims.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r})"

    def inspect(self, *, numbers: bool = False) -> Iterator[tuple[str, tuple[RowKey, ...], str]]:
        """Yield each shard's name, its rows, and what is wrong with it ("" if nothing is). Changes nothing.

        numbers: also read all numbers and compare the checksum.
        """
        for name in sorted(self._listed()):
            data = self._data(name)
            try:
                shard = check(data, self.recipe)
                if numbers:
                    check_numbers(data, shard)
            except Damaged as damage:
                yield name, (), str(damage)
            except FileNotFoundError:  # removed in the meantime
                continue
            else:
                yield name, shard.rows, ""

    def discard(self, name: str) -> None:
        """Remove a shard; its rows then count as missing. Raises StorageError."""
        data = self._data(name)
        try:
            data.with_suffix(".json").unlink(missing_ok=True)  # first: without an index, no process opens the data
            data.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(data, error) from error

    # --- inside ---

    def _create(self) -> None:
        try:
            for folder in ("shards", "claims"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not (self.path / "recipe.json").exists():  # otherwise the store is read-only, which is enough to read it
                raise storage_error(self.path, error) from error
        there = read_recipe(self.path)
        if there is None:
            content = json.dumps(self.recipe.as_dict(), indent=2).encode() + b"\n"
            write_file(self.path / "recipe.json", [content])
        elif there.canonical != self.recipe.canonical:
            raise wrong_recipe(self.path, "does not match its folder's name")

    def _data(self, name: str) -> Path:
        return self._folder_of.get(name, self.path / "shards") / f"{name}.npy"

    def _listed(self) -> dict[str, _State]:
        """Return the shards that have an index, each with a state that changes when its files do."""
        listed: dict[str, _State] = {}
        for folder in self._folders:
            seen: dict[str, dict[str, tuple[int, ...]]] = {}
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    name, _, suffix = entry.name.partition(".")
                    if suffix in ("npy", "json") and SHARD_NAME.fullmatch(name) and name not in listed:
                        with suppress(FileNotFoundError):
                            stat = entry.stat()
                            state = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
                            seen.setdefault(name, {})[suffix] = state
            whole = {name: (files["json"], files.get("npy")) for name, files in seen.items() if "json" in files}
            listed |= whole
            if folder != self._folders[0]:
                self._folder_of |= dict.fromkeys(whole, folder)
        return listed

    def _refresh(self) -> None:
        listed = self._listed()
        known = {name: entry for name, entry in self._shards.items() if entry[0] == listed.get(name)}
        changed = len(known) < len(self._shards)
        fresh = []
        for name in sorted(listed.keys() - known.keys()):
            if self._damaged.get(name) == listed[name]:
                continue
            try:
                known[name] = listed[name], check(self._data(name), self.recipe)
            except FileNotFoundError:  # removed since it was listed
                continue
            except Damaged as damage:
                self._set_aside(name, listed[name], str(damage))
            else:
                fresh.append(name)
        self._shards = known
        if changed:
            self._places, fresh = {}, list(known)
        for name in fresh:
            for place, row in enumerate(known[name][1].rows):
                self._places[row] = (name, place)

    def _set_aside(self, name: str, state: _State, damage: str) -> None:
        data = self._data(name)
        log.warning("%s is damaged (%s); skipped, its rows are recomputed.", data, damage)
        self._damaged[name] = state
        with suppress(OSError):  # the store may be read-only
            data.with_suffix(".json").replace(data.with_suffix(".damaged"))  # `prune` removes it

    def _write(self, rows: tuple[RowKey, ...], array: NDArray[Any]) -> None:
        self._create()  # `prune` may have removed it
        write_shard(self.path / "shards", self.recipe, rows, array)
        with suppress(OSError):
            (self.path / "used").touch()


class Claim:
    """Rows that no other process computes while this claim is open. Use it as a context manager to close it."""

    def __init__(self, store: FeatureStore, rows: tuple[RowKey, ...]) -> None:
        self._store = store
        self.rows = rows
        self._open = True

    def write(self, array: NDArray[Any]) -> None:
        """Write `array`, [len(rows), *recipe.shape] of recipe.array_dtype, and release the claim.

        Raises ValueError for another shape or dtype, StorageError if the disk is full; then nothing is written.
        """
        try:
            self._store._write(self.rows, array)
        finally:
            self.release()

    def release(self) -> None:
        """Let other processes compute what was not written. A second call does nothing."""
        if self._open:
            self._open = False
            self._store._claims.release(self.rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def stores_folder() -> Path:
    """Return the folder of all stores: DOGBREED_FEATURES, or features/ in `dogbreed.cache.cache_folder()`."""
    named = os.environ.get("DOGBREED_FEATURES")
    return Path(named).expanduser() if named else cache_folder() / "features"


def _distinct(rows: Iterable[RowKey]) -> list[RowKey]:
    distinct = list(dict.fromkeys(rows))
    if not all(digest for digest, _ in distinct):
        raise ValueError("a row needs its photo's digest: photos without one would share a row")
    return distinct
