"""Application Auto Scaling of an endpoint: its requests, and what of it an account has.

AWS takes a scalable target only for an endpoint that is in service, and refuses to change the instance type of one that
is registered: "Update endpoints that use automatic scaling" in the SageMaker developer guide.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launchers.aws import scaling as rules
from launchers.aws import scaling_described as described
from launchers.aws.errors import errors
from launchers.aws.scaling import StepScaling, TargetTracking
from launchers.base import Cloud
from launchers.deploy import names
from launchers.deploy.kinds import Kind, Named, owner
from launchers.deploy.scaling import Scaled
from launchers.deploy.watching import dimensions
from launchers.plan import Request

SERVICE, NAMESPACE, DIMENSION = "application-autoscaling", "sagemaker", "sagemaker:variant:DesiredInstanceCount"
_PREDEFINED: dict[str, str] = {kind: name for name, (kind, _) in described.PREDEFINED.items()}
_TRACKING = "TargetTracking-"  # what the names of alarms begin with that AWS makes for target tracking


def where(common: names.Names) -> dict[str, str]:
    """Return what names the scalable target in every call."""
    return {"ServiceNamespace": NAMESPACE, "ResourceId": common.variant, "ScalableDimension": DIMENSION}


# --- requests ---


def register(scaled: Scaled, common: names.Names, tags: Sequence[Mapping[str, str]]) -> list[Request]:
    """Return the calls that let the endpoint scale. tags: of the target; none for one that exists, or AWS refuses."""
    limits = {"MinCapacity": scaled.least, "MaxCapacity": scaled.most}
    tagged = {"Tags": {tag["Key"]: tag["Value"] for tag in tags}} if tags else {}
    target = Request(SERVICE, "RegisterScalableTarget", {**where(common), **limits, **tagged})
    if isinstance(scaled.policy, TargetTracking):
        return [target, _tracking(scaled.kind, scaled.policy, common)]
    if isinstance(scaled.policy, StepScaling):
        return [target, *_steps(scaled.policy, common, tags)]
    return [target]


def deregister(kind: str, common: names.Names) -> list[Request]:
    """Return the calls that end its scaling. kind: what scales it now.

    With the target its policies go, and the alarms of target tracking; those of steps are ours.
    """
    found = [Request(SERVICE, "DeregisterScalableTarget", where(common))]
    if kind == "report":
        found.append(Request("cloudwatch", "DeleteAlarms", {"AlarmNames": sorted(common.steps.values())}))
    return found


def policy_in_plan(name: str) -> str:
    """Return what stands in a plan for a policy's ARN, which AWS makes up."""
    return f"<the ARN of the policy {name}>"


def _tracking(kind: str, policy: TargetTracking, common: names.Names) -> Request:
    about = {
        "TargetValue": policy.target,
        "PredefinedMetricSpecification": {"PredefinedMetricType": _PREDEFINED[kind]},
        "ScaleOutCooldown": int(policy.out_s),
        "ScaleInCooldown": int(policy.in_s),
    }
    named = {"PolicyName": f"{common.endpoint}-{kind}", **where(common)}
    return Request(
        SERVICE,
        "PutScalingPolicy",
        {**named, "PolicyType": "TargetTrackingScaling", "TargetTrackingScalingPolicyConfiguration": about},
    )


def _steps(policy: StepScaling, common: names.Names, tags: Sequence[Mapping[str, str]]) -> Iterator[Request]:
    """Yield a policy and its alarm for each direction; the alarm names the policy by its ARN."""
    tagged = {"Tags": list(tags)} if tags else {}
    for direction, alarm, steps, wait_s in (
        ("out", policy.high, policy.out, policy.out_s),
        ("in", policy.low, policy.back, policy.in_s),
    ):
        if alarm is None:
            continue
        name = common.steps[direction]
        about = {
            "AdjustmentType": "ChangeInCapacity",
            "StepAdjustments": [_adjustment(step) for step in steps],
            "Cooldown": int(wait_s),
            "MetricAggregationType": "Average",
        }
        named = {"PolicyName": name, **where(common), "PolicyType": "StepScaling"}
        yield Request(SERVICE, "PutScalingPolicy", {**named, "StepScalingPolicyConfiguration": about})
        watched = {
            "AlarmName": name,
            "Namespace": "/aws/sagemaker/Endpoints",
            "MetricName": "CPUUtilization",
            "Dimensions": dimensions(common),
            "Statistic": "Average",
            "Period": alarm.period_s,
            "EvaluationPeriods": alarm.of,
            "DatapointsToAlarm": alarm.points,
            "Threshold": alarm.threshold,
            "ComparisonOperator": "GreaterThanThreshold" if alarm.above else "LessThanThreshold",
            "TreatMissingData": "missing",
            "AlarmActions": [policy_in_plan(name)],
        }
        yield Request("cloudwatch", "PutMetricAlarm", {**watched, **tagged})


def _adjustment(step: rules.Step) -> dict[str, Any]:
    bounds = {"MetricIntervalLowerBound": step.lower, "MetricIntervalUpperBound": step.upper}
    return {"ScalingAdjustment": step.change, **{key: at for key, at in bounds.items() if abs(at) != float("inf")}}


# --- what an account has ---


def present(cloud: Cloud, name: str) -> Scaled | None:
    """Return how a deployment scales now; None if it does not. Raises LaunchError."""
    common = names.Names(name)
    targets, policies, alarms = documents(cloud, name)
    if not targets:
        return None
    least, most = int(targets[0]["MinCapacity"]), int(targets[0]["MaxCapacity"])
    if any(policy["PolicyType"] == "StepScaling" for policy in policies):
        return Scaled("report", least, most, _found_steps(policies, alarms, common))
    for policy in policies:
        kind = policy["PolicyName"].removeprefix(f"{common.endpoint}-")
        if kind in _PREDEFINED:
            rule = described.tracking(policy["TargetTrackingScalingPolicyConfiguration"])
            return Scaled(kind, least, most, rule)
    return Scaled("unknown", least, most, None)


def lacks_policy(cloud: Cloud, name: str) -> bool:
    """Return whether a deployment does not scale, or lacks a part of what lets it. Raises LaunchError."""
    found = present(cloud, name)
    return found is None or found.policy is None


def documents(cloud: Cloud, name: str) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the scalable targets, policies and alarms of a deployment, as AWS describes them. Raises LaunchError."""
    common, client = names.Names(name), cloud.client(SERVICE)
    with errors(f"asking how {common.endpoint} scales"):
        about = {"ServiceNamespace": NAMESPACE, "ScalableDimension": DIMENSION}
        targets = client.describe_scalable_targets(**about, ResourceIds=[common.variant])["ScalableTargets"]
        policies = client.describe_scaling_policies(**where(common))["ScalingPolicies"] if targets else []
        alarms = []
        if any(policy["PolicyType"] == "StepScaling" for policy in policies):
            found = cloud.client("cloudwatch").describe_alarms(AlarmNames=sorted(common.steps.values()))
            alarms = found["MetricAlarms"]
    return targets, policies, alarms


def instance_type(cloud: Cloud, name: str) -> str:
    """Return the first type of a deployment's instances. Raises LaunchError."""
    common, client = names.Names(name), cloud.client("sagemaker")
    with errors(f"asking for the instances of {common.endpoint}"):
        config = client.describe_endpoint(EndpointName=common.endpoint)["EndpointConfigName"]
        (variant,) = client.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    return str(variant.get("InstanceType") or variant["InstancePools"][0]["InstanceType"])


def _found_steps(
    policies: Sequence[Mapping[str, Any]], alarms: Sequence[Mapping[str, Any]], common: names.Names
) -> StepScaling | None:
    """Return the rule of policies and alarms; None if one is missing or an alarm does not set off its policy."""
    by_name = {policy["PolicyName"]: policy for policy in policies}
    found = {}
    for direction, name in common.steps.items():
        alarm = next((each for each in alarms if each["AlarmName"] == name), None)
        policy = by_name.get(name)
        if alarm is None or policy is None or policy["PolicyARN"] not in alarm["AlarmActions"]:
            return None
        found[direction] = described.alarm(alarm), policy["StepScalingPolicyConfiguration"]
    (high, out), (low, back) = found["out"], found["in"]
    waits = described.cooldown_s(out), described.cooldown_s(back)
    return StepScaling(high, low, *waits, described.steps(out), described.steps(back))


# --- its kinds of parts ---


def _targets(cloud: Cloud, prefix: str) -> Named:
    with errors("listing scalable targets"):
        pages = cloud.client(SERVICE).get_paginator("describe_scalable_targets").paginate(ServiceNamespace=NAMESPACE)
        for page in pages:
            for target in page["ScalableTargets"]:
                if target["ResourceId"].startswith(f"endpoint/{prefix}"):
                    yield target["ResourceId"], target.get("CreationTime")


def _owner_of_target(resource: str) -> str | None:
    kind, _, rest = resource.partition("/")
    return names.deployment_of(rest.removesuffix(f"/variant/{names.VARIANT}")) if kind == "endpoint" else None


def _remove_target(cloud: Cloud, name: str, longest_s: float) -> None:
    cloud.client(SERVICE).deregister_scalable_target(
        ServiceNamespace=NAMESPACE, ResourceId=name, ScalableDimension=DIMENSION
    )


def _alarms(cloud: Cloud, prefix: str) -> Named:
    with errors("listing the alarms of scaling policies"):
        pages = cloud.client("cloudwatch").get_paginator("describe_alarms")
        for page in pages.paginate(AlarmNamePrefix=f"{_TRACKING}endpoint/{prefix}"):
            for alarm in page["MetricAlarms"]:
                yield alarm["AlarmName"], alarm.get("AlarmConfigurationUpdatedTimestamp")


def _owner_of_alarm(alarm: str) -> str | None:
    return _owner_of_tracking(alarm.removeprefix(f"{_TRACKING}endpoint/"))


_owner_of_tracking = owner(rf"/variant/{names.VARIANT}-Alarm(?:High|Low)-.+")


def remove_alarm(cloud: Cloud, name: str, longest_s: float) -> None:
    cloud.client("cloudwatch").delete_alarms(AlarmNames=[name])


KINDS = (  # the first takes the second with it, unless AWS is late with that
    Kind("scalable target", _targets, _owner_of_target, _remove_target),
    Kind("alarm of its scaling", _alarms, _owner_of_alarm, remove_alarm),
)
