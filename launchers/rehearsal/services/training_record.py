"""The record of a training job, as DescribeTrainingJob shows it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from launchers.cost.prices import spot_range
from launchers.rehearsal.access import HERE
from launchers.rehearsal.services.kept_record import KeptRecord

FINISHED = ("Completed", "Failed", "Stopped")


@dataclass
class JobRecord(KeptRecord):
    """A training job as DescribeTrainingJob shows it. Times are seconds since 1970."""

    FILE: ClassVar[str] = "job.json"

    request: dict[str, Any]
    created: float
    status: str = "InProgress"
    secondary: str = "Starting"
    modified: float = 0.0
    transitions: list[dict[str, Any]] = field(default_factory=list)
    started: float | None = None
    ended: float | None = None
    failure: str | None = None
    artifacts: str | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    training_s: float = 0.0
    billable_s: float = 0.0
    pool: str = ""  # of its machines that are kept after it; "" without one
    pool_s: float = 0.0  # for which they were kept
    reused_by: str = ""  # the job that got them
    tags: dict[str, str] = field(default_factory=dict)
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # stream -> events, once it has ended

    @property
    def name(self) -> str:
        return str(self.request["TrainingJobName"])

    @property
    def arn(self) -> str:
        return HERE.arn("sagemaker", f"training-job/{self.name}")

    @property
    def spot(self) -> bool:
        return bool(self.request.get("EnableManagedSpotTraining"))

    def to(self, secondary: str, message: str, *, status: str | None = None) -> None:
        """Change the secondary status, and save. status: the final one, if the job ends with it."""
        moment = now()
        if self.transitions:
            self.transitions[-1]["EndTime"] = moment
        self.transitions.append({"Status": secondary, "StartTime": moment, "StatusMessage": message})
        self.secondary, self.modified = secondary, moment
        if status is not None:
            self.status = status
            self.ended = moment
            self.transitions[-1]["EndTime"] = moment
        self.save()

    def bill(self, seconds: float) -> None:
        """Add time of its machines; a spot job is billed the middle of what spot machines cost."""
        self.training_s += seconds
        self.billable_s += seconds * (sum(spot_range()) / 2 if self.spot else 1.0)

    def describe(self) -> dict[str, Any]:
        kept = {key: value for key, value in self.request.items() if key != "Tags"}
        found = {
            **kept,
            "TrainingJobArn": self.arn,
            "TrainingJobStatus": self.status,
            "SecondaryStatus": self.secondary,
            "SecondaryStatusTransitions": self.transitions,
            "CreationTime": self.created,
            "LastModifiedTime": self.modified or self.created,
            "TrainingStartTime": self.started,
            "TrainingEndTime": self.ended,
            "FailureReason": self.failure,
            "ModelArtifacts": {"S3ModelArtifacts": self.artifacts} if self.artifacts else None,
            "FinalMetricDataList": self.metrics or None,
            "TrainingTimeInSeconds": int(self.training_s) if self.status in FINISHED else None,
            "BillableTimeInSeconds": max(1, int(self.billable_s)) if self.status in FINISHED and self.started else None,
        }
        return {key: value for key, value in found.items() if value is not None}

    def summary(self) -> dict[str, Any]:
        shown = self.describe()
        keys = ("TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingEndTime", "LastModifiedTime")
        return {key: shown[key] for key in (*keys, "TrainingJobStatus", "SecondaryStatus") if key in shown}


def now() -> float:
    return datetime.now(UTC).timestamp()
