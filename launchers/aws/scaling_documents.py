"""Find scaling policies in JSON: as Application Auto Scaling and CloudWatch describe them, or as they are put there."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from dogbreed.errors import ConfigError
from launchers.aws import scaling_described as described
from launchers.aws.alarms import Alarm
from launchers.aws.scaling import Policy, StepScaling
from launchers.aws.scaling_words import Adjustment, explain

About = Mapping[str, Any]
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
_LISTS = ("ScalingPolicies", "MetricAlarms", "ScalableTargets")
_TRACKING, _STEPS = "TargetTrackingScalingPolicyConfiguration", "StepScalingPolicyConfiguration"
_METRICS = {
    "CPUUtilization": "cpu",
    "ConcurrentRequestsPerModel": "concurrency",
    "InvocationsPerInstance": "invocations",
}
FORMS = (
    "what `aws application-autoscaling describe-scaling-policies` prints, or put-scaling-policy takes; for steps also "
    "what `aws cloudwatch describe-alarms` prints"
)


@dataclass
class Documents:
    """Policies, alarms and scalable targets, as AWS's interfaces have them."""

    policies: list[About] = field(default_factory=list)
    alarms: list[About] = field(default_factory=list)
    targets: list[About] = field(default_factory=list)

    def add(self, found: Any, where: str) -> None:
        """Take what a document is made of. where: what messages call it. Raises ConfigError for what is none of it."""
        if isinstance(found, list):
            for each in found:
                self.add(each, where)
        elif not isinstance(found, Mapping):
            raise ConfigError(f"{where} is not a scaling policy.\nTry: {FORMS}")
        elif any(isinstance(found.get(name), list) for name in _LISTS):
            for name, kept in zip(_LISTS, (self.policies, self.alarms, self.targets), strict=True):
                kept.extend(found.get(name) or ())
        else:
            self._kind(found, where).append(found)

    def _kind(self, found: About, where: str) -> list[About]:
        if "AutoScalingGroupName" in found:
            raise ConfigError(f"{where} has a policy of an EC2 Auto Scaling group.\nTry: one of a SageMaker endpoint")
        if {"PolicyType", "PolicyName", _TRACKING, _STEPS, "TargetValue", "StepAdjustments"} & found.keys():
            return self.policies
        if "ComparisonOperator" in found:
            return self.alarms
        if {"MinCapacity", "MaxCapacity"} & found.keys():
            return self.targets
        names = ", ".join(sorted(map(str, found))[:6]) or "nothing"
        raise ConfigError(f"{where} is not a scaling policy: it has {names}.\nTry: {FORMS}")


def parsed(text: str, where: str) -> Iterator[Any]:
    """Yield the JSON values that a text consists of, one after the other. Raises ConfigError."""
    decoder, at = json.JSONDecoder(), 0
    text = text.lstrip("\ufeff").strip()
    if not text:
        raise ConfigError(f"{where} is empty.\nTry: {FORMS}")
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise ConfigError(f"{where} is not JSON: {error}\nTry: {FORMS}") from error
        yield value
        while at < len(text) and text[at].isspace():
            at += 1


@dataclass(frozen=True)
class Scales:
    """One policy, or two in steps that belong together. unknown: what is missing to say all of it, and how to get it.

    least, most: numbers of instances; None if no scalable target was found.
    """

    resource: str
    names: Sequence[str]
    policy: Policy | None
    metric: str
    least: int | None
    most: int | None
    adjustment: Adjustment = "ChangeInCapacity"
    unknown: Sequence[str] = ()

    def sentences(self, vcpus: int | None) -> list[str]:
        if self.policy is None:
            return list(self.unknown)
        said = explain(self.policy, self.metric, self.least, self.most, vcpus, self.adjustment)
        return [*said, *self.unknown]


def scales(documents: Documents) -> list[Scales]:
    """Return all policies with their alarms and limits. Raises ConfigError for policies of other things."""
    if not documents.policies:
        raise ConfigError(f"There is no scaling policy in it.\nTry: {FORMS}")
    try:
        return list(_scales(documents))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"A policy or an alarm is not as AWS has it: {what}\nTry: {FORMS}") from error


def _scales(documents: Documents) -> Iterator[Scales]:
    groups: dict[str, list[About]] = defaultdict(list)
    for policy in map(_whole, documents.policies):
        dimension = policy.get("ScalableDimension", DIMENSION)
        if dimension != DIMENSION:
            raise ConfigError(
                f"{_name(policy)} scales {dimension}.\nTry: a policy of an endpoint's instances, which is {DIMENSION}"
            )
        groups[str(policy.get("ResourceId", ""))].append(policy)
    for resource, policies in groups.items():
        limits = _limits(resource, documents.targets)
        tracking = [policy for policy in policies if _TRACKING in policy]
        yield from (_tracked(resource, policy, limits) for policy in tracking)
        in_steps = [policy for policy in policies if _STEPS in policy]
        yield from _in_steps(resource, in_steps, documents.alarms, limits)


def _whole(policy: About) -> About:
    """Return a policy with its configuration where it belongs. Raises ConfigError for one without."""
    if "TargetValue" in policy:
        policy = {_TRACKING: policy}
    elif "StepAdjustments" in policy:
        policy = {_STEPS: policy}
    config = policy.get(_TRACKING) or policy.get(_STEPS)
    needed = "TargetValue" if _TRACKING in policy else "StepAdjustments"
    if not isinstance(config, Mapping) or needed not in config:
        kind = policy.get("PolicyType", "no type")
        raise ConfigError(
            f"{_name(policy)}, of {kind}, has neither a target value nor steps.\nTry: a policy of type "
            "TargetTrackingScaling or StepScaling"
        )
    return policy


def _name(policy: About) -> str:
    return str(policy.get("PolicyName", "the policy"))


def _limits(resource: str, targets: Sequence[About]) -> tuple[int | None, int | None]:
    """Return the least and the most instances of a resource; of the only target where the resource is not named."""
    fitting = [each for each in targets if each.get("ResourceId", resource) == resource]
    if not fitting and not resource and len(targets) == 1:
        fitting = list(targets)
    if not fitting:
        return None, None
    least, most = fitting[0].get("MinCapacity"), fitting[0].get("MaxCapacity")
    return (None, None) if least is None or most is None else (int(least), int(most))


def _tracked(resource: str, policy: About, limits: tuple[int | None, int | None]) -> Scales:
    config = policy[_TRACKING]
    own = config.get("CustomizedMetricSpecification") or {}
    name = str(own.get("MetricName", "the result of its metric math"))
    metric = _METRICS.get(name, name)
    if predefined := (config.get("PredefinedMetricSpecification") or {}).get("PredefinedMetricType"):
        metric = described.PREDEFINED.get(predefined, (str(predefined), 60))[0]
    return Scales(resource, (_name(policy),), described.tracking(config), metric, *limits)


def _in_steps(
    resource: str, policies: Sequence[About], alarms: Sequence[About], limits: tuple[int | None, int | None]
) -> Iterator[Scales]:
    """Yield policies in steps: the one that adds instances together with the one that removes some."""
    adding, removing = [], []
    for policy in policies:
        own = _alarms_of(policy, policies, alarms)
        highs, lows = ([each for each in own if _above(each) is above] for above in (True, False))
        adds = any(step.change > 0 for step in described.steps(policy[_STEPS]))
        if highs or (not lows and adds):
            adding.append((policy, highs[0] if highs else None))
        if lows or (not highs and not adds):
            removing.append((policy, lows[0] if lows else None))
    for pair in _pairs(adding, removing):
        for policy, alarm in filter(None, pair):
            if alarm is None:
                yield _without_alarm(resource, policy, limits)
        out, back = (each if each is not None and each[1] is not None else None for each in pair)
        if out or back:
            yield _paired(resource, out, back, limits)


_Pair = tuple[About, About | None] | None


def _pairs(adding: Sequence[_Pair], removing: Sequence[_Pair]) -> Iterator[tuple[_Pair, _Pair]]:
    """Yield policies that add with those that remove, where one sentence is about both, and the others alone."""
    left = list(removing)
    for out in adding:
        back = next((each for each in left if _read_alike(out, each)), None)
        if back is not None:
            left.remove(back)
        yield out, back
    yield from ((None, each) for each in left)


def _read_alike(out: _Pair, back: _Pair) -> bool:
    """Return whether two policies read one metric, and change the number of instances in one way."""
    assert out is not None
    assert back is not None
    (first, high), (second, low) = out, back
    kinds = [each[_STEPS].get("AdjustmentType", "ChangeInCapacity") for each in (first, second)]
    if high is None or low is None:
        return False
    metrics = [(each.get("Namespace"), each.get("MetricName")) for each in (high, low)]
    return bool(kinds[0] == kinds[1] and metrics[0] == metrics[1])


def _paired(resource: str, out: _Pair, back: _Pair, limits: tuple[int | None, int | None]) -> Scales:
    (high, out_s, ups), (low, in_s, downs) = (_half(each) for each in (out, back))
    policy = StepScaling(high or Alarm(math.inf), low, out_s, in_s, ups, downs)
    both = [each for each in (out, back) if each is not None]
    alarm = next(about for _, about in both if about is not None)
    name = str(alarm.get("MetricName", "the result of its metric math"))
    adjustment = cast(Adjustment, both[0][0][_STEPS].get("AdjustmentType", "ChangeInCapacity"))
    names = tuple(dict.fromkeys(_name(policy) for policy, _ in both))
    return Scales(resource, names, policy, _METRICS.get(name, name), *limits, adjustment)


def _half(pair: _Pair) -> tuple[Alarm | None, float, Any]:
    if pair is None or pair[1] is None:
        return None, 0.0, ()
    config = pair[0][_STEPS]
    return described.alarm(pair[1]), described.cooldown_s(config), described.steps(config)


def _without_alarm(resource: str, policy: About, limits: tuple[int | None, int | None]) -> Scales:
    steps = described.steps(policy[_STEPS])
    changes = " or ".join(f"{step.change:+d}" for step in steps) or "nothing"
    names = [str(each["AlarmName"]) for each in policy.get("Alarms") or ()]
    ask = "aws cloudwatch describe-alarms" + (f" --alarm-names {' '.join(names)}" if names else "")
    unknown = (
        f"Changes the number of instances by {changes} while its alarm is on; the alarm itself is not in here.",
        f"Try: {ask} > alarms.json, and name that file as well",
    )
    return Scales(resource, (_name(policy),), None, "", *limits, unknown=unknown)


def _above(alarm: About) -> bool:
    return str(alarm.get("ComparisonOperator", "")).startswith("Greater")


def _alarms_of(policy: About, policies: Sequence[About], alarms: Sequence[About]) -> list[About]:
    """Return the alarms that set off a policy; those of nobody, if it is the only policy."""
    known = [alarm for alarm in alarms if alarm.get("ComparisonOperator") in described.OPERATORS]
    listed = {each.get("AlarmName") for each in policy.get("Alarms") or ()}
    own = [
        alarm
        for alarm in known
        if alarm.get("AlarmName") in listed or any(_sets_off(action, policy) for action in _actions(alarm))
    ]
    if own or len(policies) > 1:
        return own
    return [alarm for alarm in known if not any("scalingPolicy" in action for action in _actions(alarm))]


def _actions(alarm: About) -> list[str]:
    return [str(action) for action in alarm.get("AlarmActions") or ()]


def _sets_off(action: str, policy: About) -> bool:
    """Return whether an alarm's action is a policy, by its ARN or, where that is not known, the end of it."""
    name = policy.get("PolicyName")
    return action == policy.get("PolicyARN") or (
        name is not None and action.endswith((f"policyName/{name}", f"policy {name}>"))
    )


def all_of(documents: Iterable[tuple[str, str]]) -> Documents:
    """Read texts. documents: what messages call each, and its text."""
    found = Documents()
    for where, text in documents:
        for value in parsed(text, where):
            found.add(value, where)
    return found
