"""What a run costs: prices of instance types, how long it may take, and how to say so."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

_START_S = 180.0  # a machine and its image, and packages that it lacks
# Operations of one forward pass over a 224 px photo, in billions; from the papers of both networks (2 x multiply-adds)
_GFLOP = {"resnet50": 8.2, "tf_efficientnet_lite0": 0.8}
_PASSES = 3  # a training step: forward, and twice as much backward
# Rows of cached features that a search's trial trains on, a second, all that is around its epochs included: its 10 of
# dogImages took 3.3 s on two Zen 4 cores (python -m dogbreed.benchmark sweep). Other machines are taken to be alike
_ROWS_PER_S = 20_000


@dataclass(frozen=True)
class Instance:
    """A row of prices.yaml. usd: per hour, on demand; gflops: billions of operations a second."""

    type: str
    usd: float
    as_of: str
    vcpus: int
    gpus: int
    gflops: float


@dataclass(frozen=True)
class Cost:
    """Of one run, in USD. expected: null where nobody can tell how long it takes, which `seconds` says."""

    usd_per_hour: float
    expected: float | None
    worst: float
    as_of: str
    seconds: float | None


REGION = "us-east-1"  # of the prices


@lru_cache
def _table() -> dict[str, Any]:
    from omegaconf import OmegaConf  # here, so that `python -m launchers --help` does without

    return OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("prices.yaml")))  # type: ignore[return-value]


def instance(name: str) -> Instance | None:
    """Null for a type that is not in the table."""
    row = _table()["instances"].get(name)
    return None if row is None else Instance(name, **{**row, "as_of": str(row["as_of"])})


def exists(name: str) -> bool:
    """Whether SageMaker trains on such a type, priced here or not."""
    return name in _table()["instances"] or name in _table()["unpriced"]


def closest(name: str) -> list[str]:
    """The known types that a misspelt one may mean."""
    return get_close_matches(name, [*_table()["instances"], *_table()["unpriced"]], 3, 0.5)


def estimate(
    config: Mapping[str, Any], name: str, *, instances: int, spot: bool, max_run_s: float, trials: int = 0
) -> Cost | None:
    """Null for an unknown instance type. trials: of a search in one job; config is then that of one of them.

    worst: all instances for all of max_run_s at the on-demand price, which spot never exceeds
    (https://docs.aws.amazon.com/sagemaker/latest/dg/model-managed-spot-training.html).
    """
    row = instance(name)
    if row is None:
        return None
    hourly = row.usd * instances
    seconds = search_expected(config, row, trials) if trials else seconds_expected(config, row)
    share = spot_share() if spot else 1.0
    expected = None if seconds is None else min(seconds, max_run_s) / 3600 * hourly * share
    return Cost(hourly, expected, max_run_s / 3600 * hourly, row.as_of, seconds)


def seconds_expected(config: Mapping[str, Any], row: Instance) -> float | None:
    """How long a run takes on one such instance, its start included; null for an unknown network or data set."""
    gflop = _GFLOP.get(str(config["model"].get("backbone")))
    photos = _photos(config)
    if gflop is None or photos is None:
        return None
    train, rest = photos
    epochs = config["trainer"]["max_epochs"]
    if _on_features(config):
        views = train * int((config.get("features") or {}).get("views") or 1) + rest
    else:
        views = epochs * (train * _PASSES + rest)
    pixels = (config["model"]["image_px"] / 224) ** 2
    return float(_START_S + views * gflop * pixels / row.gflops)


def search_expected(config: Mapping[str, Any], row: Instance, trials: int) -> float | None:
    """How long a search in one job takes: its start, and one pass over the photos where trials share their features;
    then one trial after the other, none of them pruned.
    """
    one, photos = seconds_expected(config, row), _photos(config)
    if one is None or photos is None:
        return None
    if not _on_features(config):
        return _START_S + trials * (one - _START_S)
    return one + float(trials * config["trainer"]["max_epochs"] * photos[0] / _ROWS_PER_S)


def _on_features(config: Mapping[str, Any]) -> bool:
    off = (config.get("features") or {}).get("mode") in ("off", False)
    return config["model"].get("trainable") == "head" and not off


def _photos(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """How many are trained on, and how many are looked at besides, where the settings alone say so."""
    source = config["data"].get("source") or {}
    match str(source.get("_target_", "")).rpartition(".")[2]:
        case "DrawnDogs":
            return 133 * source["train"], 133 * (source["valid"] + source["test"])
        case "DogImages":
            return 6680, 1671
    return None


def usd(amount: float) -> str:
    """Three digits of what is small: $0.00248, $0.115, $12.30."""
    if amount >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.3g}" if amount >= 0.0001 else "less than $0.0001"


def spot_share() -> float:
    """What spot costs of the on-demand price, as a rule."""
    return float(_table()["spot_share"])
