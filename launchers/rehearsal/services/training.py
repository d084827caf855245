"""SageMaker's training jobs: the interface that AWS documents, and the records that survive a restart."""

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moto.iam.models import iam_backends

from dogbreed.run_folder import write_json
from launchers.rehearsal.faults import Faults
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.service import Operation, Refused, as_tags, check_tags, invalid
from launchers.rehearsal.services.training_record import FINISHED, JobRecord, now

_MOST_RUN_S = 2419200  # 28 days
_ECR = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/.+")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}):role/(?:.*/)?([^/]+)")


class TrainingJobs:
    """All jobs. `operations`: SageMaker's that are answered here; one that returns null is moto's business."""

    def __init__(self, folder: Path, store: ObjectStore) -> None:
        self.folder, self.store = folder, store
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
        from launchers.rehearsal.logs import put_log
        from launchers.rehearsal.machine import sweep_left_over

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

    def create(self, request: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
        from launchers.rehearsal.services.training_run import JobRun

        record = JobRecord(dict(request), asdict(faults), now())
        with self._lock:
            if record.name in self._jobs:
                raise Refused(
                    "ResourceInUse",
                    f"Training job names must be unique within an AWS account and region, but one named {record.name} "
                    "exists already",
                )
            self._check(record, faults)
            record.tags = {tag["Key"]: tag["Value"] for tag in request.get("Tags", [])}
            record.to("Starting", "Starting the training job")
            self._jobs[record.name] = record
            self.save(record)
            self._runs[record.name] = run = JobRun(self, record, faults)
            run.start()
        return {"TrainingJobArn": record.arn}

    def describe(self, request: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
        return self._job(request["TrainingJobName"]).describe()

    def stop(self, request: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
        record = self._job(request["TrainingJobName"])
        if record.status in FINISHED:
            raise Refused(
                "ValidationException",
                f"The request was rejected because the training job is in status {record.status}.",
            )
        self._runs[record.name].stop()
        return {}

    def list(self, request: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
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

    def list_tags(self, request: Mapping[str, Any], faults: Faults) -> dict[str, Any] | None:
        record = self._of_arn(request["ResourceArn"])
        return None if record is None else {"Tags": as_tags(record.tags)}

    def add_tags(self, request: Mapping[str, Any], faults: Faults) -> dict[str, Any] | None:
        record = self._of_arn(request["ResourceArn"])
        if record is None:
            return None
        check_tags(request["Tags"], record.tags)
        record.tags |= {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        self.save(record)
        return {"Tags": as_tags(record.tags)}

    def delete_tags(self, request: Mapping[str, Any], faults: Faults) -> dict[str, Any] | None:
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

    def _check(self, record: JobRecord, faults: Faults) -> None:
        """What is not in the service's model, but in its documentation."""
        request = record.request
        check_tags(request.get("Tags", []), {})
        limits, resources = request["StoppingCondition"], request["ResourceConfig"]
        longest, wait = limits.get("MaxRuntimeInSeconds", 86400), limits.get("MaxWaitTimeInSeconds")
        if longest > _MOST_RUN_S:
            raise invalid(f"MaxRuntimeInSeconds can be at most {_MOST_RUN_S}")
        if record.spot and wait is None:
            raise invalid("MaxWaitTimeInSeconds must be provided when EnableManagedSpotTraining is true")
        if not record.spot and wait is not None:
            raise invalid("MaxWaitTimeInSeconds must not be provided when EnableManagedSpotTraining is false")
        if wait is not None and wait < longest:
            raise invalid(
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds "
                f"({longest})"
            )
        if record.spot and resources.get("KeepAlivePeriodInSeconds"):
            raise invalid("A warm pool (KeepAlivePeriodInSeconds) cannot be combined with managed spot training")
        names = [channel["ChannelName"] for channel in request.get("InputDataConfig", [])]
        if len(set(names)) < len(names):
            raise invalid(f"Channel names must be unique, got {', '.join(names)}")
        image = request["AlgorithmSpecification"].get("TrainingImage", "")
        if (found := _ECR.fullmatch(image)) is None or found[2] != REGION:
            raise invalid(f"Invalid image URI {image}. It must be in Amazon ECR, in the region {REGION}")
        role = _ROLE.fullmatch(request["RoleArn"])
        roles = {known.name: known for known in iam_backends[ACCOUNT]["aws"].get_roles()}
        if role is None or role[1] != ACCOUNT or role[2] not in roles:
            raise invalid(f"Could not access the role {request['RoleArn']}: it does not exist, or another account's")
        if "sagemaker.amazonaws.com" not in str(roles[role[2]].assume_role_policy_document):
            raise invalid(
                f"Could not assume role {request['RoleArn']}. Please ensure that the role exists and allows principal "
                "'sagemaker.amazonaws.com' to assume the role."
            )
        for uri in (request["OutputDataConfig"]["S3OutputPath"], (request.get("CheckpointConfig") or {}).get("S3Uri")):
            if uri and not self.store.has_bucket(uri.removeprefix("s3://").partition("/")[0]):
                raise invalid(f"The S3 bucket of {uri} does not exist or cannot be reached in {REGION}")
        kind, count = resources["InstanceType"], resources["InstanceCount"]
        if kind in faults.quotas:
            used = sum(
                job.request["ResourceConfig"]["InstanceCount"]
                for job in self._jobs.values()
                if job.status not in FINISHED and job.request["ResourceConfig"]["InstanceType"] == kind
            )
            if used + count > faults.quotas[kind]:
                name = f"{kind} for {'spot ' if record.spot else ''}training job usage"
                raise Refused(
                    "ResourceLimitExceeded",
                    f"The account-level service limit '{name}' is {faults.quotas[kind]} Instances, with current "
                    f"utilization of {used} Instances and a request delta of {count} Instances. Please use AWS Service "
                    "Quotas to request an increase for this quota.",
                )
