"""How a deployment scales, as its plan says: settings, requests, what is refused, and what is found again."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.errors import ConfigError
from launchers.aws.scaling import StepScaling, TargetTracking
from launchers.cost.serving import vcpus
from launchers.deploy import autoscaling, names
from launchers.deploy.scaling import Concurrency, Fixed, Invocations, Report, Scaled
from launchers.plan import Plan, Request
from tests.support.deployments import in_service, launcher, spec

M5: dict[str, Any] = {"instance_type": "ml.m5.large", "fallback_type": None}
TOPIC = "arn:aws:sns:eu-west-1:123456789012:alarms"


def operations(plan: Plan, *services: str) -> list[str]:
    return [each.operation for each in plan.requests if each.service in (services or (autoscaling.SERVICE,))]


def of(plan: Plan, operation: str) -> list[Request]:
    return [each for each in plan.requests if each.operation == operation]


# --- settings ---


def test_what_stays_scales_and_what_ends_by_itself_does_not_unless_told() -> None:
    assert launcher().scaled is None
    assert launcher(ttl_hours=None).scaled == Scaled("concurrency", 2, 3, TargetTracking(2.0, 10, 60, 300))
    assert launcher(ttl_hours=None, scaling=Fixed(), instances=3).count == 3
    assert launcher(ttl_hours=8, scaling=Report(), **M5).count == 1


@pytest.mark.parametrize(
    ("kind", "count"),
    [("ml.m5.large", 2), ("ml.c7i.xlarge", 4), ("ml.c7i.2xlarge", 8), ("ml.m5.24xlarge", 96), ("ml.t2.medium", 2)],
)
def test_a_size_says_how_many_vcpus_there_are(kind: str, count: int) -> None:
    assert vcpus(kind) == count
    assert launcher(instance_type=kind, ttl_hours=None).scaled.policy.target == count  # type: ignore[union-attr]


WRONG: dict[str, dict[str, Any]] = {
    "cpu_percent=140 is 35% of the 4 vCPUs of ml.m5.xlarge": {"scaling": Report(), "instance_type": "ml.m5.xlarge"},
    "cpu_percent=200 is never exceeded: ml.m5.large has 2": {"scaling": Report(cpu_percent=200)},
    "calm_percent=140 must be above 0 and below cpu_percent=140": {"scaling": Report(calm_percent=140)},
    "scaling.max=1 is below launcher.scaling.min=2": {"scaling": Concurrency(max=1)},
    "scaling.min must be at least 1, got 0": {"scaling": Report(min=0)},
    "scaling.max=-1 is below": {"scaling": Report(max=-1)},
    "scaling.target must be above 0 and below 32": {"scaling": Concurrency(target=32)},
    "got 64, which ml.c7i.16xlarge has as vCPUs": {"scaling": Concurrency(), "instance_type": "ml.c7i.16xlarge"},
    "cpu_percent=4480 is never exceeded": {"scaling": Report(cpu_percent=4480), "instance_type": "ml.c7i.16xlarge"},
    "scaling.out_s must be from 0 to 3600": {"scaling": Concurrency(out_s=-1)},
    "scaling.in_s must be from 0 to 3600": {"scaling": Concurrency(in_s=1e6)},
    "scaling.max_rps is not set": {"scaling": Invocations()},
    "scaling.max_rps must be above 0": {"scaling": Invocations(max_rps=0)},
    "scaling.safety must be above 0 and at most 1": {"scaling": Invocations(max_rps=9, safety=2)},
    "instances=3 would not stay": {"scaling": Concurrency(), "instances": 3},
    "wait=false and launcher/scaling=report": {"scaling": Report(), "wait": False},
    "for no burstable type": {"scaling": Concurrency(), "instance_type": "ml.t2.medium"},
    "scaling.max must be a whole number, got 2.5": {"scaling": Report(max=2.5)},  # type: ignore[arg-type]
    "scaling.min must be a whole number, got 'two'": {"scaling": Report(min="two")},  # type: ignore[arg-type]
    "scaling.out_s must be a number, got nan": {"scaling": Concurrency(out_s=float("nan"))},
    "scaling.max_rps must be a number, got True": {"scaling": Invocations(max_rps=True)},
    "launcher/scaling is an endpoint's": {"scaling": Report(), "variant": "lambda", "lambda_role": "dogbreed-lambda"},
    "launcher.scaling=5 is not a way to scale": {"scaling": 5},
    "is not the ARN of an SNS topic": {"alarm_topic": "alarms"},
    "is a FIFO topic": {"alarm_topic": f"{TOPIC}.fifo"},
    "alarm_topic is in us-east-1": {"alarm_topic": TOPIC.replace("eu-west-1", "us-east-1")},
}


@pytest.mark.parametrize("words", WRONG)
def test_settings_that_cannot_be_are_refused_with_what_to_try(words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        launcher(**{**M5, **WRONG[words]}).plan(spec())
    assert "Try: " in str(caught.value)


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        launcher(scaling=Concurrency(min=0, max=-1, target=0, out_s=-1), alarm_topic="x").plan(spec())
    for key in ("scaling.min", "scaling.max", "scaling.target", "scaling.out_s", "alarm_topic"):
        assert f"launcher.{key}" in str(caught.value)


# --- requests ---


def test_the_report_has_an_alarm_and_a_policy_for_each_direction() -> None:
    plan = launcher(scaling=Report(), **M5).plan(spec())
    assert operations(plan) == ["RegisterScalableTarget", "PutScalingPolicy", "PutScalingPolicy"]
    names_ = [each.operation for each in plan.requests]
    assert names_.index("RegisterScalableTarget") > names_.index("CreateEndpoint")
    out, back = (each.parameters["StepScalingPolicyConfiguration"] for each in of(plan, "PutScalingPolicy"))
    assert out["StepAdjustments"] == [{"ScalingAdjustment": 1, "MetricIntervalLowerBound": 0.0}]
    assert back["StepAdjustments"] == [{"ScalingAdjustment": -1, "MetricIntervalUpperBound": 0.0}]
    assert (out["Cooldown"], back["Cooldown"]) == (60, 300)
    alarms = {each.parameters["AlarmName"]: each.parameters for each in of(plan, "PutMetricAlarm")}
    high, low = (alarms[name] for name in names.Names("dogs").steps.values())
    assert (high["Threshold"], high["Period"], high["EvaluationPeriods"], high["DatapointsToAlarm"]) == (140, 10, 3, 3)
    assert (low["Threshold"], low["Period"], low["EvaluationPeriods"], low["DatapointsToAlarm"]) == (70, 60, 15, 15)
    assert high["AlarmActions"] == [autoscaling.policy_in_plan("dogbreed-dogs-scale-out")]
    assert (high["Namespace"], high["MetricName"]) == ("/aws/sagemaker/Endpoints", "CPUUtilization")


def test_the_formula_of_aws_gives_the_target_of_invocations() -> None:
    plan = launcher(scaling=Invocations(max_rps=20, max=4), ttl_hours=None).plan(spec())
    (policy,) = of(plan, "PutScalingPolicy")
    assert policy.parameters["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 20 * 0.5 * 60
    assert of(plan, "RegisterScalableTarget")[0].parameters["MaxCapacity"] == 4


def test_the_same_scaling_is_not_asked_for_again() -> None:
    settings = {"scaling": Report(), **M5}
    assert launcher(**settings).plan(spec(in_service(**settings))).requests == ()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (Report(), Report(max=5), ["RegisterScalableTarget", "PutScalingPolicy", "PutScalingPolicy"]),
        (Concurrency(min=1), Concurrency(min=1, target=3), ["RegisterScalableTarget", "PutScalingPolicy"]),
        (
            Report(),
            Concurrency(min=1),
            ["DeregisterScalableTarget", "RegisterScalableTarget", "PutScalingPolicy"],
        ),
        (Report(), Fixed(), ["DeregisterScalableTarget"]),
        (Fixed(), Concurrency(min=1), ["RegisterScalableTarget", "PutScalingPolicy"]),
    ],
)
def test_another_scaling_alone_updates_no_endpoint(before: Any, after: Any, expected: list[str]) -> None:
    plan = launcher(scaling=after, **M5).plan(spec(in_service(scaling=before, **M5)))
    assert operations(plan) == expected
    resized = [each.parameters for each in plan.requests if each.service == "sagemaker"]
    if isinstance(after, Fixed):  # the load may have made it another number
        of_variant = {"VariantName": "main", "DesiredInstanceCount": 1}
        assert resized == [{"EndpointName": "dogbreed-dogs", "DesiredWeightsAndCapacities": [of_variant]}]
        assert "-> none, 1 instance" in " ".join(dict(plan.rows)["change"].split())
    else:
        assert resized == []
    assert [each.operation for each in plan.requests].count("DeleteAlarms") == (
        isinstance(before, Report) and not isinstance(after, Report)
    )
    tagged = [each for each in of(plan, "RegisterScalableTarget") if "Tags" in each.parameters]
    assert bool(tagged) == (
        "RegisterScalableTarget" in expected
        and (isinstance(before, Fixed) or (len(expected) == 3 and expected[0].startswith("De")))
    )
    change = dict(plan.rows)["change"]
    assert "this revision is in service" in change
    assert "scaling: " in change


def test_another_type_is_updated_between_the_end_of_its_scaling_and_its_beginning() -> None:
    plan = launcher(scaling=Concurrency(min=1)).plan(spec(in_service(scaling=Concurrency(min=1), **M5)))
    found = [each.operation for each in plan.requests if each.service != "cloudwatch"]
    places = [
        found.index(name)
        for name in ("DeregisterScalableTarget", "UpdateEndpoint", "RegisterScalableTarget", "PutScalingPolicy")
    ]
    assert places == sorted(places)
    assert "Tags" in of(plan, "RegisterScalableTarget")[0].parameters


@pytest.mark.parametrize(
    ("before", "after", "kept", "routing"),
    [
        (Concurrency(), Concurrency(max=5), True, "CANARY"),  # two at least, so one can be tried first
        (Concurrency(min=1), Concurrency(min=1, max=5), True, "ALL_AT_ONCE"),
        (Concurrency(min=1), Concurrency(min=2), False, "CANARY"),  # one now, perhaps: as many as are asked for
        (Concurrency(min=2), Fixed(), False, "ALL_AT_ONCE"),
        (Fixed(), Concurrency(min=1), True, "ALL_AT_ONCE"),
    ],
)
def test_an_update_keeps_as_many_instances_as_there_are(before: Any, after: Any, kept: bool, routing: str) -> None:
    earlier = replace(in_service(scaling=before), revision="0" * 10)
    plan = launcher(scaling=after).plan(spec(earlier))
    (update,) = of(plan, "UpdateEndpoint")
    assert update.parameters["RetainAllVariantProperties"]
    assert ("ExcludeRetainedVariantProperties" not in update.parameters) == kept
    policy = update.parameters["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    assert policy["TrafficRoutingConfiguration"]["Type"] == routing


def test_a_scaling_that_is_added_or_removed_changes_what_ends_with_the_deployment() -> None:
    steps = set(names.Names("dogs").steps.values())
    added = launcher(scaling=Report(), **M5).plan(spec(in_service(**M5)))
    begins, alarms = (each for each in added.requests if each.service == "scheduler")
    assert (begins.operation, begins.parameters["Name"]) == ("CreateSchedule", "dogbreed-dogs-expiry-scaling")
    assert begins.parameters["ScheduleExpression"] == "at(2026-11-24T13:00:00)"
    assert (alarms.operation, alarms.parameters["Name"]) == ("UpdateSchedule", "dogbreed-dogs-expiry-alarms")
    assert steps <= set(json.loads(alarms.parameters["Target"]["Input"])["AlarmNames"])
    removed = launcher(**M5).plan(spec(in_service(scaling=Report(), **M5)))
    alarms, over = (each for each in removed.requests if each.service == "scheduler")
    assert (over.operation, over.parameters) == ("DeleteSchedule", {"Name": "dogbreed-dogs-expiry-scaling"})
    assert steps.isdisjoint(json.loads(alarms.parameters["Target"]["Input"])["AlarmNames"])


def test_alarms_watch_errors_slow_answers_silence_and_refusals() -> None:
    from launchers.deploy import watching

    settings = launcher(ttl_hours=None, alarm_topic=TOPIC)
    found = {each["AlarmName"]: each for each in watching.alarms(settings, names.Names("dogs"), [], "dogbreed-dogs")}
    assert set(found) == {f"dogbreed-dogs-{kind}" for kind in ("errors", "latency", "slow", "idle", "throttled")}
    assert all(alarm["AlarmActions"] == [TOPIC] for alarm in found.values())
    assert found["dogbreed-dogs-slow"]["ExtendedStatistic"] == "p99"
    idle = found["dogbreed-dogs-idle"]
    assert idle["Period"] * idle["EvaluationPeriods"] == 24 * 3600
    assert idle["TreatMissingData"] == "breaching"
    assert found["dogbreed-dogs-throttled"]["Namespace"] == "AWS/Lambda"
    brief = watching.alarms(launcher(ttl_hours=8), names.Names("dogs"), [])
    assert not any(alarm["AlarmName"].endswith(("idle", "throttled")) or "AlarmActions" in alarm for alarm in brief)


def test_the_plan_says_what_scaling_does_and_costs() -> None:
    rows = dict(launcher(scaling=Report(), **M5).plan(spec()).rows)
    assert rows["where"].startswith("endpoint dogbreed-dogs: 1 to 3 x ml.m5.large")
    assert "above 140 % (70 % of 2 vCPUs)" in rows["scaling"].replace("\n", " ")
    assert "$83.95 to $251.85 a month, by the load" in rows["cost"]
    assert max(len(line) for line in rows["scaling"].splitlines()) <= 70


# --- what is found again ---


@given(st.floats(0.1, 30), st.integers(1, 3), st.integers(0, 3), st.floats(0, 3600), st.sampled_from([0.5, 1, 2, 4]))
def test_scalings_that_differ_read_differently(
    target: float, least: int, more: int, out_s: float, share: float
) -> None:
    one = Scaled("concurrency", least, least + more, TargetTracking(target, 10, out_s, 300))
    for other in (replace(one, most=one.most + 1), replace(one, kind="invocations"), replace(one, policy=None)):
        assert str(other) != str(one)
    moved = one.on(share)
    assert isinstance(moved.policy, TargetTracking)
    assert moved.policy.target == target * share
    assert (str(moved) == str(one)) == (f"{target * share:g}" == f"{target:g}")


def test_steps_follow_the_vcpus_of_another_type() -> None:
    scaled = launcher(scaling=Report(), **M5).scaled
    assert scaled is not None
    policy = scaled.on(2).policy
    assert isinstance(policy, StepScaling)
    assert policy.low is not None
    assert (policy.high.threshold, policy.low.threshold) == (280, 140)


NAMES = st.from_regex(r"[a-z](-?[a-z0-9]){0,10}", fullmatch=True)


@given(NAMES, NAMES)
def test_targets_and_alarms_are_found_under_the_name_of_their_deployment_alone(one: str, other: str) -> None:
    target, alarm = autoscaling.KINDS
    assert target.owner(names.Names(one).variant) == one
    assert alarm.owner(f"TargetTracking-{names.Names(one).variant}-AlarmHigh-1b2c") == one
    if one != other:
        assert target.owner(names.Names(one).variant) != other
    assert target.owner(f"endpoint/{one}/variant/main") is None
    assert alarm.owner(f"TargetTracking-endpoint/{one}/variant/main-AlarmLow-1") is None
