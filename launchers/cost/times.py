"""How long a run takes on one instance or several, and what a plan says of their number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dogbreed.speedup import Step, Work, speed_up, work

if TYPE_CHECKING:
    from launchers.cost.prices import Instance

_START_S = 180.0  # a machine and its image, and packages that it lacks
# Rows of cached features that a search's trial trains on, a second, all that is around its epochs included: its 10 of
# dogImages took 3.3 s on two Zen 4 cores (python -m dogbreed.benchmark sweep). Other machines are taken to be alike
_ROWS_PER_S = 20_000
_CLASSES = 133


@dataclass(frozen=True)
class Times:
    """Of a run. features_s: the one pass that computes them, 0 where there are none."""

    features_s: float
    epochs_s: float

    @property
    def total_s(self) -> float:
        return _START_S + self.features_s + self.epochs_s


def times(config: Mapping[str, Any], row: "Instance", instances: int) -> Times | None:
    """Null for an unknown network or data set."""
    of_one, photos = work_of(config), _photos(config)
    if of_one is None or photos is None:
        return None
    train, rest = photos
    per_s = row.gflops * instances
    features_s = 0.0
    if cached := caches(config, of_one):
        views = _views(config, train) + rest
        # each machine computes its share, and is then handed those of the others
        shares = views * of_one.feature_bytes * (instances - 1) / instances / row.network.bytes_per_s
        features_s = views * of_one.frozen_gflop / per_s + shares
    epochs = config["trainer"]["max_epochs"]
    step, processes = _step(config, row, of_one), max(1, row.gpus)
    steps = train / (config["data"]["batch_size"] * processes)  # of one instance
    training_s = steps * step.compute_s / speed_up(step, row.network, instances, per_machine=processes)
    looking_s = rest * (of_one.trained_gflop + (0 if cached else of_one.frozen_gflop)) / per_s
    return Times(features_s, epochs * (training_s + looking_s))


def search_s(config: Mapping[str, Any], row: "Instance", trials: int) -> float | None:
    """How long a search in one job takes: its start, one pass over the photos where trials share their features, then
    one trial after the other, none of them pruned. Null for an unknown network or data set. config: of some trial.
    """
    found, of_one, photos = times(config, row, 1), work_of(config), _photos(config)
    if found is None or of_one is None or photos is None:
        return None
    trial_s = found.epochs_s
    if str(config["model"]["trainable"]) == "head" and caches(config, of_one):  # its matrix product is the least of it
        trial_s = config["trainer"]["max_epochs"] * photos[0] / _ROWS_PER_S
    return _START_S + found.features_s + trials * trial_s


def speed(config: Mapping[str, Any], row: "Instance", instances: int) -> float | None:
    """Of training steps on so many instances, as a multiple of one's; null for an unknown network."""
    of_one = work_of(config)
    if of_one is None:
        return None
    return speed_up(_step(config, row, of_one), row.network, instances, per_machine=max(1, row.gpus))


def work_of(config: Mapping[str, Any]) -> Work | None:
    model = config["model"]
    return work(str(model.get("backbone")), str(model.get("trainable")), _CLASSES, image_px=model["image_px"])


def _step(config: Mapping[str, Any], row: "Instance", of_one: Work) -> Step:
    flops_per_s = row.gflops * 1e9 / max(1, row.gpus)
    return of_one.step(config["data"]["batch_size"], flops_per_s, cached=caches(config, of_one))


def caches(config: Mapping[str, Any], of_one: Work) -> bool:
    features = config.get("features") or {}
    if not of_one.frozen_gflop or features.get("mode") in ("off", False):
        return False
    photos = _photos(config)
    if photos is None:
        return True
    size = (_views(config, photos[0]) + photos[1]) * of_one.feature_bytes
    return bool(size <= float(features.get("max_gb") or 0) * 1e9)


def _views(config: Mapping[str, Any], train: int) -> int:
    return train * int((config.get("features") or {}).get("views") or 1)


def _photos(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """How many are trained on, and how many are looked at besides, where the settings alone say so."""
    source = config["data"].get("source") or {}
    match str(source.get("_target_", "")).rpartition(".")[2]:
        case "DrawnDogs":
            return 133 * source["train"], 133 * (source["valid"] + source["test"])
        case "DogImages":
            return 6680, 1671
    return None
