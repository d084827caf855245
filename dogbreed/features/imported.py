"""Shards that other machines have computed, copied from a place that can only be read and may be a stream.

`DOGBREED_FEATURES_FROM` names such places as PATH names its own; each is a folder of stores, as `stores_folder()` is
one. What a store takes from there lies in the cache, apart from what it computes itself: the one is known elsewhere
already, the other is yet to be kept.
"""

import hashlib
import json
import logging
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from dogbreed.features.claims import mutex
from dogbreed.features.shards import SHARD_NAME, write_file
from dogbreed.photos import cache_folder

log = logging.getLogger("dogbreed")

_PLACES = "DOGBREED_FEATURES_FROM"


def bring(name: str, have: Collection[str]) -> Path | None:
    """Return the folder of shards that the store of this name has from elsewhere, with what is new; None where the
    environment names no such place. have: the shards that it has itself.

    Only files of this store are read. A shard whose checksum differs, or that is not whole, is passed over. Raises
    StorageError where there is no room.
    """
    places = [place for place in os.environ.get(_PLACES, "").split(os.pathsep) if place]
    if not places:
        return None
    target = cache_folder() / "brought" / name
    found: list[Path] = []
    for place in places:
        with suppress(OSError):  # nothing of this store is there
            files = sorted((Path(place) / name / "shards").glob("*.json"))
            found += [path for path in files if SHARD_NAME.fullmatch(path.stem)]
    if not found:
        return target
    with mutex(target):  # of several processes one copies
        rows = 0
        for index in found:
            if index.stem not in have and not (target / index.name).exists():
                rows += _copy(index, target)
    if rows:
        log.info("Features: %s views were computed by earlier runs and are taken from there", f"{rows:,}")
    return target


def _copy(index: Path, target: Path) -> int:
    """How many rows have come: none of a damaged shard."""
    data = index.with_suffix(".npy")
    try:
        text = index.read_bytes()
        about, content = json.loads(text), data.read_bytes()
        rows, checksum = len(about["rows"]), about["checksum"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s cannot be read (%s) ; skipped, its rows are computed again.", index, error)
        return 0
    if hashlib.blake2b(content, digest_size=16).hexdigest() != checksum:
        log.warning("%s is damaged (its checksum differs) ; skipped, its rows are computed again.", data)
        return 0
    target.mkdir(parents=True, exist_ok=True)
    write_file(target / data.name, [content], sync=False)
    write_file(target / index.name, [text], sync=False)
    return rows
