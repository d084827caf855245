"""Keep decoded photos in memory, so that a step's time includes no decoding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, Dataset

from dogbreed.data import DogBreedData
from dogbreed.loading import PhotoLoader
from dogbreed.photos import Photo


class Decoded(Dataset[tuple[NDArray[np.uint8], int]]):
    """The center crops of photos, as in evaluation."""

    def __init__(self, data: DogBreedData, photos: Sequence[Photo]) -> None:
        self._samples = [(data.preprocess.pixels(data.root / photo.path), photo.label) for photo in photos]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self._samples[index]


class InMemoryData(DogBreedData):
    """Training photos from memory, always in the same order."""

    _loader: PhotoLoader | None = None

    def train_dataloader(self) -> PhotoLoader:  # type: ignore[override]  # no resuming here
        if self._loader is None:
            decoded = Decoded(self, self.photos.splits["train"])
            self._loader = PhotoLoader(decoded, 0, BatchSampler(range(len(decoded)), self.global_batch, drop_last=True))
        return self._loader
