"""Application Auto Scaling of endpoints: targets, policies, and what their alarms make of the number of instances.

Sources: the Application Auto Scaling API reference and user guide, and "Automatic scaling of Amazon SageMaker AI
models" in the SageMaker developer guide.
"""

import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moto.iam.models import iam_backends

from launchers.aws.actions import Need
from launchers.aws.scaling import latest
from launchers.aws.scaling_actions import SCALING, SCALING_ROLE
from launchers.rehearsal.access import authorize
from launchers.rehearsal.clock import Clock
from launchers.rehearsal.faults import Session
from launchers.rehearsal.identity_store import IdentityStore
from launchers.rehearsal.names import ACCOUNT, Server
from launchers.rehearsal.principals import caller_named
from launchers.rehearsal.service import Answer, Call, Handler, Refused, invalid
from launchers.rehearsal.services.alarms import Alarms, points_of, rule_of
from launchers.rehearsal.services.endpoint_record import Variant
from launchers.rehearsal.services.endpoint_run import EndpointRun
from launchers.rehearsal.services.endpoints import Endpoints
from launchers.rehearsal.services.scaling_target import (
    DIMENSION,
    NAMESPACE,
    PREDEFINED,
    RESOURCE,
    ScalableTarget,
    keep,
    policy_arn,
    policy_of,
)
from launchers.rehearsal.services.training_record import now


class Autoscaling:
    """All scalable targets. folder: contains a file for each of them."""

    active = False

    def __init__(
        self, folder: Path, endpoints: Endpoints, alarms: Alarms, identities: IdentityStore, clock: Clock
    ) -> None:
        self.folder, self.endpoints, self.alarms = folder, endpoints, alarms
        self.identities, self.clock = identities, clock
        self._targets: dict[str, ScalableTarget] = {}
        self._slots: dict[str, int] = {}  # by resource: the latest evaluation
        self._lock = threading.RLock()
        endpoints.scaling = self

    @property
    def operations(self) -> Mapping[tuple[str, str], Handler]:
        handlers = {
            "RegisterScalableTarget": self.register,
            "DescribeScalableTargets": self.describe_targets,
            "DeregisterScalableTarget": self.deregister,
            "PutScalingPolicy": self.put_policy,
            "DescribeScalingPolicies": self.describe_policies,
            "DeleteScalingPolicy": self.delete_policy,
            "DescribeScalingActivities": self.describe_activities,
            "ListTagsForResource": self.list_tags,
            **dict.fromkeys(("PutScheduledAction", "DeleteScheduledAction", "DescribeScheduledActions"), _refuse),
            **dict.fromkeys(("GetPredictiveScalingForecast", "TagResource", "UntagResource"), _refuse),
        }
        return {("application-autoscaling", name): handler for name, handler in handlers.items()}

    def begin(self, server: Server) -> None:
        for target in ScalableTarget.load_all(self.folder):
            self._targets[target.resource] = target

    def end(self) -> None:
        """Do nothing: what runs is the endpoints'."""

    # --- targets ---

    def register(self, call: Call) -> Answer:
        asked, resource = call.parameters, _resource(call.parameters)
        if "SuspendedState" in asked:
            raise invalid("The rehearsal cloud suspends no scaling.")
        with self._lock:
            target = self._targets.get(resource)
            least, most = (
                asked.get(key, None if target is None else before)
                for key, before in (("MinCapacity", target and target.least), ("MaxCapacity", target and target.most))
            )
            if least is None or most is None:
                raise invalid("MinCapacity and MaxCapacity are required to register a new scalable target.")
            if least > most:
                raise invalid("Maximum capacity cannot be less than minimum capacity")
            if least < 1:
                raise invalid("The minimum capacity of a variant without inference components must be at least 1.")
            if target is None:
                self._check_variant(resource)
                target = ScalableTarget(resource, least, most, now(), self._role())
                target.tags = dict(asked.get("Tags", {}))
                self._targets[resource] = target
            elif asked.get("Tags"):
                raise invalid(
                    "The scalable target that you tried to tag already exists. To update tags on an existing scalable "
                    "target, use the TagResource API."
                )
            target.least, target.most = least, most
            target.save(self.folder)
        return {"ScalableTargetARN": target.arn}

    def describe_targets(self, call: Call) -> Answer:
        asked = call.parameters
        found = [
            target.describe()
            for target in list(self._targets.values())
            if target.resource in asked.get("ResourceIds", [target.resource]) and _is_ours(asked)
        ]
        return _page(asked, "ScalableTargets", found)

    def deregister(self, call: Call) -> Answer:
        with self._lock:
            self._forget(self._target(call.parameters))
        return {}

    def list_tags(self, call: Call) -> Answer:
        arn = call.parameters["ResourceARN"]
        found = next((target for target in self._targets.values() if target.arn == arn), None)
        if found is None:
            raise Refused("ResourceNotFoundException", f"Resource {arn} not found.", ResourceName=arn)
        return {"Tags": found.tags}

    # --- policies ---

    def put_policy(self, call: Call) -> Answer:
        asked = call.parameters
        with self._lock:
            target, name = self._target(asked), asked["PolicyName"]
            before = target.policies.get(name)
            kind = asked.get("PolicyType") or (before or {}).get("PolicyType", "StepScaling")
            others = [policy for key, policy in target.policies.items() if key != name]
            config = _checked(asked, kind, others)
            arn = before["PolicyARN"] if before else policy_arn(target.resource, name)
            alarms = target.track(name, arn, config) if kind == "TargetTrackingScaling" else []
            created = before["CreationTime"] if before else now()
            about = {"PolicyARN": arn, "PolicyName": name, **target.where, "PolicyType": kind, "CreationTime": created}
            target.policies[name] = {**about, f"{kind}PolicyConfiguration": config, "Alarms": alarms}
            target.save(self.folder)
        self.alarms.save()
        return {"PolicyARN": arn, "Alarms": alarms}

    def describe_policies(self, call: Call) -> Answer:
        asked = call.parameters
        found = [
            policy
            for target in list(self._targets.values())
            if target.resource == asked.get("ResourceId", target.resource) and _is_ours(asked)
            for policy in target.policies.values()
            if policy["PolicyName"] in asked.get("PolicyNames", [policy["PolicyName"]])
        ]
        return _page(asked, "ScalingPolicies", found)

    def delete_policy(self, call: Call) -> Answer:
        name = call.parameters["PolicyName"]
        with self._lock:
            target = self._target(call.parameters)
            if name not in target.policies:
                where = _named(call.parameters)
                raise _missing(f"No scaling policy found for {where}, policy name: {name}")
            target.untrack(name)
            del target.policies[name]
            target.save(self.folder)
        self.alarms.save()
        return {}

    def describe_activities(self, call: Call) -> Answer:
        asked = call.parameters
        found = [
            activity
            for target in list(self._targets.values())
            if target.resource == asked.get("ResourceId", target.resource) and _is_ours(asked)
            for activity in target.activities
        ]
        return _page(asked, "ScalingActivities", found)

    # --- what endpoints ask ---

    def check_update(self, endpoint: str, present: Sequence[Variant], wanted: Sequence[Variant]) -> None:
        """Raise Refused if an update would remove a variant that scales, or change its instance type."""
        kinds = {variant.name: variant.kinds for variant in wanted}
        held = [
            target.resource
            for target in list(self._targets.values())
            for variant in present
            if (target.endpoint, target.variant) == (endpoint, variant.name)
            and kinds.get(variant.name) != variant.kinds
        ]
        if held:
            raise invalid(
                f'The variant(s) "{json.dumps(held)}" must be deregistered as scalable targets with AWS Auto Scaling '
                "before they can be removed or have their instance type updated."
            )

    def release(self, endpoint: str, call: Call) -> None:
        """Deregister the variants of an endpoint that is deleted. Raises Refused if the caller may not do that."""
        held = [target for target in list(self._targets.values()) if target.endpoint == endpoint]
        action = "application-autoscaling:DeregisterScalableTarget"
        for target in held:
            where = {
                "application-autoscaling:service-namespace": [NAMESPACE],
                "application-autoscaling:scalable-dimension": [DIMENSION],
            }
            try:
                authorize(caller_named(call.caller, call.faults.denied), [Need(action, target.arn, where)])
            except Refused:
                raise invalid(
                    "An Application AutoScaling scalable target exists for a variant being deleted, and the IAM "
                    f"identity used to invoke DeleteEndpoint does not have {action} permission to deregister the "
                    "scalable target."
                ) from None
        with self._lock:
            for target in held:
                self._forget(target)

    # --- what happens by itself ---

    def act(self) -> None:
        """Follow the alarms of all targets. Called after each evaluation of alarms."""
        runs = {run.record.name: run for run in self.endpoints.runs()}
        for target in list(self._targets.values()):
            with self._lock:
                run = runs.get(target.endpoint)
                if run is None or target.resource not in self._targets:
                    continue
                if run.record.status == "InService":  # SageMaker refuses changes while there is another one
                    self._follow(target, run)

    def _follow(self, target: ScalableTarget, run: EndpointRun) -> None:
        variant = next(each for each in run.record.variants if each.name == target.variant)
        moment, desired = self.clock.now(), variant.count
        serving = sum(instance.healthy for instance in run.fleet.instances[target.variant])
        if target.pending is not None:
            self._complete(target, run, desired, moment)
        if not target.least <= desired <= target.most:
            wanted = min(max(desired, target.least), target.most)
            limit = "minimum" if wanted > desired else "maximum"
            self._begin(target, run, desired, wanted, f"{limit} capacity was set to {wanted}", moment)
            return
        scaler = target.scaler()
        if scaler is None or self._slots.get(target.resource) == (slot := int(moment // scaler.every_s)):
            return
        self._slots[target.resource] = slot
        alarms = target.alarms()
        values = [None if alarm is None else latest(self._points(alarm, moment)) for alarm in alarms]
        wanted, after = scaler.act(moment, values[0], values[1], serving, desired)
        if wanted == desired:
            return
        target.out_until, target.in_until = after.out_until, after.in_until
        alarm = alarms[0] if wanted > desired else alarms[1]
        assert alarm is not None
        cause = f"monitor alarm {alarm.name} in state ALARM triggered policy {policy_of(alarm)}"
        self._begin(target, run, desired, wanted, cause, moment)

    def _points(self, alarm: Any, moment: float) -> Sequence[float | None]:
        rule = rule_of(alarm)
        return [] if rule is None else points_of(alarm, rule, moment, self.clock)

    def _begin(
        self, target: ScalableTarget, run: EndpointRun, before: int, wanted: int, cause: str, moment: float
    ) -> None:
        """Ask the endpoint for another number of instances, as the service-linked role does.

        moment: on the cloud's clock, when that was decided, from which cool-downs count as well.
        """
        change = {"VariantName": target.variant, "DesiredInstanceCount": wanted}
        asked = {"EndpointName": target.endpoint, "DesiredWeightsAndCapacities": [change]}
        activity = {
            "ActivityId": secrets.token_hex(16),
            **target.where,
            "Description": f"Setting desired instance count to {wanted}.",
            "Cause": cause,
            "StartTime": self.clock.real(moment),
            "StatusCode": "InProgress",
            "StatusMessage": f"Successfully set desired instance count to {wanted}. Waiting for change to be fulfilled "
            "by sagemaker.",
        }
        target.activities.insert(0, activity)
        keep(target.activities)
        try:
            self.endpoints.change_capacities(Call(asked, run.around.faults, Session(), target.role))
            target.pending, target.adds = wanted, wanted > before
        except Refused as refused:
            text = f"Failed to set desired instance count to {wanted}. Reason: {refused.text}"
            activity.update(StatusCode="Failed", StatusMessage=text, EndTime=now())
            target.out_until = self.clock.now() + 60  # until it is tried again
        target.save(self.folder)

    def _complete(self, target: ScalableTarget, run: EndpointRun, desired: int, moment: float) -> None:
        """Close the activity in progress; a cool-down for more begins now."""
        activity, wanted, ended = target.activities[0], target.pending, self.clock.real(moment)
        if desired == wanted:
            text = f"Successfully set desired instance count to {wanted}. Change successfully fulfilled by sagemaker."
            activity.update(StatusCode="Successful", StatusMessage=text, EndTime=ended)
        else:
            text = f"Failed to set desired instance count to {wanted}. Reason: {run.record.failure}"
            activity.update(StatusCode="Failed", StatusMessage=text, EndTime=ended)
        scaler = target.scaler()
        if scaler is not None and target.adds:
            target.out_until = scaler.completed(moment).out_until
        target.pending = None
        target.save(self.folder)

    # --- parts of these ---

    def _target(self, asked: Mapping[str, Any]) -> ScalableTarget:
        resource = _resource(asked)
        if resource not in self._targets:
            raise _missing(f"No scalable target found for {_named(asked)}")
        return self._targets[resource]

    def _forget(self, target: ScalableTarget) -> None:
        for name in target.policies:
            target.untrack(name)
        target.forget(self.folder)
        self._targets.pop(target.resource, None)
        self.alarms.save()

    def _check_variant(self, resource: str) -> None:
        """Raise Refused unless the resource is a variant that is in service and may scale."""
        found = RESOURCE.fullmatch(resource)
        assert found
        run = next((run for run in self.endpoints.runs() if run.record.name == found["endpoint"]), None)
        variants = () if run is None else run.record.variants
        variant = next((each for each in variants if each.name == found["variant"]), None)
        if run is None or variant is None:
            raise invalid(f"No variant found for resource ID: {resource}")
        if run.record.status != "InService":
            raise invalid(
                f"The endpoint {found['endpoint']} is {run.record.status}: it must be InService to be registered."
            )
        if burstable := [kind for kind in variant.kinds if kind.startswith("ml.t")]:
            raise invalid(f"Automatic scaling does not support burstable instances, got {', '.join(burstable)}.")

    def _role(self) -> str:
        """Return the ARN of the service-linked role, which is created in an account that lacks it."""
        backend = iam_backends[ACCOUNT]["aws"]
        found = next((role for role in backend.get_roles() if role.name == SCALING_ROLE), None)
        if found is None:
            principal = {"Effect": "Allow", "Principal": {"Service": SCALING}, "Action": "sts:AssumeRole"}
            trust = json.dumps({"Version": "2012-10-17", "Statement": [principal]})
            found = backend.create_role(
                SCALING_ROLE, trust, f"/aws-service-role/{SCALING}/", None, "", [], "3600", linked_service=SCALING
            )
            self.identities.save()
        return str(found.arn)


def _refuse(call: Call) -> Answer:
    raise invalid("The rehearsal cloud has no scheduled or predictive scaling, and no changes of tags of targets.")


def _missing(text: str) -> Refused:
    return Refused("ObjectNotFoundException", text)


def _is_ours(asked: Mapping[str, Any]) -> bool:
    return bool(asked["ServiceNamespace"] == NAMESPACE and asked.get("ScalableDimension", DIMENSION) == DIMENSION)


def _named(asked: Mapping[str, Any]) -> str:
    return (
        f"service namespace: {asked['ServiceNamespace']}, resource ID: {asked['ResourceId']}, scalable dimension: "
        f"{asked['ScalableDimension']}"
    )


def _resource(asked: Mapping[str, Any]) -> str:
    """Return the resource id of a variant. Raises Refused for what the rehearsal does not scale."""
    if not _is_ours(asked):
        raise invalid(f"The rehearsal cloud scales variants of endpoints alone, got {_named(asked)}.")
    resource = str(asked["ResourceId"])
    if RESOURCE.fullmatch(resource) is None:
        raise invalid(f"Unsupported service namespace, resource type or scalable dimension: {resource}")
    return resource


def _checked(asked: Mapping[str, Any], kind: str, others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a policy's configuration. Raises Refused for what AWS does not accept, or the rehearsal has not."""
    config = asked.get(f"{kind}PolicyConfiguration")
    if config is None:
        raise invalid(f"{kind}PolicyConfiguration is required for policies of type {kind}.")
    if any(policy["PolicyType"] != kind or kind == "TargetTrackingScaling" for policy in others):
        raise invalid("The rehearsal cloud has one policy that tracks a target, or policies in steps, for each target.")
    if kind == "TargetTrackingScaling":
        named = config.get("PredefinedMetricSpecification", {}).get("PredefinedMetricType")
        if named not in PREDEFINED:
            raise invalid(f"The rehearsal cloud tracks {' and '.join(PREDEFINED)}, got {named}.")
        if config["TargetValue"] <= 0:
            raise invalid("TargetValue must be greater than 0.")
    elif config.get("AdjustmentType") != "ChangeInCapacity" or not config.get("StepAdjustments"):
        raise invalid("The rehearsal cloud has steps of type ChangeInCapacity alone, and at least one is required.")
    return dict(config)


def _page(asked: Mapping[str, Any], key: str, found: Sequence[Mapping[str, Any]]) -> Answer:
    first, most = int(asked.get("NextToken", 0)), asked.get("MaxResults", 50)
    rest = {"NextToken": str(first + most)} if len(found) > first + most else {}
    return {key: list(found[first : first + most]), **rest}
