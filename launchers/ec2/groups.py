"""Create, look up and remove a run's parts in AWS: its group of at most one machine, and its launch template."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from launchers.aws import tags
from launchers.aws.errors import code_of, errors
from launchers.base import Cloud
from launchers.ec2 import names
from launchers.plan import Request
from launchers.status import LaunchError

_TAIL_LINES = 20
_MACHINE = re.compile(r"\bi-[0-9a-f]{8,17}\b")
_GONE_S = 900.0  # that a group takes at most to end its machine and disappear
_CALLS = {
    "CreateLaunchTemplate": "create_launch_template",
    "CreateAutoScalingGroup": "create_auto_scaling_group",
    "SuspendProcesses": "suspend_processes",
    "PutScheduledUpdateGroupAction": "put_scheduled_update_group_action",
    "SetDesiredCapacity": "set_desired_capacity",
}


@dataclass(frozen=True)
class Group:
    """An Auto Scaling group of ours. machines: id and lifecycle state. deleting: it is about to disappear."""

    name: str
    desired: int
    maximum: int
    machines: tuple[tuple[str, str], ...]
    tags: Mapping[str, str]
    created: datetime
    deleting: bool

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        return cls(
            name=answer["AutoScalingGroupName"],
            desired=int(answer["DesiredCapacity"]),
            maximum=int(answer["MaxSize"]),
            machines=tuple((each["InstanceId"], each["LifecycleState"]) for each in answer.get("Instances", ())),
            tags=tags.from_aws(answer.get("Tags", ())),
            created=answer["CreatedTime"],
            deleting=bool(answer.get("Status")),
        )

    @property
    def idle(self) -> bool:
        """Whether it has no machine and will get none."""
        return self.desired == 0 and not self.machines


@dataclass(frozen=True)
class Activity:
    """What a group has done. code: Successful, Failed, InProgress and others. about: what and why, in AWS's words."""

    code: str
    message: str
    about: str


def find(cloud: Cloud, run_id: str | None = None) -> list[Group]:
    """Return our groups, of one run or of all, the newest first."""
    name, value = ("tag-key", tags.RUN_ID) if run_id is None else (f"tag:{tags.RUN_ID}", run_id)
    with errors("looking up Auto Scaling groups"):
        pages = cloud.client("autoscaling").get_paginator("describe_auto_scaling_groups")
        found = pages.paginate(Filters=[{"Name": name, "Values": [value]}])
        groups = [Group.of(each) for page in found for each in page["AutoScalingGroups"]]
    return sorted(groups, key=lambda group: group.created, reverse=True)


def describe(cloud: Cloud, name: str) -> Group | None:
    """Return a group by its name, or None if there is none."""
    with errors(f"looking up the group {name}"):
        answer = cloud.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    return next((Group.of(each) for each in answer["AutoScalingGroups"]), None)


def activities(cloud: Cloud, name: str) -> list[Activity]:
    """Return what a group has done last, the newest first."""
    from botocore.exceptions import ClientError

    with errors(f"reading the activities of the group {name}"):
        try:
            answer = cloud.client("autoscaling").describe_scaling_activities(AutoScalingGroupName=name, MaxRecords=20)
        except ClientError as error:
            if code_of(error) == "ValidationError":  # it has gone
                return []
            raise
    return [
        Activity(
            each["StatusCode"], each.get("StatusMessage", ""), f"{each.get('Description', '')} {each.get('Cause', '')}"
        )
        for each in answer["Activities"]
    ]


def console_tail(cloud: Cloud, name: str) -> tuple[str, ...]:
    """Return the last lines that the newest machine of a group printed on its console, which EC2 keeps for a while.

    Return why instead if they cannot be read.
    """
    from botocore.exceptions import ClientError

    found = (_MACHINE.search(each.about) for each in activities(cloud, name))
    machine = next((each[0] for each in found if each is not None), None)
    if machine is None:
        return ()
    try:
        with errors(f"reading the console of {machine}"):
            try:
                answer = cloud.client("ec2").get_console_output(InstanceId=machine)
            except ClientError as error:
                if code_of(error) == "InvalidInstanceID.NotFound":  # it ended a while ago
                    return ()
                raise
    except LaunchError as error:
        return (str(error).partition("\n")[0],)
    lines = [line for line in str(answer.get("Output") or "").splitlines() if line.strip()]
    return tuple(lines[-_TAIL_LINES:])


def make(cloud: Cloud, request: Request) -> None:
    """Make one call of a plan."""
    with errors(f"calling {request.operation}"):
        getattr(cloud.client(request.service), _CALLS[request.operation])(**request.parameters)


def end(cloud: Cloud, name: str) -> None:
    """Let a group end its machine, and start no other."""
    from botocore.exceptions import ClientError

    none = {"MinSize": 0, "MaxSize": 0, "DesiredCapacity": 0}
    with errors(f"ending the machine of the group {name}"):
        try:
            cloud.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName=name, **none)
        except ClientError as error:  # of a group that has gone, AWS may also say "not permitted"
            found = describe(cloud, name)
            there = found is not None and not found.deleting
            if there and code_of(error) not in ("ValidationError", "ScalingActivityInProgress"):
                raise


def is_of(labels: Mapping[str, str], files: str | None) -> bool:
    """Return whether something with these tags is a run's, and not of another of the same name.

    files: the URI of the run's files; None fits any run.
    """
    return files is None or labels.get(names.FILES, files) == files


def remove(cloud: Cloud, name: str, files: str | None = None) -> None:
    """Remove a group with its machine and its scheduled action, then the launch template. What is gone is left out.

    files: the URI of the run's files: what another run of the same name has, whose files are elsewhere, stays. None:
    whosever it is.
    """
    from botocore.exceptions import ClientError

    client, until = cloud.client("autoscaling"), time.monotonic() + _GONE_S
    while (found := describe(cloud, name)) is not None and is_of(found.tags, files):
        if not found.deleting:
            with errors(f"removing the group {name}"):
                try:
                    client.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)
                except ClientError as error:
                    passing = ("ValidationError", "ScalingActivityInProgress", "ResourceInUse")
                    if code_of(error) not in passing and describe(cloud, name) is not None:
                        raise
        if time.monotonic() > until:
            raise LaunchError(f"The group {name} has not gone after {_GONE_S / 60:.0f} min.\nTry: the same again later")
        time.sleep(cloud.poll_s)
    if (labels := _template_tags(cloud, name)) is not None and is_of(labels, files):
        with errors(f"removing the launch template {name}"):
            try:
                cloud.client("ec2").delete_launch_template(LaunchTemplateName=name)
            except ClientError:  # another process may have removed it, which AWS may also call "not permitted"
                if _template_tags(cloud, name) is not None:
                    raise


def files_of(cloud: Cloud, name: str) -> str:
    """Return the URI of the files of the run that has a group or a template of this name; empty if there is none."""
    group = describe(cloud, name)
    labels = _template_tags(cloud, name) if group is None else group.tags
    return (labels or {}).get(names.FILES, "")


def _template_tags(cloud: Cloud, name: str) -> Mapping[str, str] | None:
    """Return the tags of a launch template; None if there is none of that name."""
    with errors(f"looking up the launch template {name}"):
        chosen = [{"Name": "launch-template-name", "Values": [name]}]
        found = cloud.client("ec2").describe_launch_templates(Filters=chosen)["LaunchTemplates"]
    return tags.from_aws(found[0].get("Tags", ())) if found else None


def templates(cloud: Cloud) -> Iterator[tuple[str, datetime]]:
    """Yield name and time of creation of our launch templates."""
    with errors("looking up launch templates"):
        pages = cloud.client("ec2").get_paginator("describe_launch_templates")
        for page in pages.paginate(Filters=[{"Name": "tag-key", "Values": [tags.RUN_ID]}]):
            for each in page["LaunchTemplates"]:
                if names.run_of(each["LaunchTemplateName"]):
                    yield each["LaunchTemplateName"], each["CreateTime"]


def has_started(found: Sequence[Activity]) -> bool:
    """Return whether a group has started a machine, whatever has become of it."""
    return any(_MACHINE.search(each.about) for each in found)


def why_none(found: Sequence[Activity]) -> str:
    """Return why a group gets no machine, in AWS's words; empty if nothing has failed."""
    failed = next((each for each in found if each.code in ("Failed", "Cancelled", "InProgress", "Successful")), None)
    return failed.message if failed is not None and failed.code == "Failed" else ""
