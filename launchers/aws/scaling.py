"""The rules of scaling policies: which number of instances a policy wants, when, and how long it then waits.

Nothing here knows an account or a clock: the capacity planner, the deployment and the rehearsal cloud share it.
Sources: "Target tracking scaling policies" and "Step scaling policies" in the Application Auto Scaling user guide;
"Automatic scaling of Amazon SageMaker AI models" in the SageMaker developer guide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from launchers.aws.alarms import Alarm, Points, State

Metric = Literal["cpu", "concurrency", "invocations"]

SCALE_IN_AT = 0.9  # of the target, below which target tracking removes instances
OUT_POINTS = 3  # consecutive points above the target that target tracking waits for
IN_S = 900  # for which the metric must stay below SCALE_IN_AT of the target: 15 points of a minute
MOST_WAIT_S = 3600  # of a cool-down, which AWS takes
SAFETY = 0.5  # of what an instance can do at most, which AWS advises as the target to begin with


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
class Step:
    """How many instances to add while the metric is so far beyond the alarm's threshold: from `lower` up to `upper`.

    Both are distances from the threshold, below zero for an alarm that goes off below it. Of a distance at a border,
    the step further out decides.
    """

    change: int
    lower: float = -math.inf
    upper: float = math.inf

    def covers(self, distance: float) -> bool:
        if self.lower >= 0:  # above the threshold: the lower border belongs to it, the upper one to the next step
            return self.lower <= distance < self.upper
        return self.lower < distance <= self.upper


ONE_MORE, ONE_LESS = (Step(1, lower=0.0),), (Step(-1, upper=0.0),)


def change(steps: Sequence[Step], distance: float) -> int:
    """Return what the step for this distance from the threshold changes; 0 if there is none."""
    return next((step.change for step in steps if step.covers(distance)), 0)


@dataclass(frozen=True)
class StepScaling:
    """Steps that add instances while one alarm is on, and steps that remove them while another one is."""

    high: Alarm
    low: Alarm | None
    out_s: float = 60
    in_s: float = 300
    out: tuple[Step, ...] = ONE_MORE
    back: tuple[Step, ...] = ONE_LESS

    def more(self, value: float, serving: int, desired: int) -> int:
        return desired + change(self.out, value - self.high.threshold)

    def fewer(self, value: float, serving: int, desired: int) -> int:
        return desired if self.low is None else desired + change(self.back, value - self.low.threshold)


Policy = TargetTracking | StepScaling


# --- the policies that a deployment offers ---


def concurrency(target: float, out_s: float = 60, in_s: float = 300) -> TargetTracking:
    """Return the policy on requests in progress per instance, which AWS publishes every 10 s."""
    return TargetTracking(target, period_s=10, out_s=out_s, in_s=in_s)


def report(high: float, low: float, out_s: float = 60, in_s: float = 300) -> StepScaling:
    """Return the policy on CPUUtilization: one more after 30 s above `high`, one less after 15 minutes below `low`.

    In percent, 100 for each vCPU. Target tracking cannot do that: its metrics of one's own have periods of a minute.
    """
    return StepScaling(Alarm(high, True, 10), Alarm(low, False, 60, 15, 15), out_s, in_s)


def invocations(max_rps: float, safety: float = SAFETY, out_s: float = 300, in_s: float = 300) -> TargetTracking:
    """Return the policy on requests per minute and instance, by the formula of AWS's page on load tests.

    max_rps: the most requests per second that an instance answers as fast as wanted, measured. safety: the share of it
    to aim at.
    """
    return TargetTracking(max_rps * safety * 60, out_s=out_s, in_s=in_s)


# --- what a policy does at one moment ---


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
        """Evaluate the alarms, and return the number of instances to have, and the scaler for the next evaluation.

        values, slow: the metric in periods of the alarm for more instances and of the one for fewer. serving: the
        instances that the metric is the average of. desired: those in service or starting.
        """
        policy = self.policy
        high = policy.high.state(values, self.high)
        low = policy.low.state(slow, self.low) if policy.low else State.OK
        return replace(self, high=high, low=low).act(now, latest(values), latest(slow), serving, desired)

    def act(
        self, now: float, value: float | None, slow: float | None, serving: int, desired: int
    ) -> "tuple[int, Scaler]":
        """Return the number of instances to have from now on, and the scaler afterwards; its alarms are evaluated.

        value, slow: the latest values of the metric, in periods of either alarm.

        Nothing changes while instances start: SageMaker refuses updates of an endpoint that is being updated, and a
        cool-down begins when the activity has completed (call `completed` then). A cool-down for more instances lets
        only a larger wish pass than what it was begun for, so a policy in steps waits for its end. One for fewer holds
        back removals alone, and ends when instances are added.
        """
        policy = self.policy
        if desired != serving:
            return desired, self
        if self.high is State.ALARM and value is not None:
            wanted = min(policy.more(value, serving, desired), self.most)
            tracks = isinstance(policy, TargetTracking)
            if wanted > desired and (now >= self.out_until or tracks):
                return wanted, replace(self, in_until=-math.inf)
            return desired, self
        blocked = now < self.in_until or now < self.out_until
        if self.low is State.ALARM and not blocked and slow is not None:
            wanted = max(policy.fewer(slow, serving, desired), self.least)
            if wanted < desired:
                return wanted, replace(self, in_until=now + policy.in_s)
        return desired, self

    def completed(self, now: float) -> "Scaler":
        """Return the scaler after all instances that it asked for have come into service."""
        return replace(self, out_until=now + self.policy.out_s)


def latest(values: Points) -> float | None:
    """Return the latest value that there is."""
    return next((value for value in reversed(values) if value is not None), None)


# --- how soon ---


def reaction_s(policy: Policy) -> tuple[float, float]:
    """Return the least and the most seconds from a rise of the load until instances are asked for.

    At least the points that the alarm waits for, less nearly all of the first one, in which the load may have risen
    late and high. At most one more period, in part of which the load was low, one until its value can be read, and one
    until the alarm is evaluated.
    """
    alarm = policy.high
    return (alarm.points - 1) * alarm.period_s, (alarm.points + 2) * alarm.period_s + alarm.every_s
