"""Import shards that other machines have computed, from a folder that is read-only and may be a stream.

`DOGBREED_FEATURES_FROM` lists such folders, separated as in PATH; each is a folder of stores, like `stores_folder()`.
Imported shards are kept in the cache apart from those computed here: only the latter still have to be uploaded.
"""

import hashlib
import json
import logging
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from dogbreed.cache import cache_folder
from dogbreed.features.claims import mutex
from dogbreed.features.shards import SHARD_NAME, write_file

log = logging.getLogger("dogbreed")

_PLACES = "DOGBREED_FEATURES_FROM"


def bring(name: str, have: Collection[str]) -> Path | None:
    """Copy new shards of this store, and return the folder of its imported shards; None if there are no sources.

    have: the shards that the store computed itself. Reads only files of this store. Skips a shard that is incomplete
    or whose checksum differs. Raises StorageError if the disk is full.
    """
    places = [place for place in os.environ.get(_PLACES, "").split(os.pathsep) if place]
    if not places:
        return None
    target = cache_folder() / "brought" / name
    found: list[Path] = []
    for place in places:
        with suppress(OSError):  # this source has nothing of this store
            files = sorted((Path(place) / name / "shards").glob("*.json"))
            found += [path for path in files if SHARD_NAME.fullmatch(path.stem)]
    if not found:
        return target
    with mutex(target):  # one process copies at a time
        rows = 0
        for index in found:
            if index.stem not in have and not (target / index.name).exists():
                rows += _copy(index, target)
    if rows:
        log.info("Features: imported %s views computed by earlier runs", f"{rows:,}")
    return target


def _copy(index: Path, target: Path) -> int:
    """Copy one shard and return its number of rows; 0 if it is damaged."""
    data = index.with_suffix(".npy")
    try:
        text = index.read_bytes()
        about, content = json.loads(text), data.read_bytes()
        rows, checksum = len(about["rows"]), about["checksum"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s cannot be read (%s); skipped, its rows are recomputed.", index, error)
        return 0
    if hashlib.blake2b(content, digest_size=16).hexdigest() != checksum:
        log.warning("%s is damaged (its checksum differs); skipped, its rows are recomputed.", data)
        return 0
    target.mkdir(parents=True, exist_ok=True)
    write_file(target / data.name, [content], sync=False)
    write_file(target / index.name, [text], sync=False)
    return rows
