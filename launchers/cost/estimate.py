"""What a run costs: prices of instance types, how long it may take, and how to say so."""

from dataclasses import dataclass

from dogbreed.workload import Workload
from launchers.cost import times
from launchers.cost.prices import Instance, instance, spot_share


@dataclass(frozen=True)
class Cost:
    """Of one run, in USD. expected: None where nobody can tell how long it takes; so is `seconds`."""

    usd_per_hour: float
    expected: float | None
    worst: float
    as_of: str
    seconds: float | None


def estimate(
    workload: Workload, instance_type: str, *, instances: int, spot: bool, max_run_s: float, trials: int = 0
) -> Cost | None:
    """What a run costs; None for an unknown instance type. trials: of a search in one job; workload is that of one.

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
    """How long a run takes, its start included; None for an unknown network or number of photos."""
    found = times.times(workload, row, instances)
    return None if found is None else found.total_s
