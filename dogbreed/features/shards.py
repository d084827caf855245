"""Read and write the files of a feature store: the recipe that names it, and shards of rows.

A shard is S.npy (header, numbers, seal) and its index S.json (the keys of its rows, and a checksum of the .npy file).
The seal is a digest of the recipe and of the index's rows. It reveals a swapped data file or a changed index without
reading the numbers. Only `check_numbers` detects flipped bits in the numbers.
"""

import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dogbreed.errors import CacheError, StorageError
from dogbreed.run_folder import NOT_SAVED, storage_error

RowKey = tuple[str, int]
"""A photo's digest and the number of its view (0 if there is only one)."""

SHARD_NAME = re.compile(r"[0-9a-f]{32}")
SHARD_BYTES = 64 * 2**20
SHARD_ROWS = 256
# NumPy has no bfloat16: its bits are stored, and torch reads them with .view(torch.bfloat16)
_ON_DISK = {"float32": "<f4", "bfloat16": "<u2"}
_LAYOUT = 1
_SEAL_BYTES = 16
_PIECE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Recipe:
    """Describes how rows were computed, apart from their photos and views.

    fields: everything that changes the numbers: weights, preprocessing, engine, versions... Values are JSON values, and
    a float differs from an int. shape: of one row. dtype: "float32", or "bfloat16", whose bits are stored as uint16.
    """

    fields: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in _ON_DISK:
            raise ValueError(f"dtype must be one of {', '.join(_ON_DISK)}, got {self.dtype!r}")
        if not all(isinstance(n, int) and n > 0 for n in self.shape):
            raise ValueError(f"shape must consist of ints above 0, got {self.shape}")
        if not all(isinstance(name, str) for name in self.fields):
            raise TypeError("the names of fields must be strings")
        # a copy in plain lists and dicts, which no caller can change
        object.__setattr__(self, "fields", json.loads(json.dumps(dict(self.fields), allow_nan=False)))
        object.__setattr__(self, "shape", tuple(self.shape))

    def as_dict(self) -> dict[str, Any]:
        return {"layout": _LAYOUT, "fields": self.fields, "shape": list(self.shape), "dtype": self.dtype}

    @cached_property
    def digest(self) -> str:
        """Return 16 hex digits, equal for equal recipes, whatever the order of their fields."""
        return _hash(self.canonical).hexdigest()[:16]

    @property
    def canonical(self) -> bytes:
        """Return bytes that are equal for equal recipes only."""
        return _canonical(self.as_dict())

    @property
    def array_dtype(self) -> np.dtype[Any]:
        """The data type of the arrays: float32, or uint16 for bfloat16."""
        return np.dtype(_ON_DISK[self.dtype])

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.array_dtype.itemsize

    @property
    def shard_rows(self) -> int:
        """The maximum number of rows in one shard and in one claim."""
        return max(1, min(SHARD_ROWS, SHARD_BYTES // self.row_bytes))


class Damaged(Exception):  # noqa: N818 (a finding)
    """A shard is unusable; the message says why."""


@dataclass(frozen=True)
class Shard:
    """The contents of a shard's index."""

    rows: tuple[RowKey, ...]
    checksum: str


def check(data: Path, recipe: Recipe) -> Shard:
    """Check that the data file and its index belong together and to `recipe`, without reading the numbers.

    Raises Damaged, or FileNotFoundError if there is no index.
    """
    try:
        index = json.loads(data.with_suffix(".json").read_bytes())
        rows = tuple((str(digest), int(view)) for digest, view in index["rows"])
        checksum = str(index["checksum"])
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise Damaged("its index cannot be read") from error
    header = _header(len(rows), recipe)
    size = len(header) + len(rows) * recipe.row_bytes + _SEAL_BYTES
    try:
        with data.open("rb") as file:
            seen = os.fstat(file.fileno()).st_size
            if seen != size:
                raise Damaged(f"it has {seen:,} bytes instead of {size:,}")
            start = file.read(len(header))
            file.seek(-_SEAL_BYTES, os.SEEK_END)
            end = file.read()
    except FileNotFoundError:
        raise Damaged("its data file is missing") from None
    except OSError as error:
        raise Damaged(f"its data cannot be read: {error.strerror}") from error
    if start != header:
        raise Damaged("its header is invalid")
    if end != _seal(recipe, rows):
        raise Damaged("its index and its data do not match")
    return Shard(rows, checksum)


def check_numbers(data: Path, shard: Shard) -> None:
    """Read all of the data file. Raises Damaged if anything in it has changed."""
    digest = _hash()
    try:
        with data.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    except OSError as error:
        raise Damaged(f"its data cannot be read: {error.strerror}") from error
    if digest.hexdigest() != shard.checksum:
        raise Damaged("its checksum differs")


def write_shard(folder: Path, recipe: Recipe, rows: tuple[RowKey, ...], array: NDArray[Any]) -> None:
    """Write `array`, [len(rows), *recipe.shape] of recipe.array_dtype, as a new shard, atomically.

    Raises ValueError for another shape or dtype, and StorageError.
    """
    shape, dtype = (len(rows), *recipe.shape), recipe.array_dtype
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"rows must be {dtype.name} {list(shape)}, not {array.dtype.name} {list(array.shape)}")
    numbers = np.ascontiguousarray(array).data.cast("B")
    seal = _seal(recipe, rows)
    digest = _hash()

    def pieces() -> Iterator[bytes | memoryview]:
        """Yield the file in small pieces, so that memory holds no second copy of the numbers."""
        yield _header(len(rows), recipe)
        for start in range(0, len(numbers), _PIECE_BYTES):
            yield numbers[start : start + _PIECE_BYTES]
        yield seal

    # a unique name: another process's data with our checksum would look damaged
    data = folder / f"{seal.hex()[:16]}{secrets.token_hex(8)}.npy"
    write_file(data, pieces(), digest)
    index = {"rows": rows, "checksum": digest.hexdigest()}
    try:
        write_file(data.with_suffix(".json"), [json.dumps(index).encode()])
    except StorageError:
        with suppress(OSError):
            data.unlink(missing_ok=True)
        raise


def _header(count: int, recipe: Recipe) -> bytes:
    """Return a header of NumPy's format 1.0, built here so that the same rows give the same bytes with every NumPy.

    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    shape = (count, *recipe.shape)
    text = f"{{'descr': '{_ON_DISK[recipe.dtype]}', 'fortran_order': False, 'shape': {shape!r}, }}"
    length = -(len(text) + 11) % 64 + len(text) + 1  # the numbers start at a multiple of 64
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.encode().ljust(length - 1) + b"\n"


def _seal(recipe: Recipe, rows: Sequence[RowKey]) -> bytes:
    return _hash(_canonical([recipe.digest, rows])).digest()


def map_shard(path: Path, count: int, recipe: Recipe) -> NDArray[Any]:
    header = _header(count, recipe)
    try:
        if path.stat().st_size != len(header) + count * recipe.row_bytes + _SEAL_BYTES:
            raise ValueError("its size is wrong")
        array = np.memmap(path, recipe.array_dtype, "r", len(header), (count, *recipe.shape))
    except (OSError, ValueError) as error:
        raise CacheError(
            f"{path} can no longer be read: {error}.\nTry: start the run again; it recomputes what is missing"
        ) from error
    return np.asarray(array)  # indexing a plain ndarray is faster


def write_file(path: Path, pieces: Iterable[bytes | memoryview], digest: Any = None, *, sync: bool = True) -> None:
    """Write a file like `dogbreed.run_folder.write_bytes`, but piece by piece and with a temporary name per thread.

    digest: updated with what is written. sync: sync the content to disk before renaming. Raises StorageError.
    """
    temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}{NOT_SAVED}")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                if digest is not None:
                    digest.update(piece)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)  # a power cut may undo this for some files and not for others: `check` detects that
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise storage_error(path, error) from error
        raise


def read_recipe(path: Path) -> Recipe | None:
    """Read the recipe; return None if the file does not exist. Raises CacheError if it cannot be read."""
    try:
        found = json.loads((path / "recipe.json").read_bytes())
        recipe = Recipe(found["fields"], tuple(found["shape"]), found["dtype"])
        if found != recipe.as_dict():
            raise ValueError("unexpected entries")
        return recipe
    except FileNotFoundError:
        return None
    except OSError as error:
        raise wrong_recipe(path, f"cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise wrong_recipe(path, "is damaged") from error


def wrong_recipe(path: Path, seen: str) -> CacheError:
    return CacheError(
        f"{path / 'recipe.json'} {seen}, so its rows cannot be trusted.\n"
        "Try: python -m dogbreed.features verify --repair, which removes this store"
    )


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _hash(content: bytes = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(content, digest_size=16)
