"""SageMaker's training jobs: the interface that AWS documents, and the records that survive a restart."""

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moto.iam.models import iam_backends

from dogbreed.run_folder import write_json
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.rehearsal.shelf import Shelf
from launchers.rehearsal.trouble import Trouble

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
FINISHED = ("Completed", "Failed", "Stopped")

Operation = Callable[..., "dict[str, Any] | None"]

_MOST_TAGS = 50
_MOST_RUN_S = 2419200  # 28 days
_ECR = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/.+")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}):role/(?:.*/)?([^/]+)")


class Refused(Exception):  # noqa: N818 (what AWS does, not what went wrong here)
    """AWS's answer to a request that it does not accept."""

    def __init__(self, code: str, text: str, status: int = 400) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text, self.status = code, text, status


@dataclass
class JobRecord:
    """A training job as DescribeTrainingJob shows it. Times are seconds since 1970."""

    request: dict[str, Any]
    trouble: dict[str, Any]
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
    tags: dict[str, str] = field(default_factory=dict)
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # stream -> events, once it has ended

    @property
    def name(self) -> str:
        return str(self.request["TrainingJobName"])

    @property
    def arn(self) -> str:
        return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/{self.name}"

    @property
    def spot(self) -> bool:
        return bool(self.request.get("EnableManagedSpotTraining"))

    def to(self, secondary: str, message: str, *, status: str | None = None) -> None:
        moment = now()
        if self.transitions:
            self.transitions[-1]["EndTime"] = moment
        self.transitions.append({"Status": secondary, "StartTime": moment, "StatusMessage": message})
        self.secondary, self.modified = secondary, moment
        if status is not None:
            self.status = status
            self.ended = moment
            self.transitions[-1]["EndTime"] = moment

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


class TrainingJobs:
    """All jobs. `operations`: SageMaker's that are answered here; one that returns null is moto's business."""

    def __init__(self, folder: Path, shelf: Shelf) -> None:
        self.folder, self.shelf = folder, shelf
        self._jobs: dict[str, JobRecord] = {}
        self._runs: dict[str, Any] = {}  # by job: the JobRun that is at it
        self._lock = threading.RLock()
        self.url = self.key = ""
        self.operations: dict[str, Operation] = {
            "CreateTrainingJob": self.create,
            "DescribeTrainingJob": self.describe,
            "StopTrainingJob": self.stop,
            "ListTrainingJobs": self.list,
            "ListTags": self.list_tags,
            "AddTags": self.add_tags,
            "DeleteTags": self.delete_tags,
        }

    @property
    def active(self) -> bool:
        return any(run.is_alive() for run in self._runs.values())

    def begin(self, url: str, key: str) -> None:
        """Take up the records of an earlier server. What it was running has ended with it."""
        from launchers.rehearsal.job_run import put_log, sweep_left_over

        self.url, self.key = url, key
        for path in sorted(self.folder.glob("*/job.json")):
            record = JobRecord(**json.loads(path.read_bytes()))
            sweep_left_over(path.parent)
            if record.status not in FINISHED:
                record.failure = "InternalServerError: the rehearsal cloud was stopped while the job was running"
                record.to("Failed", record.failure, status="Failed")
                self.save(record)
            for stream, events in record.logs.items():
                put_log(stream, events)
            self._jobs[record.name] = record

    def end(self) -> None:
        for run in list(self._runs.values()):
            run.abandon()
        for run in list(self._runs.values()):
            run.join(timeout=10)

    def save(self, record: JobRecord) -> None:
        with self._lock:
            write_json(self.place(record) / "job.json", asdict(record))

    def place(self, record: JobRecord) -> Path:
        return self.folder / record.name

    def create(self, request: Mapping[str, Any], trouble: Trouble) -> dict[str, Any]:
        from launchers.rehearsal.job_run import JobRun

        record = JobRecord(dict(request), asdict(trouble), now())
        with self._lock:
            if record.name in self._jobs:
                raise Refused(
                    "ResourceInUse",
                    f"Training job names must be unique within an AWS account and region, but one named {record.name} "
                    "exists already",
                )
            self._check(record, trouble)
            record.tags = {tag["Key"]: tag["Value"] for tag in request.get("Tags", [])}
            record.to("Starting", "Starting the training job")
            self._jobs[record.name] = record
            self.save(record)
            self._runs[record.name] = run = JobRun(self, record, trouble)
            run.start()
        return {"TrainingJobArn": record.arn}

    def describe(self, request: Mapping[str, Any], trouble: Trouble) -> dict[str, Any]:
        return self._job(request["TrainingJobName"]).describe()

    def stop(self, request: Mapping[str, Any], trouble: Trouble) -> dict[str, Any]:
        record = self._job(request["TrainingJobName"])
        if record.status in FINISHED:
            raise Refused(
                "ValidationException",
                f"The request was rejected because the training job is in status {record.status}.",
            )
        self._runs[record.name].stop()
        return {}

    def list(self, request: Mapping[str, Any], trouble: Trouble) -> dict[str, Any]:
        with self._lock:
            jobs = list(self._jobs.values())
        for key, keep in (
            ("NameContains", lambda job, value: value in job.name),
            ("StatusEquals", lambda job, value: job.status == value),
            ("CreationTimeAfter", lambda job, value: job.created > value),
            ("CreationTimeBefore", lambda job, value: job.created < value),
        ):
            if key in request:
                jobs = [job for job in jobs if keep(job, request[key])]
        by = {"Name": lambda job: job.name, "Status": lambda job: job.status}
        jobs.sort(
            key=by.get(request.get("SortBy", "CreationTime"), lambda job: job.created),
            reverse=request.get("SortOrder", "Descending") == "Descending",
        )
        first, most = int(request.get("NextToken", 0)), request.get("MaxResults", 10)
        rest = {"NextToken": str(first + most)} if len(jobs) > first + most else {}
        return {"TrainingJobSummaries": [job.summary() for job in jobs[first : first + most]], **rest}

    def list_tags(self, request: Mapping[str, Any], trouble: Trouble) -> dict[str, Any] | None:
        record = self._of_arn(request["ResourceArn"])
        return None if record is None else {"Tags": _as_tags(record.tags)}

    def add_tags(self, request: Mapping[str, Any], trouble: Trouble) -> dict[str, Any] | None:
        record = self._of_arn(request["ResourceArn"])
        if record is None:
            return None
        _check_tags(request["Tags"], record.tags)
        record.tags |= {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        self.save(record)
        return {"Tags": _as_tags(record.tags)}

    def delete_tags(self, request: Mapping[str, Any], trouble: Trouble) -> dict[str, Any] | None:
        record = self._of_arn(request["ResourceArn"])
        if record is None:
            return None
        for key in request["TagKeys"]:
            record.tags.pop(key, None)
        self.save(record)
        return {}

    def _job(self, name: str) -> JobRecord:
        if name not in self._jobs:
            raise Refused("ValidationException", "Requested resource not found.")
        return self._jobs[name]

    def _of_arn(self, arn: str) -> JobRecord | None:
        kind, _, name = arn.rpartition(":")[2].partition("/")
        return self._job(name) if kind == "training-job" else None

    def _check(self, record: JobRecord, trouble: Trouble) -> None:
        """What is not in the service's model, but in its documentation."""
        request = record.request
        _check_tags(request.get("Tags", []), {})
        limits, resources = request["StoppingCondition"], request["ResourceConfig"]
        longest, wait = limits.get("MaxRuntimeInSeconds", 86400), limits.get("MaxWaitTimeInSeconds")
        if longest > _MOST_RUN_S:
            raise _invalid(f"MaxRuntimeInSeconds can be at most {_MOST_RUN_S}")
        if record.spot and wait is None:
            raise _invalid("MaxWaitTimeInSeconds must be provided when EnableManagedSpotTraining is true")
        if not record.spot and wait is not None:
            raise _invalid("MaxWaitTimeInSeconds must not be provided when EnableManagedSpotTraining is false")
        if wait is not None and wait < longest:
            raise _invalid(
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds "
                f"({longest})"
            )
        if record.spot and resources.get("KeepAlivePeriodInSeconds"):
            raise _invalid("A warm pool (KeepAlivePeriodInSeconds) cannot be combined with managed spot training")
        names = [channel["ChannelName"] for channel in request.get("InputDataConfig", [])]
        if len(set(names)) < len(names):
            raise _invalid(f"Channel names must be unique, got {', '.join(names)}")
        image = request["AlgorithmSpecification"].get("TrainingImage", "")
        if (found := _ECR.fullmatch(image)) is None or found[2] != REGION:
            raise _invalid(f"Invalid image URI {image}. It must be in Amazon ECR, in the region {REGION}")
        role = _ROLE.fullmatch(request["RoleArn"])
        roles = {known.name: known for known in iam_backends[ACCOUNT]["aws"].get_roles()}
        if role is None or role[1] != ACCOUNT or role[2] not in roles:
            raise _invalid(f"Could not access the role {request['RoleArn']}: it does not exist, or another account's")
        if "sagemaker.amazonaws.com" not in str(roles[role[2]].assume_role_policy_document):
            raise _invalid(
                f"Could not assume role {request['RoleArn']}. Please ensure that the role exists and allows principal "
                "'sagemaker.amazonaws.com' to assume the role."
            )
        for uri in (request["OutputDataConfig"]["S3OutputPath"], (request.get("CheckpointConfig") or {}).get("S3Uri")):
            if uri and not self.shelf.has_bucket(uri.removeprefix("s3://").partition("/")[0]):
                raise _invalid(f"The S3 bucket of {uri} does not exist or cannot be reached in {REGION}")
        kind, count = resources["InstanceType"], resources["InstanceCount"]
        if kind in trouble.quotas:
            used = sum(
                job.request["ResourceConfig"]["InstanceCount"]
                for job in self._jobs.values()
                if job.status not in FINISHED and job.request["ResourceConfig"]["InstanceType"] == kind
            )
            if used + count > trouble.quotas[kind]:
                name = f"{kind} for {'spot ' if record.spot else ''}training job usage"
                raise Refused(
                    "ResourceLimitExceeded",
                    f"The account-level service limit '{name}' is {trouble.quotas[kind]} Instances, with current "
                    f"utilization of {used} Instances and a request delta of {count} Instances. Please use AWS Service "
                    "Quotas to request an increase for this quota.",
                )


def now() -> float:
    return datetime.now(UTC).timestamp()


def _invalid(text: str) -> Refused:
    return Refused("ValidationException", text)


def _as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def _check_tags(tags: list[dict[str, str]], before: Mapping[str, str]) -> None:
    keys = [tag["Key"] for tag in tags]
    if len(set(keys)) < len(keys):
        raise _invalid("Duplicate tag keys found. Please note that tag keys are case insensitive.")
    if len(keys) + len(before.keys() - set(keys)) > _MOST_TAGS:
        raise _invalid(f"Too many tags: a resource has at most {_MOST_TAGS}")
    if reserved := [key for key in keys if key.lower().startswith("aws:")]:
        raise _invalid(f"Tag keys must not begin with aws:, got {', '.join(reserved)}")
