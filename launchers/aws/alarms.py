"""The rules of CloudWatch's alarms and of the scaling policies that act on them.

Nothing here knows an account or a clock: the capacity planner, the deployment and the rehearsal cloud share it.
Sources: "Configuring how CloudWatch alarms treat missing data" and "Alarm evaluation" in the CloudWatch user guide;
"Target tracking scaling policies" and "Step scaling policies" in the Application Auto Scaling user guide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

Missing = Literal["missing", "ignore", "breaching", "notBreaching"]
Points = Sequence[float | None]  # one value for each period, the oldest first; None where nothing was published

EXTRA_PERIODS = (
    2  # beyond its evaluation periods, that CloudWatch fetches in case some are missing; its guide has 3 + 2
)
SCALE_IN_AT = 0.9  # of the target, below which target tracking removes instances
OUT_POINTS = 3  # consecutive points above the target that target tracking waits for
IN_S = 900  # for which the metric must stay below SCALE_IN_AT of the target: 15 points of a minute


class State(StrEnum):
    OK = "OK"
    ALARM = "ALARM"
    INSUFFICIENT_DATA = "INSUFFICIENT_DATA"


@dataclass(frozen=True)
class Alarm:
    """A metric alarm: it goes off when `points` of the latest `of` periods are beyond the threshold ("m out of n").

    above: whether values greater than the threshold breach it; otherwise smaller ones do. Equal values never do.
    period_s: 10, 20, 30, or a multiple of 60. missing: how periods without data count.
    """

    threshold: float
    above: bool = True
    period_s: int = 60
    points: int = 3
    of: int = 3
    missing: Missing = "missing"

    @property
    def every_s(self) -> int:
        """Seconds between two evaluations: 10 for periods of less than a minute, otherwise 60."""
        return 10 if self.period_s < 60 else 60

    @property
    def fetched(self) -> int:
        """The number of latest periods that an evaluation looks at: the evaluation range."""
        return self.of + EXTRA_PERIODS

    def breached_by(self, value: float) -> bool:
        return value > self.threshold if self.above else value < self.threshold

    def state(self, values: Points, before: State = State.INSUFFICIENT_DATA) -> State:
        """Return the state after an evaluation. values: of the latest periods; before: the state until now.

        The latest `of` values that exist decide. Where fewer exist in the evaluation range, the periods without data
        are filled in as `missing` says.
        """
        known = [self.breached_by(value) for value in values[-self.fetched :] if value is not None][-self.of :]
        breaching, filled = sum(known), self.of - len(known)
        if breaching >= self.points:
            return State.ALARM
        if not filled or self.missing == "notBreaching":
            return State.OK
        if self.missing == "breaching":
            return State.ALARM if breaching + filled >= self.points else State.OK
        if not known:
            return State.INSUFFICIENT_DATA if self.missing == "missing" else before
        if breaching < len(known):
            return State.OK
        # all that is known breaches, but it is too little: an alarm only if it is old enough not to be premature
        if self.missing == "ignore":
            return before
        return State.ALARM if self._age_of_oldest(values) >= self.points else State.OK

    def _age_of_oldest(self, values: Points) -> int:
        """Return how many periods ago the oldest value of the evaluation range was; 1 is the latest period."""
        latest = values[-self.fetched :]
        return next(len(latest) - place for place, value in enumerate(latest) if value is not None)


@dataclass(frozen=True)
class TargetTracking:
    """A policy that keeps a metric, which is an average per instance, near a target.

    It makes its own two alarms: more instances after 3 of 3 points above the target, fewer after 15 minutes below 90 %
    of it. period_s: of the metric, 60, or 10 for a high-resolution one; that the alarm for fewer instances then still
    looks at 15 minutes is assumed. out_s, in_s: the cool-downs, by default those of SageMaker's endpoints.
    """

    target: float
    period_s: int = 60
    out_s: float = 300
    in_s: float = 300
    scales_in: bool = True

    @property
    def high(self) -> Alarm:
        return Alarm(self.target, True, self.period_s, OUT_POINTS, OUT_POINTS)

    @property
    def low(self) -> Alarm | None:
        count = IN_S // self.period_s
        return Alarm(SCALE_IN_AT * self.target, False, self.period_s, count, count) if self.scales_in else None

    def wanted(self, value: float, serving: int) -> int:
        """Return the number of instances that brings the metric to its target."""
        return math.ceil(round(serving * value / self.target, 9))

    def more(self, value: float, serving: int, desired: int) -> int:
        return max(self.wanted(value, serving), serving + 1)

    def fewer(self, value: float, serving: int, desired: int) -> int:
        return min(max(self.wanted(value, serving), 1), desired)


@dataclass(frozen=True)
class StepScaling:
    """A policy that adds `step` instances while one alarm is on, and removes as many while another one is."""

    high: Alarm
    low: Alarm | None
    out_s: float = 60
    in_s: float = 300
    step: int = 1

    def more(self, value: float, serving: int, desired: int) -> int:
        return desired + self.step

    def fewer(self, value: float, serving: int, desired: int) -> int:
        return desired - self.step


Policy = TargetTracking | StepScaling


@dataclass(frozen=True)
class Scaler:
    """A policy at one moment: the states of its alarms, and until when its cool-downs last. `decide` returns the next.

    least, most: the limits of the number of instances.
    """

    policy: Policy
    least: int
    most: int
    high: State = State.INSUFFICIENT_DATA
    low: State = State.INSUFFICIENT_DATA
    out_until: float = field(default=-math.inf)
    in_until: float = field(default=-math.inf)

    @property
    def every_s(self) -> int:
        return min(alarm.every_s for alarm in (self.policy.high, self.policy.low) if alarm)

    def decide(self, now: float, values: Points, slow: Points, serving: int, desired: int) -> "tuple[int, Scaler]":
        """Return the number of instances to have from now on, and the scaler for the next evaluation.

        values, slow: the metric in periods of the alarm for more instances and of the one for fewer. serving: the
        instances that the metric is the average of. desired: those in service or starting.

        Nothing changes while instances start: SageMaker refuses updates of an endpoint that is being updated, and a
        cool-down begins when the activity has completed (call `completed` then). A cool-down for more instances lets
        only a larger wish pass than what it was begun for, so a policy in steps waits for its end. One for fewer holds
        back removals alone, and ends when instances are added.
        """
        policy = self.policy
        high = policy.high.state(values, self.high)
        low = policy.low.state(slow, self.low) if policy.low else State.OK
        after = replace(self, high=high, low=low)
        if desired != serving:
            return desired, after
        if high is State.ALARM and (value := _latest(values)) is not None:
            wanted = min(policy.more(value, serving, desired), self.most)
            tracks = isinstance(policy, TargetTracking)
            if wanted > desired and (now >= self.out_until or tracks):
                return wanted, replace(after, in_until=-math.inf)
            return desired, after
        blocked = now < self.in_until or now < self.out_until
        if low is State.ALARM and not blocked and (value := _latest(slow)) is not None:
            wanted = max(policy.fewer(value, serving, desired), self.least)
            if wanted < desired:
                return wanted, replace(after, in_until=now + policy.in_s)
        return desired, after

    def completed(self, now: float) -> "Scaler":
        """Return the scaler after all instances that it asked for have come into service."""
        return replace(self, out_until=now + self.policy.out_s)


def _latest(values: Points) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)
