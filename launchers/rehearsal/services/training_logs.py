"""Forward the output of a training job's machines to CloudWatch."""

import threading
import time
from typing import Any

from launchers.rehearsal.logs import put_log
from launchers.rehearsal.services.training_container import Host
from launchers.rehearsal.services.training_record import JobRecord

LOG_GROUP = "/aws/sagemaker/TrainingJobs"

_Events = list[dict[str, Any]]


class LogPump:
    """Moves whole lines from the machines of one job to CloudWatch. delay_s: the delay until they are visible.

    permitted: whether the job's role may write logs; otherwise its lines are lost, as they are on AWS.
    """

    def __init__(self, job: JobRecord, delay_s: float, *, permitted: bool) -> None:
        self.job, self.delay_s, self.permitted = job, delay_s, permitted
        self._events: dict[str, _Events] = {}  # by stream, all that is in CloudWatch
        self._held_back: dict[str, _Events] = {}  # by stream, what is not there yet

    def free_second(self) -> int:
        """Return the current second, or a later one that no stream is named after."""
        return max([int(time.time()), *(int(stream.rpartition("-")[2]) + 1 for stream in self._events)])

    def open(self, stream: str) -> None:
        self._events[stream], self._held_back[stream] = [], []
        if self.permitted:
            put_log(LOG_GROUP, stream, [])

    def pump(self, host: Host, *, last: bool = False) -> list[str]:
        """Move what a machine has printed since the last time, and return it. last: of this machine, all that is left.

        What is still held back after the last time comes by itself, once it is due.
        """
        moment = int(time.time() * 1000)
        lines = host.machine.read_lines(last=last)
        held_back = [*self._held_back[host.stream], *({"timestamp": moment, "message": line} for line in lines)]
        ready = [event for event in held_back if event["timestamp"] <= moment - self.delay_s * 1000]
        self._held_back[host.stream] = late = held_back[len(ready) :]
        if ready:
            self._put(host.stream, ready)
        if last and late:
            timer = threading.Timer(self.delay_s, self._put, (host.stream, late))
            timer.daemon = True
            timer.start()
        return lines

    def close(self) -> None:
        """Store all lines in the record when the job ends."""
        self.job.logs = self._events

    def _put(self, stream: str, events: _Events) -> None:
        if not self.permitted:
            return
        self._events[stream] += events
        put_log(LOG_GROUP, stream, events)
        if self.job.ended is not None:
            self.job.save()
