"""One-time schedules that delete a deployment when its time is over, with the launcher's machine switched off.

Each has one target and deletes itself afterwards. EventBridge Scheduler calls SageMaker and CloudWatch itself, as a
role that may do just that: https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-targets-universal.html
Parameters begin with a capital there, also those of an API whose own do not.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from launchers.aws import tags
from launchers.deploy import autoscaling
from launchers.deploy.names import Names, RevisionNames

_TTL = "launcher.ttl_hours="
_TARGET = "arn:aws:scheduler:::aws-sdk:"
# a deletion is refused while the endpoint is created or updated, so it is tried again for a day
_RETRY = {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185}
_FAILED = timedelta(hours=1)  # after its time a deployment that is still there stays
_LATER = timedelta(minutes=5)  # for what an endpoint uses or writes, which is deleted after it


def is_over(found: Mapping[str, str], now: datetime) -> bool:
    """Return whether the tags of what serves name a time that is over, and so long that its schedule has failed."""
    ends = found.get(tags.EXPIRES_AT)
    return ends is not None and datetime.fromisoformat(ends) + _FAILED < now


def of_deployment(
    names: Names, at: datetime, ttl_hours: float, role: str, alarms: Sequence[str], *, scaled: bool
) -> list[dict[str, Any]]:
    """Return the requests for the endpoint, its alarms and its logs.

    at: with a time zone. ttl_hours: what it follows from, for the next plan. role: the scheduler's. alarms: their
    names. scaled: whether Application Auto Scaling changes the number of instances.
    """
    schedules = names.schedules
    of_endpoint = schedule(
        schedules["endpoint"], at, role, "sagemaker:deleteEndpoint", {"EndpointName": names.endpoint}
    )
    found = [
        {**of_endpoint, "Description": f"{_TTL}{ttl_hours:g}"},
        of_alarms(names, at, role, alarms),
        schedule(
            schedules["logs"], at + _LATER, role, "cloudwatchlogs:deleteLogGroup", {"LogGroupName": names.log_group}
        ),
    ]
    return [of_scaling(names, at, role), *found] if scaled else found


def of_alarms(names: Names, at: datetime, role: str, alarms: Sequence[str]) -> dict[str, Any]:
    """Return the request that deletes the alarms."""
    return schedule(names.schedules["alarms"], at, role, "cloudwatch:deleteAlarms", {"AlarmNames": sorted(alarms)})


def of_scaling(names: Names, at: datetime, role: str) -> dict[str, Any]:
    """Return the request that ends the endpoint's scaling: its target, its policies and the alarms that AWS made."""
    action = "applicationautoscaling:deregisterScalableTarget"
    return schedule(names.schedules["scaling"], at, role, action, autoscaling.where(names))


def of_function(names: Names, at: datetime, ttl_hours: float, role: str) -> list[dict[str, Any]]:
    """Return the requests for a deployment that is a function: for it, with its versions and URL, and for its logs."""
    schedules, logs = names.function_schedules, {"LogGroupName": names.function_log_group}
    of_itself = schedule(schedules["function"], at, role, "lambda:deleteFunction", {"FunctionName": names.endpoint})
    return [
        {**of_itself, "Description": f"{_TTL}{ttl_hours:g}"},
        schedule(schedules["function-logs"], at + _LATER, role, "cloudwatchlogs:deleteLogGroup", logs),
    ]


def of_revision(names: RevisionNames, at: datetime, role: str) -> list[dict[str, Any]]:
    """Return the requests for the endpoint configuration and the model of one revision."""
    schedules, later = names.schedules, at + _LATER
    return [
        schedule(
            schedules["config"], later, role, "sagemaker:deleteEndpointConfig", {"EndpointConfigName": names.config}
        ),
        schedule(schedules["model"], later, role, "sagemaker:deleteModel", {"ModelName": names.config}),
    ]


def schedule(name: str, at: datetime, role: str, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a CreateSchedule or UpdateSchedule request. action: as in a universal target, `sagemaker:deleteModel`."""
    return {
        "Name": name,
        "ScheduleExpression": f"at({at.astimezone(UTC):%Y-%m-%dT%H:%M:%S})",
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": {
            "Arn": f"{_TARGET}{action}",
            "RoleArn": role,
            "Input": json.dumps(parameters),
            "RetryPolicy": _RETRY,
        },
    }


def ttl_of(answer: Mapping[str, Any]) -> float | None:
    """Return the ttl_hours that a deployment's schedule follows from, None if it says none. answer: GetSchedule's."""
    found = str(answer.get("Description", "")).removeprefix(_TTL)
    return float(found) if found else None


def time_of(answer: Mapping[str, Any]) -> str:
    """Return when a schedule runs, ISO 8601 in UTC. answer: GetSchedule's."""
    text = str(answer["ScheduleExpression"]).removeprefix("at(").removesuffix(")")
    return f"{text}+00:00"


def in_words(expires: str) -> str:
    """Say when a deployment ends. expires: ISO 8601 in UTC; empty if it stays."""
    if not expires:
        return "kept until it is cancelled"
    return f"deleted at {datetime.fromisoformat(expires):%Y-%m-%d %H:%M} UTC"
