"""Metrics of endpoints and alarms on them, without a cloud: periods, statistics, states, on a clock moved by hand."""

import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.cloudwatch.models import MetricAggregatedDatum, MetricDatum, cloudwatch_backends
from moto.sns.models import sns_backends

from launchers.rehearsal.clock import Clock
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.rehearsal.services import endpoint_load
from launchers.rehearsal.services.alarms import Alarms, alarm_states, data_of, rule_of, statistic
from launchers.rehearsal.services.endpoint_load import Load
from launchers.rehearsal.services.endpoint_metrics import Counted, Meter
from launchers.rehearsal.services.scaling_target import ScalableTarget

OF_DOGS = [{"Name": "EndpointName", "Value": "dogs"}, {"Name": "VariantName", "Value": "main"}]
DOGS = Counted("dogs", "main", "first")
START = 3_600_000_000.0  # in 2084


@dataclass
class Hand:
    """A clock that the test moves."""

    moment: float = START

    def now(self) -> float:
        return self.moment

    def at(self, moment: float) -> float:
        return moment

    def real(self, shown: float) -> float:
        return shown


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """CloudWatch without any metrics or alarms. The hand's clock is in the future, so nothing is old."""
    found = cloudwatch_backends[ACCOUNT][REGION]
    found.reset()
    yield found
    found.reset()


def put_alarm(backend: Any, **changed: Any) -> Any:
    given = {
        "name": "high",
        "namespace": "AWS/SageMaker",
        "metric_name": "Invocation5XXErrors",
        "comparison_operator": "GreaterThanThreshold",
        "evaluation_periods": 1,
        "period": 60,
        "threshold": 0.0,
        "statistic": "Sum",
        "description": "",
        "dimensions": OF_DOGS,
        "alarm_actions": [],
    }
    return backend.put_metric_alarm(**{**given, **changed})


def alarms(tmp_path: Path, clock: Any) -> Alarms:
    return Alarms(tmp_path / "alarms.json", clock)


def test_an_alarm_follows_what_invocations_publish(backend: Any, tmp_path: Path) -> None:
    clock = Hand()
    meter, watched = Meter(clock), alarms(tmp_path, clock)  # type: ignore[arg-type]
    put_alarm(backend)
    found = []
    for minute, statuses in enumerate([[], [200, 422], [200, 500], [], []]):
        clock.moment = START + 60 * minute + 1
        for status in statuses:
            meter.count(DOGS, {}, status, 0.1, 0.01)
        clock.moment = START + 60 * (minute + 1)
        meter.publish([])
        watched.evaluate()
        found.append(backend.alarms["high"].state_value)
    # without data CloudWatch looks at two older periods as well, so the state stays for so long
    assert found == ["INSUFFICIENT_DATA", "OK", "ALARM", "ALARM", "ALARM"]
    names = {"Invocations": 4, "Invocation4XXErrors": 1, "Invocation5XXErrors": 1, "ModelLatency": 4e5}
    for name, total in names.items():
        for dimensions in DOGS.dimensions:
            data = data_of("AWS/SageMaker", name, [(each["Name"], each["Value"]) for each in dimensions])
            assert sum(statistic([each], "Sum") for each in data) == pytest.approx(total)


def test_invocations_are_published_each_minute_unless_enhanced_metrics_say_otherwise(backend: Any) -> None:
    clock = Hand()
    meter = Meter(clock)  # type: ignore[arg-type]
    frequent = {"MetricPublishFrequencyInSeconds": 10}
    meter.count(Counted("plain", "main", "x"), frequent, 200, 0.1, 0.01)
    meter.count(Counted("enhanced", "main", "x"), {**frequent, "EnableEnhancedMetrics": True}, 200, 0.1, 0.01)
    clock.moment += 10
    meter.publish([])
    assert {each.dimensions[0].value for each in backend.metric_data} == {"enhanced"}
    clock.moment += 50
    meter.publish([])
    assert {each.dimensions[0].value for each in backend.metric_data} == {"enhanced", "plain"}


def test_a_changed_alarm_keeps_its_state_and_a_deleted_one_is_forgotten(backend: Any, tmp_path: Path) -> None:
    clock = Hand()
    watched = alarms(tmp_path, clock)
    put_alarm(backend)
    watched.evaluate()
    backend.set_alarm_state("high", "by hand", "{}", "ALARM")
    watched.evaluate()
    put_alarm(backend, treat_missing_data="ignore")
    assert alarm_states(["high"]) == {"high": "OK"}  # as moto makes them
    watched.evaluate()
    assert alarm_states(["high"]) == {"high": "ALARM"}
    backend.delete_alarms(["high"])
    watched.evaluate()
    put_alarm(backend)
    watched.evaluate()
    assert alarm_states(["high", "none"]) == {"high": "INSUFFICIENT_DATA"}


@pytest.mark.parametrize(
    ("operator", "value", "breaches"),
    [
        ("GreaterThanThreshold", 5.0, False),
        ("GreaterThanOrEqualToThreshold", 5.0, True),
        ("GreaterThanOrEqualToThreshold", 4.999, False),
        ("LessThanThreshold", 5.0, False),
        ("LessThanOrEqualToThreshold", 5.0, True),
        ("LessThanOrEqualToThreshold", 5.001, False),
    ],
)
def test_operators_with_equality(backend: Any, operator: str, value: float, breaches: bool) -> None:
    rule = rule_of(put_alarm(backend, comparison_operator=operator, threshold=5.0))
    assert rule is not None
    assert rule.breached_by(value) is breaches


def test_alarms_survive_a_restart(backend: Any, tmp_path: Path) -> None:
    clock = Hand()
    watched = alarms(tmp_path, clock)
    put_alarm(backend, datapoints_to_alarm=1, evaluation_periods=2, treat_missing_data="breaching")
    watched.evaluate()
    assert alarm_states(["high"]) == {"high": "ALARM"}
    before = vars(backend.alarms["high"])
    backend.reset()
    alarms(tmp_path, clock).load()
    after = vars(backend.alarms["high"])
    assert {key: after[key] for key in before if "timestamp" not in key and key != "history"} == {
        key: before[key] for key in before if "timestamp" not in key and key != "history"
    }


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30), st.integers(0, 30), st.integers(1, 100))
def test_statistics_do_not_depend_on_how_the_data_was_put(values: list[int], cut: int, rank: int) -> None:
    moment = datetime.now(UTC)

    def single(value: int) -> MetricDatum:
        return MetricDatum("n", "m", value, [], moment)

    first, second = values[:cut], values[cut:]
    sets = [
        MetricAggregatedDatum("n", "m", min(part), max(part), len(part), sum(part), [], moment)
        for part in (first, second)
        if part
    ]
    singles = [single(value) for value in values]
    for kind, expected in (
        ("Sum", sum(values)),
        ("SampleCount", len(values)),
        ("Average", sum(values) / len(values)),
        ("Minimum", min(values)),
        ("Maximum", max(values)),
    ):
        assert statistic(sets, kind) == pytest.approx(expected)
        assert statistic(singles, kind) == pytest.approx(expected)
    at_most = statistic(singles, f"p{rank}")
    assert sum(value <= at_most for value in values) >= math.ceil(rank / 100 * len(values))
    assert at_most in values


def test_a_faster_clock_goes_on_from_what_it_shows(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock.json")
    before, at_first = time.time(), clock.at(0.0)
    clock.set_rate(10)
    after, shown = time.time(), clock.now()
    assert clock.at(clock.real(shown) + 6) - shown == pytest.approx(60)
    # the moment at which the slow clock and the fast one show the same
    assert before - 0.001 <= (at_first - clock.at(0.0)) / 9 <= after + 0.001
    assert clock.wait(0.5) is True
    assert clock.wait(60, lambda: True) is False
    again = Clock(tmp_path / "clock.json")
    again.load()
    assert again.rate == 10
    assert again.at(after) == pytest.approx(clock.at(after))


def test_what_a_clock_has_shown_keeps_its_moment_at_another_rate(tmp_path: Path) -> None:
    clock, seen = Clock(tmp_path / "clock.json"), []
    for rate in (10.0, 1000.0, 1.0, 10.0):
        clock.set_rate(rate)
        time.sleep(0.01)
        moment = time.time()
        seen.append((clock.at(moment), moment))
    assert [clock.real(shown) for shown, _ in seen] == pytest.approx([moment for _, moment in seen], rel=0, abs=1e-3)


def test_an_alarm_tells_its_topic_of_its_new_state_alone(backend: Any, tmp_path: Path) -> None:
    topics, clock = sns_backends[ACCOUNT][REGION], Hand()
    topic = topics.create_topic("alarms")
    put_alarm(backend, treat_missing_data="breaching", alarm_actions=[topic.arn, f"{topic.arn}-gone"])
    put_alarm(backend, name="quiet", treat_missing_data="breaching", alarm_actions=[topic.arn], actions_enabled=False)
    watched = alarms(tmp_path, clock)
    for _ in range(3):
        watched.evaluate()
        clock.moment += 60
    ((_, message, subject, *_),) = topic.sent_notifications
    assert subject == "ALARM: high"
    assert json.loads(message)["OldStateValue"] == "INSUFFICIENT_DATA"
    topics.reset()


# --- load ---


def test_load_is_averaged_over_the_time_that_passed_and_threads_limit_what_is_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hand = Hand()
    monkeypatch.setattr(endpoint_load, "time", SimpleNamespace(monotonic=hand.now))
    load = Load(2, 0.0)
    start = load.totals()
    with load.request(1), load.request(1), load.request(1):
        hand.moment += 0.5
    end = load.totals()
    assert (end.inside_s - start.inside_s, end.busy_s - start.busy_s) == (1.5, 1.0)
    assert end.moment - start.moment == 0.5
    hand.moment += 1
    assert load.totals().inside_s == end.inside_s


def test_paced_requests_take_their_time_two_at_once() -> None:
    load, done = Load(2, 0.1), []

    def ask() -> None:
        with load.request(1) as taken:
            assert taken
        done.append(time.monotonic())

    began = time.monotonic()
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = sorted(moment - began for moment in done)
    assert seconds[0] >= 0.1
    assert seconds[2] >= 0.2
    assert 0.4 <= load.totals().busy_s + 1e-6 <= 2 * (time.monotonic() - began)


def test_a_request_that_no_thread_takes_in_time_is_given_up() -> None:
    load = Load(1, 0.2)
    with load.request(1), load.request(0.01) as taken:
        assert not taken


def test_the_requests_per_instance_are_those_of_all_shared_by_the_healthy_ones(backend: Any) -> None:
    clock = Hand()
    meter = Meter(clock)  # type: ignore[arg-type]
    instances = [SimpleNamespace(id=str(n), healthy=n > 0, load=Load(2, 0), variant=None) for n in range(3)]
    variant = SimpleNamespace(name="main")
    fleet = SimpleNamespace(instances={"main": instances}, all=lambda: [])
    run = SimpleNamespace(record=SimpleNamespace(name="dogs", metrics={}, variants=[variant]), fleet=fleet, green=None)
    for _ in range(6):
        meter.count(DOGS, {}, 200, 0.1, 0.01)
    clock.moment += 60
    meter.publish([run])  # type: ignore[list-item]
    data = data_of("AWS/SageMaker", "InvocationsPerInstance", [(each["Name"], each["Value"]) for each in OF_DOGS])
    assert sum(statistic([each], "Sum") for each in data) == 3  # six, shared by two


def test_no_period_is_left_out_where_nobody_has_looked_for_a_while(backend: Any) -> None:
    clock, load = Hand(), Load(2, 0)
    meter = Meter(clock)  # type: ignore[arg-type]
    variant = SimpleNamespace(name="main")
    instance = SimpleNamespace(id="one", healthy=True, load=load, variant=variant)
    fleet = SimpleNamespace(instances={"main": [instance]}, all=lambda: [instance])
    run: Any = SimpleNamespace(record=SimpleNamespace(name="dogs", metrics={}, variants=[]), fleet=fleet, green=None)
    with load.request(1):
        for seconds in (0, 10, 45):
            clock.moment += seconds
            meter.publish([run])
    data = [each for each in backend.metric_data if each.name == "ConcurrentRequestsPerModel"]
    starts = [round(each.timestamp.replace(tzinfo=UTC).timestamp() - START, 1) for each in data]
    assert starts == [0.1, 10.1, 20.1, 30.1, 40.1]
    assert [each.value for each in data] == pytest.approx([1.0] * 5)
    meter.publish([])
    assert not meter._due  # an endpoint of the same name begins anew


# --- the alarms of policies ---


def test_a_policy_that_never_removes_may_be_put_again() -> None:
    target = ScalableTarget("endpoint/dogs/variant/main", 1, 3, START, "role")
    config = {
        "TargetValue": 2.0,
        "PredefinedMetricSpecification": {
            "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
        },
    }
    backend, names = cloudwatch_backends[ACCOUNT][REGION], []
    try:
        for scales_in in (False, False, True, False):
            made = target.track("follow", "arn", {**config, "DisableScaleIn": not scales_in})
            target.policies["follow"] = {"PolicyType": "TargetTrackingScaling", "Alarms": made}
            names.append([each["AlarmName"] for each in made])
            assert sorted(backend.alarms) == sorted(names[-1])
        assert [len(each) for each in names] == [1, 1, 2, 1]
        assert len({each[0] for each in names}) == 1
    finally:
        backend.delete_alarms([name for each in names for name in each])
