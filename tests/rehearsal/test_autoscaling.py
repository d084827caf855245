"""Application Auto Scaling in the rehearsal cloud: what may be asked, and what becomes of the number of instances."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launchers.aws.scaling_actions import SCALING_ROLE
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import ACCOUNT
from tests.support.deployed import Hosting, refusal
from tests.support.launcher_contract import until

pytestmark = pytest.mark.cloud
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
CONCURRENCY = "SageMakerVariantConcurrentRequestsPerModelHighResolution"
FREQUENT = {"EnableEnhancedMetrics": True, "MetricPublishFrequencyInSeconds": 10}
SERVICE_S = 1.0  # real, and long beside what a client takes on a busy machine; the clock runs ten times faster


@contextmanager
def cloud(place: Path, **faults: float) -> Iterator[Hosting]:
    try:
        made = Hosting(Rehearsal(state_dir=str(place), reclaims=0, clock_rate=10, faults=faults)).ready()
        made.model("model")
        for kind in ("ml.c7i.large", "ml.m5.large"):
            made.config(kind.split(".")[1], "model", InstanceType=kind, MetricsConfig=FREQUENT)
        made.config("t2", "model", InstanceType="ml.t2.medium")
        yield made
    finally:
        process.stop(place)


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with cloud(tmp_path_factory.mktemp("autoscaling") / "state", service_s=SERVICE_S, start_s=20) as made:
        yield made


def where(name: str) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/main",
        "ScalableDimension": DIMENSION,
    }


def endpoint(hosting: Hosting, name: str, config: str = "c7i") -> str:
    hosting.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    hosting.settled(name)
    return name


def scaling(hosting: Hosting) -> Any:
    return hosting.cloud.client("application-autoscaling")


def register(hosting: Hosting, name: str, least: int = 1, most: int = 3, **more: Any) -> Any:
    return scaling(hosting).register_scalable_target(**where(name), MinCapacity=least, MaxCapacity=most, **more)


def track(hosting: Hosting, name: str, target: float = 2.0, **more: Any) -> Any:
    about = {"TargetValue": target, "PredefinedMetricSpecification": {"PredefinedMetricType": CONCURRENCY}, **more}
    return scaling(hosting).put_scaling_policy(
        **where(name),
        PolicyName="follow",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=about,
    )


def targets(hosting: Hosting, name: str) -> list[dict[str, Any]]:
    ids = [where(name)["ResourceId"]]
    found = scaling(hosting).describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=ids)
    return list(found["ScalableTargets"])


def alarms(hosting: Hosting, prefix: str) -> dict[str, dict[str, Any]]:
    found = hosting.cloud.client("cloudwatch").describe_alarms(AlarmNamePrefix=prefix)["MetricAlarms"]
    return {each["AlarmName"]: each for each in found}


def activities(hosting: Hosting, name: str) -> list[dict[str, Any]]:
    """The earliest first."""
    found = scaling(hosting).describe_scaling_activities(**where(name))["ScalingActivities"]
    return list(reversed(found))


def statuses(hosting: Hosting, name: str) -> set[str]:
    return {each["StatusCode"] for each in activities(hosting, name)}


def count(hosting: Hosting, name: str) -> int:
    return int(hosting.shown(name)["ProductionVariants"][0]["CurrentInstanceCount"])


@contextmanager
def load(hosting: Hosting, name: str, clients: int) -> Iterator[None]:
    """Keep so many requests in progress."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                hosting.ask(name)
            except Exception:  # an endpoint that is updated may have no answer
                time.sleep(0.1)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_concurrency_adds_instances_that_start_with_delay_and_are_drained(hosting: Hosting) -> None:
    name = endpoint(hosting, "busy")
    register(hosting, name, Tags={"dogbreed:run-id": "busy"})
    made = track(hosting, name, ScaleOutCooldown=60, ScaleInCooldown=60)
    high, low = (each["AlarmName"] for each in made["Alarms"])
    assert high.startswith(f"TargetTracking-endpoint/{name}/variant/main-AlarmHigh-")
    found = alarms(hosting, "TargetTracking-endpoint/busy")
    assert (found[high]["Threshold"], found[high]["Period"], found[high]["EvaluationPeriods"]) == (2.0, 10, 3)
    assert found[low]["Threshold"] == pytest.approx(1.8)
    with load(hosting, name, 8):
        until(lambda: count(hosting, name) == 3 and statuses(hosting, name) == {"Successful"})
        assert hosting.ask(name)["size"] == 5
    assert len([line for line in hosting.log(name) if "starting" in line]) == 3  # each container once
    (first, *_) = activities(hosting, name)
    assert first["Cause"] == f"monitor alarm {high} in state ALARM triggered policy follow"
    seconds = 10 * (first["EndTime"] - first["StartTime"]).total_seconds()
    assert seconds >= 20  # start_s, on the cloud's clock


def test_a_step_adds_one_instance_when_the_threads_are_busy(hosting: Hosting) -> None:
    name, cloudwatch = endpoint(hosting, "steps"), hosting.cloud.client("cloudwatch")
    register(hosting, name, 1, 2)
    step = {
        "AdjustmentType": "ChangeInCapacity",
        "Cooldown": 60,
        "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
    }
    arn = scaling(hosting).put_scaling_policy(
        **where(name), PolicyName="out", PolicyType="StepScaling", StepScalingPolicyConfiguration=step
    )["PolicyARN"]
    cloudwatch.put_metric_alarm(
        AlarmName="steps-out", Namespace="/aws/sagemaker/Endpoints", MetricName="CPUUtilization", Statistic="Average",
        Dimensions=[{"Name": "EndpointName", "Value": name}, {"Name": "VariantName", "Value": "main"}],
        Period=10, EvaluationPeriods=3, Threshold=140, ComparisonOperator="GreaterThanThreshold", AlarmActions=[arn],
    )  # fmt: skip
    with load(hosting, name, 1):  # one thread of two: 100 %
        time.sleep(6)
    assert activities(hosting, name) == []
    with load(hosting, name, 4):
        until(lambda: count(hosting, name) == 2)
        time.sleep(2)
    assert [each["Description"] for each in activities(hosting, name)] == ["Setting desired instance count to 2."]
    alarm = alarms(hosting, "steps-out")["steps-out"]
    assert "140" in alarm["StateReasonData"]


def test_limits_hold_at_once_whatever_the_load_is(hosting: Hosting) -> None:
    name = endpoint(hosting, "limits")
    register(hosting, name, 2, 3)
    until(lambda: count(hosting, name) == 2)
    register(hosting, name, 1, 1)
    until(lambda: [each["StatusCode"] for each in activities(hosting, name)] == ["Successful"] * 2)
    assert count(hosting, name) == 1
    found = activities(hosting, name)
    assert [each["Cause"] for each in found] == ["minimum capacity was set to 2", "maximum capacity was set to 1"]


def test_a_variant_that_scales_keeps_its_type_and_goes_with_its_endpoint(hosting: Hosting) -> None:
    name = endpoint(hosting, "kept")
    register(hosting, name)
    track(hosting, name)
    change: Callable[..., Any] = hosting.sagemaker.update_endpoint
    code, text = refusal(change, EndpointName=name, EndpointConfigName="m5")
    assert code == "ValidationException"
    assert "must be deregistered as scalable targets" in text
    assert "endpoint/kept/variant/main" in text
    scaling(hosting).deregister_scalable_target(**where(name))
    assert alarms(hosting, f"TargetTracking-endpoint/{name}/") == {}
    change(EndpointName=name, EndpointConfigName="m5")
    hosting.settled(name)
    register(hosting, name)
    track(hosting, name)
    hosting.delete(name)
    assert targets(hosting, name) == []
    assert alarms(hosting, f"TargetTracking-endpoint/{name}/") == {}


def test_whoever_deletes_an_endpoint_that_scales_must_be_allowed_to_deregister_it(hosting: Hosting) -> None:
    name = endpoint(hosting, "guarded")
    register(hosting, name)
    denied = hosting.with_faults(denied=["application-autoscaling:DeregisterScalableTarget"])
    code, text = refusal(denied.sagemaker.delete_endpoint, EndpointName=name)
    assert code == "ValidationException"
    assert "does not have application-autoscaling:DeregisterScalableTarget permission" in text
    hosting.delete(name)


def test_what_scales_survives_a_restart(tmp_path: Path) -> None:
    with cloud(tmp_path / "state") as first:
        name = endpoint(first, "lasting")
        register(first, name, Tags={"a": "b"})
        track(first, name)
        before = scaling(first).describe_scaling_policies(**where(name))["ScalingPolicies"]
        process.stop(first.cloud.state_folder)
        again = Hosting(Rehearsal(state_dir=first.cloud.state_dir, reclaims=0, clock_rate=10))
        until(lambda: count(again, name) == 1)
        assert scaling(again).describe_scaling_policies(**where(name))["ScalingPolicies"] == before
        tracked = {each["AlarmName"] for each in before[0]["Alarms"]}
        assert set(alarms(again, f"TargetTracking-endpoint/{name}/")) == tracked
        (target,) = targets(again, name)
        assert scaling(again).list_tags_for_resource(ResourceARN=target["ScalableTargetARN"])["Tags"] == {"a": "b"}


def test_what_aws_refuses_is_refused(hosting: Hosting) -> None:
    client, name = scaling(hosting), endpoint(hosting, "refused")
    target = {**where(name), "MinCapacity": 1, "MaxCapacity": 3}
    for changed, words in (
        ({"MinCapacity": 3, "MaxCapacity": 2}, "cannot be less than minimum"),
        ({"MinCapacity": 0}, "at least 1"),
        ({"ResourceId": "endpoint/nobody/variant/main"}, "No variant found"),
        ({"ResourceId": "nonsense"}, "Unsupported"),
        ({"ServiceNamespace": "ecs", "ScalableDimension": "ecs:service:DesiredCount"}, "alone"),
    ):
        assert words in refusal(client.register_scalable_target, **{**target, **changed})[1]
    assert "burstable" in refusal(register, hosting=hosting, name=endpoint(hosting, "small", "t2"))[1]
    assert (
        refusal(client.put_scaling_policy, **where(name), PolicyName="p", PolicyType="StepScaling")[0]
        == "ObjectNotFoundException"
    )
    assert refusal(client.deregister_scalable_target, **where(name))[0] == "ObjectNotFoundException"
    client.register_scalable_target(**target, Tags={"a": "b"})
    assert "use the TagResource API" in refusal(client.register_scalable_target, **target, Tags={"a": "b"})[1]
    assert (
        "is required" in refusal(client.put_scaling_policy, **where(name), PolicyName="p", PolicyType="StepScaling")[1]
    )
    role = hosting.cloud.client("iam").get_role(RoleName=SCALING_ROLE)["Role"]["Arn"]
    assert role.startswith(f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/sagemaker.application-autoscaling")
