"""What a simulated setting costs in a month. Prices: prices.yaml, of us-east-1."""

from dataclasses import dataclass

from launchers.capacity.setting import Setting
from launchers.capacity.simulation import Outcome
from launchers.cost import prices

MONTH_S = 730 * 3600.0  # as AWS counts a month


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
        instances = outcome.instance_s / 3600 * row.usd * months
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


def usd_per_call(seconds: float, memory_mb: int) -> float:
    """Return what one call of a function costs."""
    rates = prices.lambda_prices()
    return rates.usd_per_million / 1e6 + seconds * memory_mb / 1024 * rates.usd_per_gb_s


def break_even_rps(service_s: float, call_s: float, instance_type: str, instances: int = 1) -> float:
    """Return the requests per second, day and night, from which instances are cheaper than a function with the model.

    service_s: of one request in a function with one vCPU. call_s: of the function in front of the endpoint. Returns
    infinity if the function in front alone costs as much.
    """
    row, rates = prices.hosting(instance_type), prices.lambda_prices()
    if row is None:
        raise KeyError(instance_type)
    saved = usd_per_call(service_s, rates.vcpu_mb) - usd_per_call(call_s, rates.front_mb)
    return instances * row.usd / 3600 / saved if saved > 0 else float("inf")
