"""The record of an Auto Scaling group: its settings, instances, scheduled actions and activities."""

import json
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from dogbreed.run_folder import write_json
from launchers.rehearsal.access import HERE
from launchers.rehearsal.faults import Faults
from launchers.rehearsal.services.ec2_answers import iso, moment

_writing = threading.Lock()


@dataclass
class Member:
    """An instance of a group. state: its lifecycle state."""

    id: str
    type: str
    zone: str
    template: dict[str, str]
    state: str = "Pending"
    healthy: bool = True

    def describe(self) -> dict[str, Any]:
        return {
            "InstanceId": self.id,
            "InstanceType": self.type,
            "AvailabilityZone": self.zone,
            "LifecycleState": self.state,
            "HealthStatus": "Healthy" if self.healthy else "Unhealthy",
            "LaunchTemplate": self.template,
            "ProtectedFromScaleIn": False,
        }


@dataclass
class Group:
    """One group. file: keeps it.

    request: of CreateAutoScalingGroup, as updates have changed it. actions: scheduled actions by name, each with the
    request and when it is `due` on the cloud's clock. faults: those of the client that made it. launched: how many
    instances it has launched so far. failures: launches that failed one after the other; next_at: when the next launch
    is tried, on the cloud's clock. short: launches that still fail because of the fault no_capacity.
    """

    file: Path
    name: str
    request: dict[str, Any]
    created: float
    least: int
    most: int
    desired: int
    tags: list[dict[str, Any]] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    actions: dict[str, dict[str, Any]] = field(default_factory=dict)
    activities: list[dict[str, Any]] = field(default_factory=list)  # the latest first
    suspended: list[str] = field(default_factory=list)
    deleting: bool = False
    deleted: bool = False
    faults: dict[str, Any] = field(default_factory=dict)
    launched: int = 0
    failures: int = 0
    next_at: float = 0.0
    short: int = 0
    cause: str = ""  # of the last change of the desired capacity, for the next activity

    @property
    def injected(self) -> Faults:
        return Faults(**self.faults)

    @property
    def arn(self) -> str:
        unique = uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name} {self.created}")
        return HERE.arn("autoscaling", f"autoScalingGroup:{unique}:autoScalingGroupName/{self.name}")

    @property
    def subnets(self) -> list[str]:
        return [each.strip() for each in self.request.get("VPCZoneIdentifier", "").split(",") if each.strip()]

    @property
    def template(self) -> Mapping[str, Any]:
        """Return the specification of the launch template."""
        policy = self.request.get("MixedInstancesPolicy")
        found: Mapping[str, Any] = (
            policy["LaunchTemplate"]["LaunchTemplateSpecification"] if policy else self.request["LaunchTemplate"]
        )
        return found

    @property
    def distribution(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.request.get("MixedInstancesPolicy", {}).get("InstancesDistribution", {})
        return found

    @property
    def overrides(self) -> list[str]:
        """Return the instance types, in the order of their priority; none if the template has the type."""
        rows = self.request.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {}).get("Overrides", [])
        return [row["InstanceType"] for row in rows]

    def spot(self, data: Mapping[str, Any]) -> bool:
        """Return whether the next instance is a spot instance. data: of the template."""
        if "MixedInstancesPolicy" in self.request:
            base = self.distribution.get("OnDemandBaseCapacity", 0)
            share = self.distribution.get("OnDemandPercentageAboveBaseCapacity", 100)
            return len(self.members) >= int(base) and int(share) < 100
        return bool(data.get("InstanceMarketOptions", {}).get("MarketType") == "spot")

    def propagated(self) -> dict[str, str]:
        """Return the tags of its instances."""
        found = {tag["Key"]: tag.get("Value", "") for tag in self.tags if tag.get("PropagateAtLaunch", True)}
        return {**found, "aws:autoscaling:groupName": self.name}

    def is_suspended(self, process: str) -> bool:
        return process in self.suspended

    # --- activities ---

    def begin(self, what: str, cause: str, **details: str) -> dict[str, Any]:
        """Note that an activity has begun, and return it."""
        now = time.time()
        activity = {
            "id": str(uuid.uuid4()),
            "description": what,
            "cause": f"At {iso(now)} {cause}",
            "start": now,
            "end": None,
            "status": "InProgress",
            "message": "",
            "details": json.dumps(details),
        }
        self.activities.insert(0, activity)
        return activity

    def end(self, activity: dict[str, Any], message: str = "") -> None:
        """Note that an activity has ended; with a message it failed."""
        activity["end"] = time.time()
        activity["status"], activity["message"] = ("Failed" if message else "Successful"), message

    def describe_activity(self, activity: Mapping[str, Any]) -> dict[str, Any]:
        done = activity["end"] is not None
        found: dict[str, Any] = {
            "ActivityId": activity["id"],
            "AutoScalingGroupName": self.name,
            "Description": activity["description"],
            "Cause": activity["cause"],
            "StartTime": moment(activity["start"]),
            "StatusCode": activity["status"],
            "Progress": 100 if done else 50,
            "Details": activity["details"],
            "AutoScalingGroupARN": self.arn,
        }
        if done:
            found["EndTime"] = moment(activity["end"])
        if activity["message"]:
            found["StatusMessage"] = activity["message"]
        if self.deleted:
            found["AutoScalingGroupState"] = "Deleted"
        return found

    # --- as Auto Scaling shows it ---

    def describe(self, zones: list[str]) -> dict[str, Any]:
        keys = ("MixedInstancesPolicy", "LaunchTemplate", "VPCZoneIdentifier", "CapacityRebalance")
        found = {key: self.request[key] for key in keys if key in self.request}
        found |= {
            "AutoScalingGroupName": self.name,
            "AutoScalingGroupARN": self.arn,
            "MinSize": self.least,
            "MaxSize": self.most,
            "DesiredCapacity": self.desired,
            "DefaultCooldown": self.request.get("DefaultCooldown", 300),
            "AvailabilityZones": zones,
            "LoadBalancerNames": [],
            "TargetGroupARNs": [],
            "HealthCheckType": self.request.get("HealthCheckType", "EC2"),
            "HealthCheckGracePeriod": self.request.get("HealthCheckGracePeriod", 0),
            "Instances": [member.describe() for member in self.members],
            "CreatedTime": moment(self.created),
            "SuspendedProcesses": [
                {"ProcessName": each, "SuspensionReason": "User suspended"} for each in self.suspended
            ],
            "EnabledMetrics": [],
            "Tags": self.describe_tags(),
            "TerminationPolicies": self.request.get("TerminationPolicies", ["Default"]),
            "NewInstancesProtectedFromScaleIn": False,
            "ServiceLinkedRoleARN": HERE.role(
                "aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"
            ),
        }
        if self.deleting:
            found["Status"] = "Delete in progress"
        return found

    def describe_tags(self) -> list[dict[str, Any]]:
        about = {"ResourceId": self.name, "ResourceType": "auto-scaling-group"}
        return [{"PropagateAtLaunch": True, **tag, **about} for tag in self.tags]

    def describe_action(self, action: Mapping[str, Any]) -> dict[str, Any]:
        request = action["request"]
        keys = ("MinSize", "MaxSize", "DesiredCapacity")
        found = {key: request[key] for key in keys if request.get(key) is not None}
        arn = self.arn.replace("autoScalingGroup:", "scheduledUpdateGroupAction:")
        found |= {
            "AutoScalingGroupName": self.name,
            "ScheduledActionName": request["ScheduledActionName"],
            "ScheduledActionARN": f"{arn}:scheduledActionName/{request['ScheduledActionName']}",
            "StartTime": moment(action["start"]),
            "Time": moment(action["start"]),
            "TimeZone": "UTC",
        }
        return found

    # --- on disk ---

    def save(self) -> None:
        with _writing:
            saved = asdict(self)
            del saved["file"]
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, saved)

    @classmethod
    def load_all(cls, folder: Path) -> list[Self]:
        known = {each.name for each in fields(cls)} - {"file"}
        found = []
        for file in sorted(folder.glob("*.json")):
            saved = json.loads(file.read_bytes())
            members = [Member(**member) for member in saved.pop("members")]
            kept = {key: value for key, value in saved.items() if key in known}
            found.append(cls(file, members=members, **kept))
        return sorted(found, key=lambda group: group.created)
