"""A training job as SageMaker describes it, and what that means for a run: which phase, why, and what to do next.

DescribeTrainingJob's answer is read here and nowhere else.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from launchers.aws.layout import RunLocation, archive_uri
from launchers.aws.shortage import shortage_in
from launchers.cost import prices
from launchers.payload.photos import FEATURES
from launchers.sagemaker.instances import has_own_disks
from launchers.status import Cause, Phase, Shortage, Status

STUDY = "DOGBREED_STUDY"  # in the environment of a job that is a whole search: its study

_FINISHED = ("Completed", "Failed", "Stopped")
_PROVISIONING = (
    "Starting",
    "LaunchingMLInstances",
    "PreparingTrainingStack",
    "Pending",
    "Downloading",
    "DownloadingTrainingImage",
)
_BEGINNING = (*_PROVISIONING, "Restarting")  # neighbours among them belong to one attempt
_RECOVERING = ("Interrupted", "Restarting")
_TIME_LIMITS = {"MaxRuntimeExceeded": "max_run_s", "MaxWaitTimeExceeded": "max_wait_s"}


@dataclass(frozen=True)
class Transition:
    """A step of a job's history, in SageMaker's words."""

    status: str
    message: str


@dataclass(frozen=True)
class TrainingJob:
    """A training job.

    status, secondary, reason: TrainingJobStatus, SecondaryStatus and FailureReason. started, ended: of its training;
    None before. training_s, billable_s: None until it has ended. pool: the state of its warm pool; "" without one.
    kept_s: for which that has been billed, once it is over. features_uri: where features of its photos are kept for
    later runs; None if it uses none. study: of a job that is a whole search; else None.
    """

    name: str
    arn: str
    role_arn: str
    status: str
    secondary: str
    reason: str
    transitions: tuple[Transition, ...]
    created: datetime
    modified: datetime
    started: datetime | None
    ended: datetime | None
    instance_type: str
    instances: int
    spot: bool
    training_s: float | None
    billable_s: float | None
    keep_alive_s: float
    pool: str
    kept_s: float
    output_uri: str
    checkpoints_uri: str
    features_uri: str | None
    kms_key: str | None
    study: str | None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        """Read DescribeTrainingJob's answer; a job that was not launched from here lacks some of its parts."""
        resources, output = answer.get("ResourceConfig", {}), answer.get("OutputDataConfig", {})
        inputs = {channel["ChannelName"]: channel for channel in answer.get("InputDataConfig", [])}
        features = inputs.get(FEATURES, {}).get("DataSource", {}).get("S3DataSource", {})
        steps, pool = answer.get("SecondaryStatusTransitions", []), answer.get("WarmPoolStatus", {})
        return cls(
            name=answer["TrainingJobName"],
            arn=answer["TrainingJobArn"],
            role_arn=answer.get("RoleArn", ""),
            status=answer["TrainingJobStatus"],
            secondary=answer["SecondaryStatus"],
            reason=answer.get("FailureReason", ""),
            transitions=tuple(Transition(step["Status"], step.get("StatusMessage", "")) for step in steps),
            created=answer["CreationTime"],
            modified=answer.get("LastModifiedTime", answer["CreationTime"]),
            started=answer.get("TrainingStartTime"),
            ended=answer.get("TrainingEndTime"),
            instance_type=resources.get("InstanceType", ""),
            instances=int(resources.get("InstanceCount", 1)),
            spot=bool(answer.get("EnableManagedSpotTraining")),
            training_s=answer.get("TrainingTimeInSeconds"),
            billable_s=answer.get("BillableTimeInSeconds"),
            keep_alive_s=float(resources.get("KeepAlivePeriodInSeconds", 0)),
            pool=pool.get("Status", ""),
            kept_s=float(pool.get("ResourceRetainedBillableTimeInSeconds", 0)),
            output_uri=output.get("S3OutputPath", ""),
            checkpoints_uri=answer.get("CheckpointConfig", {}).get("S3Uri", ""),
            features_uri=features.get("S3Uri"),
            kms_key=output.get("KmsKeyId"),
            study=answer.get("Environment", {}).get(STUDY),
        )

    @property
    def finished(self) -> bool:
        return self.status in _FINISHED

    @property
    def stopped_on_request(self) -> bool:
        """Return whether a person stopped it, rather than one of its time limits."""
        return self.status == "Stopped" and self.secondary not in _TIME_LIMITS

    @property
    def reached_limit(self) -> bool:
        """Return whether SageMaker ended it because its time was over, after it had a machine."""
        return self.secondary == "MaxRuntimeExceeded" or (
            self.secondary == "MaxWaitTimeExceeded" and (self.started is not None or self.trainings > 0)
        )

    @property
    def attempts(self) -> int:
        """How often machines were requested: once, and again after each interruption or internal error of SageMaker.

        After such an error a job with a RetryStrategy is in `Starting` again, without having been `Interrupted`.
        """
        begun = [step.status in _BEGINNING for step in self.transitions]
        earlier = sum(later and not before for before, later in zip([False, *begun], begun, strict=False))
        return max(1, earlier, 1 + self._count("Interrupted"))

    @property
    def trainings(self) -> int:
        """How many attempts have begun to train."""
        return self._count("Training")

    @property
    def message(self) -> str:
        """SageMaker's message about the latest step."""
        return self.transitions[-1].message if self.transitions else ""

    @property
    def location(self) -> RunLocation:
        """The location of the run's files in the bucket."""
        return RunLocation.of_checkpoints(self.checkpoints_uri)

    @property
    def archive_uri(self) -> str:
        """The archive of the results, which exists if the job succeeds."""
        return archive_uri(self.output_uri, self.name)

    def usd(self, now: float) -> float | None:
        """Return the cost so far by the list price, from exact seconds once the job has ended; None without a price.

        A spot job that still runs may cost less than that. now: seconds since 1970.
        """
        row = prices.instance(self.instance_type)
        if row is None:
            return None
        return (self._billed_s(now) + self.pool_s(now)) * row.usd * self.instances / 3600

    def usd_on_demand(self, now: float) -> float | None:
        """Return what the same time would have cost on demand; None without a price."""
        row = prices.instance(self.instance_type)
        if row is None:
            return None
        seconds = self._billed_s(now) if self.training_s is None else self.training_s
        return (seconds + self.pool_s(now)) * row.usd * self.instances / 3600

    def _billed_s(self, now: float) -> float:
        if self.billable_s is not None:
            return self.billable_s
        if self.started is None or self.ended is not None:
            return 0.0
        return now - self.started.timestamp()

    @property
    def keeps_machines(self) -> bool:
        """Whether its machines are kept for the next job now, and cost money."""
        return self.pool == "Available"

    def pool_s(self, now: float) -> float:
        """Return for how long the machines of the job have been kept after its end."""
        if self.keeps_machines and self.ended is not None:
            return min(max(now - self.ended.timestamp(), self.kept_s), self.keep_alive_s)
        return self.kept_s

    def to_come_usd(self, now: float) -> float:
        """Return what its kept machines cost from now on if no job takes them; 0 without a price."""
        row = prices.instance(self.instance_type)
        if row is None or not self.keeps_machines:
            return 0.0
        return (self.keep_alive_s - self.pool_s(now)) * row.usd * self.instances / 3600

    def _count(self, status: str) -> int:
        return sum(step.status == status for step in self.transitions)


# --- what it means for the run ---


def cause_of(reason: str) -> Cause:
    """Return the cause that a FailureReason names in SageMaker's own words, not in launchers/remote/entry.py's."""
    return next(cause for text, cause, _ in _REASONS if text in reason)


_CAUSED = re.compile(
    r"^AlgorithmError: (?:ExecuteUserScriptError:?\s*)?\[(?P<cause>[a-z_]+)\] (?P<detail>.*?)(?:, exit code: \d+)?$",
    re.S,
)  # as launchers/remote/entry.py writes it
# The first text that a FailureReason contains applies. The hints are filled in with {type}, {again} and {disk}.
_REASONS: tuple[tuple[str, Cause, str], ...] = (
    (
        "CapacityError",
        Cause.CAPACITY,
        "Try later, or add another launcher.instance_type or launcher=sagemaker_gpu: {again}",
    ),
    (
        "InsufficientInstanceCapacity",
        Cause.CAPACITY,
        "Try later, or add another launcher.instance_type or launcher=sagemaker_gpu: {again}",
    ),
    ("No space left on device", Cause.QUOTA, "Try, with {disk}: {again}"),
    ("ResourceLimitExceeded", Cause.QUOTA, "Raise the quota of {type}, then: {again}"),
    ("AccessDenied", Cause.PERMISSION, "Grant this permission to the job's role, then: {again}"),
    ("Access denied", Cause.PERMISSION, "Grant this permission to the job's role, then: {again}"),
    ("not authorized", Cause.PERMISSION, "Grant this permission to the job's role, then: {again}"),
    ("No S3 objects found", Cause.BAD_CONFIG, "Check the contents of data.root, then: {again}"),
    (
        "CannotPullContainer",
        Cause.BAD_CONFIG,
        "Check that launcher.image exists and that the role may pull it, then: {again}",
    ),
    ("OutOfMemory", Cause.USER_CODE, "Try, with a smaller data.batch_size or a larger launcher.instance_type: {again}"),
    ("ClientError", Cause.BAD_CONFIG, "Fix that, then: {again}"),
    ("InternalServerError", Cause.INTERRUPTED, "This was an internal error of SageMaker. Resume it with: {again}"),
    ("AlgorithmError", Cause.USER_CODE, "See the log for details. Then resume it with: {again}"),
    ("", Cause.UNKNOWN, "The log may have details. Then resume it with: {again}"),
)


def status_of(
    job: TrainingJob,
    *,
    ended_early: bool,
    now: float,
    earlier: Sequence[TrainingJob] = (),
    again: str = "",
    limit: str = "",
) -> Status:
    """Return the status of the run whose latest job this is.

    again: the command that resumes the run. ended_early: whether the job is marked as stopped because its metrics were
    sufficient. now: seconds since 1970. earlier: jobs of the run before this one, in order. limit: the setting that
    shortened the job, as typed.
    """
    costs = [each.usd(now) or 0.0 for each in earlier]
    usd, on_demand = job.usd(now), job.usd_on_demand(now)
    first = earlier[0] if earlier else job
    here = Status(
        Phase.RUNNING,
        attempt=job.attempts + sum(each.attempts for each in earlier),
        started_at=first.created.astimezone(UTC).isoformat(timespec="milliseconds"),
        usd=None if usd is None else usd + sum(costs),
        on_demand_usd=None
        if on_demand is None
        else on_demand + sum(each.usd_on_demand(now) or 0.0 for each in earlier),
        job=job.name,
    )
    match job.status:
        case "InProgress":
            return _in_progress(job, here)
        case "Stopping":
            return replace(here, phase=Phase.STOPPING, cause=Cause.BY_USER, detail=job.message)
        case "Completed":
            return replace(here, phase=Phase.SUCCEEDED)
        case "Stopped" if ended_early and job.stopped_on_request:
            return replace(here, phase=Phase.SUCCEEDED, detail="stopped early: its metrics were sufficient")
        case "Stopped":
            return _stopped(job, here, again, limit)
        case _:
            return _failed(job, here, again)


def _in_progress(job: TrainingJob, here: Status) -> Status:
    provisioning = job.secondary in _PROVISIONING
    if job.secondary in _RECOVERING or (provisioning and job.attempts > 1):
        return replace(here, phase=Phase.RECOVERING, cause=Cause.INTERRUPTED, detail=job.message)
    return replace(here, phase=Phase.PROVISIONING if provisioning else Phase.RUNNING, detail=job.message)


def _stopped(job: TrainingJob, here: Status, again: str, limit: str) -> Status:
    if job.reached_limit and limit:
        return replace(
            here,
            phase=Phase.FAILED,
            cause=Cause.BUDGET if "max_usd" in limit else Cause.TIME_LIMIT,
            detail=f"{limit} was reached; the progress is saved",
            next_action=f"Resume it, with a larger {limit.partition('=')[0]}: {again}",
        )
    if job.secondary not in _TIME_LIMITS:
        hint = f"Resume it with: {again}"
        return replace(here, phase=Phase.CANCELLED, cause=Cause.BY_USER, detail="stopped on request", next_action=hint)
    key = f"launcher.{_TIME_LIMITS[job.secondary]}"
    if job.secondary == "MaxWaitTimeExceeded" and job.started is None and not job.trainings:
        return replace(
            here,
            phase=Phase.FAILED,
            cause=Cause.CAPACITY,
            detail=f"no spot machine was free within {key}, and nothing was trained",
            next_action=f"Try, with a larger {key}, another launcher.instance_type or launcher=sagemaker_gpu: {again}",
            shortage=Shortage(f"no spot machine was free within {key}"),
        )
    return replace(
        here,
        phase=Phase.FAILED,
        cause=Cause.TIME_LIMIT,
        detail=f"{key} was exceeded; the progress is saved",
        next_action=f"Resume it, for the same time again or with a larger {key}: {again}",
    )


def _failed(job: TrainingJob, here: Status, again: str) -> Status:
    if own := _CAUSED.match(job.reason):
        cause = Cause(own["cause"]) if own["cause"] in set(Cause) else Cause.UNKNOWN
        detail = own["detail"].strip()
        match cause:
            case Cause.USER_CODE:
                hint = f"See the log for details. Then resume it with: {again}"
            case Cause.QUOTA:
                hint = f"The disk is full. Try, with {_larger_disk(job)}: {again}"
            case _:
                hint = f"Resume it with: {again}"
    else:
        cause, hint = next((cause, hint) for text, cause, hint in _REASONS if text in job.reason)
        detail, hint = job.reason, hint.format(type=job.instance_type, again=again, disk=_larger_disk(job))
    lacking = shortage_in(job.reason)
    return replace(here, phase=Phase.FAILED, cause=cause, detail=detail, next_action=hint, shortage=lacking)


def _larger_disk(job: TrainingJob) -> str:
    if has_own_disks(job.instance_type):
        return f"a larger launcher.instance_type: {job.instance_type} has disks of a fixed size"
    return "a larger launcher.volume_gb"
