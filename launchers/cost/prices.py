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


REGION = "us-east-1"  # the region that the prices apply to


@lru_cache
def _table() -> dict[str, Any]:
    from omegaconf import OmegaConf  # here, so that `python -m launchers --help` does not load it

    return OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("prices.yaml")))  # type: ignore[return-value]


def instance(name: str) -> Instance | None:
    """Return the row of an instance type; None if the table does not have it."""
    row = _table()["instances"].get(name)
    return None if row is None else Instance(name, **{**row, "as_of": str(row["as_of"])})


def exists(name: str) -> bool:
    """Whether SageMaker trains on this type, whether or not its price is known here."""
    return name in _table()["instances"] or name in _table()["unpriced"]


def closest(name: str) -> list[str]:
    """Return up to three known types that a misspelt one may mean."""
    return get_close_matches(name, [*_table()["instances"], *_table()["unpriced"]], 3, 0.5)


def spot_share() -> float:
    """Return the typical spot price as a share of the on-demand price: the upper end of the range."""
    return spot_range()[1]


def spot_range() -> tuple[float, float]:
    """Return the lowest and the highest typical spot price as shares of the on-demand price."""
    low, high = _table()["spot_share"]
    return float(low), float(high)
