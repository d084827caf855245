"""The record of a tuning job, as DescribeHyperParameterTuningJob shows it."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from launchers.rehearsal.access import HERE
from launchers.rehearsal.services.kept_record import KeptRecord
from launchers.rehearsal.services.training_record import FINISHED, JobRecord, now

_ending = threading.Lock()  # the job and a request to stop it may end it at the same time


@dataclass
class TuningRecord(KeptRecord):
    """A tuning job. Times are seconds since 1970. chosen: values, by training job."""

    FILE: ClassVar[str] = "tuning.json"

    request: dict[str, Any]
    created: float
    status: str = "InProgress"
    modified: float = 0.0
    ended: float | None = None
    failure: str | None = None
    chosen: dict[str, dict[str, str]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.request["HyperParameterTuningJobName"])

    @property
    def arn(self) -> str:
        return HERE.arn("sagemaker", f"hyper-parameter-tuning-job/{self.name}")

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.request["HyperParameterTuningJobConfig"])

    @property
    def metric(self) -> str:
        return str(self.config["HyperParameterTuningJobObjective"]["MetricName"])

    @property
    def maximizes(self) -> bool:
        return bool(self.config["HyperParameterTuningJobObjective"]["Type"] == "Maximize")

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    def to(self, status: str, failure: str | None = None) -> None:
        """Change the status, and save. The final one stays."""
        with _ending:
            if self.finished:
                return
            self.status, self.modified = status, now()
            if status in FINISHED:
                self.ended, self.failure = self.modified, failure
        self.save()

    def objective_of(self, job: JobRecord) -> float | None:
        """Return the last value of the objective that a training job has printed; None if there is none yet."""
        found = [each["Value"] for each in job.metrics if each["MetricName"] == self.metric]
        return float(found[-1]) if found else None

    def trial(self, job: JobRecord) -> dict[str, Any]:
        """Return the summary of one of its training jobs."""
        objective = self.objective_of(job)
        kind = self.config["HyperParameterTuningJobObjective"]["Type"]
        metric = {"Type": kind, "MetricName": self.metric, "Value": objective}
        found = {
            "TrainingJobName": job.name,
            "TrainingJobArn": job.arn,
            "TuningJobName": self.name,
            "CreationTime": job.created,
            "TrainingStartTime": job.started,
            "TrainingEndTime": job.ended if job.started else None,
            "TrainingJobStatus": job.status,
            "TunedHyperParameters": self.chosen[job.name],
            "FailureReason": job.failure,
            "FinalHyperParameterTuningJobObjectiveMetric": None if objective is None else metric,
            "ObjectiveStatus": _objective_status(job, objective),
        }
        return {key: value for key, value in found.items() if value is not None}

    def describe(self, jobs: Sequence[JobRecord]) -> dict[str, Any]:
        """Return the answer of DescribeHyperParameterTuningJob. jobs: its training jobs."""
        best = self.best(jobs)
        kept = {key: value for key, value in self.request.items() if key != "Tags"}
        found = {
            **kept,
            "HyperParameterTuningJobArn": self.arn,
            "HyperParameterTuningJobStatus": self.status,
            "CreationTime": self.created,
            "LastModifiedTime": self.modified or self.created,
            "HyperParameterTuningEndTime": self.ended,
            "FailureReason": self.failure,
            "BestTrainingJob": None if best is None else self.trial(best),
            **self.counters(jobs),
        }
        return {key: value for key, value in found.items() if value is not None}

    def summary(self, jobs: Sequence[JobRecord]) -> dict[str, Any]:
        shown = self.describe(jobs)
        names = ("Name", "Arn", "Status")
        kept = {f"HyperParameterTuningJob{name}": shown[f"HyperParameterTuningJob{name}"] for name in names}
        rest = ("CreationTime", "LastModifiedTime", "HyperParameterTuningEndTime")
        times = {key: shown[key] for key in rest if key in shown}
        limits = {"Strategy": self.config["Strategy"], "ResourceLimits": self.config["ResourceLimits"]}
        return {**kept, **times, **limits, **self.counters(jobs)}

    def counters(self, jobs: Sequence[JobRecord]) -> dict[str, dict[str, int]]:
        states = [job.status for job in jobs]
        objectives = [_objective_status(job, self.objective_of(job)) for job in jobs]
        return {
            "TrainingJobStatusCounters": {
                "Completed": states.count("Completed"),
                "InProgress": states.count("InProgress") + states.count("Stopping"),
                "RetryableError": 0,
                "NonRetryableError": states.count("Failed"),
                "Stopped": states.count("Stopped"),
            },
            "ObjectiveStatusCounters": {name: objectives.count(name) for name in ("Succeeded", "Pending", "Failed")},
        }

    def best(self, jobs: Sequence[JobRecord]) -> JobRecord | None:
        """Return the best of the training jobs that have completed; the first, if several are equal."""
        valued = [(self.objective_of(job), job) for job in jobs if job.status == "Completed"]
        found = [(value if self.maximizes else -value, job) for value, job in valued if value is not None]
        return max(found, key=lambda each: each[0])[1] if found else None


def _objective_status(job: JobRecord, objective: float | None) -> str:
    if job.status not in FINISHED:
        return "Pending"
    return "Failed" if objective is None else "Succeeded"
