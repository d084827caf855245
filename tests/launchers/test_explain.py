"""`python -m launchers explain`: policies as AWS's interfaces have them, in sentences."""

import json
from pathlib import Path
from typing import Any

import pytest

from launchers.aws import scaling_described as described
from launchers.aws.scaling import StepScaling, TargetTracking, concurrency, report
from launchers.aws.scaling_documents import Documents, scales
from launchers.cli import verbs
from launchers.cost import prices, serving
from launchers.deploy import autoscaling
from launchers.deploy.names import Names
from launchers.deploy.scaling import Scaled
from tests.support.answers import SCHEMAS, problems

ARN = "arn:aws:autoscaling:eu-west-1:123456789012:scalingPolicy:8a2f:resource/sagemaker/{}:policyName/{}"
VARIANT = "endpoint/dogs/variant/main"
ABOUT = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": VARIANT,
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
TARGET = {**ABOUT, "MinCapacity": 1, "MaxCapacity": 3, "RoleARN": "arn:aws:iam::123456789012:role/x"}
TRACKING = {
    **ABOUT,
    "PolicyARN": ARN.format(VARIANT, "by-requests"),
    "PolicyName": "by-requests",
    "PolicyType": "TargetTrackingScaling",
    "TargetTrackingScalingPolicyConfiguration": {
        "TargetValue": 600.0,
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
    },
    "Alarms": [{"AlarmName": "TargetTracking-x-AlarmHigh", "AlarmARN": "arn:aws:cloudwatch:..."}],
    "CreationTime": "2026-11-29T08:30:00+00:00",
}


def step(name: str, *steps: dict[str, float], kind: str = "ChangeInCapacity", **more: Any) -> dict[str, Any]:
    config = {
        "AdjustmentType": kind,
        "StepAdjustments": list(steps),
        "Cooldown": 60,
        "MetricAggregationType": "Average",
    }
    about = {**ABOUT, "PolicyARN": ARN.format(VARIANT, name), "PolicyName": name, "PolicyType": "StepScaling"}
    return {**about, "StepScalingPolicyConfiguration": config, "Alarms": [{"AlarmName": name}], **more}


def alarm(name: str, threshold: float, *, above: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "AlarmName": name,
        "MetricName": "CPUUtilization",
        "Namespace": "/aws/sagemaker/Endpoints",
        "Statistic": "Average",
        "Period": 10 if above else 60,
        "EvaluationPeriods": 3 if above else 15,
        "Threshold": threshold,
        "ComparisonOperator": "GreaterThanThreshold" if above else "LessThanThreshold",
        "AlarmActions": [ARN.format(VARIANT, name)],
        **more,
    }


OUT = step("out", {"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1})
BACK = step("back", {"MetricIntervalUpperBound": 0, "ScalingAdjustment": -1})
ALARMS = {"MetricAlarms": [alarm("out", 140), alarm("back", 70, above=False)]}


def explained(capsys: pytest.CaptureFixture[str], tmp_path: Path, *found: Any, options: tuple[str, ...] = ()) -> str:
    paths = []
    for number, each in enumerate(found):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(each if isinstance(each, str) else json.dumps(each))
    assert verbs.main(["explain", *map(str, paths), *options]) == 0
    said = capsys.readouterr().out
    if "--json" not in options:
        assert max(map(len, said.splitlines())) <= 80
    return said if "--json" in options else " ".join(said.split())


# --- the forms that AWS has ---


def test_target_tracking_as_it_is_described(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = explained(capsys, tmp_path, {"ScalingPolicies": [TRACKING]}, {"ScalableTargets": [TARGET]})
    for words in (
        f"Policy by-requests, on {VARIANT} 1 to 3 instances.",
        "More when an instance gets on average more than 600 requests a minute for 3 of 3 minutes",
        "as many as bring it to 600.",
        "That is 120 to 360 s after the load rises",
        "after 300 s, or at once if even more are wanted.",
        "Fewer when it is below 540 for 15 of 15 minutes",
    ):
        assert words in said


def test_steps_with_their_alarms_in_one_file_or_two(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policies = {"ScalingPolicies": [OUT, BACK]}
    options = ("--instance-type", "ml.m5.large")
    said = explained(capsys, tmp_path, policies, ALARMS, options=options)
    assert "Policy out and back, on endpoint/dogs" in said
    assert "above 140 % (70 % of 2 vCPUs) for 3 of 3 points of 10 s: 1 more." in said
    assert "That is 20 to 60 s after the load rises" in said
    assert "below 70 % for 15 of 15 minutes: 1 less, at most every 60 s." in said
    assert "As many instances as its scalable target allows." in said
    one_file = json.dumps(policies) + "\n" + json.dumps(ALARMS)
    assert explained(capsys, tmp_path, one_file, options=options) == said
    assert explained(capsys, tmp_path, {**policies, **ALARMS}, options=options) == said


def test_what_put_scaling_policy_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    request = {key: value for key, value in TRACKING.items() if key not in ("PolicyARN", "Alarms", "CreationTime")}
    said = explained(capsys, tmp_path, request)
    assert "more than 600 requests a minute" in said
    config = request["TargetTrackingScalingPolicyConfiguration"]
    assert "more than 600 requests a minute" in explained(capsys, tmp_path, config)
    steps = OUT["StepScalingPolicyConfiguration"]
    put = {key: value for key, value in alarm("mine", 140).items() if key != "AlarmActions"}
    assert "for 3 of 3 points of 10 s: 1 more." in explained(capsys, tmp_path, steps, put)


@pytest.mark.parametrize("kind", ["report", "concurrency", "invocations"])
def test_the_requests_of_a_deployment_s_plan_are_read_as_its_rules(kind: str) -> None:
    policy = {"report": report(140, 70), "concurrency": concurrency(4, 30, 120), "invocations": TargetTracking(600)}[
        kind
    ]
    documents = Documents()
    for request in autoscaling.register(Scaled(kind, 1, 3, policy), Names("dogs"), []):
        documents.add(dict(request.parameters), "the plan")
    (found,) = scales(documents)
    assert found.policy == policy
    assert (found.least, found.most) == (1, 3)


# --- what policies can be ---


def test_several_steps_are_said_from_the_threshold_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    steps = step(
        "out",
        {"MetricIntervalLowerBound": 20, "MetricIntervalUpperBound": 40, "ScalingAdjustment": 2},
        {"MetricIntervalLowerBound": 0, "MetricIntervalUpperBound": 20, "ScalingAdjustment": 1},
        {"MetricIntervalLowerBound": 40, "ScalingAdjustment": 3},
    )
    back = step(
        "back",
        {"MetricIntervalUpperBound": -20, "ScalingAdjustment": -2},
        {"MetricIntervalLowerBound": -20, "MetricIntervalUpperBound": 0, "ScalingAdjustment": -1},
    )
    said = explained(capsys, tmp_path, {"ScalingPolicies": [steps, back]}, ALARMS)
    assert "1 more up to 160 %, 2 more up to 180 %, 3 more beyond that." in said
    assert "1 less down to 50 %, 2 less beyond that, at most" in said


@pytest.mark.parametrize(
    ("kind", "number", "words"), [("PercentChangeInCapacity", 50, "50 % more."), ("ExactCapacity", 4, "exactly 4.")]
)
def test_steps_may_be_shares_or_whole_numbers_of_instances(
    kind: str, number: int, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    policy = step("out", {"MetricIntervalLowerBound": 0, "ScalingAdjustment": number}, kind=kind)
    said = explained(capsys, tmp_path, policy, alarm("out", 140))
    assert words in said
    assert "Never fewer by this policy." in said


def test_m_of_n_missing_data_equality_and_other_metrics(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    about = {
        "MetricName": "MemoryUtilization",
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "DatapointsToAlarm": 2,
        "EvaluationPeriods": 5,
        "Period": 60,
        "TreatMissingData": "breaching",
    }
    said = explained(capsys, tmp_path, OUT, alarm("out", 80, **about))
    assert "MemoryUtilization is above 80 for 2 of 5 minutes: 1 more." in said
    assert "A period without data counts as beyond the threshold." in said
    rule = described.alarm({**alarm("out", 80), **about})
    assert rule.breached_by(80)
    assert not rule.breached_by(79.999)
    assert "for 3 of 3 points of 5 minutes" in explained(capsys, tmp_path, OUT, alarm("out", 80, Period=300))


def test_a_metric_of_one_s_own_and_no_scaling_in(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = {
        "TargetValue": 50,
        "CustomizedMetricSpecification": {"MetricName": "CPUUtilization", "Namespace": "x", "Statistic": "Average"},
        "ScaleOutCooldown": 0,
        "DisableScaleIn": True,
    }
    said = explained(capsys, tmp_path, config)
    assert "CPUUtilization is on average above 50 % (100 % for each vCPU) for 3 of 3 minutes" in said
    assert "after 0 s" in said
    assert "Never fewer by this policy." in said


def test_fewer_alone_and_limits_that_are_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = explained(capsys, tmp_path, BACK, alarm("back", 70, above=False))
    assert "Never more by this policy. Fewer when CPUUtilization is below 70 %" in said
    said = explained(capsys, tmp_path, TRACKING, {**TARGET, "MaxCapacity": 1})
    assert "Always 1 instance, since the least and the most are the same." in said


def test_without_its_alarm_a_policy_in_steps_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = explained(capsys, tmp_path, {"ScalingPolicies": [OUT, BACK]})
    assert "Changes the number of instances by +1 while its alarm is on" in said
    assert "aws cloudwatch describe-alarms --alarm-names back > alarms.json" in said
    said = explained(capsys, tmp_path, {"ScalingPolicies": [OUT, BACK]}, alarm("out", 140))
    assert "1 more" in said
    assert "--alarm-names back" in said
    assert "--alarm-names out" not in said


def test_several_policies_and_what_then_holds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = explained(capsys, tmp_path, {"ScalingPolicies": [TRACKING, OUT, BACK]}, ALARMS)
    assert "Of several policies the one that wants the most" in said


def test_json_has_the_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    documents = ({"ScalingPolicies": [OUT, BACK]}, ALARMS, TARGET)
    answer = json.loads(explained(capsys, tmp_path, *documents, options=("--json",)))
    assert problems(answer, SCHEMAS["explain"]) == []
    (found,) = answer["policies"]
    assert (found["least"], found["most"], found["metric"], found["kind"]) == (1, 3, "cpu", "steps")
    assert found["reaction_s"] == [20, 60]
    assert found["out"]["threshold"] == 140
    assert found["in"]["of"] == 15
    assert found["sentences"][0] == "1 to 3 instances."


@pytest.mark.parametrize("more", [{"MetricName": "MemoryUtilization"}, {"Namespace": "mine"}, {}])
def test_policies_of_other_metrics_or_adjustments_are_said_one_by_one(
    more: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    back = step("back", {"MetricIntervalUpperBound": 0, "ScalingAdjustment": 1}, kind="ExactCapacity")
    policies = {"ScalingPolicies": [OUT, BACK if more else back]}
    found = {"MetricAlarms": [alarm("out", 140), alarm("back", 70, above=False, **more)]}
    said = explained(capsys, tmp_path, policies, found)
    assert "Policy out, on" in said
    assert "Policy back, on" in said
    first, _, second = said.partition("Policy back")
    assert "1 more" in first
    assert ("1 less" if more else "exactly 1") in second


def test_every_type_that_is_deployed_has_vcpus(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    kind = next(iter(prices._table()["hosting_unpriced"]))
    said = explained(capsys, tmp_path, {"ScalingPolicies": [OUT, BACK]}, ALARMS, options=("--instance-type", kind))
    assert f"of {serving.vcpus(kind)} vCPUs" in said


# --- what is none ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("not JSON", "is not JSON"),
        ("7", "is not a scaling policy"),
        ("{}", "it has nothing"),
        ('{"Statement": []}', "it has Statement"),
        ('{"ScalingPolicies": []}', "no scaling policy in it"),
        (json.dumps(ALARMS), "no scaling policy in it"),
        (json.dumps({**TRACKING, "ScalableDimension": "ecs:service:DesiredCount"}), "scales ecs:service:DesiredCount"),
        ('{"AutoScalingGroupName": "x", "PolicyName": "y"}', "EC2 Auto Scaling group"),
        ('{"PolicyName": "y", "PolicyType": "PredictiveScaling"}', "neither a target value nor steps"),
        ('{"TargetValue": "much"}', "not as AWS has it"),
        ('{"StepAdjustments": [{"MetricIntervalLowerBound": 0}]}', "lacks 'ScalingAdjustment'"),
    ],
)
def test_what_is_no_policy_is_said_to_be_none(
    text: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "policy.json").write_text(text)
    assert verbs.main(["explain", str(tmp_path / "policy.json")]) == 1
    error = capsys.readouterr().err
    assert words in error, error
    assert "Try: " in error


def test_files_that_are_not_there_and_types_that_are_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert verbs.main(["explain", str(tmp_path / "missing.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "policy.json").write_text(json.dumps(TRACKING))
    assert verbs.main(["explain", str(tmp_path / "policy.json"), "dogs"]) == 1
    assert "dogs: not a file" in capsys.readouterr().err
    assert verbs.main(["explain", str(tmp_path / "policy.json"), "--instance-type", "ml.m5.lagre"]) == 1
    assert "ml.m5.large" in capsys.readouterr().err


def test_steps_of_both_directions_may_be_one_policy() -> None:
    both = step(
        "both",
        {"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1},
        {"MetricIntervalUpperBound": 0, "ScalingAdjustment": -1},
    )
    alarms = [
        alarm("high", 140, AlarmActions=[both["PolicyARN"]]),
        alarm("low", 70, above=False, AlarmActions=[both["PolicyARN"]]),
    ]
    (found,) = scales(Documents([both], alarms))
    assert isinstance(found.policy, StepScaling)
    assert found.names == ("both",)
    assert found.policy.more(150, 1, 1) == 2
    assert found.policy.fewer(20, 2, 2) == 1
