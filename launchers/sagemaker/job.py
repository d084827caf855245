"""SageMaker's words for how a job stands, in ours: what phase, why, and what to do next."""

import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC
from typing import Any

from launchers.base import Cause, Handle, Phase, Status
from launchers.cost import prices

EARLY_TAG = "dogbreed:ended-early"
STUDY = "DOGBREED_STUDY"  # in the environment of a job that is a whole search: its study

_PROVISIONING = (
    "Starting",
    "LaunchingMLInstances",
    "PreparingTrainingStack",
    "Pending",
    "Downloading",
    "DownloadingTrainingImage",
)
_RECOVERING = ("Interrupted", "Restarting")
_CAUSED = re.compile(
    r"^AlgorithmError: (?:ExecuteUserScriptError:?\s*)?\[(?P<cause>[a-z_]+)\] (?P<detail>.*?)(?:, exit code: \d+)?$",
    re.S,
)
_REASONS: tuple[tuple[str, Cause, str], ...] = (  # in a FailureReason, the first that fits; {type} and {again}
    (
        "CapacityError",
        Cause.CAPACITY,
        "Try: {again}, later, or with another launcher.instance_type or launcher=sagemaker_gpu",
    ),
    ("No space left on device", Cause.QUOTA, "Try: {again} with a larger launcher.volume_gb"),
    ("ResourceLimitExceeded", Cause.QUOTA, "Raise the quota of {type}, then: {again}"),
    ("AccessDenied", Cause.PERMISSION, "Give the job's role this permission, then: {again}"),
    ("Access denied", Cause.PERMISSION, "Give the job's role this permission, then: {again}"),
    ("not authorized", Cause.PERMISSION, "Give the job's role this permission, then: {again}"),
    ("No S3 objects found", Cause.BAD_CONFIG, "See what is in data.root, then: {again}"),
    (
        "CannotPullContainer",
        Cause.BAD_CONFIG,
        "See whether launcher.image is there and the role may pull it, then: {again}",
    ),
    ("OutOfMemory", Cause.USER_CODE, "Try: {again} with a smaller data.batch_size or a larger launcher.instance_type"),
    ("ClientError", Cause.BAD_CONFIG, "Mend that, then: {again}"),
    ("InternalServerError", Cause.INTERRUPTED, "Nothing of yours was wrong. Go on with: {again}"),
    ("AlgorithmError", Cause.USER_CODE, "The log says more. Then go on with: {again}"),
)


def read(
    job: Mapping[str, Any],
    handle: Handle,
    *,
    tags: Callable[[], Mapping[str, str]] | None = None,
) -> Status:
    """job: as DescribeTrainingJob gives it. tags: of the job, asked if they matter."""
    native, secondary = job["TrainingJobStatus"], job["SecondaryStatus"]
    again = shlex.join(["python", "train.py", f"resume={handle}"])
    if STUDY in job.get("Environment", {}):
        again = "the command that began this search"
    here = Status(
        Phase.RUNNING,
        attempt=attempts(job),
        started_at=started_at(job),
        usd=spent(job),
        job=job["TrainingJobName"],
    )
    if native == "InProgress":
        if secondary in _RECOVERING or (secondary in _PROVISIONING and attempts(job) > 1):
            return replace(here, phase=Phase.RECOVERING, cause=Cause.INTERRUPTED, detail=_message(job))
        phase = Phase.PROVISIONING if secondary in _PROVISIONING else Phase.RUNNING
        return replace(here, phase=phase, detail=_message(job))
    if native == "Stopping":
        return replace(here, phase=Phase.STOPPING, cause=Cause.BY_USER, detail=_message(job))
    if native == "Completed":
        return replace(here, phase=Phase.SUCCEEDED)
    if native == "Stopped":
        if secondary in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded"):
            key = "max_run_s" if secondary == "MaxRuntimeExceeded" else "max_wait_s"
            what = f"launcher.{key} was over; what was trained is saved"
            return replace(
                here,
                phase=Phase.FAILED,
                cause=Cause.TIME_LIMIT,
                detail=what,
                next_action=f"Go on with: {again} launcher.{key}=...",
            )
        if tags is not None and tags().get(EARLY_TAG):
            return replace(here, phase=Phase.SUCCEEDED, detail="ended early: its numbers were enough")
        return replace(
            here,
            phase=Phase.CANCELLED,
            cause=Cause.BY_USER,
            detail="stopped on request",
            next_action=f"Go on with: {again}",
        )
    reason = str(job.get("FailureReason", ""))
    if own := _CAUSED.match(reason):
        cause = Cause(own["cause"]) if own["cause"] in set(Cause) else Cause.UNKNOWN
        hint = {
            Cause.USER_CODE: f"The log says more. Then go on with: {again}",
            Cause.QUOTA: f"The disk is full. Try: {again} with a larger launcher.volume_gb",
        }.get(cause, f"Then go on with: {again}")
        return replace(here, phase=Phase.FAILED, cause=cause, detail=own["detail"].strip(), next_action=hint)
    for text, cause, hint in _REASONS:
        if text in reason:
            kind = job["ResourceConfig"]["InstanceType"]
            return replace(
                here, phase=Phase.FAILED, cause=cause, detail=reason, next_action=hint.format(type=kind, again=again)
            )
    return replace(
        here,
        phase=Phase.FAILED,
        cause=Cause.UNKNOWN,
        detail=reason,
        next_action=f"The log may say more. Then go on with: {again}",
    )


def started_at(job: Mapping[str, Any]) -> str:
    return str(job["CreationTime"].astimezone(UTC).isoformat(timespec="milliseconds"))


def attempts(job: Mapping[str, Any]) -> int:
    """How often a machine has been asked for: once, and once after each interruption."""
    steps: list[str] = [step["Status"] for step in job.get("SecondaryStatusTransitions", [])]
    return 1 + steps.count("Interrupted")


def spent(job: Mapping[str, Any]) -> float | None:
    """USD so far, by the list price; exact seconds once it has ended. Null for a type without a price."""
    resources = job["ResourceConfig"]
    row = prices.instance(resources["InstanceType"])
    if row is None:
        return None
    hourly = row.usd * int(resources["InstanceCount"])
    if "BillableTimeInSeconds" in job:
        return float(job["BillableTimeInSeconds"]) / 3600 * hourly
    if "TrainingStartTime" not in job or "TrainingEndTime" in job:
        return 0.0
    share = prices.spot_share() if job.get("EnableManagedSpotTraining") else 1.0
    return float(time.time() - job["TrainingStartTime"].timestamp()) / 3600 * hourly * share


def _message(job: Mapping[str, Any]) -> str:
    steps = job.get("SecondaryStatusTransitions", [])
    return str(steps[-1].get("StatusMessage", "")) if steps else ""
