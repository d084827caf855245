"""Load batches of cached features, in the same order as DogBreedData loads its photos."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor

from dogbreed.batches import FeatureBatch
from dogbreed.data import DogBreedData, EpochOrder
from dogbreed.distributed import ranks
from dogbreed.features.mapped import Features
from dogbreed.features.store import FeatureStore
from dogbreed.hardware import available_memory_bytes
from dogbreed.scanning.layout import SPLITS

_IN_MEMORY_SHARE = 1 / 8  # of available memory: smaller features are read whole, larger ones stay memory-mapped
_EVALUATED_BYTES = 4 * 2**20  # of features in one batch
_DRAWS_VIEWS = 1  # separates the drawing of views from that of the order, which has the same seed and epoch


class CachedFeatures(LightningDataModule):
    """Serves the batches of DogBreedData as features. Order and views depend on (seed, epoch, index) alone."""

    def __init__(
        self, data: DogBreedData, views: int, stores: Sequence[FeatureStore], splits: Sequence[str] = SPLITS
    ) -> None:
        """stores: one of the center crops and, if views is more than 1, one of the augmented views."""
        super().__init__()
        self.data = data
        self._rows: dict[str, list[Features]] = {}  # by split, then by view
        for split in splits:
            digests = [photo.digest for photo in data.photos.splits[split]]
            self._rows[split] = [
                stores[min(view, 1)].read([(digest, view) for digest in digests])
                for view in range(views if split == "train" else 1)
            ]
        if (
            sum(rows.nbytes for part in self._rows.values() for rows in part)
            < available_memory_bytes() * _IN_MEMORY_SHARE
        ):
            self._rows = {split: [rows.load() for rows in part] for split, part in self._rows.items()}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one photo's features."""
        return next(iter(self._rows.values()))[0].shape

    def train_dataloader(self) -> "FeatureLoader":
        order = EpochOrder(len(self.data.photos.splits["train"]), self.data.global_batch, self.data.seed)
        return self._loader("train", order)

    def val_dataloader(self) -> "FeatureLoader":
        return self.in_order("valid")

    def test_dataloader(self) -> "FeatureLoader":
        return self.in_order("test")

    def in_order(self, split: str) -> "FeatureLoader":
        """Return a loader of all center crops of a split, each once."""
        return self._loader(split)

    def state_dict(self) -> dict[str, Any]:
        return self.data.state_dict()

    def _loader(self, split: str, order: EpochOrder | None = None) -> "FeatureLoader":
        labels = torch.tensor([photo.label for photo in self.data.photos.splits[split]])
        # in evaluation the batch size affects only the speed
        evaluated = max(self.data.batch_size or 1, _EVALUATED_BYTES // self._rows[split][0].recipe.row_bytes)
        return FeatureLoader(self._rows[split], labels, order or evaluated)


class FeatureLoader:
    """Yields batches of features. batches: an EpochOrder for training, or a batch size for all rows in order.

    Several processes divide the rows between them. Can be resumed in the middle of an epoch, like TrainLoader.
    """

    def __init__(self, views: Sequence[Features], labels: Tensor, batches: EpochOrder | int) -> None:
        self.views, self.labels, self._batches = views, labels, batches
        self.sampler = batches if isinstance(batches, EpochOrder) else None  # Lightning sets the epoch on it
        self.batch_sampler = None  # Lightning reads this attribute if there is a sampler
        self.waited_s = 0.0
        self._delivered = 0
        self._to_skip = 0

    def __len__(self) -> int:
        return len(self._batches) if isinstance(self._batches, EpochOrder) else len(list(self._in_order()))

    def __iter__(self) -> Iterator[FeatureBatch]:
        began = time.monotonic()
        first, self._to_skip = self._to_skip, 0
        view = np.zeros(len(self.labels), np.int64) if self.sampler is None else self._drawn(self.sampler)
        steps = self._in_order() if self.sampler is None else self.sampler.shares(first)
        for number, indices in enumerate(steps, first + 1):
            batch = FeatureBatch(self._rows(indices, view[indices]), self.labels[torch.from_numpy(indices)])
            self._delivered = number
            self.waited_s += time.monotonic() - began
            yield batch
            began = time.monotonic()

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._to_skip = self._delivered = state["batches"]

    def _in_order(self) -> Iterator[NDArray[np.int64]]:
        assert isinstance(self._batches, int)
        share = np.arange(len(self.labels))[ranks.here().share(len(self.labels))]
        for first in range(0, len(share), self._batches):
            yield share[first : first + self._batches]

    def _drawn(self, order: EpochOrder) -> NDArray[np.int64]:
        """Return the view of each photo that this epoch trains on."""
        random = np.random.default_rng((order.seed, order.epoch, _DRAWS_VIEWS))
        return random.integers(len(self.views), size=len(self.labels))

    def _rows(self, indices: NDArray[np.int64], view: NDArray[np.int64]) -> Tensor:
        if len(self.views) == 1:
            rows = self.views[0].take(indices)
        else:
            rows = np.empty((len(indices), *self.views[0].shape), self.views[0].dtype)
            for number in np.unique(view):
                rows[view == number] = self.views[number].take(indices[view == number])
        tensor = torch.from_numpy(rows)
        return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
