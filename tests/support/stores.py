"""Feature stores filled with rows that can be told apart."""

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dogbreed.features import shards
from dogbreed.features.store import FeatureStore, Recipe, RowKey

RECIPE = Recipe({"backbone": "resnet50", "weights": "0123", "image_px": 224, "scale": [0.35, 1.0], "crop": None}, (4,))


def keys(count: int, views: int = 1) -> list[RowKey]:
    return [(f"{n:032x}", view) for n in range(count) for view in range(views)]


def values(rows: Sequence[RowKey], recipe: Recipe = RECIPE) -> NDArray[Any]:
    """Numbers that tell which row they belong to."""
    size = int(np.prod(recipe.shape))
    made = [[(int(digest, 16) * 31 + view * 7 + n) % 60_000 for n in range(size)] for digest, view in rows]
    return np.array(made, recipe.array_dtype).reshape(len(rows), *recipe.shape)


def fill(store: FeatureStore, rows: Sequence[RowKey]) -> FeatureStore:
    for claim in store.claim(rows):
        claim.write(values(claim.rows, store.recipe))
    return store


def assert_holds(store: FeatureStore, rows: Sequence[RowKey]) -> None:
    assert store.missing(rows) == []
    np.testing.assert_array_equal(store.read(rows).take(np.arange(len(rows))), values(rows, store.recipe))


def data_files(store: FeatureStore) -> list[Path]:
    return sorted((store.path / "shards").glob("*.npy"))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 4)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Met like a full disk: the write fails half way."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
