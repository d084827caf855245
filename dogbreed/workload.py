"""Describe a run's work, read from its settings: network, batches, epochs, features, photos. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

from dogbreed.breeds import BREEDS, PHOTOS
from dogbreed.speedup import FLOAT_BYTES, STEP_OVERHEAD_S, Part, Step

LARGEST_BATCH = 64  # of steps whose size nobody has chosen
_DRAWN = {"train": 10, "valid": 3, "test": 3, "breeds": len(BREEDS)}  # the defaults of DrawnDogs


@dataclass(frozen=True)
class Workload:
    """A run's work in plain values that JSON can hold.

    batch_size: per process. features, views, max_gb: the config node `features`. train_photos: the number that one
    epoch trains on. other_photos: the number in the other splits. Both are None if unknown.
    """

    backbone: str
    trainable: str
    classes: int
    image_px: int
    batch_size: int
    epochs: int
    features: str
    views: int
    max_gb: float
    train_photos: int | None
    other_photos: int | None

    @classmethod
    def of(cls, config: Mapping[str, Any], photos: Mapping[str, int] | None = None) -> Self:
        """Read the resolved configuration of a run.

        photos: their number by split, if the caller has counted them; otherwise it is taken from the data source, if
        there is one. Does not raise for a number out of range, but uses 1 instead: the run itself rejects it, together
        with all other problems.
        """
        model, data, features = config["model"], config["data"], feature_settings(config)
        counts, classes = _of_source(data.get("source") or {})
        counts = counts if photos is None else photos
        train = None if counts is None else counts.get("train", 0)
        max_gb = features.get("max_gb", 20.0)
        return cls(
            backbone=str(model.get("backbone")),
            trainable=str(model.get("trainable")),
            classes=classes,
            image_px=_whole(model.get("image_px")),
            batch_size=_whole(
                data["batch_size"] if data.get("batch_size") is not None else usual_batch(train or 10**9)
            ),
            epochs=_whole(config["trainer"].get("max_epochs")),
            features=str(features.get("mode", "auto")),
            views=_whole(features.get("views", 1)),
            max_gb=float(max_gb) if isinstance(max_gb, int | float) else 0.0,
            train_photos=train,
            other_photos=None if counts is None or train is None else sum(counts.values()) - train,
        )

    @property
    def per_photo(self) -> "Work | None":
        """The work of training on one photo; None for an unknown network or part."""
        return work(self.backbone, self.trainable, self.classes, image_px=self.image_px)

    @property
    def wants_features(self) -> bool:
        """Whether the run trains on cached features of its frozen part, if they can be computed and fit."""
        return self.features != "off" and self.trainable != "all"

    @property
    def trains_heads(self) -> bool:
        """Whether only the head is trained, on features that runs with other settings of the head share."""
        return trains_heads(self.trainable, self.features)

    @property
    def caches_features(self) -> bool:
        """Whether features are wanted and, as far as that can be told, fit into max_gb."""
        per_photo, rows = self.per_photo, self.feature_rows
        if not self.wants_features or (per_photo is not None and not per_photo.frozen_gflop):
            return False
        return per_photo is None or rows is None or rows * per_photo.feature_bytes <= self.max_gb * 1e9

    @property
    def feature_rows(self) -> int | None:
        """The number of feature rows to compute: one per view of a training photo, one per other photo."""
        if self.train_photos is None or self.other_photos is None:
            return None
        return self.views * self.train_photos + self.other_photos


def trains_heads(trainable: str, features: str | bool) -> bool:
    """Return whether only the head is trained, on cached features. features: the mode; YAML 1.1 reads off as false."""
    return trainable == "head" and features not in ("off", False)


def usual_batch(train_photos: int) -> int:
    """Return the photos of a step if data.batch_size is null: an epoch has 40 steps, of 8 to 64 photos.

    Few photos need small steps: 120 photos in steps of 64 would be one step an epoch, too few for a head to learn.
    """
    return min(LARGEST_BATCH, max(8, train_photos // 40))


def feature_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config node `features`, empty if there is none, undoing YAML 1.1, which reads `mode: off` as false."""
    node = dict(config.get("features") or {})
    return {**node, "mode": "off"} if node.get("mode") is False else node


def _of_source(source: Mapping[str, Any]) -> tuple[Mapping[str, int] | None, int]:
    """Return the photos by split and the classes; for a source that depends on a folder, None and dogImages' 133."""
    match str(source.get("_target_", "")).rpartition(".")[2]:
        case "DrawnDogs":
            each = {name: _whole(source.get(name, usual)) for name, usual in _DRAWN.items()}
            breeds = each.pop("breeds")
            return {split: breeds * count for split, count in each.items()}, breeds
        case "DogImages":
            return PHOTOS, len(BREEDS)
    return None, len(BREEDS)


def _whole(value: Any) -> int:
    """Return `value` as a whole number from 1 to 10^9, or 1 if it is not one."""
    return int(value) if isinstance(value, int | float) and 1 <= value <= 10**9 else 1


@dataclass(frozen=True)
class Stage:
    """A part of a backbone. gflop: of its forward pass on one photo of 224 px, 2 x multiply-adds. inputs: the size of
    its input for one photo, which is the feature size if everything before it is frozen. backward: of the gradients of
    its weights and of its input, as many times its forward pass."""

    weights: int
    gflop: float
    inputs: int
    backward: int = 2


# in the order of the forward pass, counted by hooks on the networks; a test verifies them
BACKBONES: Mapping[str, Mapping[str, Stage]] = {
    "resnet50": {
        "conv1": Stage(9_408, 0.236, 150_528),
        "bn1": Stage(128, 0, 802_816),
        "layer1": Stage(215_808, 1.336, 200_704),
        "layer2": Stage(1_219_584, 2.055, 802_816),
        "layer3": Stage(7_098_368, 2.929, 401_408),
        "layer4": Stage(14_964_736, 1.618, 200_704),
    },
    "tf_efficientnet_lite0": {
        "conv_stem": Stage(864, 0.02168, 150_528),
        "bn1": Stage(64, 0, 401_408),
        "blocks.0": Stage(896, 0.02007, 401_408),
        "blocks.1": Stage(13_968, 0.1099, 200_704),
        "blocks.2": Stage(39_712, 0.07587, 75_264),
        "blocks.3": Stage(198_480, 0.08702, 31_360),
        "blocks.4": Stage(446_784, 0.172, 15_680),
        "blocks.5": Stage(1_652_640, 0.1823, 21_952),
        "blocks.6": Stage(605_440, 0.05882, 9_408),
        "conv_head": Stage(409_600, 0.04014, 15_680),
        "bn2": Stage(2_560, 0, 62_720),
    },
}
# stages of one layer: as the first that is trained it needs no gradients of its input; the first convolution is too
# small a part of a network for that to matter
_SINGLE = ("conv_head", "head")
WIDTHS = {"resnet50": 2048, "tf_efficientnet_lite0": 1280}  # the size of the head's input


@dataclass(frozen=True)
class Work:
    """The work of training on one photo, in GFLOP of a forward pass; gradients in the order of the backward pass."""

    frozen_gflop: float
    trained_gflop: float
    feature_bytes: int  # the frozen part's output, in fp32
    trained: tuple[Stage, ...]  # the last layer first

    def step(self, batch_size: int, flops_per_s: float, *, cached: bool) -> Step:
        """Estimate a training step. cached: the frozen part's features are cached, so that it does not run."""
        per_gflop_s = batch_size * 1e9 / flops_per_s
        parts = tuple(
            Part(stage.weights * FLOAT_BYTES, stage.backward * stage.gflop * per_gflop_s) for stage in self.trained
        )
        forward = self.trained_gflop + (0 if cached else self.frozen_gflop)
        return Step(parts, forward * per_gflop_s + STEP_OVERHEAD_S)


@lru_cache(maxsize=256)  # a plan asks it of each type of machine, a search of each trial
def work(backbone: str, trainable: str, classes: int, *, image_px: int = 224) -> Work | None:
    """Return the work of training `trainable` of a backbone on one photo; None if it is not in the table.

    For a part within a stage, such as layer4.2, counts the whole stage, which is more than is trained.
    """
    stages = BACKBONES.get(backbone)
    if stages is None:
        return None
    names = list(stages)
    if trainable in ("all", "head"):
        first = 0 if trainable == "all" else len(names)
    else:
        found = [
            n
            for n, name in enumerate(names)
            if f"{name}.".startswith(f"{trainable}.") or trainable.startswith(f"{name}.")
        ]
        if not found:
            return None
        first = found[0]
    width, area = WIDTHS[backbone], (image_px / 224) ** 2
    scaled = [replace(stage, gflop=stage.gflop * area, inputs=round(stage.inputs * area)) for stage in stages.values()]
    head = Stage((width + 1) * classes, 2 * width * classes / 1e9, width)
    ahead, trained = scaled[:first], [*scaled[first:], head]
    if [*names, "head"][first] in _SINGLE:
        trained[0] = replace(trained[0], backward=1)
    return Work(
        frozen_gflop=sum(stage.gflop for stage in ahead),
        trained_gflop=sum(stage.gflop for stage in trained),
        feature_bytes=trained[0].inputs * FLOAT_BYTES if ahead else 0,
        trained=tuple(reversed(trained)),
    )
