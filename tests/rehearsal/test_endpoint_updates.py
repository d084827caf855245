"""Updates of endpoints in the rehearsal cloud: traffic in steps, bake times, rollback by alarms, capacities."""

import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.faults import Faults
from launchers.rehearsal.names import ACCOUNT, REGION, SERVER_FILE
from launchers.rehearsal.service import Refused
from launchers.rehearsal.services import endpoint_fleet
from launchers.rehearsal.services.endpoint_fleet import Balancer, Fleet
from launchers.rehearsal.services.endpoint_instance import StartError
from launchers.rehearsal.services.endpoint_record import Variant
from launchers.rehearsal.services.endpoint_update import check_deployment, shares
from tests.support.deployed import KIND, Hosting, archive, refusal
from tests.support.launcher_contract import until

ARN = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}"
ALL_AT_ONCE = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 60}


def variants(count: int) -> list[Variant]:
    return [Variant({"VariantName": "main"}, {}, count, 1.0)]


def policy(kind: str, wait_s: int = 60, **more: Any) -> dict[str, Any]:
    routing = {"Type": kind, "WaitIntervalInSeconds": wait_s, **more}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}


# --- what may be asked for ---


@given(st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_a_canary_is_at_most_half_of_the_instances(count: int, size: int, in_percent: bool) -> None:
    asked = {"Type": "CAPACITY_PERCENT", "Value": 5 * size} if in_percent else {"Type": "INSTANCE_COUNT", "Value": size}
    fits = 5 * size <= 50 if in_percent else 2 * size <= count
    deployment = policy("CANARY", CanarySize=asked)
    if fits:
        check_deployment(deployment, variants(count))
    else:
        with pytest.raises(Refused, match="less than or equal to 50% of the variant's total instance count"):
            check_deployment(deployment, variants(count))


@given(st.integers(10, 50))
def test_linear_steps_grow_evenly_and_end_with_all_traffic(percent: int) -> None:
    size = {"Type": "CAPACITY_PERCENT", "Value": percent}
    found = list(shares({"Type": "LINEAR", "LinearStepSize": size}, variants(4)))
    assert found[-1] == 1.0
    assert found == sorted(set(found))
    assert all(0 < later - sooner <= percent / 100 + 1e-9 for sooner, later in zip([0.0, *found], found, strict=False))
    assert len(found) == -(-100 // percent)


@pytest.mark.parametrize(
    ("deployment", "text"),
    [
        (policy("CANARY"), "CanarySize must be specified"),
        (policy("ALL_AT_ONCE", CanarySize={"Type": "INSTANCE_COUNT", "Value": 1}), "CanarySize must not be specified"),
        (policy("LINEAR", LinearStepSize={"Type": "CAPACITY_PERCENT", "Value": 5}), "LinearStepSize must be 10-50%"),
        ({"RollingUpdatePolicy": {}}, "no rolling deployments"),
    ],
)
def test_deployments_that_cannot_be_are_refused(deployment: dict[str, Any], text: str) -> None:
    with pytest.raises(Refused, match=text):
        check_deployment(deployment, variants(2))


def test_a_deployment_must_have_time_for_its_waits() -> None:
    asked = policy("CANARY", 300, CanarySize={"Type": "INSTANCE_COUNT", "Value": 1})
    asked["BlueGreenUpdatePolicy"] |= {"TerminationWaitInSeconds": 100, "MaximumExecutionTimeoutInSeconds": 701}
    check_deployment(asked, variants(2))
    asked["BlueGreenUpdatePolicy"]["MaximumExecutionTimeoutInSeconds"] = 700
    with pytest.raises(Refused, match=r"greater than the total waiting time .*700"):
        check_deployment(asked, variants(2))


# --- endpoints that are updated ---


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    place = tmp_path_factory.mktemp("updates") / "state"
    try:
        made = Hosting(Rehearsal(state_dir=str(place), reclaims=0, clock_rate=10)).ready()
        made.data("second", archive(answer="pug"))
        made.model("second", data="second")
        made.model("failing", data="second", fail_all=1)
        made.model("silent", data="second", ping_status=500)
        for model in ("second", "failing"):
            for count in (1, 2):
                made.config(f"{model}-{count}", model, count)
        made.config("silent-1", "silent", ContainerStartupHealthCheckTimeoutInSeconds=60)
        made.config("held-1", made.model("held", data="second", held=held(made)))
        yield made
    finally:
        process.stop(place)


def held(hosting: Hosting) -> Path:
    """A file: while it is there, containers of the model `held`, and others that are told of it, do not start."""
    return hosting.cloud.state_folder.with_name("held")


def change(hosting: Hosting, name: str, config: str, **more: Any) -> None:
    hosting.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config, **more)


def alarm(hosting: Hosting, name: str, endpoint: str) -> dict[str, Any]:
    """Create an alarm that goes off at the first answer with 5xx; the configuration for a rollback by it."""
    hosting.cloud.client("cloudwatch").put_metric_alarm(
        AlarmName=name,
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": "main"}],
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )
    return {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name}]}}


def state(hosting: Hosting, name: str) -> str:
    return str(hosting.cloud.client("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"])


@pytest.mark.cloud
def test_an_update_replaces_all_instances_and_loses_no_request(hosting: Hosting) -> None:
    hosting.deploy("swap")
    before = hosting.ask("swap")["pid"]
    answers: list[str] = []
    ended = threading.Event()

    def traffic() -> None:
        while not ended.is_set():
            answers.append(hosting.ask("swap")["model"])

    client = threading.Thread(target=traffic)
    held(hosting).touch()
    client.start()
    try:
        until(lambda: "boxer" in answers)
        change(hosting, "swap", "held-1")
        shown = hosting.shown("swap")
        assert shown["EndpointStatus"] == "Updating"
        assert shown["EndpointConfigName"] == "swap"
        assert shown["PendingDeploymentSummary"]["EndpointConfigName"] == "held-1"
        in_progress = f'Cannot update in-progress endpoint "{ARN}:endpoint/swap".'
        again = {"EndpointName": "swap", "EndpointConfigName": "held-1"}
        assert refusal(hosting.sagemaker.update_endpoint, **again)[1] == in_progress
        assert refusal(hosting.sagemaker.delete_endpoint, EndpointName="swap")[1] == in_progress
        held(hosting).unlink()
        after = hosting.settled("swap")
        until(lambda: "pug" in answers)
    finally:
        held(hosting).unlink(missing_ok=True)
        ended.set()
        client.join()
    assert (after["EndpointStatus"], after["EndpointConfigName"]) == ("InService", "held-1")
    assert "PendingDeploymentSummary" not in after
    assert set(answers) == {"boxer", "pug"}
    assert answers == sorted(answers)  # none of the old ones after the first of the new ones
    assert hosting.ask("swap")["pid"] != before
    hosting.sagemaker.delete_model(ModelName="swap")
    hosting.delete("swap")


@pytest.mark.cloud
def test_a_canary_gets_its_share_until_all_traffic_shifts(hosting: Hosting) -> None:
    hosting.deploy("canary", 2)
    canary = {"Type": "INSTANCE_COUNT", "Value": 1}
    one = {
        "EndpointName": "canary",
        "EndpointConfigName": "second-1",
        "DeploymentConfig": policy("CANARY", CanarySize=canary),
    }
    assert "less than or equal to 50%" in refusal(hosting.sagemaker.update_endpoint, **one)[1]
    change(hosting, "canary", "second-2", DeploymentConfig=policy("CANARY", 900, CanarySize=canary))

    def status_of_green() -> str:
        pending = hosting.shown("canary").get("PendingDeploymentSummary", {}).get("ProductionVariants")
        return str(pending[0].get("VariantStatus", [{"Status": ""}])[0]["Status"]) if pending else ""

    until(lambda: status_of_green() == "Baking")
    seen = [hosting.ask("canary")["model"] for _ in range(20)]
    assert seen.count("pug") == 10
    after = hosting.hurried().settled("canary")
    assert after["LastDeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]["Type"] == "CANARY"
    assert {hosting.ask("canary")["model"] for _ in range(4)} == {"pug"}
    hosting.delete("canary")


@pytest.mark.cloud
def test_a_model_that_fails_is_rolled_back_by_an_alarm_during_the_bake(hosting: Hosting) -> None:
    hosting.deploy("guarded")
    unknown = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "none"}]}}
    update = {"EndpointName": "guarded", "EndpointConfigName": "failing-1", "DeploymentConfig": unknown}
    assert "Could not find the alarms" in refusal(hosting.sagemaker.update_endpoint, **update)[1]
    rollback = alarm(hosting, "guarded-5xx", "guarded")
    until(lambda: state(hosting, "guarded-5xx") == "OK")  # missing data does not breach
    blind = hosting.with_faults(denied_to_role=["cloudwatch:DescribeAlarms"]).sagemaker.update_endpoint
    assert "cloudwatch:DescribeAlarms" in refusal(blind, **{**update, "DeploymentConfig": rollback})[1]
    change(hosting, "guarded", "failing-1", DeploymentConfig={**policy("ALL_AT_ONCE", 600), **rollback})
    until(lambda: refusal(hosting.runtime.invoke_endpoint, EndpointName="guarded", Body=b"x")[0] == "ModelError")
    after = hosting.settled("guarded")
    assert (after["EndpointStatus"], after["EndpointConfigName"]) == ("InService", "guarded")
    assert "guarded-5xx" in after["FailureReason"]
    assert hosting.ask("guarded")["model"] == "boxer"
    until(lambda: state(hosting, "guarded-5xx") == "OK")  # once the errors are over
    statistics = hosting.cloud.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Dimensions=[{"Name": "EndpointName", "Value": "guarded"}, {"Name": "VariantName", "Value": "main"}],
        StartTime=after["CreationTime"] - timedelta(days=1),  # its first period may have begun before it
        EndTime=after["LastModifiedTime"] + timedelta(days=365),
        Period=3600,
        Statistics=["Sum"],
    )
    errors = sum(point["Sum"] for point in statistics["Datapoints"])
    assert errors >= 1
    published = hosting.cloud.client("cloudwatch").list_metrics(Namespace="/aws/sagemaker/Endpoints")["Metrics"]
    of_variant = [{"Name": "EndpointName", "Value": "guarded"}, {"Name": "VariantName", "Value": "main"}]
    assert ("CPUUtilization", of_variant) in [(each["MetricName"], each["Dimensions"]) for each in published]
    hosting.delete("guarded")


@pytest.mark.cloud
def test_a_model_that_never_answers_pings_is_rolled_back(hosting: Hosting) -> None:
    hosting.deploy("pinged")
    change(hosting, "pinged", "silent-1")
    after = hosting.settled("pinged")
    assert (after["EndpointStatus"], after["EndpointConfigName"]) == ("InService", "pinged")
    assert "did not pass the ping health check" in after["FailureReason"]
    assert hosting.ask("pinged")["model"] == "boxer"
    hosting.delete("pinged")


@pytest.mark.cloud
def test_capacities_change_and_are_retained_over_an_update(hosting: Hosting) -> None:
    hosting.deploy("scaled", held=held(hosting))
    limited = hosting.with_faults(quotas={KIND: 3})
    wanted = [{"VariantName": "main", "DesiredInstanceCount": 2, "DesiredWeight": 0.5}]
    capacities = limited.sagemaker.update_endpoint_weights_and_capacities
    held(hosting).touch()
    capacities(EndpointName="scaled", DesiredWeightsAndCapacities=wanted)
    assert hosting.shown("scaled")["EndpointStatus"] == "Updating"
    held(hosting).unlink()
    variant = hosting.settled("scaled")["ProductionVariants"][0]
    assert (variant["CurrentInstanceCount"], variant["CurrentWeight"]) == (2, 0.5)
    refused = refusal(
        limited.sagemaker.update_endpoint,
        EndpointName="scaled",
        EndpointConfigName="second-1",
        RetainAllVariantProperties=True,
    )
    assert refused[0] == "ResourceLimitExceeded"  # both fleets count: 2 + 2
    assert "current utilization of 2 Instances and a request delta of 2 Instances" in refused[1]
    change(hosting, "scaled", "second-1", RetainAllVariantProperties=True)
    variant = hosting.settled("scaled")["ProductionVariants"][0]
    assert (variant["CurrentInstanceCount"], variant["CurrentWeight"]) == (2, 0.5)
    scarce = hosting.with_faults(no_capacity_of=[KIND]).sagemaker.update_endpoint_weights_and_capacities
    scarce(EndpointName="scaled", DesiredWeightsAndCapacities=[{"VariantName": "main", "DesiredInstanceCount": 4}])
    after = hosting.settled("scaled")
    assert "InsufficientInstanceCapacity" in after["FailureReason"]
    hosting.config("temporary", "second")
    assert after["ProductionVariants"][0]["DesiredInstanceCount"] == 2
    change(hosting, "scaled", "temporary")
    assert hosting.settled("scaled")["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    hosting.sagemaker.delete_endpoint_config(EndpointConfigName="temporary")  # in use, and allowed
    again = {"EndpointName": "scaled", "EndpointConfigName": "second-1"}
    missing = f'Could not find endpoint configuration "{ARN}:endpoint-config/temporary".'
    assert refusal(hosting.sagemaker.update_endpoint, **again)[1] == missing
    hosting.delete("scaled")


@pytest.mark.cloud
def test_an_update_goes_on_after_the_cloud_was_killed_and_alarms_and_images_are_kept(tmp_path: Path) -> None:
    place = tmp_path / "state"
    hosting = Hosting(Rehearsal(state_dir=str(place), reclaims=0, clock_rate=10)).ready()
    try:
        hosting.data("second", archive(answer="pug"))
        hosting.config("second", hosting.model("second", data="second"))
        hosting.deploy("kept")
        alarm(hosting, "kept-5xx", "kept")
        change(hosting, "kept", "second", DeploymentConfig=policy("ALL_AT_ONCE", 50))
        os.kill(json.loads((place / SERVER_FILE).read_text())["pid"], signal.SIGKILL)
        until(lambda: process.running(place) is None)
        again = Hosting(Rehearsal(state_dir=str(place), reclaims=0))
        after = again.settled("kept")
        assert (after["EndpointStatus"], after["EndpointConfigName"]) == ("InService", "second")
        assert again.ask("kept")["model"] == "pug"
        found = again.cloud.client("cloudwatch").describe_alarms()["MetricAlarms"]
        assert [(each["AlarmName"], each["Period"], len(each["Dimensions"])) for each in found] == [("kept-5xx", 60, 2)]
        images = again.cloud.client("ecr").describe_images(repositoryName="dogs")["imageDetails"]
        assert images[0]["imageTags"] == ["one"]
    finally:
        process.stop(place)


# --- containers that start ---


class Starting:
    """An instance whose container answers pings at the third look; or with an error, from the first one on."""

    def __init__(self, around: Any, *about: Any) -> None:
        self.looks, self.healthy, self.starting, self.wrong = 0, False, True, around.wrong

    def prepare(self) -> None: ...

    def start(self) -> None: ...

    def look(self) -> None:
        self.looks += 1
        self.starting = not self.wrong and self.looks < 3
        self.healthy = not self.wrong and self.looks >= 3


@pytest.mark.parametrize("wrong", [False, True])
def test_a_container_has_real_time_to_start_however_fast_the_clock_is(
    monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    monkeypatch.setattr(endpoint_fleet, "Instance", Starting)
    moments = itertools.count(0.0, 1000.0)
    clock = SimpleNamespace(now=lambda: next(moments), wait=lambda *_: True)
    around: Any = SimpleNamespace(clock=clock, faults=Faults(), no_capacity=False, wrong=wrong)
    (variant,) = variants(1)
    variant.config["InstanceType"] = KIND
    fleet = Fleet(around, [variant], "config", {})
    if wrong:
        with pytest.raises(StartError, match="did not pass the ping health check"):
            fleet.grow(variant, 1, lambda: False)
    else:
        fleet.grow(variant, 1, lambda: False)
        assert all(each.healthy for each in fleet.all())


# --- the balancer ---


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=4), st.integers(1, 9))
def test_each_variant_gets_its_share_of_the_requests(weights: list[float], tenths: int) -> None:
    old, new = (fleet_of(weights) for _ in range(2))
    balancer = Balancer()
    balancer.share({old: 1 - tenths / 10, new: tenths / 10})
    taken = [balancer.take(None) for _ in range(200)]
    for fleet, share in ((old, 1 - tenths / 10), (new, tenths / 10)):
        for variant in fleet.variants:
            expected = 200 * share * variant.weight / sum(weights)
            got = sum(each is one for each in taken for one in fleet.instances[variant.name])
            assert abs(got - expected) <= 2 * len(weights)


def test_the_instance_with_the_fewest_outstanding_requests_is_taken() -> None:
    fleet = fleet_of([1.0], instances=3, strategy="LEAST_OUTSTANDING_REQUESTS")
    balancer = Balancer()
    balancer.share({fleet: 1.0})
    first = [balancer.take(None) for _ in range(3)]
    assert len({id(each) for each in first}) == 3
    assert first[1] is not None
    balancer.give_back(first[1])
    assert balancer.take(None) is first[1]
    fleet.all()[0].healthy = False
    assert all(balancer.take("v0") is not fleet.all()[0] for _ in range(9))
    assert balancer.take("other") is None


def fleet_of(weights: list[float], instances: int = 1, strategy: str = "RANDOM") -> Fleet:
    """A fleet whose instances are healthy and run nothing."""
    routing = {"RoutingConfig": {"RoutingStrategy": strategy}}
    found = [Variant({"VariantName": f"v{n}", **routing}, {}, instances, weight) for n, weight in enumerate(weights)]
    fleet = Fleet(None, found, "config", {})  # type: ignore[arg-type]
    for variant in found:
        made: list[Any] = [SimpleNamespace(healthy=True, outstanding=0, variant=variant) for _ in range(instances)]
        fleet.instances[variant.name] = made
    return fleet
