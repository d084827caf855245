"""The rules of CloudWatch's alarms, by the tables of its guide, and of the policies that act on them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.aws.alarms import Alarm, Missing, Points, State
from launchers.aws.scaling import Scaler, StepScaling, TargetTracking

OK, ALARM, NONE = State.OK, State.ALARM, State.INSUFFICIENT_DATA
TREATMENTS: tuple[Missing, ...] = ("missing", "ignore", "breaching", "notBreaching")


def points(text: str) -> Points:
    """As in the guide: 0 is within the threshold of 1, X breaches it, - is missing; the latest is on the right."""
    return [{"0": 0.0, "X": 2.0, "-": None}[sign] for sign in text.split()]


@pytest.mark.parametrize(
    ("to_alarm", "data", "expected"),
    [  # "Configuring how CloudWatch alarms treat missing data", its two tables; None: retains its state
        (3, "0 - X - X", (OK, OK, OK, OK)),
        (3, "0 - - - -", (OK, OK, OK, OK)),
        (3, "- - - - -", (NONE, None, ALARM, OK)),
        (3, "0 X X - X", (ALARM, ALARM, ALARM, ALARM)),
        (3, "- - X - -", (ALARM, None, ALARM, OK)),
        (2, "0 - X - X", (ALARM, ALARM, ALARM, ALARM)),
        (2, "0 0 X 0 X", (ALARM, ALARM, ALARM, ALARM)),
        (2, "0 - X - -", (OK, OK, ALARM, OK)),
        (2, "- - - - 0", (OK, OK, ALARM, OK)),
        (2, "- - - X -", (ALARM, None, ALARM, OK)),
    ],
)
def test_missing_data_counts_as_in_the_guide(to_alarm: int, data: str, expected: tuple[State | None, ...]) -> None:
    for treatment, wanted in zip(TREATMENTS, expected, strict=True):
        alarm = Alarm(1.0, points=to_alarm, of=3, missing=treatment)
        for before in State:
            assert alarm.state(points(data), before) is (wanted or before), (treatment, before)


@pytest.mark.parametrize("data", ["- - - - X", "- - - X -"])
def test_a_single_recent_breach_is_no_alarm_yet(data: str) -> None:
    assert Alarm(1.0, points=3, of=3).state(points(data), OK) is OK


@given(st.lists(st.sampled_from([None, 0.0, 2.0]), max_size=12), st.integers(1, 4), st.integers(0, 3))
def test_only_the_evaluation_range_matters_and_more_breaches_never_calm(
    values: list[float | None], to_alarm: int, extra: int
) -> None:
    alarm = Alarm(1.0, points=to_alarm, of=to_alarm + extra, missing="notBreaching")
    assert alarm.state(values) is alarm.state(
        [2.0, 0.0, None, *values][-alarm.fetched :] if len(values) >= alarm.fetched else values
    )
    if alarm.state(values) is ALARM:
        assert alarm.state([None if value is None else 2.0 for value in values]) is ALARM


def test_alarms_below_a_threshold_and_equal_values() -> None:
    low = Alarm(1.0, above=False, points=1, of=1)
    assert low.state([0.5]) is ALARM
    assert low.state([1.0]) is OK
    assert Alarm(1.0, points=1, of=1).state([1.0]) is OK


def minutes(policy: TargetTracking | StepScaling, values: list[float], *, least: int = 1, most: int = 5) -> list[int]:
    """Return the number of instances after each evaluation, one for each value; new instances serve at once."""
    scaler, count, counts = Scaler(policy, least, most), least, []
    for place, _ in enumerate(values):
        now = (place + 1) * scaler.every_s
        known = values[: place + 1]
        wanted, scaler = scaler.decide(now, known, known, count, count)
        if wanted > count:
            scaler = scaler.completed(now)
        count = wanted
        counts.append(count)
    return counts


def test_target_tracking_adds_after_three_minutes_and_removes_after_fifteen() -> None:
    policy = TargetTracking(target=70)
    busy = minutes(policy, [140.0] * 5)
    assert busy == [1, 1, 2, 4, 5]  # a metric that stays at twice the target asks for twice as many again
    quiet = minutes(policy, [10.0] * 20, least=1, most=5)
    assert quiet == [1] * 20
    counts = minutes(policy, [300.0] * 3 + [30.0] * 20)
    assert counts[2] == 5
    assert counts[3:].index(3) == 14  # the fifteenth quiet minute: 5 x 30 / 70 are 3


def test_target_tracking_does_not_remove_within_a_tenth_of_its_target() -> None:
    counts = minutes(TargetTracking(target=100), [250.0] * 3 + [95.0] * 40)
    assert counts[-1] == 3


def test_steps_wait_for_their_cool_down_and_end_with_the_alarm() -> None:
    policy = StepScaling(Alarm(140, period_s=10), None, out_s=60)
    counts = minutes(policy, [200.0] * 16)
    assert counts == [1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4]
    assert minutes(policy, [200.0] * 3 + [0.0] * 9)[-1] == 2  # it has no alarm for removing


def test_a_larger_wish_passes_the_cool_down_of_target_tracking() -> None:
    assert minutes(TargetTracking(target=10, out_s=600), [15.0] * 3 + [50.0] * 3) == [1, 1, 2, 5, 5, 5]


def test_nothing_changes_while_instances_start() -> None:
    scaler = Scaler(TargetTracking(target=10), 1, 5)
    for minute in range(1, 9):
        wanted, scaler = scaler.decide(minute * 60, [30.0] * minute, [30.0] * minute, 1, 3)
        assert wanted == 3
    assert scaler.high is ALARM


@given(st.lists(st.floats(0, 500), min_size=1, max_size=60), st.integers(1, 3), st.integers(0, 4))
def test_the_number_stays_within_its_limits(values: list[float], least: int, extra: int) -> None:
    counts = minutes(TargetTracking(target=70), values, least=least, most=least + extra)
    assert all(least <= count <= least + extra for count in counts)


@given(st.floats(0.01, 1e4), st.integers(1, 20), st.floats(0.1, 1e3))
def test_the_wished_number_brings_the_metric_to_its_target(value: float, serving: int, target: float) -> None:
    wanted = TargetTracking(target).wanted(value, serving)
    assert wanted == 0 or value * serving / wanted <= target * (1 + 1e-6)
    assert math.isclose(wanted, value * serving / target, abs_tol=1 + 1e-6)
