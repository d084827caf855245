"""One training job being run: attempts on fresh machines, until one ends for another reason than an interruption."""

import re
import shutil
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress

from dogbreed.progress import Epoch, TrialEnd
from launchers.rehearsal.access import StoreOfRole, may_log
from launchers.rehearsal.faults import Faults, Progress
from launchers.rehearsal.machine import remove_left_over
from launchers.rehearsal.names import Server
from launchers.rehearsal.service import Refused
from launchers.rehearsal.services.training_attempt import POLL_S, Attempt, Outcome
from launchers.rehearsal.services.training_checkpoints import Checkpoints
from launchers.rehearsal.services.training_container import Host, furnish, hosts_of
from launchers.rehearsal.services.training_ending import STOPPED, Ending, ending_of, failed, upload
from launchers.rehearsal.services.training_logs import LOG_GROUP, LogPump
from launchers.rehearsal.services.training_pools import keep
from launchers.rehearsal.services.training_record import FINISHED, JobRecord, now

_STEP_S = 0.1  # that phases take here which take minutes there
_CAPACITY_S = 0.5  # until a machine is found again, or none is


class JobRun(threading.Thread):
    """Runs one job, from its first attempt to its end. no_capacity: whether no machine is found for it."""

    def __init__(
        self, job: JobRecord, store: StoreOfRole, server: Server, faults: Faults, *, no_capacity: bool
    ) -> None:
        super().__init__(daemon=True, name=job.name)
        self.job, self.store, self.server, self.faults = job, store, server, faults
        self.no_capacity = no_capacity
        self._checkpoints = Checkpoints(job, store, faults.upload_lag_s)
        self._log = LogPump(job, faults.log_delay_s, permitted=may_log(store.role, LOG_GROUP))
        self._hosts: Sequence[Host] = ()  # of the present attempt
        self._values: dict[str, list[float]] = {}  # of the metric definitions, in the order of the log
        self._stop_asked = threading.Event()
        self._abandoned = threading.Event()
        self._changing = threading.Lock()  # the record, from this thread and by StopTrainingJob

    def seen(self, metric: str) -> list[float]:
        """Return the values of a metric that the log has shown so far."""
        return list(self._values.get(metric, []))

    def stop(self) -> None:
        """StopTrainingJob: SIGTERM, two minutes, SIGKILL. A job that has ended meanwhile stays as it is."""
        with self._changing:
            if not self._stop_asked.is_set() and self.job.status not in FINISHED:
                self.job.status = "Stopping"
                self.job.to("Stopping", "Stopping the training job")
                self._stop_asked.set()

    def abandon(self) -> None:
        """Kill the job's processes, because the server shuts down."""
        self._abandoned.set()

    def run(self) -> None:
        try:
            if ending := self._run():
                self._end(ending)
        except Exception as error:
            traceback.print_exc()
            self._end(failed(f"InternalServerError: {error!r}"))
        finally:
            for host in self._hosts:
                host.machine.remove()
            remove_machines(self.job)

    def _run(self) -> Ending | None:
        """Run the job. Return how it ended, or None if the server shuts down before that."""
        attempt, retries = 0, self.job.request.get("RetryStrategy", {}).get("MaximumRetryAttempts", 0)
        while True:
            attempt += 1
            if self._pause(_STEP_S):
                return self._unstarted()
            self._to("Starting" if attempt > 1 else "Pending", "Preparing the instances for training")
            if self.no_capacity:
                return self._unstarted() if self._pause(_CAPACITY_S) else self._without_capacity()
            self._to("Downloading", "Downloading input data")
            if missing := self._furnish(attempt):
                return failed(missing)
            self._to("Training", "Training image download completed. Training in progress.")
            attempted = Attempt(
                attempt,
                self.job,
                self._hosts,
                self.faults,
                self._checkpoints,
                self._log,
                self._read,
                self._stop_asked,
                self._abandoned,
            )
            try:
                outcome = attempted.run(self.server)
            except Refused as refused:
                return failed(f"ClientError: Checkpoint upload failed: AccessDenied: {refused.text}")
            if self._abandoned.is_set():
                return None
            if outcome is Outcome.CRASHED and retries > 0:
                retries -= 1  # it is in `Starting` again, without any message
            elif outcome is Outcome.INTERRUPTED:
                self._to("Interrupted", "The training job was interrupted because the spot instance was reclaimed")
            else:
                return self._finished(outcome, attempted.failed)
            for host in self._hosts:
                host.machine.remove()
            if self._pause(_CAPACITY_S):
                return self._unstarted()

    def _furnish(self, attempt: int) -> str:
        """Get machines and prepare their files. Return the reason if the job fails, else an empty string."""
        self._hosts = hosts_of(self.job, attempt, self._log.free_second())
        for host in self._hosts:
            self._log.open(host.stream)
        for host in self._hosts:
            if missing := furnish(host, self._hosts, self.job.request, self.store):
                return missing
        try:
            self._checkpoints.download([host.machine for host in self._hosts])
        except Refused as refused:
            return f"ClientError: Checkpoint download failed: AccessDenied: {refused.text}"
        return ""

    def _read(self, line: str, progress: Progress) -> None:
        """Record the job's progress and metrics from a line of the log."""
        if found := Epoch.find(line):
            progress.epoch = max(progress.epoch, found.epoch)
        if TrialEnd.find(line):
            progress.trials += 1
            progress.epoch = max(progress.epoch, 1)
        for definition in self.job.request["AlgorithmSpecification"].get("MetricDefinitions", []):
            with suppress(ValueError, IndexError):
                if matched := re.search(definition["Regex"], line):
                    self._values.setdefault(definition["Name"], []).append(float(matched[1]))

    def _finished(self, outcome: Outcome, failed_first: Sequence[Host]) -> Ending:
        if outcome is not Outcome.CRASHED:
            self._to("Uploading", "Uploading generated training model")
            began = time.monotonic()
            try:
                upload(self.job, self._hosts[0], self.store, model=outcome is not Outcome.FAILED)
            except Refused as refused:
                return failed(f"ClientError: Artifact upload failed: AccessDenied: {refused.text}")
            finally:
                self.job.bill(time.monotonic() - began)
        return ending_of(outcome, self._hosts, failed_first)

    def _without_capacity(self) -> Ending:
        kind = self.job.request["ResourceConfig"]["InstanceType"]
        return failed(
            f"CapacityError: Unable to provision requested ML compute capacity of {kind}. "
            "Please retry using a different ML instance type or after some time."
        )

    def _unstarted(self) -> Ending | None:
        return None if self._abandoned.is_set() else STOPPED

    def _end(self, ending: Ending) -> None:
        moment = now()
        with self._changing:
            self.job.metrics = [  # of all attempts, however the last one ended
                {"MetricName": name, "Value": values[-1], "Timestamp": moment} for name, values in self._values.items()
            ]
            keep(self.job, self.faults.quotas)
            if ending.status == "Failed":
                self.job.failure = ending.message
            self._log.close()
            self.job.to(ending.secondary, ending.message, status=ending.status)

    def _pause(self, seconds: float) -> bool:
        """Wait, and return whether the job has been stopped meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not (self._abandoned.is_set() or self._stop_asked.is_set()):
            time.sleep(POLL_S)
        return self._abandoned.is_set() or self._stop_asked.is_set()

    def _to(self, secondary: str, message: str) -> None:
        with self._changing:
            self.job.to(secondary, message)


def remove_machines(job: JobRecord) -> None:
    """Delete the folders of the job's machines, and end processes that a killed server has left running on them."""
    for folder in job.folder.glob("machines/*/*"):
        remove_left_over(folder)
    shutil.rmtree(job.folder / "machines", ignore_errors=True)
