"""What a simulated setting costs in a month. Prices: prices.yaml, of us-east-1."""

from dataclasses import dataclass

from launchers.capacity.outcome import Outcome
from launchers.capacity.setting import Setting
from launchers.cost import prices
from launchers.cost.serving import MONTH_S


@dataclass(frozen=True)
class Bill:
    """Dollars a month. free: what Lambda's free tier takes off, if nothing else in the account uses it."""

    instances: float
    calls: float
    provisioned: float
    free: float

    @property
    def total(self) -> float:
        return self.instances + self.calls + self.provisioned


def bill(setting: Setting, outcome: Outcome) -> Bill:
    """Return what a month of this traffic costs. Raises KeyError for an instance type without a known price."""
    months = MONTH_S / outcome.end_s
    instances = calls = provisioned = free = 0.0
    if setting.endpoint is not None:
        row = prices.hosting(setting.endpoint.type)
        if row is None:
            raise KeyError(setting.endpoint.type)
        # they run on until the last request is answered, which is a large part of short traffic
        instances = outcome.instance_s / 3600 * row.usd * MONTH_S / max(outcome.end_s, outcome.closed_s)
    if (function := setting.function) is not None:
        rates, gb = prices.lambda_prices(), function.memory_mb / 1024
        number, used_gb_s = outcome.calls * months, outcome.function_s * gb * months
        calls = number / 1e6 * rates.usd_per_million + used_gb_s * rates.usd_per_gb_s
        free = (
            min(number, rates.free_requests) / 1e6 * rates.usd_per_million
            + min(used_gb_s, rates.free_gb_s) * rates.usd_per_gb_s
        )
        kept_gb_s = function.provisioned * gb * MONTH_S
        provisioned = (
            kept_gb_s * rates.provisioned_usd_per_gb_s
            + outcome.provisioned_s * gb * months * rates.provisioned_use_usd_per_gb_s
        )
    return Bill(instances, calls, provisioned, free)
