"""What a run costs: prices of instance types, how long it may take, and how to say so."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from dogbreed.speedup import Network
from launchers import scaling


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
    seconds = scaling.search_s(config, row, trials) if trials else seconds_expected(config, row, instances)
    share = spot_share() if spot else 1.0
    expected = None if seconds is None else min(seconds, max_run_s) / 3600 * hourly * share
    return Cost(hourly, expected, max_run_s / 3600 * hourly, row.as_of, seconds)


def seconds_expected(config: Mapping[str, Any], row: Instance, instances: int = 1) -> float | None:
    """How long a run takes, its start included; null for an unknown network or data set."""
    found = scaling.times(config, row, instances)
    return None if found is None else found.total_s


def usd(amount: float) -> str:
    """Three digits of what is small: $0.00248, $0.115, $12.30."""
    if amount >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.3g}" if amount >= 0.0001 else "less than $0.0001"


def spot_share() -> float:
    """What spot costs of the on-demand price, as a rule."""
    return float(_table()["spot_share"])
