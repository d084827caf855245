"""Compare what a month of requests costs on an endpoint's instances, and in a function with the model inside."""

from dataclasses import dataclass

from launchers.cost import prices, serving


@dataclass(frozen=True)
class Sized:
    """A function with the model inside. memory_mb: which brings vCPUs along. architecture: x86_64 or arm64."""

    memory_mb: int
    architecture: str = "x86_64"

    @property
    def gb(self) -> float:
        return self.memory_mb / 1024

    @property
    def usd_per_gb_s(self) -> float:
        rates = prices.lambda_prices()
        return rates.arm_usd_per_gb_s if self.architecture == "arm64" else rates.usd_per_gb_s

    @property
    def slot_usd_per_hour(self) -> float:
        """What one concurrent execution costs while it never rests: times their number, the most that can be spent."""
        return 3600 * self.gb * self.usd_per_gb_s

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
