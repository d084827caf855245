"""Estimate what a run costs, from the prices of instance types and the time that it takes."""

from dataclasses import dataclass

from dogbreed.workload import Workload
from launchers.cost import times
from launchers.cost.prices import Instance, instance, spot_share


@dataclass(frozen=True)
class Cost:
    """The cost of one run, in USD. expected, seconds: None if the time that it takes cannot be estimated."""

    usd_per_hour: float
    expected: float | None
    worst: float
    as_of: str
    seconds: float | None


def estimate(
    workload: Workload, instance_type: str, *, instances: int, spot: bool, max_run_s: float, trials: int = 0
) -> Cost | None:
    """Estimate what a run costs; None for an unknown instance type.

    trials: number of trials of a search in one job, where workload is that of one trial; 0 for a run.
    worst: all instances for all of max_run_s at the on-demand price, which spot never exceeds
    (https://docs.aws.amazon.com/sagemaker/latest/dg/model-managed-spot-training.html).
    """
    row = instance(instance_type)
    if row is None:
        return None
    hourly = row.usd * instances
    seconds = times.search_s(workload, row, trials) if trials else seconds_expected(workload, row, instances)
    share = spot_share() if spot else 1.0
    expected = None if seconds is None else min(seconds, max_run_s) / 3600 * hourly * share
    return Cost(hourly, expected, max_run_s / 3600 * hourly, row.as_of, seconds)


def seconds_expected(workload: Workload, row: Instance, instances: int = 1) -> float | None:
    """Estimate how long a run takes, its start included; None for an unknown network or number of photos."""
    found = times.times(workload, row, instances)
    return None if found is None else found.total_s
