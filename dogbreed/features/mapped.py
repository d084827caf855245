"""Read rows of a feature store, memory-mapped from its files or held in memory. Loads no torch."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

import numpy as np
from numpy.typing import NDArray

from dogbreed.features.shards import Recipe, map_shard


class Features:
    """Rows of a store, in the order in which they were requested. Created by `FeatureStore.read`.

    Can be pickled: the receiver maps the files itself. Raises CacheError if a file is gone by then.
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
        self._in_use = in_use  # kept alive, so that `prune` does not remove the files
        self._array: NDArray[Any] | None = None
        self._lock = threading.Lock()
        self._maps: dict[int, NDArray[Any]] = {}  # the most recently used one is last
        self._most_maps = _most_maps()
        for number in range(min(len(shards), self._most_maps)):
            self._mapped(number)

    def __len__(self) -> int:
        return len(self._place_of)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.recipe.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type of the arrays: float32, or uint16 for the bits of bfloat16."""
        return self.recipe.array_dtype

    @property
    def nbytes(self) -> int:
        """The number of bytes in memory, once loaded."""
        return len(self) * self.recipe.row_bytes

    @property
    def array(self) -> NDArray[Any] | None:
        """All rows, [len(self), *shape], or None if they are not held in memory. This is no copy: do not change it."""
        return self._array

    def take(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows at `indices` (int [N], 0 to len(self) - 1, in any order) as a new array [N, *shape].

        Raises IndexError for an index out of range, CacheError if a file is gone.
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
        """Return the same rows, held in memory as one array of `nbytes`."""
        if self._array is not None:
            return self
        loaded = Features(self.recipe, (), self._shard_of, self._place_of)
        loaded._array = self.take(np.arange(len(self)))
        return loaded

    def _mapped(self, number: int) -> NDArray[Any]:
        """Return the shard's map. Only the last used maps stay open: there may be more shards than file descriptors."""
        with self._lock:
            array = self._maps.pop(number, None)
            if array is None:
                while len(self._maps) >= self._most_maps:
                    del self._maps[next(iter(self._maps))]
                array = map_shard(*self._shards[number], self.recipe)
            self._maps[number] = array
            return array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_maps": {}, "_in_use": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _most_maps() -> int:
    if resource is None:
        return 64
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else max(8, soft // 4)
