"""Prices and sizes of instance types, from prices.yaml."""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from dogbreed.speedup import Network


@dataclass(frozen=True)
class Instance:
    """A row of prices.yaml. usd: per hour, on demand; gflops: billions of operations a second; net_gbps: Gbit/s."""

    type: str
    usd: float
    as_of: str
    vcpus: int
    gpus: int
    gflops: float
    net_gbps: float

    @property
    def network(self) -> Network:
        return Network(self.net_gbps * 1e9 / 8, _table()["net_latency_us"] / 1e6)


REGION = "us-east-1"  # of the prices


@lru_cache
def _table() -> dict[str, Any]:
    from omegaconf import OmegaConf  # here, so that `python -m launchers --help` does without

    return OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("prices.yaml")))  # type: ignore[return-value]


def instance(name: str) -> Instance | None:
    """The row of a type; None for one that is not in the table."""
    row = _table()["instances"].get(name)
    return None if row is None else Instance(name, **{**row, "as_of": str(row["as_of"])})


def exists(name: str) -> bool:
    """Whether SageMaker trains on such a type, priced here or not."""
    return name in _table()["instances"] or name in _table()["unpriced"]


def closest(name: str) -> list[str]:
    """The known types that a misspelt one may mean."""
    return get_close_matches(name, [*_table()["instances"], *_table()["unpriced"]], 3, 0.5)


def spot_share() -> float:
    """What spot costs of the on-demand price, as a rule: the upper end of the range, so that nobody is surprised."""
    return spot_range()[1]


def spot_range() -> tuple[float, float]:
    low, high = _table()["spot_share"]
    return float(low), float(high)
