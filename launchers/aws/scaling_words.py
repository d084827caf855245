"""Say in sentences what a scaling policy does, and when."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from launchers.aws.alarms import Alarm, Missing
from launchers.aws.scaling import Metric, Policy, Step, StepScaling, TargetTracking, reaction_s

Adjustment = Literal["ChangeInCapacity", "PercentChangeInCapacity", "ExactCapacity"]
_WHAT: Mapping[str, str] = {
    "cpu": "CPUUtilization is on average above {} %",
    "concurrency": "an instance has on average more than {} requests in progress",
    "invocations": "an instance gets on average more than {} requests a minute",
}
_MISSING: Mapping[Missing, str] = {
    "breaching": "A period without data counts as beyond the threshold.",
    "notBreaching": "A period without data counts as within the threshold.",
    "ignore": "Without data its alarms stay as they are.",
}


def explain(
    policy: Policy,
    metric: Metric | str,
    least: int | None,
    most: int | None,
    vcpus: int | None,
    adjustment: Adjustment = "ChangeInCapacity",
) -> list[str]:
    """Return sentences. metric: its kind, or the name of another one. least, most: instances; None if not known.

    vcpus: of one instance, if known. adjustment: what the numbers of a policy in steps are.
    """
    if least is not None and least == most:
        return [f"Always {_instances(least)}, since the least and the most are the same."]
    found = [
        "As many instances as its scalable target allows."
        if least is None or most is None
        else f"{least} to {_instances(most)}."
    ]
    found += _more(policy, metric, vcpus, adjustment) + _fewer(policy, metric, adjustment)
    missing = {alarm.missing for alarm in (policy.high, policy.low) if alarm is not None}
    return found + [_MISSING[each] for each in sorted(missing - {"missing"})]


def _more(policy: Policy, metric: Metric | str, vcpus: int | None, adjustment: Adjustment) -> list[str]:
    high = policy.high
    if math.isinf(high.threshold):
        return ["Never more by this policy."]
    share = ""
    if metric == "cpu":
        share = f" ({high.threshold / vcpus:.0f} % of {vcpus} vCPUs)" if vcpus else " (100 % for each vCPU)"
    what = _WHAT.get(metric, f"{metric} is above {{}}").format(_number(high.threshold))
    soonest, latest_s = reaction_s(policy)
    if isinstance(policy, TargetTracking):
        how, further = f"as many as bring it to {policy.target:g}", ", or at once if even more are wanted."
    else:
        how, further = _steps(policy.out, high, metric, adjustment), "."
    return [
        f"More when {what}{share} for {_points(high)}: {how}.",
        f"That is {soonest:.0f} to {latest_s:.0f} s after the load rises; AWS then takes minutes to start them.",
        f"Further ones once these are in service, after {policy.out_s:.0f} s{further}",
    ]


def _fewer(policy: Policy, metric: Metric | str, adjustment: Adjustment) -> list[str]:
    low = policy.low
    if low is None:
        return ["Never fewer by this policy."]
    below = f"{_number(low.threshold)}{' %' if metric == 'cpu' else ''}"
    if isinstance(policy, StepScaling):
        how = _steps(policy.back, low, metric, adjustment)
    else:
        how = f"as many as bring it to {policy.target:g}"
    subject = "it" if not math.isinf(policy.high.threshold) else _subject(metric)
    return [f"Fewer when {subject} is below {below} for {_points(low)}: {how}, at most every {policy.in_s:.0f} s."]


def _subject(metric: Metric | str) -> str:
    names = {"cpu": "CPUUtilization", "concurrency": "the number of requests in progress per instance"}
    return {**names, "invocations": "the number of requests a minute per instance"}.get(metric, metric)


def _steps(steps: Sequence[Step], alarm: Alarm, metric: Metric | str, adjustment: Adjustment) -> str:
    """Say what the steps on an alarm's side of its threshold change, the nearest first."""
    unit = " %" if metric == "cpu" else ""
    if alarm.above:
        ranked = sorted((step for step in steps if step.upper > 0), key=lambda step: step.lower)
        borders = [(step, step.upper, "up to") for step in ranked]
    else:
        ranked = sorted((step for step in steps if step.lower < 0), key=lambda step: -step.upper)
        borders = [(step, step.lower, "down to") for step in ranked]
    said = []
    for place, (step, border, words) in enumerate(borders):
        change = _change(step.change, adjustment)
        if math.isfinite(border):
            said.append(f"{change} {words} {_number(alarm.threshold + border)}{unit}")
        else:
            said.append(f"{change} beyond that" if place else change)
    return ", ".join(said) or "nothing, since it has no step on that side"


def _change(count: int, adjustment: Adjustment) -> str:
    if adjustment == "ExactCapacity":
        return f"exactly {count}"
    percent = " %" if adjustment == "PercentChangeInCapacity" else ""
    return f"{abs(count)}{percent} {'more' if count > 0 else 'less'}"


def _instances(count: int) -> str:
    return f"{count} instance{'s' if count != 1 else ''}"


def _number(value: float) -> str:
    """Format a threshold, without the digit by which a rule tells "at least" from "above"."""
    return f"{value:.10g}"


def _points(alarm: Alarm) -> str:
    if alarm.points != alarm.of or alarm.of <= 10:
        unit = f"{alarm.of} minutes" if alarm.period_s == 60 else f"{alarm.of} points of {_duration(alarm.period_s)}"
        return f"{alarm.points} of {unit}"
    if alarm.period_s == 60:
        return f"{alarm.points} of {alarm.of} minutes"
    return _duration(alarm.of * alarm.period_s)  # nobody counts so many points


def _duration(seconds: int) -> str:
    return f"{seconds // 60} minutes" if seconds >= 120 and seconds % 60 == 0 else f"{seconds} s"
