"""Compare the prints of a data set's photos, and keep which are alike by the data set's digest."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dogbreed.cache import cache_folder
from dogbreed.errors import CacheError, StorageError
from dogbreed.features import prints
from dogbreed.features.shards import Recipe
from dogbreed.features.store import FeatureStore, stores_folder
from dogbreed.photos import PhotoSet
from dogbreed.run_folder import write_text

log = logging.getLogger("dogbreed")

_NAME = "prints"
Alike = list[tuple[str, str, str]]  # two digests, and how the photos are alike


def store(model: Mapping[str, Any]) -> FeatureStore | None:
    """Open the store of prints, creating it if it is missing; None if the disk refuses. model: its settings."""
    try:
        return FeatureStore(_recipe(model), _NAME)
    except (StorageError, CacheError) as error:
        log.debug("No prints of photos: %s", error)
        return None


def _recipe(model: Mapping[str, Any]) -> Recipe:
    return prints.recipe(model["image_px"], model["crop_pct"], model["interpolation"])


def alike(photos: PhotoSet, model: Mapping[str, Any], *, on_features: bool) -> Alike:
    """Return the pairs of photos that are the same picture, of those whose prints a feature pass has left.

    on_features: whether this run has just made sure of features; another one uses what earlier runs have left.
    Compares once for each data set; the result is cached.
    """
    recipe = _recipe(model)
    if not on_features and not (stores_folder() / f"{_NAME}-{recipe.digest}").exists():
        return []
    printed = store(model)
    if printed is None:
        return []
    digests = sorted({photo.digest for split in photos.splits.values() for photo in split})
    rows = [(digest, 0) for digest in digests]
    lacking = {digest for digest, _ in printed.missing(rows)}
    known = [digest for digest in digests if digest not in lacking]
    key = hashlib.sha256("\n".join([printed.recipe.digest, *known]).encode()).hexdigest()[:32]
    kept = cache_folder() / "copies" / f"{key}.json"
    pairs = _read(kept)
    if pairs is None:
        try:
            found = printed.read([(digest, 0) for digest in known]).take(np.arange(len(known)))
        except CacheError as error:  # removed in the meantime
            log.debug("No prints of photos: %s", error)
            return []
        pairs = prints.alike(found, known)
        try:
            write_text(kept, json.dumps(pairs))
        except (StorageError, OSError) as error:
            log.debug("Cannot cache which photos are alike: %s", error)
    if lacking and on_features:
        log.info(
            "%s of %s photos were compared by their bytes alone: their features come from an earlier version",
            f"{len(lacking):,}",
            f"{len(digests):,}",
        )
    return pairs


def _read(path: Path) -> Alike | None:
    try:
        return [(str(one), str(other), str(how)) for one, other, how in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError):
        return None
