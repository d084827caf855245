"""One attempt of a training job: its command on all hosts, from the start until the last process has ended."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from launchers.rehearsal.faults import Faults, Progress
from launchers.rehearsal.names import Server
from launchers.rehearsal.services.training_checkpoints import Checkpoints
from launchers.rehearsal.services.training_container import Host, command, environment, has_toolkit
from launchers.rehearsal.services.training_logs import LogPump
from launchers.rehearsal.services.training_record import JobRecord, now

POLL_S = 0.01  # so that a step can be hit
_SYNC_S = 0.1  # between two scans of the checkpoint folder by SageMaker's agent
_GRACE_S = 120.0  # from SIGTERM to SIGKILL, as documented for StopTrainingJob
_UNHEARD_S = 1.0  # the same under the image's toolkit, which passes SIGTERM to nobody: nothing happens in that time
_FAILED_GRACE_S = 20.0  # the same once a machine of several has failed


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "Completed"
    FAILED = "Failed"
    STOPPED = "Stopped"
    INTERRUPTED = "Interrupted"
    MAX_RUNTIME_EXCEEDED = "MaxRuntimeExceeded"
    MAX_WAIT_TIME_EXCEEDED = "MaxWaitTimeExceeded"
    CRASHED = "Crashed"  # a machine died
    ABANDONED = "Abandoned"  # the server ends


@dataclass
class Attempt:
    """Runs the job's command once. number: from 1.

    read: called with each printed line, to update `progress`. stop_asked: set by StopTrainingJob.
    """

    number: int
    job: JobRecord
    hosts: Sequence[Host]
    faults: Faults
    checkpoints: Checkpoints
    log: LogPump
    read: Callable[[str, Progress], None]
    stop_asked: threading.Event
    abandoned: threading.Event
    failed: list[Host] = field(default_factory=list, init=False)  # those that failed before the others ended
    _progress: Progress = field(default_factory=Progress, init=False)
    _began: float = field(default=0.0, init=False)
    _synced_s: float = field(default=0.0, init=False)
    _last_ckpt: tuple[int, int] | None = field(default=None, init=False)

    def run(self, server: Server) -> Outcome:
        """Run the command, and count the billable time."""
        # what is there at the start has been downloaded, and counts as none that was written
        self._last_ckpt = self.checkpoints.last_written(self.hosts[0].machine)
        for host in self.hosts:
            argv, variables = command(self.job.request), environment(host, self.job, server, self.faults)
            host.machine.start(argv, variables, disk_mb=self.faults.disk_mb)
        self._began = time.monotonic()
        self.job.started = self.job.started or now()
        self.job.save()
        outcome = self._watch()
        codes = [host.machine.exit_code for host in self.hosts]
        for host in self.hosts:
            host.machine.kill()  # what outlived its first process
        if outcome is Outcome.ABANDONED:
            return outcome
        self._pump(last=True)
        self.job.bill(time.monotonic() - self._began)
        return outcome or (Outcome.FAILED if any(codes) else Outcome.COMPLETED)

    def _watch(self) -> Outcome | None:
        """Follow the command until it ends or must be killed. Return None if it ended by itself."""
        outcome: Outcome | None = None
        until = 0.0
        while any(host.machine.running for host in self.hosts):
            time.sleep(POLL_S)
            self._look()
            if self.abandoned.is_set():
                return Outcome.ABANDONED
            self._sync()
            if outcome is None:
                outcome = self._end_is_due()
                if outcome is Outcome.CRASHED or (outcome is Outcome.INTERRUPTED and self.faults.hard):
                    return outcome
                if outcome is not None:
                    until = self._progress.seconds + self._grace_s(outcome)
                    for host in self.hosts:
                        host.machine.signal(signal.SIGTERM)
            elif self._progress.seconds > until:
                return outcome
        return outcome

    def _grace_s(self, outcome: Outcome) -> float:
        if has_toolkit(self.job.request):
            return _UNHEARD_S
        return _FAILED_GRACE_S if outcome is Outcome.FAILED else _GRACE_S

    def _end_is_due(self) -> Outcome | None:
        """Return why the command must end now, while it still runs on some host."""
        limits, progress = self.job.request["StoppingCondition"], self._progress
        wait_s = limits.get("MaxWaitTimeInSeconds")
        if progress.reached(self.faults.crash_moment(self.number)):
            return Outcome.CRASHED
        if self.job.spot and progress.reached(self.faults.reclaim_moment(self.number)):
            return Outcome.INTERRUPTED
        if self.stop_asked.is_set():
            return Outcome.STOPPED
        if self.job.training_s + progress.seconds > limits.get("MaxRuntimeInSeconds", 86400):
            return Outcome.MAX_RUNTIME_EXCEEDED
        if wait_s is not None and now() - self.job.created > wait_s:
            return Outcome.MAX_WAIT_TIME_EXCEEDED
        self.failed = [host for host in self.hosts if host.machine.exit_code]
        return Outcome.FAILED if self.failed else None

    def _look(self) -> None:
        """Update `progress` and the log."""
        self._pump()
        written = self.checkpoints.last_written(self.hosts[0].machine)
        if written is not None and written != self._last_ckpt:
            self._progress.checkpoints += 1
            self._last_ckpt = written
        self._progress.seconds = time.monotonic() - self._began

    def _sync(self) -> None:
        if self._progress.seconds - self._synced_s >= _SYNC_S:
            self.checkpoints.sync(self.hosts[0].machine, self._progress.seconds)
            self._synced_s = self._progress.seconds

    def _pump(self, *, last: bool = False) -> None:
        for host in self.hosts:
            for line in self.log.pump(host, last=last):
                self.read(line, self._progress)
