"""Maintain the feature stores on this machine: list them, find leftovers, remove what is no longer needed.

Needs neither torch nor lightning.
"""

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dogbreed.features.claims import is_held, mutex
from dogbreed.features.shards import SHARD_NAME
from dogbreed.features.store import stores_folder
from dogbreed.run_folder import storage_error

_STORE_NAME = re.compile(r"([A-Za-z0-9._-]+-)?[0-9a-f]{16}")
_TRASH = ".removed-"


def store_paths(folder: Path | None = None) -> list[Path]:
    """Return the folders of all stores, damaged ones included, sorted by name."""
    try:
        entries = sorted((folder or stores_folder()).iterdir())
    except FileNotFoundError:
        return []
    return [path for path in entries if _STORE_NAME.fullmatch(path.name) and path.is_dir()]


def last_used(path: Path) -> float:
    """Return when rows of this store were last read or written, in seconds since 1970."""
    for name in ("used", "recipe.json", "."):
        with suppress(OSError):
            return (path / name).stat().st_mtime
    return 0.0


def in_use(path: Path) -> bool:
    """Return whether a live process builds or reads the store in this folder; True if locks do not work here."""
    return any(is_held(lock, unsure=True) for lock in (path / "claims").glob("*.lock"))


def leftovers(path: Path) -> list[Path]:
    """Return the files that interrupted processes left in a store's folder, and damaged shards that were set aside.

    Call it only for a store that is not `in_use`: otherwise some of these files are still being written.
    """
    found = [*path.glob(".*.tmp-*"), *(path / "claims").glob("[!m]*"), *(path / "claims").glob(".*.tmp-*")]
    shards = path / "shards"
    for file in shards.iterdir() if shards.is_dir() else ():
        whole = SHARD_NAME.fullmatch(file.stem) and file.suffix in (".npy", ".json")
        if not (whole and file.with_suffix(".json").exists()):
            found.append(file)
    return sorted(set(found))


def remove_leftovers(path: Path) -> bool:
    """Delete the leftovers in a store's folder; return False if it is in use. Raises StorageError."""
    with unused(path) as free:
        for file in leftovers(path) if free else ():
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise storage_error(file, error) from error
        return free


def half_removed(folder: Path | None = None) -> list[Path]:
    """Return the folders of stores whose removal was interrupted."""
    return sorted((folder or stores_folder()).glob(f"{_TRASH}*"))


def remove(path: Path) -> bool:
    """Delete the store in this folder; return False if it is in use. Raises StorageError."""
    with unused(path) as free:
        if not free:
            return False
        trash = path.with_name(f"{_TRASH}{path.name}-{secrets.token_hex(4)}")
        try:
            path.rename(trash)  # it disappears for all processes at once
            shutil.rmtree(trash)
        except FileNotFoundError:  # another process is removing it
            pass
        except OSError as error:
            raise storage_error(path, error) from error
        return True


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Yield whether the store in this folder is unused; no process can start using it within this context."""
    with mutex(path / "claims"):
        yield not in_use(path)


def folder_bytes(path: Path) -> int:
    """Return the total size of all files in a folder."""
    total = 0
    for file in path.rglob("*"):
        with suppress(OSError):
            total += file.lstat().st_size
    return total
