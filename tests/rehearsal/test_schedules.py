"""EventBridge Scheduler in the rehearsal cloud: one-time schedules that delete an endpoint and themselves."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import ACCOUNT, REGION
from tests.support.deployed import ROLE, Hosting, refusal
from tests.support.launcher_contract import until

pytestmark = pytest.mark.cloud
DELETE = "arn:aws:scheduler:::aws-sdk:sagemaker:deleteEndpoint"
GROUP = f"arn:aws:scheduler:{REGION}:{ACCOUNT}:schedule-group/default"


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    place = tmp_path_factory.mktemp("schedules") / "state"
    try:
        yield Hosting(Rehearsal(state_dir=str(place), reclaims=0, clock_rate=10)).ready()
    finally:
        process.stop(place)


def role(hosting: Hosting, name: str, *actions: str, service: str = "scheduler.amazonaws.com") -> str:
    """Create a role that a service may take, and which may do these actions; its ARN."""
    iam = hosting.cloud.client("iam")
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": GROUP}},
    }
    trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    allowed = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_role_policy(RoleName=name, PolicyName="all", PolicyDocument=policy)
    return str(arn)


def schedule(hosting: Hosting, name: str, role_arn: str, *, in_s: float = 20, **more: Any) -> None:
    """Create a schedule that is due in so many seconds, of which ten are a real one."""
    target = {"Arn": DELETE, "RoleArn": role_arn, "Input": json.dumps({"EndpointName": name})}
    hosting.cloud.client("scheduler").create_schedule(
        **{
            "Name": name,
            "ScheduleExpression": at(in_s),
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "ActionAfterCompletion": "DELETE",
            "Target": {**target, **more.pop("Target", {})},
            **more,
        }
    )


def at(in_s: float) -> str:
    return f"at({(datetime.now(UTC) + timedelta(seconds=in_s)).strftime('%Y-%m-%dT%H:%M:%S')})"


def names(hosting: Hosting) -> list[str]:
    return [each["Name"] for each in hosting.cloud.client("scheduler").list_schedules()["Schedules"]]


def test_a_schedule_deletes_an_endpoint_that_is_still_being_created_and_then_itself(hosting: Hosting) -> None:
    arn = role(hosting, "expiry", "sagemaker:DeleteEndpoint")
    hosting.config("late", hosting.model("late", start_s=4))
    schedule(hosting, "late", arn, in_s=10)
    found = hosting.cloud.client("scheduler").get_schedule(Name="late")
    assert found["Target"]["Arn"] == DELETE
    assert (found["State"], found["GroupName"], found["ActionAfterCompletion"]) == ("ENABLED", "default", "DELETE")
    assert found["Target"]["RetryPolicy"] == {"MaximumEventAgeInSeconds": 86400, "MaximumRetryAttempts": 185}
    # it takes 40 s of the clock: the first attempts are refused
    hosting.sagemaker.create_endpoint(EndpointName="late", EndpointConfigName="late")
    until(lambda: "late" not in hosting.names())
    until(lambda: "late" not in names(hosting))


def test_a_schedule_has_the_permissions_of_its_role_alone(hosting: Hosting) -> None:
    hosting.deploy("guarded")
    arn = role(hosting, "narrow", "sagemaker:DeleteModel")
    schedule(hosting, "guarded", arn, in_s=5, Target={"RetryPolicy": {"MaximumRetryAttempts": 1}})
    until(lambda: "guarded" not in names(hosting))  # after two attempts it is over
    assert hosting.shown("guarded")["EndpointStatus"] == "InService"
    hosting.delete("guarded")


def test_other_operations_are_targets_as_well(hosting: Hosting) -> None:
    arn = role(hosting, "others", "cloudwatch:DeleteAlarms", "sagemaker:DeleteModel")
    hosting.model("old")
    alarm = {"Namespace": "x", "MetricName": "y", "Statistic": "Sum", "Period": 60, "EvaluationPeriods": 1}
    watch = hosting.cloud.client("cloudwatch")
    watch.put_metric_alarm(AlarmName="old", Threshold=1, ComparisonOperator="GreaterThanThreshold", **alarm)
    prefix = "arn:aws:scheduler:::aws-sdk"
    targets = {
        "alarm": {"Arn": f"{prefix}:cloudwatch:deleteAlarms", "Input": json.dumps({"AlarmNames": ["old"]})},
        "model": {"Arn": f"{prefix}:sagemaker:deleteModel", "Input": json.dumps({"ModelName": "old"})},
    }
    for name, target in targets.items():
        schedule(hosting, name, arn, in_s=2, Target=target)
    until(lambda: not names(hosting))
    assert not watch.describe_alarms(AlarmNames=["old"])["MetricAlarms"]
    assert "Could not find model" in refusal(hosting.sagemaker.describe_model, ModelName="old")[1]


def test_schedules_that_cannot_be_are_refused(hosting: Hosting) -> None:
    client, arn = hosting.cloud.client("scheduler"), role(hosting, "refused", "sagemaker:DeleteEndpoint")
    good = {
        "Name": "x",
        "ScheduleExpression": at(3600),
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {"Arn": DELETE, "RoleArn": arn, "Input": "{}"},
    }

    def refused(**changed: Any) -> tuple[str, str]:
        return refusal(client.create_schedule, **{**good, **changed})

    def of_target(**changed: str) -> str:
        return refused(Target={**good["Target"], **changed})[1]  # type: ignore[dict-item]

    assert "must allow AWS EventBridge Scheduler to assume the role" in of_target(RoleArn=ROLE)
    assert "only reads" in of_target(Arn=DELETE.replace("delete", "describe"))
    assert "has no operation" in of_target(Arn=DELETE.replace("Endpoint", "Dogs"))
    assert "must be a JSON object" in of_target(Input="EndpointName")
    assert refused(ScheduleExpression="at(tomorrow)") == (
        "ValidationException",
        "Invalid Schedule Expression at(tomorrow).",
    )
    assert "one-time schedules alone" in refused(ScheduleExpression="rate(5 minutes)")[1]
    assert refused(GroupName="none")[0] == "ResourceNotFoundException"
    client.create_schedule(**good)
    assert refused()[0] == "ConflictException"
    client.delete_schedule(Name="x")
    assert refusal(client.get_schedule, Name="x")[0] == "ResourceNotFoundException"
    assert refusal(client.delete_schedule, Name="x")[0] == "ResourceNotFoundException"


def test_a_schedule_is_executed_after_a_restart_of_the_cloud(tmp_path: Path) -> None:
    place = tmp_path / "state"
    hosting = Hosting(Rehearsal(state_dir=str(place), reclaims=0, clock_rate=10)).ready()
    try:
        hosting.deploy("stays")
        schedule(hosting, "stays", role(hosting, "expiry", "sagemaker:DeleteEndpoint"), in_s=2000)
        process.stop(place)
        again = Hosting(Rehearsal(state_dir=str(place), reclaims=0))
        assert names(again) == ["stays"]
        assert again.ask("stays")["model"] == "boxer"
        again = again.hurried()
        until(lambda: "stays" not in again.names())
        until(lambda: not names(again))
    finally:
        process.stop(place)
