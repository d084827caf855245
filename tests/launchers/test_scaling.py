"""The rules of scaling policies: steps, cool-downs, limits, and the times that a policy's own words promise."""

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.aws.alarms import Alarm, State
from launchers.aws.scaling import (
    Policy,
    Scaler,
    Step,
    StepScaling,
    TargetTracking,
    change,
    concurrency,
    invocations,
    reaction_s,
    report,
)
from launchers.aws.scaling_words import explain

STEPS = (Step(1, 0, 20), Step(2, 20, 40), Step(3, 40))


def days(policy: Policy, load: list[float], *, start_s: int = 0, least: int = 1, most: int = 3) -> Iterator[int]:
    """Yield the instances in service every 10 s, those without a delay 10 s after they are asked for.

    load: the metric of all instances together, in points of 10 s.
    """
    scaler, serving, desired, ready = Scaler(policy, least, most), least, least, 0
    points: list[float] = []
    minutes: list[float] = []
    for number, whole in enumerate(load, 1):
        now = number * 10
        points.append(whole / serving)
        if now % 60 == 0:
            minutes.append(sum(points[-6:]) / 6)
        if desired > serving and now >= ready:
            serving, scaler = desired, scaler.completed(now)
        if now % scaler.every_s == 0:
            high = points if policy.high.period_s == 10 else minutes
            low = points if policy.low is not None and policy.low.period_s == 10 else minutes
            wanted, scaler = scaler.decide(now, high, low, serving, desired)
            if wanted > desired:
                ready = now + start_s
            serving = min(serving, wanted) if wanted < desired else serving
            desired = wanted
        yield serving


@pytest.mark.parametrize(
    ("distance", "expected"), [(0, 1), (19.9, 1), (20, 2), (39.9, 2), (40, 3), (1e9, 3), (-0.1, 0)]
)
def test_the_step_that_covers_the_distance_decides(distance: float, expected: int) -> None:
    assert change(STEPS, distance) == expected


@pytest.mark.parametrize(("distance", "expected"), [(0, -1), (-10, -2), (-9.9, -1), (-50, -2), (0.1, 0)])
def test_below_a_threshold_the_step_further_out_has_the_border(distance: float, expected: int) -> None:
    assert change((Step(-1, -10, 0), Step(-2, upper=-10)), distance) == expected


@given(st.floats(0, 200))
def test_steps_without_gaps_cover_every_distance_once(distance: float) -> None:
    assert sum(step.covers(distance) for step in STEPS) == 1


def test_a_larger_breach_adds_more_at_once() -> None:
    policy = StepScaling(Alarm(100, period_s=10), None, out=STEPS)
    for value, expected in ((110.0, 2), (130.0, 3), (150.0, 4), (100.0, 1)):
        high = policy.high.state([value] * 3)
        assert Scaler(policy, 1, 9, high).act(30, value, None, 1, 1)[0] == expected


def test_the_report_s_policy_adds_one_after_30_s_and_removes_one_after_15_minutes() -> None:
    policy = report(140, 70)
    busy = list(days(policy, [600.0] * 60))
    assert busy[:4] == [1, 1, 1, 2]  # asked for after the third point, so after 30 s
    assert busy.index(3) == 3 + 6 + 1  # asked for a minute after the second is in service
    assert max(busy) == 3
    calm = list(days(policy, [600.0] * 12 + [0.0] * 240))
    falls = [place for place in range(13, len(calm)) if calm[place] < calm[place - 1]]
    first, second = falls
    assert 12 + 90 - 1 <= first <= 12 + 90 + 5  # 15 of 15 minutes, counted in whole ones
    assert second - first == 30  # 300 s


def test_target_tracking_by_default_adds_after_3_minutes_serves_after_more_than_5_and_removes_after_15() -> None:
    policy = TargetTracking(target=70)
    counts = list(days(policy, [200.0] * 90 + [60.0] * 180, start_s=240))
    added = counts.index(3) + 1
    assert 10 * added == 180 + 240  # seconds: three minutes until the alarm, and the start
    assert 10 * added > 5 * 60
    removed = next(place for place in range(90, len(counts)) if counts[place] < 3)
    assert 10 * (removed + 1 - 90) == 15 * 60


def test_high_resolution_wants_instances_within_a_minute() -> None:
    assert list(days(concurrency(2), [6.0] * 60)).index(3) == 3  # asked for after 30 s
    assert reaction_s(concurrency(2)) == (20, 60)
    assert reaction_s(invocations(20)) == (120, 360)


@given(
    st.sampled_from([concurrency(2), report(140, 70), invocations(1), TargetTracking(70)]),
    st.lists(st.floats(0, 900), min_size=1, max_size=120),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 300),
)
def test_the_number_stays_within_its_limits_whatever_comes(
    policy: Policy, load: list[float], least: int, more: int, start_s: int
) -> None:
    assert all(
        least <= count <= least + more for count in days(policy, load, start_s=start_s, least=least, most=least + more)
    )


@given(st.lists(st.floats(0, 900), min_size=40, max_size=120), st.integers(0, 12))
def test_instances_are_added_one_after_the_other_with_the_wait_between(load: list[float], start: int) -> None:
    counts = list(days(report(140, 70), load, start_s=10 * start, most=6))
    rises = [place for place in range(1, len(counts)) if counts[place] > counts[place - 1]]
    assert all(counts[place] - counts[place - 1] == 1 for place in rises)
    assert all(later - sooner >= 6 for sooner, later in pairwise(rises))


@given(st.floats(0, 1e4), st.integers(1, 9), st.floats(0, 1e4))
def test_no_alarm_no_change(value: float, serving: int, slow: float) -> None:
    for state in (State.OK, State.INSUFFICIENT_DATA):
        scaler = Scaler(TargetTracking(70), 1, 9, state, state)
        assert scaler.act(0, value, slow, serving, serving) == (serving, scaler)


def test_a_policy_s_words_have_its_numbers() -> None:
    said = " ".join(explain(report(140, 70), "cpu", 1, 3, 2))
    for words in ("1 to 3 instances", "above 140 % (70 % of 2 vCPUs)", "3 of 3 points of 10 s: 1 more", "20 to 60 s"):
        assert words in said
    assert "below 70 % for 15 of 15 minutes: 1 less, at most every 300 s" in said
    said = " ".join(explain(concurrency(4, out_s=30), "concurrency", 2, 5, 4))
    assert "more than 4 requests in progress" in said
    assert "after 30 s, or at once if even more are wanted" in said
    assert "below 3.6 for 15 minutes" in said
    assert "more than 600 requests a minute" in " ".join(explain(invocations(20), "invocations", 1, 2, 2))
    assert explain(concurrency(2), "concurrency", 2, 2, 2) == [
        "Always 2 instances, since the least and the most are the same."
    ]
    assert math.isinf(Step(1).upper)
