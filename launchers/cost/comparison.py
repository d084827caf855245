"""Compare what a month of requests costs on an endpoint's instances, and in a function with the model inside."""

from dataclasses import dataclass

from launchers.cost import prices, serving

# Requests that a process takes per second, at most: Lambda refuses more than ten times the concurrency
# (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html, as of 2026-11-29). Each is rounded up to a
# whole millisecond (https://aws.amazon.com/lambda/pricing/).
_REQUESTS_PER_S, _ROUNDED_S = 10, 0.001
_FREE_DISK_MB = 512


@dataclass(frozen=True)
class Sized:
    """A Lambda function. memory_mb: which brings vCPUs along. architecture: x86_64 or arm64. disk_mb: of its /tmp."""

    memory_mb: int
    architecture: str = "x86_64"
    disk_mb: int = _FREE_DISK_MB

    @property
    def gb(self) -> float:
        return self.memory_mb / 1024

    @property
    def usd_per_gb_s(self) -> float:
        rates = prices.lambda_prices()
        return rates.arm_usd_per_gb_s if self.architecture == "arm64" else rates.usd_per_gb_s

    @property
    def slot_usd_per_hour(self) -> float:
        """What one process costs by the hour while it never rests, with as many requests as Lambda lets it take."""
        return self._hour(self.usd_per_gb_s)

    def worst_usd_per_hour(self, reserved: int | None, provisioned: int = 0) -> float | None:
        """Return the most that the function can cost by the hour; None if nothing limits it.

        reserved: requests that it takes at once, at most. provisioned: processes of these that are kept warm, whose
        price on x86_64 is taken for arm64, too, where it is lower. What it writes to its log is not counted.
        """
        if reserved is None:
            return None
        rates = prices.lambda_prices()
        warm = 3600 * self.gb * rates.provisioned_usd_per_gb_s + self._hour(rates.provisioned_use_usd_per_gb_s)
        return (reserved - provisioned) * self.slot_usd_per_hour + provisioned * warm

    def _hour(self, usd_per_gb_s: float) -> float:
        """Return what a process costs in an hour that is full of requests."""
        rates = prices.lambda_prices()
        requests = 3600 * _REQUESTS_PER_S
        disk = max(0, self.disk_mb - _FREE_DISK_MB) / 1024 * rates.disk_usd_per_gb_s
        billed_s = 3600 + requests * _ROUNDED_S
        return billed_s * (self.gb * usd_per_gb_s + disk) + requests * rates.usd_per_million / 1e6

    @property
    def warm_usd_per_month(self) -> float:
        """What it costs to keep one environment warm (provisioned concurrency), besides its use."""
        return serving.MONTH_S * self.gb * prices.lambda_prices().provisioned_usd_per_gb_s

    @property
    def snapshot_usd_per_month(self) -> float:
        """What it costs to keep the snapshot of one version (SnapStart), besides what each restore costs."""
        return serving.MONTH_S * self.gb * prices.lambda_prices().snapshot_usd_per_gb_s

    @property
    def restore_usd(self) -> float:
        """What one start from a snapshot costs."""
        return self.gb * prices.lambda_prices().restore_usd_per_gb

    def seconds(self, service_s: float) -> float:
        """Return the time of a request, at most. service_s: on one vCPU. More than one is not counted as faster."""
        return service_s * max(1.0, prices.lambda_prices().vcpu_mb / self.memory_mb)


@dataclass(frozen=True)
class Month:
    """A month of requests, `rps` a second day and night, in dollars by list price.

    realtime: of the instances; None for a type without a known price. function: without the free tier. free: what that
    takes off, if nothing else in the account uses it.
    """

    rps: float
    realtime: float | None
    function: float
    free: float


def compare(rps: float, service_s: float, function: Sized, instance_type: str, instances: int) -> Month:
    """Return what both cost, whether or not the instances can serve that many. service_s: of a request on one vCPU."""
    rates, requests = prices.lambda_prices(), rps * serving.MONTH_S
    gb_s = requests * function.seconds(service_s) * function.gb
    per_request = rates.usd_per_million / 1e6
    return Month(
        rps,
        serving.usd_per_month(instance_type, instances),
        requests * per_request + gb_s * function.usd_per_gb_s,
        min(requests, rates.free_requests) * per_request + min(gb_s, rates.free_gb_s) * function.usd_per_gb_s,
    )
