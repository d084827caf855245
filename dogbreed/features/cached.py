"""Decide whether a run can train on cached features instead of photos, and compute the features it lacks."""

import functools
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dogbreed import backbones
from dogbreed.data import DogBreedData
from dogbreed.distributed import collectives
from dogbreed.errors import CacheError, ConfigError, StorageError
from dogbreed.features import backbone_cache, compared, engine
from dogbreed.features.backbone_cache import KnownBackbone
from dogbreed.features.extraction import Extraction, FrozenNetwork
from dogbreed.features.loaders import CachedFeatures
from dogbreed.features.rows import FeatureKey, Part, parts_of
from dogbreed.features.settings import Settings
from dogbreed.features.store import FeatureStore, stores_folder
from dogbreed.model import DogBreedClassifier
from dogbreed.scanning.layout import SPLITS

log = logging.getLogger("dogbreed")

_KEYED_BY = {"compile", "library", "backbone", "trainable", "image_px", "crop_pct", "interpolation"}  # of a model


class _Without(Exception):  # noqa: N818 (not an error: the run trains on photos instead)
    """The reason why a run trains without cached features.

    instead: what to try if the settings require them. level: the log level of the message.
    """

    def __init__(self, reason: str, instead: str, *, level: int = logging.INFO) -> None:
        super().__init__(reason)
        self.reason, self.instead, self.level = reason, instead, level


def prepare(
    model: DogBreedClassifier,
    data: DogBreedData,
    settings: Settings,
    *,
    device: torch.device,
    precision: str,
    splits: Sequence[str] = SPLITS,
    check: Callable[[], None] = lambda: None,
) -> CachedFeatures | None:
    """Compute the missing features of `splits` and return all of them; return None if the run must train on photos.

    model: with its whole backbone; it is in training mode afterwards. precision: Lightning's. check: called regularly;
    it raises if the run has to stop. Raises ConfigError if `settings` require features that cannot be computed,
    DataError for photos that have changed, StorageError if the disk is full.
    """
    if settings.mode == "off" or (settings.mode == "auto" and not model.frozen):
        return None
    parts = parts_of(data, settings.views, splits)
    try:
        network, pooled = _frozen_network(model)
        shape = (model.width,) if pooled else network.feature_shape(model.preprocess.image_px)
        weights = backbones.digest(network.state_dict())  # mean and standard deviation included
        key = FeatureKey(model.hparams, weights, shape, engine.dtype(device, precision))
        _check_size(key, parts, settings)
        paths = {photo.digest: photo.path for split in splits for photo in data.photos.splits[split]}
        printed = compared.store(model.hparams) if "train" in splits else None
        extraction = Extraction(data.photos.root, paths, model.preprocess, None, data.workers, check, printed)
        compute = functools.partial(_compute, extraction, network, key, parts, device, insist=settings.mode == "cached")
        name = engine.name(device, precision, compiled=model.hparams["compile"])
        try:
            stores = compute(name)
        except engine.EngineError as error:
            check()  # the error may be a swallowed signal's exception
            if device.type != "cpu":
                raise
            log.warning("%s: %s\nComputing the features with eager torch instead.", name, error)
            stores = compute(engine.EAGER)  # runs what cannot be exported
    except _Without as why:
        if settings.mode == "cached":
            raise ConfigError(f"features.mode=cached, but {why.reason}.\nTry: {why.instead}") from None
        log.log(why.level, "Not using cached features: %s", why.reason)
        return None
    if pooled and "train" in splits:
        known = KnownBackbone(model.width, weights, released=backbones.digest(model.backbone_state()))
        backbone_cache.remember(model.hparams, model.weights_identity, known)
    _remarks(data, settings, splits)
    return CachedFeatures(data, settings.views, stores, splits)


def _frozen_network(model: DogBreedClassifier) -> tuple[FrozenNetwork, bool]:
    """Return the frozen part of a model with its normalisation, and whether its features are pooled (head only)."""
    name, trainable = model.hparams["backbone"], model.hparams["trainable"]
    if not model.frozen:
        reason = "all of the backbone is trained (model.trainable=all)"
        raise _Without(reason, "model.trainable=head, or features.mode=off")
    cut = model.eval().cut
    trained = model.train().cut  # None if its blocks run differently in training
    if cut is None or trained is None:
        raise _Without(f"{name} cannot be cut at {trainable}", "model.trainable=head, or features.mode=off")
    return FrozenNetwork(model.pixel_scale, model.pixel_shift, cut.frozen), isinstance(cut.rest, nn.Identity)


def _check_size(key: FeatureKey, parts: Sequence[Part], settings: Settings) -> None:
    if (needed := key.size(parts)) > settings.max_gb * 1e9:
        raise _Without(
            f"they take {needed / 1e9:.1f} GB, more than features.max_gb={settings.max_gb:g}",
            "a larger features.max_gb, fewer features.views, or training from a later part of the backbone",
        )


def _compute(
    extraction: Extraction,
    network: FrozenNetwork,
    key: FeatureKey,
    parts: Sequence[Part],
    device: torch.device,
    engine_name: str,
    *,
    insist: bool,
) -> list[FeatureStore]:
    """Compute the rows that this engine's stores lack, one store per part. Raises EngineError if the engine fails."""
    stores = _open(key, parts, engine_name, insist=insist)
    _check_disk(parts, stores)
    make = functools.cache(lambda: engine.make(engine_name, network, extraction.preprocess.image_px, device))
    for part, store in zip(parts, stores, strict=True):
        printed = extraction.prints if part.augment is None else None
        replace(extraction, augment=part.augment, prints=printed).compute(part.rows, store, make)
    return stores


def _open(key: FeatureKey, parts: Sequence[Part], engine_name: str, *, insist: bool) -> list[FeatureStore]:
    stores, unusable = [], ""
    try:
        stores = [key.store(engine_name, part.augment) for part in parts]
    except (StorageError, CacheError) as error:  # such as a read-only home or a damaged store
        if insist:
            raise
        unusable = str(error)
    if unusable := collectives.any_of(unusable):  # all processes fall back to photos, or none
        raise _Without(unusable, "features.mode=off", level=logging.WARNING)
    return stores


def _check_disk(parts: Sequence[Part], stores: Sequence[FeatureStore]) -> None:
    lacking = sum(
        len(store.missing(part.rows)) * store.recipe.row_bytes for part, store in zip(parts, stores, strict=True)
    )
    free = shutil.disk_usage(stores[0].path).free
    full = f"they need {lacking / 1e9:.1f} GB in {stores_folder()}, where {free / 1e9:.1f} GB are free"
    if full := collectives.any_of(full if lacking > free else ""):
        raise _Without(
            full, "python -m dogbreed.features prune, or DOGBREED_CACHE=<a folder on a larger disk> in the environment"
        )


def recall(
    model: Mapping[str, Any], data: DogBreedData, settings: Settings, *, device: torch.device, precision: str
) -> tuple[CachedFeatures, KnownBackbone] | None:
    """Find all features of a head's training in the stores of earlier runs, without building the backbone.

    model: the config node, or a model's hyperparameters. Return None if the backbone is unknown, if any row is missing
    on any machine, or if more than the head is trained: then build the model and call `prepare`.
    """
    found = _recall(model, data, settings, device=device, precision=precision)
    return found if all(collectives.all_gather(found is not None, stage=True)) else None


def _recall(
    model: Mapping[str, Any], data: DogBreedData, settings: Settings, *, device: torch.device, precision: str
) -> tuple[CachedFeatures, KnownBackbone] | None:
    if settings.mode == "off" or model["trainable"] != "head" or not model.keys() >= _KEYED_BY:
        return None
    backbone = backbone_cache.recall(model)
    if backbone is None:
        return None
    parts = parts_of(data, settings.views, SPLITS)
    key = FeatureKey(model, backbone.weights, (backbone.width,), engine.dtype(device, precision))
    if key.size(parts) > settings.max_gb * 1e9:
        return None
    name = engine.name(device, precision, compiled=model["compile"])
    stores = []
    try:
        for part in parts:
            store = key.store(name, part.augment)
            if store.missing(part.rows):
                return None
            stores.append(store)
    except (StorageError, CacheError):
        return None  # `prepare` runs into the same errors and reports them
    _remarks(data, settings, SPLITS)
    return CachedFeatures(data, settings.views, stores), backbone


def _remarks(data: DogBreedData, settings: Settings, splits: Sequence[str]) -> None:
    if settings.views == 1 and data.augment is not None and "train" in splits:
        log.info("Training on center crops; features.views=4 would add three augmented views")
    if data.start_px is not None:
        log.warning("data.start_px has no effect on cached features (features.mode=off trains on photos)")
