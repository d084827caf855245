"""SageMaker's training jobs: the interface that AWS documents, and the records that survive a restart."""

import threading
from collections.abc import Sequence
from pathlib import Path

from launchers.rehearsal.access import StoreOfRole
from launchers.rehearsal.logs import put_log
from launchers.rehearsal.names import Server
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.principals import of_role
from launchers.rehearsal.service import Answer, Call, Handler, Refused, invalid, wait_for_ends
from launchers.rehearsal.services import training_pools
from launchers.rehearsal.services.sagemaker_lists import page
from launchers.rehearsal.services.sagemaker_tags import from_list, kind_and_name, tag_operations
from launchers.rehearsal.services.training_checks import check
from launchers.rehearsal.services.training_logs import LOG_GROUP
from launchers.rehearsal.services.training_record import FINISHED, JobRecord, now
from launchers.rehearsal.services.training_run import JobRun, remove_machines


class TrainingJobs:
    """All training jobs. folder: contains a folder for each of them."""

    def __init__(self, folder: Path, store: ObjectStore) -> None:
        self.folder, self.store = folder, store
        self._server: Server | None = None
        self._jobs: dict[str, JobRecord] = {}
        self._runs: dict[str, JobRun] = {}  # by job: of those that this server has started
        self._lock = threading.RLock()
        self.operations: dict[tuple[str, str], Handler] = {
            ("sagemaker", "CreateTrainingJob"): self.create,
            ("sagemaker", "DescribeTrainingJob"): self.describe,
            ("sagemaker", "StopTrainingJob"): self.stop,
            ("sagemaker", "UpdateTrainingJob"): self.update,
            ("sagemaker", "ListTrainingJobs"): self.list,
            **tag_operations(self._of_arn),
        }

    @property
    def active(self) -> bool:
        return any(run.is_alive() for run in list(self._runs.values()))

    def begin(self, server: Server) -> None:
        self._server = server
        for record in JobRecord.load_all(self.folder):
            remove_machines(record)
            if record.status not in FINISHED:
                record.failure = "InternalServerError: the rehearsal cloud was stopped while the job was running"
                record.to("Failed", record.failure, status="Failed")
            for stream, events in record.logs.items():
                put_log(LOG_GROUP, stream, events)
            self._jobs[record.name] = record

    def end(self) -> None:
        for run in list(self._runs.values()):
            run.abandon()
        wait_for_ends(list(self._runs.values()))

    def create(self, call: Call) -> Answer:
        assert self._server is not None
        request = dict(call.parameters)
        name = request["TrainingJobName"]
        record = JobRecord(self.folder / name, request, now(), tags=from_list(request.get("Tags", [])))
        with self._lock:
            if name in self._jobs:
                raise Refused(
                    "ResourceInUse",
                    f"Training job names must be unique within an AWS account and region, but one named {name} "
                    "exists already",
                )
            check(record, self._jobs.values(), call.faults.quotas, self.store)
            role = of_role(request["RoleArn"], "SageMaker", call.faults.denied_to_role)
            warm = training_pools.reuse(record, self._jobs.values())
            record.to("Starting", "Reusing the machines of a warm pool" if warm else "Starting the training job")
            self._jobs[name] = record
            no_capacity = call.session.among_first(call.faults.no_capacity, "jobs")
            store = StoreOfRole(self.store, role)
            self._runs[name] = JobRun(record, store, self._server, call.faults, no_capacity=no_capacity)
            self._runs[name].start()
        return {"TrainingJobArn": record.arn}

    def describe(self, call: Call) -> Answer:
        record = self._job(call.parameters["TrainingJobName"])
        pool = training_pools.status(record)
        return {**record.describe(), **({"WarmPoolStatus": pool} if pool else {})}

    def update(self, call: Call) -> Answer:
        """Change how long the machines of a job are kept; 0 gives them back."""
        record = self._job(call.parameters["TrainingJobName"])
        seconds = call.parameters.get("ResourceConfig", {}).get("KeepAlivePeriodInSeconds")
        if seconds is None:
            raise invalid("The rehearsal cloud updates KeepAlivePeriodInSeconds alone")
        training_pools.expire(record)
        if record.status in FINISHED and record.pool != "Available":
            raise invalid(f"The warm pool of {record.name} is not available, so it cannot be updated")
        if seconds == 0:
            training_pools.release(record)
        record.request["ResourceConfig"]["KeepAlivePeriodInSeconds"] = seconds
        record.save()
        return {"TrainingJobArn": record.arn}

    def stop(self, call: Call) -> Answer:
        record = self._job(call.parameters["TrainingJobName"])
        if record.status in FINISHED:
            raise invalid(f"The request was rejected because the training job is in status {record.status}.")
        self._runs[record.name].stop()
        return {}

    def list(self, call: Call) -> Answer:
        with self._lock:
            jobs = list(self._jobs.values())
        for record in jobs:
            training_pools.expire(record)
        return page(call.parameters, "TrainingJobSummaries", jobs, JobRecord.summary)

    def all(self) -> Sequence[JobRecord]:
        return [*self._jobs.values()]

    def record(self, name: str) -> JobRecord | None:
        return self._jobs.get(name)

    def seen(self, name: str, metric: str) -> Sequence[float]:
        """Return the values of a metric that a job of this server has printed so far."""
        return self._runs[name].seen(metric) if name in self._runs else []

    def _job(self, name: str) -> JobRecord:
        if name not in self._jobs:
            raise invalid("Requested resource not found.")
        return self._jobs[name]

    def _of_arn(self, arn: str) -> JobRecord | None:
        kind, name = kind_and_name(arn)
        return self._job(name) if kind == "training-job" else None
