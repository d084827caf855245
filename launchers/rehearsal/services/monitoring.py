"""What goes on in CloudWatch by itself: metrics of endpoints are published, and alarms are evaluated."""

import threading
import time
import traceback
from collections.abc import Mapping

from launchers.rehearsal.names import Server
from launchers.rehearsal.service import Handler
from launchers.rehearsal.services.alarms import Alarms
from launchers.rehearsal.services.endpoint_metrics import Meter
from launchers.rehearsal.services.endpoints import Endpoints

_TICK_S = 0.2


class Monitoring:
    """A thread that does both in this order, so that an alarm sees the period that has just ended."""

    active = False

    def __init__(self, endpoints: Endpoints, meter: Meter, alarms: Alarms) -> None:
        self.endpoints, self.meter, self.alarms = endpoints, meter, alarms
        self.operations: Mapping[tuple[str, str], Handler] = {}
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
                self.alarms.evaluate()
            except Exception:  # one odd alarm must not stop all others
                traceback.print_exc()
            time.sleep(_TICK_S)
