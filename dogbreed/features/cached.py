"""Training on features instead of photos: which runs can, what is kept for them, and the loaders."""

import functools
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor, nn

from dogbreed import backbones
from dogbreed.batches import FeatureBatch
from dogbreed.data import DogBreedData, EpochOrder
from dogbreed.distributed import collectives, ranks
from dogbreed.errors import CacheError, ConfigError, StorageError
from dogbreed.features import backbone_cache, engine
from dogbreed.features import backbone_cache as known
from dogbreed.features.extraction import Extraction, FrozenNetwork
from dogbreed.features.store import Features, FeatureStore, Recipe, RowKey, stores_folder
from dogbreed.hardware import available_memory_bytes
from dogbreed.model import DogBreedClassifier
from dogbreed.photos import SPLITS
from dogbreed.transforms import Augment
from dogbreed.workload import feature_settings

log = logging.getLogger("dogbreed")

MODES = ("auto", "cached", "off")
_IN_MEMORY_SHARE = 1 / 8  # of what is available: features that take less are read whole, others stay mapped
_KEYED_BY = {"compile", "library", "backbone", "trainable", "image_px", "crop_pct", "interpolation"}  # of a model
_EVALUATED_BYTES = 4 * 2**20  # of features in one batch
_DRAWS_VIEWS = 1  # tells the draws of views from those of the order, of the same seed and epoch


@dataclass(frozen=True)
class Settings:
    """The config node `features`.

    mode: `auto` for features wherever part of the backbone is frozen, it can be cut there and they fit; `cached` to
    insist; `off`. views: of each training photo, its middle and views - 1 augmented ones, of which one is drawn in
    each epoch. max_gb: the most that this run's features may take (10^9 bytes).
    """

    mode: Literal["auto", "cached", "off"] = "auto"
    views: int = 1
    max_gb: float = 20.0


def settings_of(config: Mapping[str, Any]) -> Settings:
    """The config node `features`, or its defaults where there is none."""
    return Settings(**feature_settings(config))


def findings(settings: Settings, *, augmented: bool) -> Iterator[str]:
    """What is wrong with the config node. augmented: whether the data are."""
    mode, views, max_gb = settings.mode, settings.views, settings.max_gb
    if mode not in MODES:
        yield f"features.mode={mode} is unknown.\nTry: one of {', '.join(MODES)}"
    if not (isinstance(views, int) and views >= 1):
        yield f"features.views={views} cannot be.\nTry: a whole number, at least 1"
    elif views > 1 and not augmented and mode != "off":
        yield f"features.views={views} would cache the same view again: data.augment=null.\nTry: features.views=1"
    if not (isinstance(max_gb, int | float) and max_gb > 0):
        yield f"features.max_gb={max_gb} cannot be.\nTry: a number of gigabytes above 0"


def prepare(
    model: DogBreedClassifier,
    data: DogBreedData,
    settings: Settings,
    *,
    device: torch.device,
    precision: str,
    splits: Sequence[str] = SPLITS,
    check: Callable[[], None] = lambda: None,
) -> "CachedFeatures | None":
    """The features of `splits`, computed where they are not there yet; None where this run goes without.

    model: with its backbone whole; it is in training mode afterwards. precision: Lightning's. check: called now and
    then; raises where to stop. Raises ConfigError where `settings` insist on features that cannot be, DataError for
    photos that have changed, StorageError where there is no room.
    """
    if settings.mode == "off" or (settings.mode == "auto" and not model.frozen):
        return None
    reason, instead = _why_not(model)
    if reason:
        _without(settings, reason, instead)
        return None
    cut = model.eval().cut
    model.train()
    assert cut is not None
    network = FrozenNetwork(model.pixel_scale, model.pixel_shift, cut.frozen)
    pooled = isinstance(cut.rest, nn.Identity)  # then its width is known
    shape = (model.width,) if pooled else network.feature_shape(model.preprocess.image_px)
    photos = {photo.digest: photo.path for split in splits for photo in data.photos.splits[split]}
    middles, augmented = _row_keys(data, settings.views, splits)

    kind = engine.dtype(device, precision)
    weights = backbones.digest(network.state_dict())  # mean and standard deviation included
    needed = Recipe({}, shape, kind).row_bytes * (len(middles) + len(augmented))
    if needed > settings.max_gb * 1e9:
        _without(
            settings,
            f"they take {needed / 1e9:.1f} GB, more than features.max_gb={settings.max_gb:g}",
            "a larger features.max_gb, fewer features.views, or a part of the backbone nearer its end",
        )
        return None
    candidates = [engine.name(device, precision, compiled=model.hparams["compile"])]
    if device.type == "cpu":
        candidates.append(engine.EAGER)  # runs what cannot be exported
    for candidate in candidates:
        parts = _parts(middles, augmented, data)
        try:
            wanted = [
                (_store(model.hparams, candidate, weights, shape, kind, augment), rows, augment)
                for rows, augment in parts
            ]
            unusable = ""
        except (StorageError, CacheError) as error:  # a home that is read only, a store that is damaged
            if settings.mode == "cached":
                raise
            unusable = str(error)
        if unusable := collectives.any_of(unusable):  # all processes go without, or none
            log.warning("Without cached features: %s", unusable)
            return None
        lacking = sum(len(store.missing(rows)) * store.recipe.row_bytes for store, rows, _ in wanted)
        free = shutil.disk_usage(wanted[0][0].path).free
        if full := collectives.any_of(
            f"{lacking / 1e9:.1f} GB are to be written to {stores_folder()} and {free / 1e9:.1f} GB are free"
            if lacking > free
            else ""
        ):
            _without(
                settings,
                full,
                "python -m dogbreed.features prune, or DOGBREED_CACHE=<a folder on a larger disk> in the environment",
            )
            return None
        make = functools.cache(lambda name=candidate: engine.make(name, network, model.preprocess.image_px, device))
        try:
            for store, rows, augment in wanted:
                pictures = Extraction(data.photos.root, photos, model.preprocess, augment, data.workers, check)
                pictures.compute(rows, store, make)
            break
        except engine.EngineError as error:
            check()  # a signal's exception, perhaps
            log.warning("%s: %s\nEager torch computes the features instead.", candidate, error)
    if pooled and "train" in splits:
        released = backbones.digest(model.backbone_state())
        backbone_cache.remember(
            model.hparams, model.weights_identity, backbone_cache.KnownBackbone(model.width, weights, released)
        )
    _remarks(data, settings, splits)
    return CachedFeatures(data, settings.views, [store for store, _, _ in wanted], splits)


def recall(
    model: Mapping[str, Any], data: DogBreedData, settings: Settings, *, device: torch.device, precision: str
) -> "tuple[CachedFeatures, known.KnownBackbone] | None":
    """All features of a head's training, where runs before have left them; the backbone is not built for it.

    model: the config node, or a model's hyperparameters. None where the backbone is not known, where anything is
    missing on any machine, and where more than the head is trained: then build the model, and `prepare`.
    """
    found = _recall(model, data, settings, device=device, precision=precision)
    return found if all(collectives.gathered(found is not None, stage=True)) else None


def _recall(
    model: Mapping[str, Any], data: DogBreedData, settings: Settings, *, device: torch.device, precision: str
) -> "tuple[CachedFeatures, known.KnownBackbone] | None":
    if settings.mode == "off" or model["trainable"] != "head" or not model.keys() >= _KEYED_BY:
        return None
    backbone = backbone_cache.recall(model)
    if backbone is None:
        return None
    middles, augmented = _row_keys(data, settings.views, SPLITS)
    kind = engine.dtype(device, precision)
    name, shape = engine.name(device, precision, compiled=model["compile"]), (backbone.width,)
    if Recipe({}, shape, kind).row_bytes * (len(middles) + len(augmented)) > settings.max_gb * 1e9:
        return None
    stores = []
    try:
        for rows, augment in _parts(middles, augmented, data):
            store = _store(model, name, backbone.weights, shape, kind, augment)
            if store.missing(rows):
                return None
            stores.append(store)
    except (StorageError, CacheError):
        return None  # `prepare` meets them again, and says so
    _remarks(data, settings, SPLITS)
    return CachedFeatures(data, settings.views, stores), backbone


def _row_keys(data: DogBreedData, views: int, splits: Sequence[str]) -> tuple[list[RowKey], list[RowKey]]:
    """Of the photos' middles, and of the augmented views of those to train on; each once."""
    digests = dict.fromkeys(photo.digest for split in splits for photo in data.photos.splits[split])
    trained = dict.fromkeys(photo.digest for photo in data.photos.splits["train"]) if "train" in splits else {}
    return [(digest, 0) for digest in digests], [(digest, view) for view in range(1, views) for digest in trained]


def _parts(
    middles: list[RowKey], augmented: list[RowKey], data: DogBreedData
) -> list[tuple[list[RowKey], Augment | None]]:
    """The rows of each store, with the augmentation that makes them."""
    return [(middles, None), *([(augmented, data.augment)] if augmented else [])]


def _remarks(data: DogBreedData, settings: Settings, splits: Sequence[str]) -> None:
    if settings.views == 1 and data.augment is not None and "train" in splits:
        log.info("Each photo's middle is trained on; features.views=4 would add three augmented views")
    if data.start_px is not None:
        log.warning("data.start_px has no effect on cached features (features.mode=off trains on photos)")


def _why_not(model: DogBreedClassifier) -> tuple[str, str]:
    """What keeps this network from being trained on features, and what to try; empty where nothing does."""
    if not model.frozen:
        return "all of the backbone is trained (model.trainable=all)", "model.trainable=head, or features.mode=off"
    cuts = [model.train(mode).cut for mode in (False, True)]
    if None in cuts:
        return (
            f"{model.hparams['backbone']} cannot be cut at {model.hparams['trainable']}",
            "model.trainable=head, or features.mode=off",
        )
    return "", ""


def _without(settings: Settings, reason: str, instead: str) -> None:
    if settings.mode == "cached":
        raise ConfigError(f"features.mode=cached, but {reason}.\nTry: {instead}")
    log.info("Without cached features: %s", reason)  # not a warning: it is what auto means


def _store(
    settings: Mapping[str, Any],
    engine_name: str,
    weights: str,
    shape: tuple[int, ...],
    dtype: str,
    augment: Augment | None,
) -> FeatureStore:
    """settings: the model's."""
    fields = {
        "backbone": f"{settings['library']}/{settings['backbone']}",
        "up to": settings["trainable"],
        "weights": weights,
        "engine": engine_name,
        # what else the numbers may change with: how layers are written, how files are decoded and resized
        "libraries": {name: version(name) for name in ("torch", "torchvision", "timm", "pillow", "simplejpeg")},
        "code": backbone_cache.CODE,
        **{name: settings[name] for name in ("image_px", "crop_pct", "interpolation")},
        "augment": None
        if augment is None
        else {"class": f"{type(augment).__module__}.{type(augment).__qualname__}"} | vars(augment),
    }
    name = f"{settings['backbone']}-{settings['trainable']}" + ("" if augment is None else "-augmented")
    return FeatureStore(Recipe(fields, shape, dtype), name)


class CachedFeatures(LightningDataModule):
    """The batches of DogBreedData as features. Order and drawn views are functions of (seed, epoch, index) alone."""

    def __init__(
        self, data: DogBreedData, views: int, stores: Sequence[FeatureStore], splits: Sequence[str] = SPLITS
    ) -> None:
        """stores: of the photos' middles and, where views is more than 1, of the augmented views."""
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
        """Of one photo's features."""
        return next(iter(self._rows.values()))[0].shape

    def train_dataloader(self) -> "FeatureLoader":
        order = EpochOrder(len(self.data.photos.splits["train"]), self.data.global_batch, self.data.seed)
        return self._loader("train", order)

    def val_dataloader(self) -> "FeatureLoader":
        return self._loader("valid")

    def test_dataloader(self) -> "FeatureLoader":
        return self._loader("test")

    def state_dict(self) -> dict[str, Any]:
        return self.data.state_dict()

    def _loader(self, split: str, order: EpochOrder | None = None) -> "FeatureLoader":
        labels = torch.tensor([photo.label for photo in self.data.photos.splits[split]])
        # in evaluation a batch's size is of no consequence but for the time
        evaluated = max(self.data.batch_size, _EVALUATED_BYTES // self._rows[split][0].recipe.row_bytes)
        return FeatureLoader(self._rows[split], labels, order or evaluated)


class FeatureLoader:
    """Batches of features: those that an order gives, for training, or in order and whole, in batches of that size.

    Several processes share either. Can be resumed in the middle of an epoch, as TrainLoader can.
    """

    def __init__(self, views: Sequence[Features], labels: Tensor, batches: EpochOrder | int) -> None:
        self.views, self.labels, self._batches = views, labels, batches
        self.sampler = batches if isinstance(batches, EpochOrder) else None  # Lightning tells it the epoch
        self.batch_sampler = None  # where there is a sampler, Lightning asks for this one, too
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
        """Which view of each photo this epoch sees."""
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
