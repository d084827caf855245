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


@dataclass(frozen=True)
class Hosting:
    """An instance type of a real-time endpoint. usd: per hour, on demand."""

    type: str
    usd: float
    as_of: str
    vcpus: int


@dataclass(frozen=True)
class LambdaPrices:
    """What Lambda costs, in US dollars per GB-second and per million requests, and what is free every month.

    provisioned: for each GB-second that is kept warm; provisioned_use: for each one of those that is used.
    vcpu_mb: memory that comes with one vCPU. front_mb: memory of a function that only passes requests on.
    arm: on arm64. snapshot: for each GB-second that SnapStart keeps one. restore: for each GB of a start from it.
    """

    as_of: str
    usd_per_gb_s: float
    usd_per_million: float
    provisioned_usd_per_gb_s: float
    provisioned_use_usd_per_gb_s: float
    free_gb_s: float
    free_requests: float
    vcpu_mb: int
    front_mb: int
    arm_usd_per_gb_s: float
    snapshot_usd_per_gb_s: float
    restore_usd_per_gb: float


REGION = "us-east-1"  # the region that the prices apply to


@lru_cache
def _table() -> dict[str, Any]:
    from omegaconf import OmegaConf  # here, so that `python -m launchers --help` does not load it

    return OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("prices.yaml")))  # type: ignore[return-value]


def instance(name: str) -> Instance | None:
    """Return the row of an instance type; None if the table does not have it."""
    row = _table()["instances"].get(name)
    return None if row is None else Instance(name, **{**row, "as_of": str(row["as_of"])})


def ec2(name: str) -> Instance | None:
    """Return the price of a machine of EC2 with Linux, on demand; None if it is not known."""
    row = _table()["ec2"].get(name)
    return None if row is None else Instance(name, **{**row, "as_of": str(row["as_of"])})


def hosting(name: str) -> Hosting | None:
    """Return the price of an endpoint's instance type; None if the table does not have it."""
    row = _table()["hosting"].get(name)
    return None if row is None else Hosting(name, float(row["usd"]), str(row["as_of"]), int(row["vcpus"]))


def hosting_types() -> list[str]:
    """Return the instance types for endpoints whose price is known, the cheapest first."""
    rows = _table()["hosting"]
    return sorted(rows, key=lambda name: (float(rows[name]["usd"]), name))


def hosts(name: str) -> bool:
    """Whether endpoints run on this type, and our server on it: it needs an x86 processor, and uses no GPU."""
    return name in _table()["hosting"] or name in _table()["hosting_unpriced"]


def closest_hosting(name: str) -> list[str]:
    """Return up to three known types for endpoints that a misspelt one may mean."""
    return get_close_matches(name, [*_table()["hosting"], *_table()["hosting_unpriced"]], 3, 0.5)


def lambda_prices() -> LambdaPrices:
    row = _table()["lambda"]
    return LambdaPrices(**{**row, "as_of": str(row["as_of"])})


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
