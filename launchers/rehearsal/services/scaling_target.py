"""A scalable target of Application Auto Scaling with its policies, as the rehearsal cloud keeps it."""

import json
import math
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from moto.cloudwatch.models import Alarm as MotoAlarm
from moto.cloudwatch.models import cloudwatch_backends

from dogbreed.run_folder import write_json
from launchers.aws import scaling_described as described
from launchers.aws.alarms import Alarm, State
from launchers.aws.scaling import Policy, Scaler, Step, StepScaling
from launchers.rehearsal.access import HERE
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.rehearsal.services.alarms import rule_of
from launchers.rehearsal.services.endpoint_metrics import INVOCATIONS

NAMESPACE, DIMENSION = "sagemaker", "sagemaker:variant:DesiredInstanceCount"
RESOURCE = re.compile(r"endpoint/(?P<endpoint>[^/]+)/variant/(?P<variant>[^/]+)")
PREDEFINED = {  # -> metric, statistic, period
    "SageMakerVariantInvocationsPerInstance": ("InvocationsPerInstance", "Sum", 60),
    "SageMakerVariantConcurrentRequestsPerModelHighResolution": ("ConcurrentRequestsPerModel", "Average", 10),
}
_KEPT_ACTIVITIES = 100


@dataclass
class ScalableTarget:
    """One target. Times are seconds since 1970; those of out_until and in_until are the cloud's clock's.

    policies: as DescribeScalingPolicies shows them. activities: as DescribeScalingActivities does, the latest first.
    out_until, in_until: ends of the cool-downs. pending: the number of instances that an activity in progress brings;
    adds: whether there are more then.
    """

    resource: str
    least: int
    most: int
    created: float
    role: str
    tags: dict[str, str] = field(default_factory=dict)
    id: str = field(default_factory=lambda: f"1{secrets.token_hex(18)}")
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    activities: list[dict[str, Any]] = field(default_factory=list)
    out_until: float = -math.inf
    in_until: float = -math.inf
    pending: int | None = None
    adds: bool = False

    @property
    def arn(self) -> str:
        return HERE.arn("application-autoscaling", f"scalable-target/{self.id}")

    @property
    def where(self) -> dict[str, str]:
        return {"ServiceNamespace": NAMESPACE, "ResourceId": self.resource, "ScalableDimension": DIMENSION}

    @property
    def endpoint(self) -> str:
        return _parts(self.resource)["endpoint"]

    @property
    def variant(self) -> str:
        return _parts(self.resource)["variant"]

    def describe(self) -> dict[str, Any]:
        nothing = {"DynamicScalingInSuspended": False, "DynamicScalingOutSuspended": False}
        return {
            **self.where,
            "MinCapacity": self.least,
            "MaxCapacity": self.most,
            "RoleARN": self.role,
            "CreationTime": self.created,
            "SuspendedState": {**nothing, "ScheduledScalingSuspended": False},
            "ScalableTargetARN": self.arn,
        }

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(self._file(folder), asdict(self))

    def forget(self, folder: Path) -> None:
        self._file(folder).unlink(missing_ok=True)

    def _file(self, folder: Path) -> Path:
        return folder / f"{self.resource.replace('/', '+')}.json"

    @classmethod
    def load_all(cls, folder: Path) -> Iterable[Self]:
        for file in sorted(folder.glob("*.json")):
            yield cls(**json.loads(file.read_bytes()))

    # --- alarms ---

    def track(self, name: str, arn: str, config: Mapping[str, Any]) -> list[dict[str, str]]:
        """Create or change the alarms of a policy that tracks a target, and return them as AWS shows them."""
        kind = config["PredefinedMetricSpecification"]["PredefinedMetricType"]
        metric, statistic, period_s = PREDEFINED[kind]
        rule, before = described.tracking(config), self.policies.get(name, {}).get("Alarms", [])
        made = []
        for which, alarm in (("High", rule.high), ("Low", rule.low)):
            begin = f"TargetTracking-{self.resource}-Alarm{which}-"
            known = [each["AlarmName"] for each in before if each["AlarmName"].startswith(begin)]
            if alarm is None:
                _backend().delete_alarms(known)
                continue
            found = _backend().put_metric_alarm(
                name=known[0] if known else f"{begin}{_uuid()}",
                namespace=INVOCATIONS,
                metric_name=metric,
                comparison_operator="GreaterThanThreshold" if alarm.above else "LessThanThreshold",
                evaluation_periods=alarm.of,
                datapoints_to_alarm=alarm.points,
                period=period_s,
                threshold=alarm.threshold,
                statistic=statistic,
                description=f"DO NOT EDIT OR DELETE. For TargetTrackingScaling policy {arn}.",
                dimensions=[
                    {"Name": "EndpointName", "Value": self.endpoint},
                    {"Name": "VariantName", "Value": self.variant},
                ],
                alarm_actions=[arn],
            )
            made.append({"AlarmName": found.name, "AlarmARN": found.alarm_arn})
        return made

    def untrack(self, name: str) -> None:
        """Delete the alarms of a policy that tracks a target; those of steps belong to whoever made them."""
        if self.policies[name]["PolicyType"] == "TargetTrackingScaling":
            _backend().delete_alarms([each["AlarmName"] for each in self.policies[name]["Alarms"]])

    def alarms(self) -> tuple[MotoAlarm | None, MotoAlarm | None]:
        """Return the alarm that adds instances, and the one that removes some."""
        arns = {policy["PolicyARN"] for policy in self.policies.values()}
        found = [each for each in list(_backend().alarms.values()) if arns & set(each.alarm_actions)]
        high = next((each for each in found if each.comparison_operator.startswith("Greater")), None)
        return high, next((each for each in found if each.comparison_operator.startswith("Less")), None)

    def scaler(self) -> Scaler | None:
        """Return the policy at this moment, by the rules of aws/scaling.py; None without one."""
        high, low = self.alarms()
        policy = self._policy(high, low)
        if policy is None:
            return None
        states = [State.OK if alarm is None else State(alarm.state_value) for alarm in (high, low)]
        return Scaler(policy, self.least, self.most, states[0], states[1], self.out_until, self.in_until)

    def _policy(self, high: MotoAlarm | None, low: MotoAlarm | None) -> Policy | None:
        steps = []
        for policy in self.policies.values():
            if policy["PolicyType"] == "TargetTrackingScaling":
                return described.tracking(policy["TargetTrackingScalingPolicyConfiguration"])
            steps.append(policy)
        if not steps or (high is None and low is None):
            return None
        out, out_s = _steps(steps, high)
        back, in_s = _steps(steps, low)
        rule = None if high is None else rule_of(high)
        return StepScaling(rule or Alarm(math.inf), None if low is None else rule_of(low), out_s, in_s, out, back)


def policy_of(alarm: MotoAlarm) -> str:
    """Return the name of the policy that an alarm sets off."""
    return next((arn.rpartition("policyName/")[2] for arn in alarm.alarm_actions if "scalingPolicy" in arn), "")


def policy_arn(resource: str, name: str) -> str:
    about = f"scalingPolicy:{_uuid()}:resource/{NAMESPACE}/{resource}:policyName/{name}"
    return HERE.arn("autoscaling", about)


def _steps(policies: Iterable[Mapping[str, Any]], alarm: MotoAlarm | None) -> tuple[tuple[Step, ...], float]:
    """Return the steps of the policy that an alarm sets off, and its cool-down."""
    for policy in policies:
        if alarm is not None and policy["PolicyARN"] in alarm.alarm_actions:
            config = policy["StepScalingPolicyConfiguration"]
            return described.steps(config), described.cooldown_s(config)
    return (), 0.0


def _parts(resource: str) -> Mapping[str, str]:
    found = RESOURCE.fullmatch(resource)
    assert found, resource
    return found.groupdict()


def _uuid() -> str:
    text = secrets.token_hex(16)
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _backend() -> Any:
    return cloudwatch_backends[ACCOUNT][REGION]


def keep(activities: list[dict[str, Any]]) -> None:
    """Drop the oldest activities."""
    del activities[_KEPT_ACTIVITIES:]
