"""Estimate what a run costs, from the prices of instance types and the time that it takes."""

from dataclasses import dataclass

from dogbreed.workload import Workload
from launchers import formatting
from launchers.cost import times
from launchers.cost.limits import Overhead
from launchers.cost.prices import Instance, spot_range

KIND = "times are estimates from specifications"  # of what plans expect, because nobody has measured these machines


@dataclass(frozen=True)
class Cost:
    """The cost of one run, in USD.

    expected: the lowest and the highest, which differ for spot machines; None, as seconds is, if the time that it takes
    cannot be estimated. worst: if it takes all the time that it is given.
    """

    usd_per_hour: float
    expected: tuple[float, float] | None
    worst: float
    as_of: str
    seconds: float | None

    @property
    def expected_words(self) -> str:
        if self.expected is None:
            return "the expected cost is unknown"
        low, high = map(formatting.usd, self.expected)
        return f"about {low} expected" if low == high else f"{low} to {high} expected"


def estimate(
    workload: Workload,
    row: Instance,
    *,
    instances: int,
    spot: bool,
    max_run_s: float,
    trials: int = 0,
    overhead: Overhead | None = None,
) -> Cost:
    """Estimate what a run costs.

    trials: number of trials of a search in one job, where workload is that of one trial; 0 for a run. overhead: what is
    paid besides max_run_s. worst: all instances for all of that at the on-demand price, which spot never exceeds
    (https://docs.aws.amazon.com/sagemaker/latest/dg/model-managed-spot-training.html).
    """
    hourly = row.usd * instances
    seconds = times.search_s(workload, row, trials) if trials else seconds_expected(workload, row, instances)
    kept_s, ending_s = (overhead.kept_s, overhead.ending_s) if overhead else (0.0, 0.0)
    expected = None
    if seconds is not None:
        usd = min(seconds, max_run_s) / 3600 * hourly
        low, high = spot_range() if spot else (1.0, 1.0)
        expected = (usd * low, usd * high)
    return Cost(hourly, expected, (max_run_s + ending_s + kept_s) / 3600 * hourly, row.as_of, seconds)


def seconds_expected(workload: Workload, row: Instance, instances: int = 1) -> float | None:
    """Estimate how long a run takes, its start included; None for an unknown network or number of photos."""
    found = times.times(workload, row, instances)
    return None if found is None else found.total_s
