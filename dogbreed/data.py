"""Photos as batches: the DataModule, for any folder of photos in class folders."""

import atexit
import logging
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dogbreed.errors import ConfigError, DataError, raise_findings
from dogbreed.hardware import available_cpus
from dogbreed.photos import Photo, PhotoSet, scan
from dogbreed.preprocess import Interpolation, Preprocess, decode
from dogbreed.transforms import Augment, augmented_pixels

log = logging.getLogger("dogbreed")

Batch = tuple[Tensor, Tensor]  # uint8 [N, 3, H, W] in channels_last strides, int64 [N]
Sample = tuple[NDArray[np.uint8], int] | DataError


class Source(Protocol):
    """Where photos come from when they are not there yet."""

    def prepare(self, root: Path) -> None:
        """Make sure that `root` holds photos in train/valid/test class folders; cheap where it does already."""


class DogBreedData(LightningDataModule):
    """Photos in `root/{train,valid,test}/<class>/`, or in `root/<class>/`, which are then split, stratified and seeded.

    source: draws or downloads the photos where they are missing; null where they are there. batch_size: per process.
    image_px, crop_pct, interpolation: the network's (DogBreedClassifier.preprocess). augment: null for none.
    workers: processes that decode; null for as many as there are CPUs, at most 8. max_bad_fraction: the share of
    unreadable files that is passed over. valid_fraction, test_fraction: where this class does the splitting.

    After `setup`, `classes` and `photos` say what there is. Order and augmentation are functions of
    (seed, epoch, index) alone. Raises DataError with all findings at once.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        source: Source | None = None,
        batch_size: int = 64,
        image_px: int = 224,
        crop_pct: float = 0.965,
        interpolation: Interpolation = "bilinear",
        augment: Augment | None = None,
        workers: int | None = None,
        max_bad_fraction: float = 0.05,
        valid_fraction: float = 0.1,
        test_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root, self.source = Path(root).expanduser(), source
        self.batch_size, self.seed = batch_size, seed
        self.preprocess = Preprocess(image_px, crop_pct, interpolation)
        self.augment = augment
        self.workers = min(available_cpus(), 8) if workers is None else workers
        self.max_bad_fraction = max_bad_fraction
        self.valid_fraction, self.test_fraction = valid_fraction, test_fraction
        self._photos: PhotoSet | None = None

    def prepare_data(self) -> None:
        if self.source is not None:
            self.source.prepare(self.root)

    def look(self) -> PhotoSet:
        """What there is, findings included; looked up once."""
        if self._photos is None:
            self._photos = scan(
                self.root,
                valid_fraction=self.valid_fraction,
                test_fraction=self.test_fraction,
                seed=self.seed,
                max_bad_fraction=self.max_bad_fraction,
            )
        return self._photos

    def setup(self, stage: str | None = None) -> None:
        raise_findings(ConfigError, [] if self.batch_size >= 1 else ["data.batch_size must be at least 1"])
        raise_findings(DataError, self.look().findings)

    @property
    def photos(self) -> PhotoSet:
        """What there is to train on, fetched first where it is missing. Raises DataError as `setup` does."""
        if self._photos is None:
            self.prepare_data()
        self.setup()
        return self.look()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.photos.classes

    def train_dataloader(self) -> "TrainLoader":
        return TrainLoader(self._dataset("train", self.augment), self.batch_size, self.workers, self.seed)

    def val_dataloader(self) -> "PhotoLoader":
        return self._evaluation_loader("valid")

    def test_dataloader(self) -> "PhotoLoader":
        return self._evaluation_loader("test")

    def state_dict(self) -> dict[str, Any]:
        return {"digest": self.photos.digest}  # a resumed run compares it

    def _evaluation_loader(self, split: str) -> "PhotoLoader":
        dataset = self._dataset(split, None)
        in_order = [(0, n) for n in range(len(dataset))]
        return PhotoLoader(dataset, self.batch_size, self.workers, in_order, drop_last=False)

    def _dataset(self, split: str, augment: Augment | None) -> "PhotoDataset":
        photos = self.photos
        return PhotoDataset(photos.root, photos.splits[split], self.preprocess, augment, self.seed)


class PhotoDataset(Dataset[Sample]):
    """Photos by (epoch, index): uint8 [H, W, 3] and the label. Without `augment` the epoch makes no difference.

    A photo that cannot be read any more is the DataError itself: raised in a worker process, it would reach the main
    one with torch's account of both processes as its message.
    """

    def __init__(
        self, root: Path, photos: Sequence[Photo], preprocess: Preprocess, augment: Augment | None, seed: int
    ) -> None:
        self.root, self.seed, self.preprocess = root, seed, preprocess
        self.paths = [photo.path for photo in photos]
        self.labels = [photo.label for photo in photos]
        self.transform = augment.build(preprocess.image_px, preprocess.interpolation) if augment else None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        path = self.root / self.paths[index]
        try:
            if self.transform is None:
                return self.preprocess.pixels(path), self.labels[index]
            image = decode(path)
        except DataError as error:
            return error
        return augmented_pixels(image, self.transform, seed=self.seed, epoch=epoch, index=index), self.labels[index]


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) in an order that is a function of (seed, epoch); `skip` leaves out what was trained already."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch, self.skip = size, seed, 0, 0

    def set_epoch(self, epoch: int) -> None:  # Lightning calls it
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        return iter([(self.epoch, int(index)) for index in order[self.skip :]])


class PhotoLoader(DataLoader[Batch]):
    """Batches of photos, decoded in worker processes. Raises DataError for a photo that cannot be read any more."""

    def __init__(self, dataset: PhotoDataset, batch_size: int, workers: int, keys: Any, *, drop_last: bool) -> None:
        super().__init__(
            cast("Dataset[Batch]", dataset),
            batch_size,
            sampler=keys,
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_collate,
            worker_init_fn=_quiet_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the loader's own draws must not disturb the global random numbers
        )

    def __iter__(self) -> Any:
        return self._batches()

    def _batches(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise DataError(f"A photo that was there before training cannot be read any more.\n{batch}")
            yield batch


class TrainLoader(PhotoLoader):
    """Shuffled batches that can be resumed in the middle of an epoch (Lightning's state_dict protocol for loaders)."""

    def __init__(self, dataset: PhotoDataset, batch_size: int, workers: int, seed: int) -> None:
        self._epoch_sampler = EpochSampler(len(dataset), seed)
        self._delivered = 0
        self._to_skip = 0
        # no step on a handful of photos, but a tiny set still trains
        super().__init__(dataset, batch_size, workers, self._epoch_sampler, drop_last=len(dataset) >= batch_size)

    def _batches(self) -> Iterator[Batch]:
        first, self._to_skip = self._to_skip, 0
        self._epoch_sampler.skip = first * cast(int, self.batch_size)
        for number, batch in enumerate(super()._batches(), first + 1):
            self._delivered = number
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._to_skip = self._delivered = state["batches"]


def _collate(samples: Sequence[Sample]) -> Batch | DataError:
    read = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        read.append(sample)
    pixels = torch.from_numpy(np.stack([pixels for pixels, _ in read]))
    return pixels.permute(0, 3, 1, 2), torch.tensor([label for _, label in read])


def _quiet_worker(worker_id: int) -> None:
    """A signal for the whole process group (Ctrl-C, docker stop) is the main process's business: it saves and stops.

    A second SIGTERM ends the worker, so that one whose parent is stuck can still be stopped.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


@atexit.register  # after multiprocessing's own, so it runs before: that one sends SIGTERM once and waits for ever
def _end_workers() -> None:
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
