"""Prices and sizes of machines, from prices.yaml."""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from dogbreed.speedup import Network


@dataclass(frozen=True)
class Instance:
    """A machine with its price, for training on SageMaker or on EC2.

    usd: per hour, on demand. gpu: the kind, or "". gpu_memory_gb: of one GPU. gflops: billions of operations a second,
    an estimate. net_gbps: Gbit/s. source: as prices.yaml explains it. withdrawn: the service no longer offers it.
    """

    type: str
    usd: float
    as_of: str
    vcpus: int
    gpus: int
    gflops: float
    net_gbps: float
    memory_gb: float = 0.0
    gpu: str = ""
    gpu_memory_gb: float = 0.0
    source: str = ""
    withdrawn: bool = False

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
    memory_mb: int
    source: str = ""


@dataclass(frozen=True)
class LambdaPrices:
    """What Lambda costs, in US dollars per GB-second and per million requests, and what is free every month.

    provisioned: for each GB-second that is kept warm; provisioned_use: for each one of those that is used.
    vcpu_mb: memory that comes with one vCPU. front_mb: memory of a function that only passes requests on.
    arm: on arm64. disk: for each GB-second of /tmp above 512 MB. snapshot: for each GB-second that SnapStart keeps one.
    restore: for each GB of a start from it.
    """

    as_of: str
    source: str
    usd_per_gb_s: float
    usd_per_million: float
    provisioned_usd_per_gb_s: float
    provisioned_use_usd_per_gb_s: float
    free_gb_s: float
    free_requests: float
    vcpu_mb: int
    front_mb: int
    arm_usd_per_gb_s: float
    disk_usd_per_gb_s: float
    snapshot_usd_per_gb_s: float
    restore_usd_per_gb: float


REGION = "us-east-1"  # the region that the prices apply to
TABLE = Path(__file__).with_name("prices.yaml")


@lru_cache
def _table() -> dict[str, Any]:
    from omegaconf import OmegaConf  # here, so that `python -m launchers --help` does not load it

    return OmegaConf.to_container(OmegaConf.load(TABLE))  # type: ignore[return-value]


def instance(name: str) -> Instance | None:
    """Return the price of a type that SageMaker trains on; None if it is not known."""
    return _row("training", name)


def ec2(name: str) -> Instance | None:
    """Return the price of an EC2 machine with Linux, on demand; None if it is not known."""
    return _row("ec2", name)


def types() -> list[Instance]:
    """Return the types for training whose price is known, the cheapest first, and last those that are withdrawn."""
    rows = [row for name in _table()["training"] if (row := instance(name)) is not None]
    return sorted(rows, key=lambda row: (row.withdrawn, row.usd, row.type))


def _row(section: str, name: str) -> Instance | None:
    price = _table()[section].get(name)
    if price is None:
        return None
    return Instance(name, **{**price, **_table()["machines"][machine_of(name)], "as_of": str(price["as_of"])})


def machine_of(name: str) -> str:
    """Return EC2's name of a machine, from SageMaker's or its own."""
    return name.removeprefix("ml.")


def hosting(name: str) -> Hosting | None:
    """Return the price of an endpoint's instance type; None if the table does not have it."""
    row = _table()["hosting"].get(name)
    if row is None:
        return None
    machine = _table()["machines"][machine_of(name)]
    size = int(machine["vcpus"]), round(1024 * machine["memory_gb"])
    return Hosting(name, float(row["usd"]), str(row["as_of"]), *size, str(row["source"]))


def hosting_types() -> list[str]:
    """Return the offered types for our server, which uses no GPU, whose price is known, the cheapest first."""
    rows = {name: row for name, row in _table()["hosting"].items() if hosts(name) and not row.get("withdrawn")}
    return sorted(rows, key=lambda name: (float(rows[name]["usd"]), name))


def hosts(name: str) -> bool:
    """Whether endpoints run on this type, and our server on it: it needs an x86 processor, and uses no GPU."""
    priced = name in _table()["hosting"] and not _table()["machines"][machine_of(name)]["gpus"]
    return priced or name in _table()["hosting_unpriced"]


def closest_hosting(name: str) -> list[str]:
    """Return up to three known types for endpoints that a misspelt one may mean."""
    return get_close_matches(name, [*hosting_types(), *_table()["hosting_unpriced"]], 3, 0.5)


def lambda_prices() -> LambdaPrices:
    row = _table()["lambda"]
    return LambdaPrices(**{**row, "as_of": str(row["as_of"])})


def exists(name: str) -> bool:
    """Whether SageMaker trains on this type, whether or not its price is known here."""
    return name in _table()["training"] or name in _table()["unpriced"]


def closest(name: str) -> list[str]:
    """Return up to three types that a misspelt one may mean and that SageMaker still offers."""
    offered = [kind for kind, row in _table()["training"].items() if not row.get("withdrawn")]
    return get_close_matches(name, [*offered, *_table()["unpriced"]], 3, 0.5)


def spot_range() -> tuple[float, float]:
    """Return the lowest and the highest price of spot machines as shares of the price on demand."""
    low, high = _table()["spot"]
    return float(low), float(high)


def forget() -> None:
    """Read the table again at the next question, because the file has changed."""
    _table.cache_clear()
