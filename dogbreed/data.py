"""Load photos as batches: the DataModule for any folder of photos in class folders."""

import logging
import math
from collections.abc import Iterator, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, Dataset, Sampler

from dogbreed import commands
from dogbreed.copies import Copies
from dogbreed.copies import find as find_copies
from dogbreed.distributed import ranks
from dogbreed.errors import ConfigError, DataError, raise_findings
from dogbreed.hardware import available_cpus
from dogbreed.loading import Batch, PhotoLoader
from dogbreed.photos import Photo, PhotoSet, scan
from dogbreed.preprocess import Interpolation, Preprocess
from dogbreed.transforms import Augment, relight
from dogbreed.workload import LARGEST_BATCH, usual_batch

log = logging.getLogger("dogbreed")

Sample = tuple[NDArray[np.uint8], int] | tuple[NDArray[np.uint8], int, NDArray[np.float32]] | DataError
LEFT_OUT = 1 / 10  # of the training photos: an epoch that would leave out more takes smaller steps
GRID_PX = 32  # networks halve their input five times, so sizes are multiples of this


class Source(Protocol):
    """Provides photos that are not on disk yet."""

    def prepare(self, root: Path) -> None:
        """Ensure that `root` holds photos in train/valid/test class folders; cheap if it already does."""


class DogBreedData(LightningDataModule):
    """Loads photos from `root/{train,valid,test}/<class>/`, or from `root/<class>/` with a stratified, seeded split.

    source: draws or downloads missing photos; None if they exist. batch_size: per process; None for a
    few photos, see `usual_batch`, which all processes share. global_batch is that of all processes together, which a
    resumed run keeps, however many processes it has.
    image_px, crop_pct, interpolation: the network's (DogBreedClassifier.preprocess). augment: None for none.
    workers: processes that decode; None for one per CPU, at most 8. max_bad_fraction: the largest share of unreadable
    files that may be skipped. max_conflicts: the largest share of photos that may be in two classes. valid_fraction,
    test_fraction: used for splits that `root` lacks; with a test_fraction of 0 such a test split stays empty.
    start_px: side of the training images in the first epoch, which grows to image_px (progressive resizing, see
    `epoch_px`); None for image_px throughout. grow_epochs: the number of epochs in the schedule.

    After `setup`, `classes` and `photos` describe the data. Order and augmentation depend on (seed, epoch, index)
    alone. Raises DataError with all findings at once.

    The model gets uint8 [N, 3, H, W] and labels: workers crop and flip; `on_after_batch_transfer` changes the light of
    a whole batch on the device. A validation or test set that fits in an eighth of the available memory is decoded once
    and then kept.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        source: Source | None = None,
        batch_size: int | None = 64,
        image_px: int = 224,
        crop_pct: float = 0.965,
        interpolation: Interpolation = "bilinear",
        augment: Augment | None = None,
        workers: int | None = None,
        max_bad_fraction: float = 0.05,
        max_conflicts: float = 0.01,
        valid_fraction: float = 0.1,
        test_fraction: float = 0.1,
        start_px: int | None = None,
        grow_epochs: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root, self.source = Path(root).expanduser(), source
        self._elsewhere = commands.photos_elsewhere(str(root))
        self.batch_size, self.seed = batch_size, seed
        self.preprocess = Preprocess(image_px, crop_pct, interpolation)
        self.augment = augment
        self.workers = min(available_cpus(), 8) if workers is None else workers
        self.max_bad_fraction, self.max_conflicts = max_bad_fraction, max_conflicts
        self.valid_fraction, self.test_fraction = valid_fraction, test_fraction
        self.start_px, self.grow_epochs = start_px, grow_epochs
        self.like = ""  # the digest of the photos of the run that is resumed
        self._global_batch: int | None = None  # of the run that is resumed
        self._photos: PhotoSet | None = None
        self._copies: Copies | None = None
        self._evaluation_loaders: dict[str, PhotoLoader] = {}

    def prepare_data(self) -> None:
        if self.source is not None:
            self.source.prepare(self.root)

    def scan(self) -> PhotoSet:
        """Scan the photos once; problems are in the result's findings."""
        if self._photos is None:
            self._photos = scan(
                self.root,
                valid_fraction=self.valid_fraction,
                test_fraction=self.test_fraction,
                seed=self.seed,
                max_bad_fraction=self.max_bad_fraction,
                like=self.like,
            )
        return self._photos

    def setup(self, stage: str | None = None) -> None:
        raise_findings(ConfigError, self._wrong_settings())
        if self._elsewhere:
            raise DataError(self._elsewhere)
        raise_findings(DataError, [*self.scan().findings, *self._too_few(), *self.conflicts(self.copies)])

    @property
    def copies(self) -> Copies:
        """The photos whose files are in two splits or two classes."""
        if self._copies is None:
            self._copies = find_copies(self.scan())
        return self._copies

    def conflicts(self, found: Copies) -> list[str]:
        """Return a finding if more than `max_conflicts` of the photos are in two classes; a resumed run keeps them."""
        resumes = bool(self.like) and self.like == self.scan().digest
        return [] if resumes else found.conflict_findings(self.scan(), self.max_conflicts)

    def _wrong_settings(self) -> list[str]:
        findings = []
        if self.batch_size is not None and self.batch_size < 1:
            findings.append(f"data.batch_size must be at least 1, got {self.batch_size}")
        image_px = self.preprocess.image_px
        if self.start_px is not None and not GRID_PX <= self.start_px <= image_px:
            findings.append(f"data.start_px must be {GRID_PX} to the model's image_px={image_px}, got {self.start_px}")
        if self.start_px is not None and (self.grow_epochs or 0) < 1:
            findings.append(f"data.grow_epochs must be at least 1 if data.start_px is set, got {self.grow_epochs}")
        return findings

    def _too_few(self) -> list[str]:
        """Check that each process gets a photo of each split and of each step; only a test split may be empty."""
        world = ranks.here().world_size
        if self.scan().findings:
            return []
        splits = self.scan().splits
        fewest = min(len(photos) for split, photos in splits.items() if photos or split != "test")
        if min(fewest, self.global_batch) >= world:
            return []
        return [f"A split has {fewest} photos for {world} processes.\nTry: fewer processes, or more photos"]

    @property
    def global_batch(self) -> int:
        """The photos of a step, of all processes: as many as were asked for, or fewer (see `even_batch`)."""
        if self._global_batch is not None:
            return self._global_batch
        asked, size = self._asked_batch, len(self.scan().splits["train"])
        even = even_batch(size, asked)
        return even if even >= ranks.here().world_size else asked

    @global_batch.setter
    def global_batch(self, photos: int) -> None:
        self._global_batch = photos

    @property
    def _asked_batch(self) -> int:
        if self.batch_size is None:
            return max(usual_batch(len(self.scan().splits["train"])), ranks.here().world_size)
        return self.batch_size * ranks.here().world_size

    def describe_steps(self) -> str:
        """Say in a line how large steps are if nobody has asked for that size, or if epochs leave out many photos."""
        asked, size = self._asked_batch, len(self.photos.splits["train"])
        batch = min(self.global_batch, size)
        if self.batch_size is None:
            return f"Steps of {batch:,} photos"
        if batch != min(asked, size):
            return (
                f"Steps of {batch:,} photos instead of {asked:,}, which would leave out {size % asked:,} of the "
                f"{size:,} training photos in each epoch"
            )
        if batch and size % batch > LEFT_OUT * size:
            return f"Each epoch leaves out {size % batch:,} of the {size:,} training photos, others each time"
        return ""

    @property
    def photos(self) -> PhotoSet:
        """The photos, downloaded or drawn first if they are missing. Raises DataError like `setup`."""
        if self._photos is None:
            self.prepare_data()
        self.setup()
        return self.scan()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.photos.classes

    def train_dataloader(self) -> "TrainLoader":
        """Return a loader of (images, labels), or (images, labels, light) if the augmentation changes the light."""
        return TrainLoader(self._dataset("train", self.augment), self.global_batch, self.workers, self.seed)

    def val_dataloader(self) -> "PhotoLoader":
        return self._evaluation_loader("valid")

    def test_dataloader(self) -> "PhotoLoader":
        return self._evaluation_loader("test")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change the light of a batch of training photos on its device."""
        if isinstance(batch, tuple | list) and len(batch) == 3:
            images, labels, light = batch
            return relight(images, light), labels
        return batch

    def state_dict(self) -> dict[str, Any]:
        # a resumed run checks and keeps them
        return {
            "digest": self.photos.digest,
            "global_batch": self.global_batch,
            "processes": ranks.here().world_size,
        }

    def _evaluation_loader(self, split: str) -> "PhotoLoader":
        if split not in self._evaluation_loaders:
            dataset = self._dataset(split, None)
            in_order = [(0, n) for n in range(len(dataset))][ranks.here().share(len(dataset))]
            self._evaluation_loaders[split] = PhotoLoader(
                dataset,
                self.workers,
                BatchSampler(cast("Sampler[int]", in_order), self.batch_size or LARGEST_BATCH, drop_last=False),
                keep=True,
            )
        return self._evaluation_loaders[split]

    def _dataset(self, split: str, augment: Augment | None) -> "PhotoDataset":
        photos = self.photos
        grows = split == "train" and self.start_px is not None
        grow = (self.start_px or 0, self.grow_epochs or 1) if grows else None
        return PhotoDataset(photos.root, photos.splits[split], self.preprocess, augment, self.seed, grow)


def even_batch(size: int, batch: int) -> int:
    """Return `batch`, or fewer photos if its incomplete last step would leave out over LEFT_OUT of `size` photos.

    All steps stay equally large, so that each photo counts the same: 127 photos in batches of 64 are two steps of 63.
    """
    if batch < 1 or batch >= size or size % batch <= LEFT_OUT * size:
        return batch
    even = size // math.ceil(size / batch)
    return even if size % even < size % batch else batch


def epoch_px(epoch: int, *, start_px: int, image_px: int, epochs: int) -> int:
    """Return the side of the training images in an epoch (from 0): evenly from start_px to image_px, multiples of 32.

    The last quarter of the epochs, rounded up, is at image_px, so that the network ends at the size it is used with
    (progressive resizing, arXiv 2104.00298 section 4.2, which uses explicit stages).
    """
    growing = epochs - math.ceil(epochs / 4)
    if epoch >= growing:
        return image_px
    px = start_px + (image_px - start_px) * epoch / growing
    return min(image_px, GRID_PX * math.floor(px / GRID_PX + 0.5))


class PhotoDataset(Dataset[Sample]):
    """Returns photos by (epoch, index): uint8 [H, W, 3], the label and, if the augmentation changes it, the light [3].

    grow: start_px and the number of epochs, see `epoch_px`; None for image_px in all of them. Without it and without
    `augment` the epoch makes no difference.

    For a photo that can no longer be read it returns the DataError: raised in a worker, the error would reach the main
    process with torch's tracebacks of both processes as its message.
    """

    def __init__(
        self,
        root: Path,
        photos: Sequence[Photo],
        preprocess: Preprocess,
        augment: Augment | None,
        seed: int,
        grow: tuple[int, int] | None = None,
    ) -> None:
        self.root, self.seed, self.preprocess, self.augment, self.grow = root, seed, preprocess, augment, grow
        self.paths = [photo.path for photo in photos]
        self.labels = [photo.label for photo in photos]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        path, label, preprocess = self.root / self.paths[index], self.labels[index], self.preprocess
        if self.grow is not None:
            px = epoch_px(epoch, start_px=self.grow[0], image_px=preprocess.image_px, epochs=self.grow[1])
            preprocess = replace(preprocess, image_px=px)
        try:
            if self.augment is None:
                return preprocess.pixels(path), label
            pixels, light = self.augment.view(
                path,
                image_px=preprocess.image_px,
                interpolation=preprocess.interpolation,
                key=(self.seed, epoch, index),
            )
        except DataError as error:
            return error
        return (pixels, label, light) if self.augment.jitter else (pixels, label)


class EpochOrder:
    """Determines each step's photos and this process's share of them, as a function of (seed, epoch).

    A step takes the next `global_batch` photos of the epoch's order, divided between the processes. A smaller set is
    one batch. The incomplete last batch of an epoch is dropped; it has other photos in each epoch.
    """

    def __init__(self, size: int, global_batch: int, seed: int, among: ranks.Ranks | None = None) -> None:
        """among: this process's rank; None to read it from the environment."""
        self.size, self.seed, self.epoch = size, seed, 0
        self.global_batch = min(global_batch, size)
        self._ranks = among or ranks.here()

    def set_epoch(self, epoch: int) -> None:  # Lightning calls it
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // max(1, self.global_batch)

    def order(self) -> NDArray[np.int64]:
        """Return all indices in this epoch's order."""
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.size)

    def shares(self, first: int = 0) -> Iterator[NDArray[np.int64]]:
        """Yield this process's indices of each step, starting at step `first` of the epoch."""
        order, share = self.order(), self._ranks.share(self.global_batch)
        for step in range(first, len(self)):
            yield order[step * self.global_batch : (step + 1) * self.global_batch][share]


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields EpochOrder's shares as batches of (epoch, index); `skip` is the number of steps already trained."""

    def __init__(self, order: EpochOrder) -> None:
        self.sampler, self.skip = order, 0  # Lightning looks for this name to set the epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for share in self.sampler.shares(self.skip):
            yield [(self.sampler.epoch, int(index)) for index in share]


class TrainLoader(PhotoLoader):
    """Loads shuffled batches, and resumes in the middle of an epoch (Lightning's state_dict protocol for loaders)."""

    def __init__(self, dataset: Dataset[Any], global_batch: int, workers: int, seed: int) -> None:
        self._steps = StepSampler(EpochOrder(len(cast("Sized", dataset)), global_batch, seed))
        self._delivered = 0
        self._to_skip = 0
        super().__init__(dataset, workers, self._steps)

    def _batches(self) -> Iterator[Batch]:
        first, self._to_skip = self._to_skip, 0
        self._steps.skip = first
        for number, batch in enumerate(super()._batches(), first + 1):
            self._delivered = number
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._to_skip = self._delivered = state["batches"]
