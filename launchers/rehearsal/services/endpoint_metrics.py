"""What SageMaker publishes of endpoints in CloudWatch: invocations, latencies and CPU utilization, by variant.

Source: "Amazon SageMaker AI metrics in Amazon CloudWatch" in the SageMaker developer guide.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from moto.cloudwatch.models import MetricAggregatedDatum, MetricDatum, MetricDatumBase, cloudwatch_backends

from launchers.rehearsal.clock import Clock
from launchers.rehearsal.names import ACCOUNT, REGION

if TYPE_CHECKING:
    from launchers.rehearsal.services.endpoint_instance import Instance
    from launchers.rehearsal.services.endpoint_run import EndpointRun

INVOCATIONS, INSTANCES = "AWS/SageMaker", "/aws/sagemaker/Endpoints"  # namespaces
_PERIOD_S = 60
_KEPT_S = 3 * 3600  # as CloudWatch keeps data of high resolution


@dataclass(frozen=True)
class Counted:
    """What an invocation counts for: the names of an endpoint, a variant and an endpoint configuration."""

    endpoint: str
    variant: str
    config: str

    @property
    def dimensions(self) -> list[list[dict[str, str]]]:
        """The dimensions that it is published under: with and without the configuration, as SageMaker does."""
        plain = _dimensions(self.endpoint, self.variant)
        return [plain, [*plain, {"Name": "EndpointConfigName", "Value": self.config}]]


@dataclass(frozen=True)
class _Bucket:
    """One period of one variant's metrics. start: on the cloud's clock."""

    counted: Counted
    start: float
    period_s: int


@dataclass(frozen=True)
class _Invocation:
    status: int
    model_us: float
    overhead_us: float


class Meter:
    """Collects metrics, and publishes them once their period is over. Periods are those of the cloud's clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._invocations: dict[_Bucket, list[_Invocation]] = defaultdict(list)
        self._cpu: dict[str, tuple[float, float]] = {}  # by instance: when it was looked at, seconds used until then
        self._cpu_due: dict[str, float] = {}  # by endpoint

    def count(
        self, counted: Counted, config: Mapping[str, Any], status: int, model_s: float, overhead_s: float
    ) -> None:
        """Count one invocation. config: the variant's MetricsConfig. status: of the container's answer; 0 for none."""
        period_s = _frequency(config) if config.get("EnableEnhancedMetrics") else _PERIOD_S
        start = self.clock.now() // period_s * period_s
        with self._lock:
            bucket = self._invocations[_Bucket(counted, start, period_s)]
            bucket.append(_Invocation(status, 1e6 * model_s, 1e6 * overhead_s))

    def publish(self, runs: "Iterable[EndpointRun]") -> None:
        """Publish what is due, and forget what is too old."""
        now = self.clock.now()
        with self._lock:
            due = {
                bucket: found for bucket, found in self._invocations.items() if bucket.start + bucket.period_s <= now
            }
            for bucket in due:
                del self._invocations[bucket]
        for bucket, found in due.items():
            self._publish_invocations(bucket, found)
        for run in runs:
            frequency = _frequency(run.record.metrics)
            if now >= self._cpu_due.get(run.record.name, 0.0):
                self._cpu_due[run.record.name] = now // frequency * frequency + frequency
                self._publish_cpu(run, now // frequency * frequency - frequency)
        _forget(time.time() - _KEPT_S)

    def _publish_invocations(self, bucket: _Bucket, found: list[_Invocation]) -> None:
        moment = self._moment(bucket.start)
        failed = [one.status >= 500 or one.status == 0 for one in found]
        wrong = [400 <= one.status < 500 for one in found]
        for name, flags in (
            ("Invocations", [True] * len(found)),
            ("Invocation4XXErrors", wrong),
            ("Invocation5XXErrors", failed),
        ):
            for dimensions in bucket.counted.dimensions:
                values = (min(flags), max(flags), len(flags), sum(flags))
                _add(MetricAggregatedDatum(INVOCATIONS, name, *values, dimensions, moment, "None"))
        for one in found:
            for name, value in (("ModelLatency", one.model_us), ("OverheadLatency", one.overhead_us)):
                for dimensions in bucket.counted.dimensions:
                    _add(MetricDatum(INVOCATIONS, name, value, dimensions, moment, "Microseconds"))

    def _publish_cpu(self, run: "EndpointRun", start: float) -> None:
        for fleet in (run.fleet, run.green):
            for instance in fleet.all() if fleet is not None else ():
                if (percent := self._cpu_percent(instance)) is not None:
                    dimensions = _dimensions(run.record.name, instance.variant.name)
                    _add(MetricDatum(INSTANCES, "CPUUtilization", percent, dimensions, self._moment(start), "Percent"))

    def _cpu_percent(self, instance: "Instance") -> float | None:
        """Return the utilization since the last time: 100 for each core that was busy throughout; None at first."""
        moment, used = time.monotonic(), instance.cpu_s()
        before = self._cpu.get(instance.id)
        self._cpu[instance.id] = moment, used
        if before is None or moment <= before[0]:
            return None
        return max(100 * (used - before[1]) / (moment - before[0]), 0.0)

    def _moment(self, start: float) -> datetime:
        """Return a period's time stamp: real, without a time zone, as moto has them."""
        return datetime.fromtimestamp(self.clock.real(start + 0.1), UTC).replace(tzinfo=None)


def _frequency(config: Mapping[str, Any]) -> int:
    return int(config.get("MetricPublishFrequencyInSeconds", _PERIOD_S))


def _dimensions(endpoint: str, variant: str) -> list[dict[str, str]]:
    return [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]


def _add(datum: MetricDatumBase) -> None:
    cloudwatch_backends[ACCOUNT][REGION].metric_data.append(datum)


def _forget(moment: float) -> None:
    """Delete data from before this moment."""
    backend = cloudwatch_backends[ACCOUNT][REGION]
    oldest = datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)
    if backend.metric_data and backend.metric_data[0].timestamp < oldest:
        backend.metric_data = [datum for datum in backend.metric_data if datum.timestamp >= oldest]
