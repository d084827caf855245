"""Remember a frozen backbone's width and digests, so that a later run finds its features without building it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

from dogbreed import backbones
from dogbreed.cache import cache_folder
from dogbreed.errors import StorageError
from dogbreed.run_folder import write_json

CODE = 1  # increase when a change of this library's code changes a photo's features or the weights that are loaded
_DECIDES = ("library", "backbone", "weights", "mean", "std")  # the model settings that the frozen network depends on

Source: TypeAlias = "Sequence[str | int] | None"  # as `backbones.weights_identity` returns it


@dataclass(frozen=True)
class KnownBackbone:
    """What was recorded about a backbone.

    width: of its pooled features. weights: the digest in the features' key. released: the digest of the backbone alone.
    """

    width: int
    weights: str
    released: str


def recall(model: Mapping[str, Any]) -> KnownBackbone | None:
    """Look up the backbone that these settings build with pretrained weights; return None if it is unknown.

    model: the config node, or a model's hyperparameters. Random weights are never recorded.
    """
    if not set(_DECIDES) <= model.keys():  # a config of an earlier version
        return None
    source = backbones.weights_identity(model["library"], model["backbone"], model["weights"])
    return None if source is None else _read(_path(model, source))


def remember(model: Mapping[str, Any], source: Source, known: KnownBackbone) -> None:
    """Record a backbone. source: identifies the weights as they were loaded; their file may have changed since."""
    if source is None:
        return
    path = _path(model, source)
    if _read(path) != known:
        with suppress(StorageError):  # without the record, the next run builds the backbone again
            write_json(path, asdict(known))


def _read(path: Path) -> KnownBackbone | None:
    try:
        return KnownBackbone(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _path(model: Mapping[str, Any], source: Source) -> Path:
    fields = {
        "code": CODE,
        **{name: model[name] for name in _DECIDES},
        "source": source,
        "versions": {name: _version(name) for name in ("torch", "torchvision", "timm")},
    }
    digest = hashlib.blake2b(json.dumps(fields, sort_keys=True, default=list).encode(), digest_size=16).hexdigest()
    return cache_folder() / "backbones" / f"{model['backbone']}-{digest}.json"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
