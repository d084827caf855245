"""Deployments that scale, in the rehearsal cloud: from the command to instances that come and go with the load.

All of it under the generated roles, on a clock that runs ten times faster; service times are real.
"""

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError

from launchers.deploy import autoscaling, parts, smoke
from launchers.deploy.launcher import DeployLauncher
from launchers.deploy.names import Names
from launchers.deploy.scaling import Report
from launchers.deploy.signing import signer
from launchers.status import LaunchError
from tests.support.launcher_contract import until
from tests.support.places import Place, deploying, end, endpoint, left_in
from tests.support.project import ROOT

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1800)]
RATE = 10  # of the clock
_LOAD_S = 40  # two and a half times as long as it takes to reach a third instance under load
PRESET = "launcher/preset=report"
XLARGE = ("launcher.instance_type=ml.c7i.xlarge", "launcher.fallback_type=null")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with deploying(tmp_path_factory.mktemp("autoscaling"), PRESET, " ".join(XLARGE)) as found:
        yield found


@pytest.fixture(scope="module")
def stories(place: Place) -> Iterator[dict[str, Future[Any]]]:
    """What takes minutes of AWS's time, side by side."""
    with ThreadPoolExecutor(4) as pool:
        tales: tuple[Callable[[Place], Any], ...] = (loaded, through_url, rescaled, denied, expired)
        yield {tale.__name__: pool.submit(tale, place) for tale in tales}


@contextmanager
def load(place: Place, name: str, clients: int) -> Iterator[None]:
    """Keep so many requests in progress, straight at the endpoint."""
    picture, ended = next(smoke.pictures()), threading.Event()
    runtime = place.cloud.client("sagemaker-runtime")

    def ask() -> None:
        while not ended.is_set():
            with suppress(ClientError):
                runtime.invoke_endpoint(EndpointName=Names(name).endpoint, Body=picture)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def count(place: Place, name: str) -> int:
    return int(endpoint(place, name)["ProductionVariants"][0]["CurrentInstanceCount"])


def activities(place: Place, name: str) -> list[dict[str, Any]]:
    """The earliest first."""
    client = place.cloud.client(autoscaling.SERVICE)
    return list(reversed(client.describe_scaling_activities(**autoscaling.where(Names(name)))["ScalingActivities"]))


def policies(place: Place, name: str) -> dict[str, dict[str, Any]]:
    client = place.cloud.client(autoscaling.SERVICE)
    found = client.describe_scaling_policies(**autoscaling.where(Names(name)))["ScalingPolicies"]
    return {policy["PolicyName"]: policy for policy in found}


def seconds(later: Any, sooner: Any) -> float:
    """On the cloud's clock, between two real moments."""
    return RATE * float((later - sooner).total_seconds())


# --- load ---


def loaded(place: Place) -> dict[str, Any]:
    """Deploy with the report's preset, ask too much of it, stop, and wait. Return what was seen."""
    faults = ("+aws.faults.service_s=0.5", "+aws.faults.start_s=60")
    launcher, handle = place.deployed("dogs", PRESET, "launcher.ttl_hours=null", *faults)
    seen: dict[str, Any] = {"status": launcher.status(handle).detail}
    seen["first"] = count(place, "dogs")
    began = time.time()
    with load(place, "dogs", 8):
        until(lambda: count(place, "dogs") == 3, timeout_s=900)
        until(lambda: activities(place, "dogs")[-1]["StatusCode"] == "Successful")
        ended = time.time()  # not later than the load, whose last requests are still to be answered
    until(lambda: count(place, "dogs") == 1, timeout_s=900)
    until(lambda: activities(place, "dogs")[-1]["StatusCode"] == "Successful")
    seen["activities"], seen["began"], seen["ended"] = activities(place, "dogs"), began, ended
    end(place, "dogs")
    seen["left"] = left_in(place.cloud, "dogs")
    return seen


def test_the_report_s_preset_scales_out_to_three_under_load_and_back_to_one(
    stories: dict[str, Future[Any]],
) -> None:
    seen = stories["loaded"].result()
    assert seen["first"] == 1
    assert "1 instance of 1 to 3 (report)" in seen["status"]
    found = seen["activities"]
    assert [each["Description"] for each in found] == [
        f"Setting desired instance count to {number}." for number in (2, 3, 2, 1)
    ]
    assert {each["StatusCode"] for each in found} == {"Successful"}
    first, second, third, fourth = found
    common = Names("dogs")
    for each, direction in ((first, "out"), (second, "out"), (third, "in"), (fourth, "in")):
        name = common.steps[direction]
        assert each["Cause"] == f"monitor alarm {name} in state ALARM triggered policy {name}"
    rule = Report().policy(2)
    # the policy's own words: three points of 10 s, of which the first may have begun before the load did
    assert RATE * (first["StartTime"].timestamp() - seen["began"]) >= 20
    assert seconds(first["EndTime"], first["StartTime"]) >= 60  # start_s
    assert seconds(second["StartTime"], first["EndTime"]) >= rule.out_s - 10  # evaluated every 10 s
    assert RATE * (third["StartTime"].timestamp() - seen["ended"]) >= 14 * 60  # 15 minutes, the first of them begun
    assert seconds(fourth["StartTime"], third["StartTime"]) >= rule.in_s - 10
    assert seen["left"] == []


def through_url(place: Place) -> dict[str, Any]:
    """Ask as much through the function of the report's preset, which has 3 slots. Return what was seen."""
    faults = ("+aws.faults.service_s=0.1", "+aws.faults.start_s=60")
    launcher, handle = place.deployed("birds", PRESET, "launcher.ttl_hours=null", *faults)
    url, sign, picture = launcher.url(handle), signer(place.cloud), next(smoke.pictures())
    statuses, counts, over = Counter[int](), set[int](), time.monotonic() + _LOAD_S

    def ask() -> None:
        while time.monotonic() < over:
            headers = sign("POST", url, picture, {"Content-Type": "application/x-image"})
            status = requests.post(url, data=picture, headers=headers, timeout=60).status_code
            statuses[status] += 1
            if status == 429:  # the slots are all taken by others, who ask on
                time.sleep(0.1)

    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(ask) for _ in range(8)]
        while time.monotonic() < over:
            counts.add(count(place, "birds"))
            time.sleep(0.2)
        for each in asking:
            each.result()
    alarms = [each["Description"] for each in activities(place, "birds")]
    end(place, "birds")
    return {"statuses": statuses, "counts": counts, "activities": alarms, "left": left_in(place.cloud, "birds")}


def test_three_slots_of_the_function_in_front_keep_the_third_instance_from_being_reached(
    stories: dict[str, Future[Any]],
) -> None:
    seen = stories["through_url"].result()
    assert seen["statuses"].keys() >= {200, 429}  # more clients than slots
    assert not [status for status in seen["statuses"] if status not in (200, 429) and status < 500]
    assert max(seen["counts"]) < 3, seen
    assert "Setting desired instance count to 3." not in seen["activities"]
    assert seen["left"] == []


# --- changes ---


def rescaled(place: Place) -> dict[str, Any]:
    """Let a deployment scale, then otherwise, on another type, and roll that back. Return what was seen."""
    one = ("launcher.instance_type=ml.m5.large", "launcher.fallback_type=null")
    place.deployed("cats", *one)
    seen: dict[str, Any] = {"none": policies(place, "cats")}
    before = endpoint(place, "cats")["EndpointConfigName"]
    place.deployed("cats", PRESET)
    seen["report"], seen["same"] = policies(place, "cats"), endpoint(place, "cats")["EndpointConfigName"] == before
    place.deployed("cats", PRESET, "launcher.scaling.max=4")
    seen["more"] = autoscaling.present(place.cloud, "cats")
    with pytest.raises(LaunchError):
        place.deployed(
            "cats", PRESET, "launcher.instance_type=ml.c7i.large", "+aws.faults.denied=[sagemaker:UpdateEndpoint]"
        )
    seen["after a failed update"] = autoscaling.present(place.cloud, "cats")
    launcher, handle = place.deployed("cats", "launcher/scaling=concurrency", "launcher.scaling.min=1", *XLARGE)
    seen["concurrency"], seen["alarms"] = policies(place, "cats"), left_in(place.cloud, "cats")
    launcher.rollback(handle)
    seen["after"], seen["back"] = (
        autoscaling.present(place.cloud, "cats"),
        endpoint(place, "cats")["EndpointConfigName"],
    )
    seen["before"] = before
    place.deployed("cats", *one)
    seen["ended"] = left_in(place.cloud, "cats")
    end(place, "cats")
    seen["left"] = left_in(place.cloud, "cats")
    return seen


def test_scaling_follows_a_change_of_policy_type_and_revision(stories: dict[str, Future[Any]]) -> None:
    seen, common = stories["rescaled"].result(), Names("cats")
    assert seen["none"] == {}
    assert set(seen["report"]) == set(common.steps.values())
    assert seen["same"]  # no update for that
    assert (seen["more"].least, seen["more"].most, seen["more"].policy) == (1, 4, Report().policy(2))
    assert seen["after a failed update"] == seen["more"]
    (policy,) = seen["concurrency"].values()
    assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 4  # vCPUs of an xlarge
    assert not any("scale-out" in text for text in seen["alarms"])
    assert any("TargetTracking-endpoint/dogbreed-cats/variant/main-AlarmHigh" in text for text in seen["alarms"])
    assert seen["back"] == seen["before"]
    assert (seen["after"].kind, seen["after"].policy.target) == ("concurrency", 2)  # of a large one, which is back
    assert not any("scal" in text for text in seen["ended"])
    assert seen["left"] == []


# --- failures ---

CREATING = (
    "application-autoscaling:RegisterScalableTarget",
    "application-autoscaling:TagResource",
    "sagemaker:UpdateEndpointWeightsAndCapacities",
    "iam:CreateServiceLinkedRole",
    "application-autoscaling:PutScalingPolicy",
)


def denied(place: Place) -> list[str]:
    """Take away one permission after the other. Return what was not as it should be."""
    wrong = []
    for action in CREATING:
        with pytest.raises(LaunchError) as caught:
            place.deployed("bees", PRESET, f"+aws.faults.denied=[{action}]")
        if action not in str(caught.value):
            wrong.append(f"{action}: {caught.value}")
        wrong += [f"{action} leaves {text}" for text in left_in(place.cloud, "bees")]
    _, handle = place.deployed("bees", PRESET)
    for action in ("application-autoscaling:DeregisterScalableTarget", "cloudwatch:DeleteAlarms"):
        mine = replace(place.cloud, launch_as="dogbreed-launch", faults={"denied": [action]}, _clients={})
        try:
            said = str(DeployLauncher.at(mine).cancel(handle))
        except LaunchError as error:
            said = str(error)
        if not ("Not everything could be removed" in said and action in said):
            wrong.append(f"cancel, {action}: {said}")
        if not left_in(place.cloud, "bees"):
            wrong.append(f"nothing was kept by {action}")
        place.deployed("bees", PRESET)
    end(place, "bees")
    return [*wrong, *left_in(place.cloud, "bees")]


def test_a_permission_that_is_missing_at_any_step_is_named_and_leaves_nothing(
    stories: dict[str, Future[Any]],
) -> None:
    assert stories["denied"].result() == []


def expired(place: Place) -> list[str]:
    """Deploy for minutes, and go away. Return what is left once nothing is served and no schedule is to come."""
    scaled = ("launcher/scaling=concurrency", "launcher.scaling.min=1")
    place.deployed("flies", *scaled)  # which may take longer than it is to be there
    place.deployed("flies", *scaled, "launcher.ttl_hours=0.1")
    until(
        lambda: not any(text.startswith(("endpoint", "schedule")) for text in left_in(place.cloud, "flies")),
        timeout_s=600,
        every_s=1,
    )
    return left_in(place.cloud, "flies")


def test_a_deployment_that_scales_ends_by_itself(stories: dict[str, Future[Any]]) -> None:
    assert stories["expired"].result() == []


@pytest.mark.slow
@pytest.mark.parametrize("call", range(13, 18))
def test_a_client_that_is_killed_while_scaling_begins_leaves_what_the_same_command_completes(
    place: Place, call: int
) -> None:
    name = f"wasps-{call}"
    child = ROOT / "tests" / "support" / "children" / "deploy_killed.py"
    words = [*place.words(name, PRESET), f"hydra.run.dir={place.here}/run"]
    done = subprocess.run([sys.executable, str(child), str(call), *words], cwd=place.here)
    assert done.returncode == -signal.SIGKILL
    schedules = [part.name for part in parts.of_deployment(place.cloud, name) if part.kind == "schedule"]
    assert Names(name).schedules["scaling"] in schedules
    until(lambda: endpoint(place, name)["EndpointStatus"] == "InService")
    place.deployed(name, PRESET)
    found = autoscaling.present(place.cloud, name)
    assert found is not None
    assert found.policy == Report().policy(2)
    end(place, name)
    assert left_in(place.cloud, name) == []


def test_kinds_of_parts_are_named_once() -> None:
    kinds = [kind.name for kind in parts.KINDS]
    assert not [one for one, other in itertools.combinations(kinds, 2) if one == other]
