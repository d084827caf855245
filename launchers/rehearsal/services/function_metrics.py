"""What Lambda publishes of functions in CloudWatch, each minute of the cloud's clock.

Source: "Types of metrics for Lambda functions" in the Lambda developer guide.
"""

import threading
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime

from moto.cloudwatch.models import MetricAggregatedDatum, MetricDatum, MetricDatumBase, cloudwatch_backends

from launchers.rehearsal.clock import Clock
from launchers.rehearsal.names import ACCOUNT, REGION

NAMESPACE = "AWS/Lambda"
_PERIOD_S = 60


@dataclass(frozen=True)
class Invocation:
    """What an invocation counts for. qualifier: of the request, empty if it had none. version: that was executed."""

    name: str
    qualifier: str
    version: str

    @property
    def dimensions(self) -> list[list[dict[str, str]]]:
        """The dimensions that it is published under."""
        function = {"Name": "FunctionName", "Value": self.name}
        resource = {"Name": "Resource", "Value": f"{self.name}:{self.qualifier}" if self.qualifier else self.name}
        executed = {"Name": "ExecutedVersion", "Value": self.version}
        by_alias = self.qualifier not in ("", self.version)
        return [[function], [function, resource], *([[function, resource, executed]] if by_alias else [])]


@dataclass
class _Minute:
    durations_ms: list[float]
    failed: int = 0
    throttled: int = 0


class FunctionMeter:
    """Collects metrics, and publishes them once their minute is over."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._minutes: dict[tuple[Invocation, float], _Minute] = defaultdict(lambda: _Minute([]))
        self._busy: dict[tuple[str, float], int] = defaultdict(int)  # by function, empty for the account

    def count(
        self, counted: Invocation, *, throttled: bool = False, failed: bool = False, duration_ms: float = 0.0
    ) -> None:
        """Count one invocation. A throttled one is neither executed nor an error."""
        with self._lock:
            minute = self._minutes[counted, self._start()]
            minute.throttled += throttled
            minute.failed += failed
            if not throttled:
                minute.durations_ms.append(duration_ms)

    def concurrent(self, name: str, of_function: int, of_account: int) -> None:
        """Note how many executions there are at this moment."""
        with self._lock:
            for key, count in (((name, self._start()), of_function), (("", self._start()), of_account)):
                self._busy[key] = max(self._busy[key], count)

    def publish(self) -> None:
        over = self.clock.now() - _PERIOD_S
        with self._lock:
            minutes = {key: self._minutes.pop(key) for key in list(self._minutes) if key[1] <= over}
            busy = {key: self._busy.pop(key) for key in list(self._busy) if key[1] <= over}
        for (counted, start), minute in minutes.items():
            moment, executed = self._moment(start), len(minute.durations_ms)
            counts = {"Throttles": (minute.throttled, executed + minute.throttled)}
            if executed:
                counts |= {"Invocations": (executed, executed), "Errors": (minute.failed, executed)}
            for dimensions in counted.dimensions:
                for name, (total, samples) in counts.items():
                    values = (float(total == samples), float(total > 0), samples, float(total))  # each is 0 or 1
                    _add(MetricAggregatedDatum(NAMESPACE, name, *values, dimensions, moment, "Count"))
                for duration in minute.durations_ms:
                    _add(MetricDatum(NAMESPACE, "Duration", duration, dimensions, moment, "Milliseconds"))
        for (function, start), most in busy.items():
            about = [{"Name": "FunctionName", "Value": function}] if function else []
            _add(MetricDatum(NAMESPACE, "ConcurrentExecutions", most, about, self._moment(start), "Count"))

    def _start(self) -> float:
        return self.clock.now() // _PERIOD_S * _PERIOD_S

    def _moment(self, start: float) -> datetime:
        """Return a minute's time stamp: real, without a time zone, as moto has them."""
        return datetime.fromtimestamp(self.clock.real(start + 0.1), UTC).replace(tzinfo=None)


def _add(datum: MetricDatumBase) -> None:
    cloudwatch_backends[ACCOUNT][REGION].metric_data.append(datum)
