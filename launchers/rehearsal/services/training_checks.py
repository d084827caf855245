"""Check a CreateTrainingJob request against rules in SageMaker's documentation that are not in its model."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from launchers.aws.actions import SAGEMAKER
from launchers.rehearsal.access import check_trust
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.service import Refused, invalid
from launchers.rehearsal.services.sagemaker_tags import check_tags
from launchers.rehearsal.services.training_record import FINISHED, JobRecord

_MOST_RUN_S = 2419200  # 28 days
_ECR = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/.+")


def check(job: JobRecord, jobs: Iterable[JobRecord], quotas: Mapping[str, int], store: ObjectStore) -> None:
    """Raise Refused if SageMaker would not accept the job. jobs: all others. quotas: instances at once, by type."""
    request = job.request
    check_tags(request.get("Tags", []), {})
    _check_times(job)
    names = [channel["ChannelName"] for channel in request.get("InputDataConfig", [])]
    if len(set(names)) < len(names):
        raise invalid(f"Channel names must be unique, got {', '.join(names)}")
    image = request["AlgorithmSpecification"].get("TrainingImage", "")
    if (found := _ECR.fullmatch(image)) is None or found[2] != REGION:
        raise invalid(f"Invalid image URI {image}. It must be in Amazon ECR, in the region {REGION}")
    _check_role(job)
    for uri in (request["OutputDataConfig"]["S3OutputPath"], (request.get("CheckpointConfig") or {}).get("S3Uri")):
        if uri and not store.has_bucket(uri.removeprefix("s3://").partition("/")[0]):
            raise invalid(f"The S3 bucket of {uri} does not exist or cannot be reached in {REGION}")
    _check_quota(job, jobs, quotas)


def _check_times(job: JobRecord) -> None:
    limits: Mapping[str, Any] = job.request["StoppingCondition"]
    longest, wait = limits.get("MaxRuntimeInSeconds", 86400), limits.get("MaxWaitTimeInSeconds")
    if longest > _MOST_RUN_S:
        raise invalid(f"MaxRuntimeInSeconds can be at most {_MOST_RUN_S}")
    if job.spot and wait is None:
        raise invalid("MaxWaitTimeInSeconds must be provided when EnableManagedSpotTraining is true")
    if not job.spot and wait is not None:
        raise invalid("MaxWaitTimeInSeconds must not be provided when EnableManagedSpotTraining is false")
    if wait is not None and wait < longest:
        raise invalid(
            "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds "
            f"({longest})"
        )
    if job.spot and job.request["ResourceConfig"].get("KeepAlivePeriodInSeconds"):
        raise invalid("A warm pool (KeepAlivePeriodInSeconds) cannot be combined with managed spot training")


def _check_role(job: JobRecord) -> None:
    arn = job.request["RoleArn"]
    try:
        check_trust(arn, {"Service": [SAGEMAKER]}, {"aws:SourceAccount": [ACCOUNT], "aws:SourceArn": [job.arn]})
    except Refused:
        raise invalid(
            f"Could not assume role {arn}. Please ensure that the role exists and allows principal "
            f"'{SAGEMAKER}' to assume the role."
        ) from None


def _check_quota(job: JobRecord, jobs: Iterable[JobRecord], quotas: Mapping[str, int]) -> None:
    kind, count = (job.request["ResourceConfig"][name] for name in ("InstanceType", "InstanceCount"))
    if kind not in quotas:
        return
    others = (other.request["ResourceConfig"] for other in jobs if other.status not in FINISHED)
    used = sum(resources["InstanceCount"] for resources in others if resources["InstanceType"] == kind)
    if used + count > quotas[kind]:
        name = f"{kind} for {'spot ' if job.spot else ''}training job usage"
        raise Refused(
            "ResourceLimitExceeded",
            f"The account-level service limit '{name}' is {quotas[kind]} Instances, with current "
            f"utilization of {used} Instances and a request delta of {count} Instances. Please use AWS Service "
            "Quotas to request an increase for this quota.",
        )
