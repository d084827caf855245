"""Determine which feature rows a run needs, and the store of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from dogbreed.data import DogBreedData
from dogbreed.features import backbone_cache
from dogbreed.features.store import FeatureStore, Recipe, RowKey
from dogbreed.transforms import Augment


@dataclass(frozen=True)
class Part:
    """The distinct rows of one store, and the augmentation that makes them: None for the center crops of photos."""

    rows: Sequence[RowKey]
    augment: Augment | None


def parts_of(data: DogBreedData, views: int, splits: Sequence[str]) -> list[Part]:
    """Return the center crops of all photos of `splits`, then the augmented views of the training photos, if any."""
    digests = dict.fromkeys(photo.digest for split in splits for photo in data.photos.splits[split])
    trained = dict.fromkeys(photo.digest for photo in data.photos.splits["train"]) if "train" in splits else {}
    crops = Part([(digest, 0) for digest in digests], None)
    augmented = Part([(digest, view) for view in range(1, views) for digest in trained], data.augment)
    return [crops, augmented] if augmented.rows else [crops]


@dataclass(frozen=True)
class FeatureKey:
    """Everything that determines the features of a photo, apart from the engine and the augmentation.

    model: its settings. weights: the frozen network's digest. shape: of one photo's features. dtype: as in Recipe.
    """

    model: Mapping[str, Any]
    weights: str
    shape: tuple[int, ...]
    dtype: str

    def size(self, parts: Sequence[Part]) -> int:
        """Return the number of bytes of all rows of `parts`."""
        return Recipe({}, self.shape, self.dtype).row_bytes * sum(len(part.rows) for part in parts)

    def store(self, engine: str, augment: Augment | None) -> FeatureStore:
        """Open or create the store of these features. Raises CacheError or StorageError if it cannot be used."""
        model = self.model
        fields = {
            "backbone": f"{model['library']}/{model['backbone']}",
            "up to": model["trainable"],
            "weights": self.weights,
            "engine": engine,
            # the numbers may also change with how layers are implemented, and how files are decoded and resized
            "libraries": {name: version(name) for name in ("torch", "torchvision", "timm", "pillow", "simplejpeg")},
            "code": backbone_cache.CODE,
            **{name: model[name] for name in ("image_px", "crop_pct", "interpolation")},
            "augment": None
            if augment is None
            else {"class": f"{type(augment).__module__}.{type(augment).__qualname__}"} | vars(augment),
        }
        name = f"{model['backbone']}-{model['trainable']}" + ("" if augment is None else "-augmented")
        return FeatureStore(Recipe(fields, self.shape, self.dtype), name)
