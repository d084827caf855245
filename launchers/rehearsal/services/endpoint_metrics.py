"""What SageMaker publishes of endpoints in CloudWatch: invocations, latencies, concurrency and CPU, by variant.

Source: "Amazon SageMaker AI metrics in Amazon CloudWatch" in the SageMaker developer guide.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from moto.cloudwatch.models import MetricAggregatedDatum, MetricDatum, MetricDatumBase, cloudwatch_backends

from launchers.rehearsal.clock import Clock
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.rehearsal.services.endpoint_load import Totals

if TYPE_CHECKING:
    from launchers.rehearsal.services.endpoint_run import EndpointRun

INVOCATIONS, INSTANCES = "AWS/SageMaker", "/aws/sagemaker/Endpoints"  # namespaces
_PERIOD_S, _HIGH_RESOLUTION_S = 60, 10
_KEPT_S = 3 * 3600  # as CloudWatch keeps data of high resolution
_MOST_MISSED = 360  # periods that are published at once, where this process has stood still


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
        self._totals: dict[tuple[str, str], Totals] = {}  # by instance and metric: when it was last published
        self._due: dict[tuple[str, str], float] = {}  # by endpoint and metric

    def count(
        self, counted: Counted, config: Mapping[str, Any], status: int, model_s: float, overhead_s: float
    ) -> None:
        """Count one invocation. config: the variant's MetricsConfig. status: of the container's answer; 0 for none."""
        period_s = _frequency(config) if config.get("EnableEnhancedMetrics") else _PERIOD_S
        start = self.clock.now() // period_s * period_s
        with self._lock:
            bucket = self._invocations[_Bucket(counted, start, period_s)]
            bucket.append(_Invocation(status, 1e6 * model_s, 1e6 * overhead_s))

    def publish(self, runs: "Sequence[EndpointRun]") -> None:
        """Publish what is due, and forget what is too old."""
        now, serving = self.clock.now(), _serving(runs)
        with self._lock:
            due = {
                bucket: found for bucket, found in self._invocations.items() if bucket.start + bucket.period_s <= now
            }
            for bucket in due:
                del self._invocations[bucket]
        for bucket, found in due.items():
            self._publish_invocations(bucket, found, serving.get((bucket.counted.endpoint, bucket.counted.variant), 0))
        for run in runs:
            for metric, every_s in (
                ("CPUUtilization", _frequency(run.record.metrics)),
                ("ConcurrentRequestsPerModel", _HIGH_RESOLUTION_S),
            ):
                start, named = now // every_s * every_s, (run.record.name, metric)
                at = self._due.get(named, start)
                if now >= at:
                    self._due[named] = start + every_s
                    over = min(int((start - at) // every_s) + 1, _MOST_MISSED)
                    self._publish_load(run, metric, [start - n * every_s for n in range(over, 0, -1)])
        names = {run.record.name for run in runs}
        self._due = {named: at for named, at in self._due.items() if named[0] in names}
        _forget(time.time() - _KEPT_S)

    def _publish_invocations(self, bucket: _Bucket, found: list[_Invocation], serving: int) -> None:
        """Publish one period. serving: the number of instances that have shared the requests."""
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
        share = 1 / max(serving, 1)
        plain = bucket.counted.dimensions[0]
        each = MetricAggregatedDatum(
            INVOCATIONS, "InvocationsPerInstance", share, share, len(found), share * len(found), plain, moment, "None"
        )
        _add(each)
        for one in found:
            for name, value in (("ModelLatency", one.model_us), ("OverheadLatency", one.overhead_us)):
                for dimensions in bucket.counted.dimensions:
                    _add(MetricDatum(INVOCATIONS, name, value, dimensions, moment, "Microseconds"))

    def _publish_load(self, run: "EndpointRun", metric: str, starts: Sequence[float]) -> None:
        """Publish what each instance was busy with on average since the last time; nothing of a new one yet.

        starts: of the periods since then, of which there are several if the machine was too busy to look each time.
        """
        for fleet in (run.fleet, run.green):
            for instance in fleet.all() if fleet is not None else ():
                now, before = instance.load.totals(), self._totals.get((instance.id, metric))
                self._totals[instance.id, metric] = now
                if before is None or now.moment <= before.moment or not instance.healthy:
                    continue
                passed, at = now.moment - before.moment, _dimensions(run.record.name, instance.variant.name)
                if metric == "CPUUtilization":  # 100 for each vCPU that was busy throughout
                    percent = 100 * (now.busy_s - before.busy_s) / passed
                    data = [
                        MetricDatum(INSTANCES, metric, percent, at, self._moment(each), "Percent") for each in starts
                    ]
                else:
                    inside = (now.inside_s - before.inside_s) / passed
                    data = [MetricDatum(INVOCATIONS, metric, inside, at, self._moment(each), "None") for each in starts]
                _add(*data)
        if metric != "CPUUtilization":
            # assumed: AWS publishes zeros while nobody asks, so that the number of instances falls to its least
            for variant in run.record.variants:
                at = _dimensions(run.record.name, variant.name)
                named = INVOCATIONS, "InvocationsPerInstance", 0.0, at
                _add(*(MetricDatum(*named, self._moment(start), "None") for start in starts))

    def _moment(self, start: float) -> datetime:
        """Return a period's time stamp: real, without a time zone, as moto has them."""
        return datetime.fromtimestamp(self.clock.real(start + 0.1), UTC).replace(tzinfo=None)


def _serving(runs: "Sequence[EndpointRun]") -> Counter[tuple[str, str]]:
    """Return the number of healthy instances, by endpoint and variant."""
    found: Counter[tuple[str, str]] = Counter()
    for run in runs:
        for name, instances in run.fleet.instances.items():
            found[run.record.name, name] += sum(instance.healthy for instance in instances)
    return found


def _frequency(config: Mapping[str, Any]) -> int:
    return int(config.get("MetricPublishFrequencyInSeconds", _PERIOD_S))


def _dimensions(endpoint: str, variant: str) -> list[dict[str, str]]:
    return [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]


def _add(*data: MetricDatumBase) -> None:
    cloudwatch_backends[ACCOUNT][REGION].metric_data.extend(data)


def _forget(moment: float) -> None:
    """Delete data from before this moment."""
    backend = cloudwatch_backends[ACCOUNT][REGION]
    oldest = datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)
    if backend.metric_data and backend.metric_data[0].timestamp < oldest:
        backend.metric_data = [datum for datum in backend.metric_data if datum.timestamp >= oldest]
