"""An endpoint as SageMaker describes it, and what that means: which phase, why, and what to do next."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from dogbreed import commands
from launchers.aws import tags
from launchers.aws.errors import code_of, errors
from launchers.base import Cloud
from launchers.cost import prices
from launchers.deploy import autoscaling, expiry, fronted, names, request, watching
from launchers.deploy.kinds import refuse_foreign
from launchers.spec import Deployed
from launchers.status import Cause, Phase, Shortage, Status

_PHASES = {
    "Creating": Phase.PROVISIONING,
    "InService": Phase.IN_SERVICE,
    "Updating": Phase.UPDATING,
    "SystemUpdating": Phase.UPDATING,
    "RollingBack": Phase.UPDATING,
    "Deleting": Phase.STOPPING,
    "OutOfService": Phase.FAILED,
    "Failed": Phase.FAILED,
    "UpdateRollbackFailed": Phase.FAILED,
}
CHANGING = ("Creating", "Updating", "SystemUpdating", "RollingBack")  # in which deletion is refused
_NOT_FOUND = ("Could not find", "does not exist", "Cannot find")  # SageMaker's words; its code is that of any error


@dataclass(frozen=True)
class Endpoint:
    """An endpoint. status: SageMaker's word. reason: FailureReason, also of the latest update, empty if that succeeded.

    config: of the configuration in service. pending: of the one that an update brings; empty outside of one.
    instances: that are in service. types: of instances that it may have.
    """

    name: str
    arn: str
    status: str
    config: str
    pending: str
    reason: str
    created: datetime
    modified: datetime
    instances: int

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> Self:
        return cls(
            name=str(answer["EndpointName"]),
            arn=str(answer["EndpointArn"]),
            status=str(answer["EndpointStatus"]),
            config=str(answer["EndpointConfigName"]),
            pending=str((answer.get("PendingDeploymentSummary") or {}).get("EndpointConfigName", "")),
            reason=str(answer.get("FailureReason") or ""),
            created=answer["CreationTime"].astimezone(UTC),
            modified=answer["LastModifiedTime"].astimezone(UTC),
            instances=sum(each.get("CurrentInstanceCount", 0) for each in answer.get("ProductionVariants", [])),
        )

    @property
    def phase(self) -> Phase:
        return _PHASES.get(self.status, Phase.FAILED)

    @property
    def changing(self) -> bool:
        return self.status in CHANGING

    def refuse_foreign(self, cloud: Cloud, name: str) -> None:
        """Raise LaunchError if this endpoint of our name was not made by this launcher."""
        self.own_tags(cloud, name)

    def own_tags(self, cloud: Cloud, name: str) -> dict[str, str]:
        """Return its tags. Raises LaunchError if it was not made by this launcher."""
        found = tags.read(cloud, self.arn)
        refuse_foreign(f"an endpoint {self.name}", found, name)
        return found

    def overdue(self, cloud: Cloud, now: datetime) -> bool:
        return expiry.is_over(tags.read(cloud, self.arn), now)

    def deployed(self, cloud: Cloud, name: str) -> Deployed:
        """Return what is in service, as far as plans and people compare it. While it is updated, that is what comes."""
        config_name = self.pending or self.config
        config = described(cloud, "describe_endpoint_config", EndpointConfigName=config_name) or {}
        variants = config.get("ProductionVariants") or [{}]
        model_name = variants[0].get("ModelName")
        model = described(cloud, "describe_model", ModelName=model_name) if model_name else None
        ends = schedule(cloud, names.Names(name).schedules["endpoint"])
        front = fronted.find(cloud, name)
        if front is not None:
            front.refuse_foreign(name)
        return Deployed(
            names.revision_of(config_name, name) or "",
            {**request.facts(model or {}, config), **({"front": str(front)} if front and front.revision else {})},
            expiry.time_of(ends) if ends else "",
            expiry.ttl_of(ends) if ends else None,
            scaling=str(autoscaling.present(cloud, name) or ""),
            front=front.revision if front else "",
            reserved=front.reserved if front else None,
            warm=front.provisioned if front else 0,
            alarms=watching.present(cloud, names.Names(name)),
        )

    def status_of(self, cloud: Cloud, name: str) -> Status:
        details, cause = [], Cause.NONE
        if self.phase is Phase.FAILED:
            cause = cause_of(self.reason)
        if self.reason:
            details.append(self.reason)
        if self.phase is Phase.IN_SERVICE:
            scaled = autoscaling.present(cloud, name)
            count = f"{self.instances} instance{'s' if self.instances != 1 else ''}"
            count += f" of {scaled.least} to {scaled.most} ({scaled.kind})" if scaled else ""
            details.append(f"{count}, {expiry.in_words(expires_at(cloud, name))}")
            if (front := fronted.find(cloud, name)) is not None:
                details += [f"front: {front}", f"URL {front.url or 'is missing'}, for requests that are signed"]
        return Status(
            self.phase,
            cause,
            "\n".join(details),
            attempt=1,
            started_at=self.created.isoformat(timespec="seconds"),
            job=self.name,
            shortage=Shortage("AWS has no capacity for this instance type") if cause is Cause.CAPACITY else None,
        )


def find(cloud: Cloud, name: str) -> Endpoint | None:
    """Return the endpoint of a deployment; None if there is none."""
    answer = described(cloud, "describe_endpoint", EndpointName=names.Names(name).endpoint)
    return None if answer is None else Endpoint.from_answer(answer)


def described(cloud: Cloud, method: str, **parameters: str) -> dict[str, Any] | None:
    """Return what SageMaker describes; None if there is no such thing. method: as boto3 calls it."""
    from botocore.exceptions import ClientError

    with errors(f"asking for {next(iter(parameters.values()))}"):
        try:
            found: dict[str, Any] = getattr(cloud.client("sagemaker"), method)(**parameters)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
    return found


def is_missing(error: Exception) -> bool:
    """Return whether an error of AWS says that something does not exist."""
    if code_of(error) in ("ResourceNotFoundException", "ResourceNotFound", "NoSuchEntity"):
        return True
    return code_of(error) == "ValidationException" and any(words in str(error) for words in _NOT_FOUND)


def expires_at(cloud: Cloud, name: str) -> str:
    """Return when the deployment's own schedule deletes it, ISO 8601 in UTC; empty if none does."""
    found = schedule(cloud, names.Names(name).schedules["endpoint"])
    return expiry.time_of(found) if found else ""


def schedule(cloud: Cloud, name: str) -> dict[str, Any] | None:
    """Return a schedule as AWS describes it; None if there is none of that name."""
    from botocore.exceptions import ClientError

    with errors(f"asking for the schedule {name}"):
        try:
            found: dict[str, Any] = cloud.client("scheduler").get_schedule(Name=name)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
    return found


def spent(endpoint: Endpoint, instance_type: str, now: datetime) -> float | None:
    """Return what the instances have cost at most by list price; None for a type without a known price."""
    row = prices.hosting(instance_type)
    hours = (now - endpoint.created).total_seconds() / 3600
    return None if row is None else row.usd * max(endpoint.instances, 1) * max(hours, 0)


def cause_of(reason: str) -> Cause:
    """Return why an endpoint failed, from SageMaker's words."""
    lower = reason.lower()
    if "capacity" in lower:
        return Cause.CAPACITY
    if "not authorized" in lower or "access denied" in lower or "permission" in lower:
        return Cause.PERMISSION
    return Cause.USER_CODE if "health check" in lower or "container" in lower else Cause.UNKNOWN


def what_next(cause: Cause) -> str:
    """Return what to try once an endpoint has failed, or its update was rolled back."""
    match cause:
        case Cause.CAPACITY:
            return "Try: the same command later, or another launcher.instance_type or launcher.fallback_type"
        case Cause.PERMISSION:
            return (
                f"Try: {commands.launchers('iam', '--apply', '--for', 'launcher=deploy')}, and the same command again"
            )
        case Cause.USER_CODE:
            return "Try: the same command with another model, or a larger launcher.start_s if it starts too slowly"
        case _:
            return "Try: the same command again"
