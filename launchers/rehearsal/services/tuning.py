"""SageMaker's tuning jobs: the interface that AWS documents, and the records that survive a restart."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.rehearsal.names import Server
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.service import Answer, Call, Handler, Refused, invalid, wait_for_ends
from launchers.rehearsal.services.sagemaker_lists import page
from launchers.rehearsal.services.sagemaker_tags import from_list, kind_and_name, tag_operations
from launchers.rehearsal.services.training import TrainingJobs
from launchers.rehearsal.services.training_record import JobRecord, now
from launchers.rehearsal.services.tuning_checks import check
from launchers.rehearsal.services.tuning_record import TuningRecord
from launchers.rehearsal.services.tuning_run import Prior, TuningRun, training_request


@dataclass(frozen=True)
class _Trial:
    """A training job as its tuning job lists it."""

    job: JobRecord
    objective: float

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def created(self) -> float:
        return self.job.created

    @property
    def status(self) -> str:
        return self.job.status


class TuningJobs:
    """All tuning jobs. folder: contains a folder for each of them. jobs: what their trials are."""

    def __init__(self, folder: Path, store: ObjectStore, jobs: TrainingJobs) -> None:
        self.folder, self.store, self.jobs = folder, store, jobs
        self._records: dict[str, TuningRecord] = {}
        self._runs: dict[str, TuningRun] = {}
        self._lock = threading.RLock()
        handlers: dict[str, Handler] = {
            "CreateHyperParameterTuningJob": self.create,
            "DescribeHyperParameterTuningJob": self.describe,
            "StopHyperParameterTuningJob": self.stop,
            "DeleteHyperParameterTuningJob": self.delete,
            "ListHyperParameterTuningJobs": self.list,
            "ListTrainingJobsForHyperParameterTuningJob": self.trials,
        }
        own = {("sagemaker", name): handler for name, handler in handlers.items()}
        self.operations: dict[tuple[str, str], Handler] = {**own, **tag_operations(self._of_arn)}

    @property
    def active(self) -> bool:
        return any(run.is_alive() for run in list(self._runs.values()))

    def begin(self, server: Server) -> None:
        for record in TuningRecord.load_all(self.folder):
            if not record.finished:
                record.to("Failed", "InternalServerError: the rehearsal cloud was stopped while the job was running")
            self._records[record.name] = record

    def end(self) -> None:
        for run in list(self._runs.values()):
            run.abandon()
        wait_for_ends(list(self._runs.values()))

    def create(self, call: Call) -> Answer:
        request = dict(call.parameters)
        if "TrainingJobDefinition" not in request:
            raise invalid("The rehearsal cloud runs tuning jobs with one TrainingJobDefinition")
        name = request["HyperParameterTuningJobName"]
        record = TuningRecord(self.folder / name, request, now(), tags=from_list(request.get("Tags", [])))
        with self._lock:
            if name in self._records:
                raise Refused("ResourceInUse", f"A hyperparameter tuning job named {name} exists already")
            trial = JobRecord(self.folder / name, training_request(record, f"{name}-001", {}), now())
            running = sum(not each.finished for each in self._records.values())
            check(record, trial, self._records.get, running, self.jobs.all(), call.faults.quotas, self.store)
            record.to("InProgress")
            self._records[name] = record
            self._runs[name] = TuningRun(record, self.jobs, call, self._prior(request))
            self._runs[name].start()
        return {"HyperParameterTuningJobArn": record.arn}

    def describe(self, call: Call) -> Answer:
        record = self._record(call)
        return record.describe(self._jobs_of(record))

    def stop(self, call: Call) -> Answer:
        record = self._record(call)
        if record.finished:
            raise invalid(f"The request was rejected because the tuning job is in status {record.status}.")
        record.to("Stopping")
        self._runs[record.name].stop()
        return {}

    def delete(self, call: Call) -> Answer:
        """Forget a tuning job; its training jobs stay. AWS does not say what becomes of one that runs: refused here."""
        record = self._record(call)
        if not record.finished:
            raise invalid(f"The request was rejected because the tuning job is in status {record.status}.")
        with self._lock:
            del self._records[record.name]
            record.remove()
        return {}

    def list(self, call: Call) -> Answer:
        def summary(record: TuningRecord) -> dict[str, Any]:
            return record.summary(self._jobs_of(record))

        return page(call.parameters, "HyperParameterTuningJobSummaries", list(self._records.values()), summary)

    def trials(self, call: Call) -> Answer:
        record = self._record(call)
        worst = float("-inf")
        found = [
            _Trial(job, worst if (value := record.objective_of(job)) is None else value)
            for job in self._jobs_of(record)
        ]
        return page(call.parameters, "TrainingJobSummaries", found, lambda trial: record.trial(trial.job))

    def _prior(self, request: dict[str, Any]) -> Sequence[Prior]:
        """Return the trials of the job's parents; of each its own alone, without those that it learned from."""
        parents = request.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", [])
        found = []
        for each in parents:
            record = self._records[each["HyperParameterTuningJobName"]]
            for job in self._jobs_of(record):
                objective = record.objective_of(job)
                if objective is not None:
                    found.append((record.chosen[job.name], objective))
        return found

    def _jobs_of(self, record: TuningRecord) -> Sequence[JobRecord]:
        found = (self.jobs.record(name) for name in list(record.chosen))
        return [job for job in found if job is not None]

    def _record(self, call: Call) -> TuningRecord:
        return self._named(call.parameters["HyperParameterTuningJobName"])

    def _named(self, name: str) -> TuningRecord:
        if name not in self._records:
            raise Refused("ResourceNotFound", f"Amazon SageMaker can't find a tuning job with name {name}")
        return self._records[name]

    def _of_arn(self, arn: str) -> TuningRecord | None:
        kind, name = kind_and_name(arn)
        return self._named(name) if kind == "hyper-parameter-tuning-job" else None
