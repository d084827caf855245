"""What a deployment consists of in an account: find every part, and remove them in the order that AWS allows."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from launchers.aws.errors import code_of, errors
from launchers.base import Cloud
from launchers.deploy import autoscaling, endpoint, fronted, function_kinds, names
from launchers.deploy.kinds import Kind, Named, call, log_groups, owner
from launchers.status import Cause, LaunchError

_S3_USD_PER_GB = 0.023  # a month, of the standard class in us-east-1: https://aws.amazon.com/s3/pricing/
_PASSES = 4  # what a container has logged may arrive after its log group was deleted, and makes it again
_GONE = ("NoSuchEntity", "ResourceNotFoundException", "ResourceNotFound", "ObjectNotFoundException")


@dataclass(frozen=True)
class Part:
    """A part that AWS keeps. kind: such as `model`. deployment: whose it is. created: None where AWS does not tell."""

    kind: str
    name: str
    deployment: str
    created: datetime | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def of_deployment(cloud: Cloud, name: str) -> list[Part]:
    """Return the parts of one deployment, in the order in which they are removed."""
    return [part for part in everything(cloud, names.Names(name).endpoint) if part.deployment == name]


def everything(cloud: Cloud, prefix: str = names.PREFIX) -> list[Part]:
    """Return the parts of all deployments in the account whose names begin with `prefix`."""
    found = [
        Part(kind.name, name, deployment, created)
        for kind in KINDS
        for name, created in kind.listed(cloud, prefix)
        if (deployment := kind.owner(name)) is not None
    ]
    order = [kind.name for kind in KINDS]
    return sorted(found, key=lambda part: (order.index(part.kind), part.name))


def remove(cloud: Cloud, part: Part, *, longest_s: float = 3600) -> None:
    """Remove a part; one that is gone already is no error. An endpoint is waited for, before and after.

    longest_s: the most seconds to wait for an endpoint that is created or updated. Raises LaunchError.
    """
    from botocore.exceptions import ClientError

    (kind,) = (kind for kind in KINDS if kind.name == part.kind)
    with errors(f"deleting the {part}"):
        try:
            kind.remove(cloud, part.name, longest_s)
        except ClientError as error:
            if not (code_of(error) in _GONE or endpoint.is_missing(error)):
                raise


def remove_all(cloud: Cloud, name: str) -> list[str]:
    """Remove every part of a deployment, and return those that resist, each with the reason.

    What an endpoint or a function uses stays while it does, and so do the schedules that end what is left.
    """
    for _ in range(_PASSES):
        left: dict[Part, str] = {}  # why it resists
        found = of_deployment(cloud, name)
        for part in found:
            served = any(each.kind in ("endpoint", "function") for each in left)
            if left and (part.kind == "schedule" or served):
                continue
            try:
                remove(cloud, part)
            except LaunchError as error:
                left[part] = str(error).splitlines()[0]
        if left or not found:
            return [f"{part} ({why})" for part, why in left.items()]
    return [str(part) for part in of_deployment(cloud, name)]


def remove_revision(cloud: Cloud, name: str, revision: str) -> None:
    """Remove the parts that one revision has of its own. Raises LaunchError."""
    own = names.RevisionNames(name, revision)
    for part in of_deployment(cloud, name):
        if part.name == own.config or part.name in own.schedules.values():
            remove(cloud, part)


def stays(cloud: Cloud, bucket: str, prefix: str) -> list[str]:
    """Say what a teardown leaves: the models in S3, with what they cost. prefix: the key of their folder."""
    with errors(f"listing s3://{bucket}/{prefix}"):
        pages = cloud.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        items = [item for page in pages for item in page.get("Contents", [])]
    sizes = [int(item["Size"]) for item in items if not item["Key"].endswith(".json")]  # the others say what it cost
    if not sizes:
        return []
    usd = sum(sizes) / 1e9 * _S3_USD_PER_GB
    count = f"{len(sizes)} model file{'s' if len(sizes) > 1 else ''}"
    return [f"{count} in s3://{bucket}/{prefix}, {sum(sizes) / 1e6:,.0f} MB, ${usd:.4f} a month"]


# --- whose a name is ---


_owner = owner(r"-[0-9a-f]{10}")  # of an endpoint configuration or a model
_owner_of_alarm = owner(rf"-(?:scale-(?:out|in)|{'|'.join([*names.Names('').alarms, *names.Names('').watching])})")
_owner_of_schedule = owner(
    rf"(?:-expiry-(?:{'|'.join([*names.Names('').schedules, *names.Names('').function_schedules])})"
    rf"|-[0-9a-f]{{10}}-expiry-(?:{'|'.join(names.RevisionNames('', '').schedules)}))"
)


# --- lists ---


def _listed(what: str, key: str) -> Callable[[Cloud, str], Named]:
    def listed(cloud: Cloud, prefix: str) -> Named:
        with errors(f"listing {what.replace('_', ' ')}"):
            for page in cloud.client("sagemaker").get_paginator(f"list_{what}").paginate(NameContains=prefix):
                for item in next(value for value in page.values() if isinstance(value, list)):
                    yield item[key], item["CreationTime"]

    return listed


def _alarms(cloud: Cloud, prefix: str) -> Named:
    with errors("listing alarms"):
        for page in cloud.client("cloudwatch").get_paginator("describe_alarms").paginate(AlarmNamePrefix=prefix):
            for alarm in page["MetricAlarms"]:
                yield alarm["AlarmName"], alarm.get("AlarmConfigurationUpdatedTimestamp")


def _schedules(cloud: Cloud, prefix: str) -> Named:
    with errors("listing schedules"):
        for page in cloud.client("scheduler").get_paginator("list_schedules").paginate(NamePrefix=prefix):
            for schedule in page["Schedules"]:
                yield schedule["Name"], schedule.get("CreationDate")


# --- removal ---


def _remove_endpoint(cloud: Cloud, name: str, longest_s: float) -> None:
    """Delete an endpoint: AWS refuses that while it is created or updated, and takes a while afterwards."""
    end = time.monotonic() + longest_s
    client = cloud.client("sagemaker")
    while True:
        found = endpoint.described(cloud, "describe_endpoint", EndpointName=name)
        if found is None:
            return
        status = found["EndpointStatus"]
        if status not in (*endpoint.CHANGING, "Deleting"):
            client.delete_endpoint(EndpointName=name)
        if time.monotonic() > end:
            raise LaunchError(
                f"The endpoint {name} is still {status.lower()} after {longest_s:g} s, and costs money until it is "
                "gone.\nTry: the same command again, later",
                Cause.TIME_LIMIT,
            )
        time.sleep(cloud.poll_s)


# in the order of removal: what watches or uses another part goes before it, and what would delete it goes at the end
KINDS = (
    *autoscaling.KINDS,
    Kind("alarm", _alarms, _owner_of_alarm, autoscaling.remove_alarm),
    fronted.KIND,
    Kind("endpoint", _listed("endpoints", "EndpointName"), names.deployment_of, _remove_endpoint),
    Kind(
        "endpoint configuration",
        _listed("endpoint_configs", "EndpointConfigName"),
        _owner,
        call("sagemaker", "delete_endpoint_config", "EndpointConfigName"),
    ),
    Kind("model", _listed("models", "ModelName"), _owner, call("sagemaker", "delete_model", "ModelName")),
    function_kinds.FUNCTION,
    function_kinds.LOG_GROUP,
    log_groups("log group", names.Names("").log_group),
    Kind("schedule", _schedules, _owner_of_schedule, call("scheduler", "delete_schedule", "Name")),
)
