"""What goes on in CloudWatch by itself: metrics are published, alarms are evaluated, and scaling follows them."""

import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping

from moto.cloudwatch.models import MetricDatumBase

from launchers.rehearsal.names import Server
from launchers.rehearsal.service import Answer, Call, Handler
from launchers.rehearsal.services.alarms import Alarms, data_of, seconds_of, statistic
from launchers.rehearsal.services.autoscaling import Autoscaling
from launchers.rehearsal.services.endpoint_metrics import Meter
from launchers.rehearsal.services.endpoints import Endpoints
from launchers.rehearsal.services.function_metrics import FunctionMeter

_TICK_S = 0.2


class Monitoring:
    """A thread that does these in this order, so that an alarm sees the period that has just ended."""

    active = False

    def __init__(
        self, endpoints: Endpoints, meter: Meter, alarms: Alarms, of_functions: FunctionMeter, scaling: Autoscaling
    ) -> None:
        self.endpoints, self.meter, self.alarms = endpoints, meter, alarms
        self.of_functions, self.scaling = of_functions, scaling
        self.operations: Mapping[tuple[str, str], Handler] = {("monitoring", "GetMetricStatistics"): get_statistics}
        self._ended = threading.Event()

    def begin(self, server: Server) -> None:
        self.alarms.load()
        threading.Thread(target=self._run, daemon=True, name="monitoring").start()

    def end(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.meter.publish(self.endpoints.runs())
                self.of_functions.publish()
                self.alarms.evaluate()
                self.scaling.act()
            except Exception:  # one odd alarm must not stop all others
                traceback.print_exc()
            time.sleep(_TICK_S)


def get_statistics(call: Call) -> Answer:
    """GetMetricStatistics, of the metric with exactly these dimensions: moto would add those with more of them."""
    asked = call.parameters
    dimensions = [(each["Name"], each["Value"]) for each in asked.get("Dimensions", [])]
    last, period_s = asked["EndTime"], asked["Period"]
    step_s = min(period_s, 60)
    first = asked["StartTime"] // step_s * step_s  # CloudWatch rounds it down
    periods: dict[float, list[MetricDatumBase]] = defaultdict(list)
    for datum in data_of(asked["Namespace"], asked["MetricName"], dimensions):
        if first <= (moment := seconds_of(datum)) < last and asked.get("Unit") in (None, datum.unit):
            periods[moment // period_s * period_s].append(datum)
    points = []
    for moment, data in sorted(periods.items()):
        point = {kind: statistic(data, kind) for kind in asked.get("Statistics", [])}
        extended = {kind: statistic(data, kind) for kind in asked.get("ExtendedStatistics", [])}
        named = {"Timestamp": moment, "Unit": data[0].unit or "None"}
        points.append({**named, **point, **({"ExtendedStatistics": extended} if extended else {})})
    return {"Label": asked["MetricName"], "Datapoints": points}
