"""Auto Scaling groups of EC2 instances, as AWS's interface has them; ec2_group_keeper.py is what they do."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launchers.rehearsal.clock import Clock
from launchers.rehearsal.names import Server
from launchers.rehearsal.service import Answer, Call, Handler, Refused, wait_for_ends
from launchers.rehearsal.services.ec2_answers import handlers, matching, paged, seconds_of
from launchers.rehearsal.services.ec2_group import Group, Member
from launchers.rehearsal.services.ec2_group_checks import (
    check_request,
    check_sizes,
    make_linked_role,
    refuse_pending,
)
from launchers.rehearsal.services.ec2_group_keeper import Keeper
from launchers.rehearsal.services.ec2_instances import Instances

_PROCESSES = (
    "Launch", "Terminate", "AddToLoadBalancer", "AlarmNotification", "AZRebalance", "HealthCheck", "InstanceRefresh",
    "ReplaceUnhealthy", "ScheduledActions",
)  # fmt: skip
_ACTIONS_MOST = 125


class Groups:
    """All groups. folder: contains a file for each of them. linked: called when a service-linked role was made."""

    def __init__(self, folder: Path, instances: Instances, clock: Clock, linked: Callable[[], None]) -> None:
        self.folder, self.instances, self.clock, self._linked = folder, instances, clock, linked
        self._lock = threading.RLock()
        self._all: list[Group] = []  # deleted ones as well, whose activities are still told
        self._keeper = Keeper(lambda: list(self._all), instances, clock, self._lock)

    @property
    def operations(self) -> Mapping[tuple[str, str], Handler]:
        functions: dict[str, Handler] = {
            "CreateAutoScalingGroup": self.create,
            "UpdateAutoScalingGroup": self.update,
            "DeleteAutoScalingGroup": self.delete,
            "DescribeAutoScalingGroups": self.describe,
            "DescribeAutoScalingInstances": self.describe_instances,
            "DescribeScalingActivities": self.activities,
            "SetDesiredCapacity": self.set_desired,
            "TerminateInstanceInAutoScalingGroup": self.terminate,
            "SetInstanceHealth": self.set_health,
            "SuspendProcesses": lambda call: self.suspend(call, suspended=True),
            "ResumeProcesses": lambda call: self.suspend(call, suspended=False),
            "PutScheduledUpdateGroupAction": self.put_action,
            "DescribeScheduledActions": self.actions,
            "DeleteScheduledAction": self.delete_action,
            "CreateOrUpdateTags": self.tag,
            "DeleteTags": self.untag,
            "DescribeTags": self.tags,
        }
        private = {("autoscaling", "ListTags"): self.of_arn, ("autoscaling", "ResourceOf"): self.resource}
        return {**handlers("autoscaling", functions), **private}

    @property
    def active(self) -> bool:
        """Return whether a group has instances or wants some; one that will later need none, keeps nothing up."""
        return any(group.members or group.desired for group in self._all if not group.deleted)

    def begin(self, server: Server) -> None:
        self._all = Group.load_all(self.folder)
        self._keeper.start()

    def end(self) -> None:
        self._keeper.stop()
        wait_for_ends([self._keeper])

    # --- groups ---

    def create(self, call: Call) -> Answer:
        asked = dict(call.parameters)
        name = asked["AutoScalingGroupName"]
        with self._lock:
            if any(group.name == name and not group.deleted for group in self._all):
                text = "AutoScalingGroup by this name already exists - A group with the name"
                raise Refused("AlreadyExists", f"{text} {name} already exists")
            least, most = asked["MinSize"], asked["MaxSize"]
            desired = asked.get("DesiredCapacity", least)
            check_sizes(least, most, desired)
            check_request(asked, call, self.instances)
            if make_linked_role(call):
                self._linked()
            file = self.folder / f"{len(self._all):06}.json"
            tags = [dict(tag) for tag in asked.pop("Tags", [])]
            faults = asdict(call.faults)
            group = Group(file, name, asked, time.time(), least, most, desired, tags, faults=faults)
            group.short = call.faults.no_capacity
            group.cause = "a user request created an AutoScalingGroup changing the desired capacity from 0 to "
            group.cause += f"{desired}. "
            group.save()
            self._all.append(group)
        return {}

    def update(self, call: Call) -> Answer:
        asked = dict(call.parameters)
        with self._lock:
            group = self._group(asked)
            refuse_pending(group)
            least, most = asked.get("MinSize", group.least), asked.get("MaxSize", group.most)
            desired = asked.get("DesiredCapacity")
            if desired is None:
                desired = max(least, min(most, group.desired))
            check_sizes(least, most, desired)
            changed = {**group.request, **asked}
            if "LaunchTemplate" in asked:
                changed.pop("MixedInstancesPolicy", None)
            if "MixedInstancesPolicy" in asked:
                changed.pop("LaunchTemplate", None)
            if {"LaunchTemplate", "MixedInstancesPolicy", "VPCZoneIdentifier"} & set(asked):
                check_request(changed, call, self.instances)
            group.request = changed
            self._set(group, least, most, desired)
        return {}

    def set_desired(self, call: Call) -> Answer:
        with self._lock:
            group = self._group(call.parameters)
            refuse_pending(group)
            desired = call.parameters["DesiredCapacity"]
            for limit, kind in ((group.most, "above max"), (group.least, "below min")):
                if (desired > limit) if kind == "above max" else (desired < limit):
                    text = f"New SetDesiredCapacity value {desired} is {kind} value {limit} for the AutoScalingGroup."
                    raise Refused("ValidationError", text)
            self._set(group, group.least, group.most, desired)
        return {}

    def delete(self, call: Call) -> Answer:
        with self._lock:
            group = self._group(call.parameters)
            if not call.parameters.get("ForceDelete"):
                if group.members:
                    text = "You cannot delete an AutoScalingGroup while there are instances or pending Spot instance"
                    raise Refused("ResourceInUse", f"{text} request(s) still in the group.")
                if any(activity["end"] is None for activity in group.activities):
                    text = "You cannot delete an AutoScalingGroup while there are scaling activities in progress for"
                    raise Refused("ScalingActivityInProgress", f"{text} that group.")
            group.deleting, group.desired, group.least = True, 0, 0
            group.cause = "a user request force deleted the AutoScalingGroup. "
            if not group.members:
                group.deleted, group.actions = True, {}
            group.save()
        return {}

    def describe(self, call: Call) -> Answer:
        asked = call.parameters
        with self._lock:
            found = [group for group in self._all if not group.deleted]
            wanted = asked.get("AutoScalingGroupNames")
            found = [group for group in found if wanted is None or group.name in wanted]
            shown = matching([group.describe(self._zones(group)) for group in found], asked, {})
        return paged("AutoScalingGroups", shown, asked, "MaxRecords")

    def describe_instances(self, call: Call) -> Answer:
        wanted = call.parameters.get("InstanceIds")
        with self._lock:
            rows = [
                {**member.describe(), "AutoScalingGroupName": group.name}
                for group in self._all
                for member in group.members
                if wanted is None or member.id in wanted
            ]
        return paged("AutoScalingInstances", rows, call.parameters, "MaxRecords")

    def activities(self, call: Call) -> Answer:
        asked = call.parameters
        with self._lock:
            name, every = asked.get("AutoScalingGroupName"), asked.get("IncludeDeletedGroups", False)
            if name is not None and not every:
                self._group(asked)
            groups = [group for group in self._all if name in (None, group.name) and (every or not group.deleted)]
            rows = [group.describe_activity(each) for group in groups for each in group.activities]
        wanted = asked.get("ActivityIds")
        rows = [row for row in rows if wanted is None or row["ActivityId"] in wanted]
        rows.sort(key=lambda row: row["StartTime"], reverse=True)
        return paged("Activities", rows, asked, "MaxRecords")

    # --- instances ---

    def terminate(self, call: Call) -> Answer:
        identity, decrement = call.parameters["InstanceId"], call.parameters["ShouldDecrementDesiredCapacity"]
        with self._lock:
            group, member = self._member(identity)
            if decrement and group.desired - 1 < group.least:
                text = (
                    f"Currently, desiredSize equals minSize ({group.least}). Terminating instance without replacement"
                )
                raise Refused(
                    "ValidationError",
                    f"{text} will violate group's min size constraint. Either set shouldDecrementDesiredCapacity flag "
                    "to false or lower group's min size.",
                )
            if member.state.startswith("Terminating"):
                raise Refused("ScalingActivityInProgress", f"Activity for instance {identity} is in progress.")
            why = "instance " + identity + " was taken out of service in response to a user request"
            if decrement:
                group.desired -= 1
                why += f", shrinking the capacity from {group.desired + 1} to {group.desired}"
            self._keeper.take_out(group, member, f"{why}.")
            group.save()
            return {"Activity": group.describe_activity(group.activities[0])}

    def set_health(self, call: Call) -> Answer:
        with self._lock:
            _, member = self._member(call.parameters["InstanceId"])
            member.healthy = call.parameters["HealthStatus"] == "Healthy"
        return {}

    def suspend(self, call: Call, *, suspended: bool) -> Answer:
        processes = call.parameters.get("ScalingProcesses") or list(_PROCESSES)
        if unknown := [each for each in processes if each not in _PROCESSES]:
            raise Refused("ValidationError", f"Invalid process types: {', '.join(unknown)}")
        with self._lock:
            group = self._group(call.parameters)
            others = [each for each in group.suspended if each not in processes]
            group.suspended = [*others, *processes] if suspended else others
            group.save()
        return {}

    # --- scheduled actions ---

    def put_action(self, call: Call) -> Answer:
        asked = {key: value for key, value in call.parameters.items() if value is not None}
        with self._lock:
            group = self._group(asked)
            refuse_pending(group)
            if "Recurrence" in asked:
                raise Refused("ValidationError", "The rehearsal cloud has one-time scheduled actions alone.")
            given = asked.get("StartTime", asked.get("Time"))
            if given is None:
                raise Refused("ValidationError", "Either a start time or a recurrence must be specified")
            if not {"MinSize", "MaxSize", "DesiredCapacity"} & set(asked):
                text = "At least one of Min, Max, or Desired capacity must be specified"
                raise Refused("ValidationError", text)
            start = seconds_of(given)
            if start <= time.time():
                raise Refused("ValidationError", "Given start time is in the past")
            least, most = asked.get("MinSize", group.least), asked.get("MaxSize", group.most)
            check_sizes(least, most, asked.get("DesiredCapacity", max(least, min(most, group.desired))))
            name = asked["ScheduledActionName"]
            if name not in group.actions and len(group.actions) >= _ACTIONS_MOST:
                raise Refused("LimitExceeded", f"A group has at most {_ACTIONS_MOST} scheduled actions")
            kept = {key: value for key, value in asked.items() if key not in ("StartTime", "Time", "EndTime")}
            # time stamps are real, waits are on the clock
            due = self.clock.now() + start - time.time()
            group.actions[name] = {"request": kept, "start": start, "due": due}
            group.save()
        return {}

    def actions(self, call: Call) -> Answer:
        asked = call.parameters
        with self._lock:
            groups = [self._group(asked)] if "AutoScalingGroupName" in asked else self._all
            rows = [
                group.describe_action(action)
                for group in groups
                for name, action in group.actions.items()
                if name in asked.get("ScheduledActionNames", group.actions)
            ]
        return paged("ScheduledUpdateGroupActions", rows, asked, "MaxRecords")

    def delete_action(self, call: Call) -> Answer:
        name = call.parameters["ScheduledActionName"]
        with self._lock:
            group = self._group(call.parameters)
            if name not in group.actions:
                raise Refused("ValidationError", f"Scheduled action name not found - {name}")
            del group.actions[name]
            group.save()
        return {}

    # --- tags ---

    def tag(self, call: Call) -> Answer:
        with self._lock:
            for tag in call.parameters["Tags"]:
                group = self._group({"AutoScalingGroupName": tag.get("ResourceId")})
                kept = {key: value for key, value in tag.items() if key not in ("ResourceId", "ResourceType")}
                group.tags = [*(each for each in group.tags if each["Key"] != tag["Key"]), kept]
                group.save()
        return {}

    def untag(self, call: Call) -> Answer:
        with self._lock:
            for tag in call.parameters["Tags"]:
                group = self._group({"AutoScalingGroupName": tag.get("ResourceId")})
                group.tags = [each for each in group.tags if each["Key"] != tag["Key"]]
                group.save()
        return {}

    def tags(self, call: Call) -> Answer:
        with self._lock:
            rows = [tag for group in self._all if not group.deleted for tag in group.describe_tags()]
        known = {
            "auto-scaling-group": lambda row: [row["ResourceId"]],
            "key": lambda row: [row["Key"]],
            "value": lambda row: [row.get("Value", "")],
        }
        return paged("Tags", matching(rows, call.parameters, known), call.parameters, "MaxRecords")

    def of_arn(self, call: Call) -> Answer | None:
        """Return the tags of a group by its ARN, for conditions of policies."""
        arn = str(call.parameters.get("ResourceArn", ""))
        name = arn.rpartition("autoScalingGroupName/")[2]
        if ":autoScalingGroup:" not in arn:
            return None
        found = next((group for group in self._all if group.name == name and not group.deleted), None)
        return None if found is None else {"Tags": [{**tag, "Value": tag.get("Value", "")} for tag in found.tags]}

    def resource(self, call: Call) -> Answer | None:
        """Return the ARN of the group of an instance that a call names; for policies."""
        if call.parameters.get("Operation") not in ("TerminateInstanceInAutoScalingGroup", "SetInstanceHealth"):
            return None
        return {"ResourceArn": self._member(call.parameters["InstanceId"])[0].arn}

    # --- helpers ---

    def _group(self, asked: Mapping[str, Any]) -> Group:
        name = asked.get("AutoScalingGroupName")
        for group in self._all:
            if group.name == name and not group.deleted:
                return group
        raise Refused("ValidationError", f"AutoScalingGroup name not found - AutoScalingGroup '{name}' not found")

    def _member(self, identity: str) -> tuple[Group, Member]:
        for group in self._all:
            for member in group.members:
                if member.id == identity:
                    return group, member
        text = f"Instance Id not found - No managed instance found for instance ID {identity}"
        raise Refused("ValidationError", text)

    def _set(self, group: Group, least: int, most: int, desired: int) -> None:
        if desired != group.desired:
            text = "a user request explicitly set group desired capacity changing the desired capacity from"
            group.cause = f"{text} {group.desired} to {desired}. "
            group.failures, group.next_at = 0, 0.0
        group.least, group.most, group.desired = least, most, desired
        group.save()

    def _zones(self, group: Group) -> list[str]:
        subnets = self.instances.network.subnets
        return sorted({subnets[each]["AvailabilityZone"] for each in group.subnets if each in subnets})
