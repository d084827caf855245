"""Deployments in the rehearsal cloud, from the command to an endpoint that answers, is updated, and is taken down.

All of it under the generated roles, on a clock that runs ten times faster.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from dogbreed.errors import DogBreedError
from dogbreed.inference import Predictor
from launchers.aws import bills, tags
from launchers.aws.layout import Layout
from launchers.base import Launcher
from launchers.deploy import parts
from launchers.deploy.endpoint_change import EndpointChange
from launchers.deploy.launcher import DeployLauncher
from launchers.deploy.names import Names
from launchers.plan import Request
from launchers.rehearsal.image import Image
from launchers.spec import RunSpec
from launchers.status import LaunchError, Phase
from tests.support.deployed import CONTAINER
from tests.support.launcher_contract import PlanContract, until
from tests.support.odd_pictures import saved, upright
from tests.support.places import BAKE_S, Place, deploying, end, endpoint, environment, left_in
from tests.support.project import ROOT

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1800)]
_BAKES = f"launcher.bake_s={BAKE_S}"  # as a command has it, which alarms need to go off
_GOES_ON = "launcher.bake_s=3000"  # until an alarm ends it


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with deploying(tmp_path_factory.mktemp("deploy")) as found:
        yield found


@pytest.fixture(scope="module")
def stories(place: Place) -> Iterator[dict[str, Future[Any]]]:
    """What takes minutes of AWS's time, all at once: deployments that are updated, and go wrong, side by side."""
    with ThreadPoolExecutor(6) as pool:
        tales: tuple[Callable[[Place], Any], ...] = (
            updated,
            lost,
            short,
            silent,
            failing,
            crashing,
            killed,
            expired,
            denied,
        )
        yield {tale.__name__: pool.submit(tale, place) for tale in tales}


class TestDeployLauncher(PlanContract):
    @pytest.fixture
    def launcher(self, place: Place) -> Launcher:
        return place.prepared("toads")[0]

    @pytest.fixture
    def spec(self, place: Place) -> RunSpec:
        return place.prepared("toads")[1].spec

    @pytest.fixture
    def wrong_spec(self, spec: RunSpec) -> RunSpec:
        return replace(spec, run_id="Toads")

    @pytest.fixture
    def launcher_of_wrong(self, launcher: Launcher) -> Launcher:
        assert isinstance(launcher, DeployLauncher)
        return replace(launcher, rps=-1)


def test_a_deployment_is_made_asked_listed_and_taken_down(
    place: Place, stories: dict[str, Future[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    launcher, handle = place.deployed("dogs")
    assert launcher.status(handle).phase is Phase.IN_SERVICE
    assert str(handle) == "deploy://rehearsal/dogs"

    photo = place.here / "photo.png"
    photo.write_bytes(saved(upright(), "PNG"))
    capsys.readouterr()
    assert place.verb("invoke", "dogs", str(photo), "--json") == 0
    out = capsys.readouterr().out  # with lines of the others that run meanwhile
    answer = json.loads(out[out.index("{\n") : out.rindex("\n}") + 2])[str(photo)]
    expected = Predictor.from_artifact(place.model).probabilities([photo])[0]
    assert len(expected) == 133
    assert answer["probabilities"] == pytest.approx(list(expected), abs=1e-4)

    before = endpoint(place, "dogs")
    again, plan = place.prepared("dogs")
    assert plan.requests == ()
    again.submit(plan)
    assert endpoint(place, "dogs")["LastModifiedTime"] == before["LastModifiedTime"]

    capsys.readouterr()
    assert place.verb("list") == 0
    assert re.search(r"deployments/dogs +deploy +in service", capsys.readouterr().out)
    assert place.verb("cancel", "dogs") == 0
    said = capsys.readouterr().out
    assert "1 model file in s3://dogbreed-rehearsal/dogbreed/models/dogs/" in said
    assert "in the repository dogbreed-serve of Amazon ECR" in said
    assert left_in(place.cloud, "dogs") == []
    assert place.verb("status", "dogs") == 1


def schedules_of(place: Place, name: str) -> dict[str, str]:
    """Return when each schedule of a deployment runs, by its name."""
    found = [part.name for part in parts.of_deployment(place.cloud, name) if part.kind == "schedule"]
    client = place.cloud.client("scheduler")
    return {each: client.get_schedule(Name=each)["ScheduleExpression"] for each in found}


def updated(place: Place) -> dict[str, Any]:
    """Update a deployment, roll it back, fail to update it again, and let it stay. Return what was seen."""
    place.deployed("cats")
    seen: dict[str, Any] = {"first": endpoint(place, "cats")["EndpointConfigName"]}
    launcher, handle = place.deployed(
        "cats", "launcher.fallback_type=null", "launcher.ttl_hours=99", "limits.max_usd=50"
    )
    seen["spent"] = launcher.spent_usd("cats")
    seen["second"] = endpoint(place, "cats")["EndpointConfigName"]
    seen["ends after the update"] = schedules_of(place, "cats")
    launcher.rollback(handle)
    seen["third"] = endpoint(place, "cats")["EndpointConfigName"]
    seen["ends after the rollback"] = schedules_of(place, "cats")
    with pytest.raises(LaunchError):
        place.deployed("cats", "launcher.fallback_type=null", "+aws.faults.denied=[sagemaker:UpdateEndpoint]")
    seen["after a failed update"] = left_in(place.cloud, "cats")
    place.deployed("cats", "launcher.ttl_hours=null", "launcher/scaling=none")
    arn = endpoint(place, "cats")["EndpointArn"]
    seen["kept"] = schedules_of(place, "cats"), tags.read(place.cloud, arn).get(tags.EXPIRES_AT)
    end(place, "cats")
    layout = Layout(str(place.cloud.default_bucket), "dogbreed")
    seen["bills"] = bills.of_deployment(place.cloud, layout, "cats")
    return seen


def test_an_update_can_be_rolled_back(place: Place, stories: dict[str, Future[Any]]) -> None:
    seen = stories["updated"].result()
    assert seen["first"] == seen["third"] != seen["second"]
    for config in (seen["first"], seen["second"]):  # the revision that may serve again is kept as long as the endpoint
        for ends in (seen["ends after the update"], seen["ends after the rollback"]):
            assert ends[f"{config}-expiry-model"] > ends["dogbreed-cats-expiry-endpoint"]
        assert f"endpoint configuration {config}" in seen["after a failed update"]
    assert seen["kept"] == ({}, None)


def test_what_a_deployment_costs_is_recorded_through_its_changes(stories: dict[str, Future[Any]]) -> None:
    seen = stories["updated"].result()
    found = [bill for bill in seen["bills"] if bill.ended > bill.started]
    assert len({bill.life for bill in found}) == 1
    assert found[-1].state == "ended"
    assert [round(bill.usd_per_hour, 3) for bill in found].count(0.214) >= 2  # both fleets: an update, and a rollback
    assert all(before.ended <= after.started + timedelta(seconds=1) for before, after in pairwise(found))
    assert 0 < seen["spent"] < 0.1


class AnswerLost(EndpointChange):
    """A change whose UpdateEndpoint arrives at AWS, and whose answer does not arrive here."""

    def _send(self, each: Request, filled: dict[str, str]) -> None:
        super()._send(each, filled)
        if each.operation == "UpdateEndpoint":
            raise LaunchError("the connection was closed")


def lost(place: Place) -> tuple[list[str], str, list[str]]:
    """Return the parts when an update's answer was lost, its configuration, and what a teardown meanwhile leaves."""
    place.deployed("moths")
    launcher, plan = place.prepared("moths", "launcher.start_s=2999", _GOES_ON)
    with pytest.raises(LaunchError, match="was closed"):
        AnswerLost(launcher, plan).make()
    found, pending = left_in(place.cloud, "moths"), endpoint(place, "moths")["PendingDeploymentSummary"]
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(end, place, "moths")  # waits for the update, in which SageMaker refuses a deletion
        until(lambda: ending.done() or goes_off(place, Names("moths").alarms["errors"]))
        ending.result()
    return found, pending["EndpointConfigName"], left_in(place.cloud, "moths")


def goes_off(place: Place, alarm: str) -> bool:
    """Set an alarm off, which ends an update, unless it is deleted; its next evaluation sets it back. Return False."""
    client = place.cloud.client("cloudwatch")
    with suppress(client.exceptions.ResourceNotFound):
        client.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="made to go off")
    return False


def test_an_update_that_aws_has_taken_keeps_its_parts_if_its_answer_was_lost(
    stories: dict[str, Future[Any]],
) -> None:
    found, pending, left = stories["lost"].result()
    assert {f"endpoint configuration {pending}", f"model {pending}"} <= set(found)
    assert left == []


def spoiled(place: Place, name: str, environment: dict[str, str], *how: str) -> tuple[str, list[str], list[str]]:
    """Update a deployment with a bad image. Return why it was rolled back, and its parts before and after."""
    place.deployed(name)
    before, config = left_in(place.cloud, name), endpoint(place, name)["EndpointConfigName"]
    uri = place.image(name, Image([sys.executable, str(CONTAINER)], environment=environment))
    with pytest.raises(LaunchError, match=f"rolled the update of {name} back") as caught:
        place.deployed(name, f"launcher.image={uri}", *how)
    assert endpoint(place, name)["EndpointConfigName"] == config
    after = left_in(place.cloud, name)
    end(place, name)
    return str(caught.value), before, after


def silent(place: Place) -> tuple[str, list[str], list[str]]:
    return spoiled(place, "silent", {"PING_STATUS": "500"}, "launcher.start_s=60")


def failing(place: Place) -> tuple[str, list[str], list[str]]:
    return spoiled(place, "failing", {"FAIL_ALL": "1"}, _GOES_ON)


@pytest.mark.parametrize(
    ("tale", "reason"),
    [("silent", "health check"), ("failing", "dogbreed-failing-errors")],  # the alarm, during the bake
)
def test_a_bad_revision_is_rolled_back_and_leaves_nothing(
    stories: dict[str, Future[Any]], tale: str, reason: str
) -> None:
    said, before, after = stories[tale].result()
    assert reason in said
    assert after == before


def crashing(place: Place) -> tuple[LaunchError, list[str]]:
    """Deploy an image that does not start. Return the error, and what is left."""
    uri = place.image("crashing", Image([sys.executable, str(CONTAINER)], environment={"EXITS": "1"}))
    with pytest.raises(LaunchError) as caught:
        place.deployed("crashing", f"launcher.image={uri}", "launcher.start_s=150")  # enough for its last words
    return caught.value, left_in(place.cloud, "crashing")


def test_a_first_deployment_that_fails_is_taken_down_and_says_why(stories: dict[str, Future[Any]]) -> None:
    error, left = stories["crashing"].result()
    assert "I do not start" in str(error)  # the container's own words
    assert "was removed" in " ".join(error.__notes__)
    assert left == []


def killed(place: Place) -> tuple[list[str], str, list[str]]:
    """Kill the command once it has made a model. Return the schedules then, and what the same command leads to."""
    calls = [each.operation for each in place.prepared("ants", "launcher.ttl_hours=1", _BAKES)[1].requests]
    child = ROOT / "tests" / "support" / "children" / "deploy_killed.py"
    words = [*place.words("ants", "launcher.ttl_hours=1"), f"hydra.run.dir={place.here}/run"]
    command = [sys.executable, str(child), str(calls.index("CreateModel") + 1), *words]
    done = subprocess.run(command, cwd=place.here, env=environment(), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    schedules = [part.name for part in parts.of_deployment(place.cloud, "ants") if part.kind == "schedule"]
    place.deployed("ants", "launcher.ttl_hours=1", _BAKES)
    status = endpoint(place, "ants")["EndpointStatus"]
    end(place, "ants")
    return schedules, status, left_in(place.cloud, "ants")


def test_a_client_that_is_killed_leaves_what_its_schedules_delete(stories: dict[str, Future[Any]]) -> None:
    schedules, status, left = stories["killed"].result()
    own = Names("ants").schedules
    assert {*own.values()} - {own["scaling"]} <= set(schedules)
    assert len(schedules) == 5  # of the configuration and the model, too
    assert status == "InService"
    assert left == []


def expired(place: Place) -> list[str]:
    """Deploy for minutes, and go away. Return what is left once nothing is served and no schedule is to come."""
    place.deployed("flies")  # which may take longer than it is to be there
    place.deployed("flies", "launcher.ttl_hours=0.1")

    def over() -> bool:
        return not any(text.startswith(("endpoint", "schedule")) for text in left_in(place.cloud, "flies"))

    until(over, every_s=1)
    return left_in(place.cloud, "flies")


def test_a_deployment_ends_by_itself_when_its_time_is_over(stories: dict[str, Future[Any]]) -> None:
    assert stories["expired"].result() == []


def short(place: Place) -> tuple[str, str, bool]:
    """Return what a quota of no instance and one of a single instance are said to lack, and what that leaves."""
    said = []
    for quota, name in ((0, "newts"), (1, "newts")):
        if quota:
            place.deployed(name)
        before = left_in(place.cloud, name)
        with pytest.raises(LaunchError) as caught:
            place.deployed(name, "launcher.start_s=2999", f"+aws.faults.quotas={{ml.c7i.large:{quota}}}")
        said.append(str(caught.value))
        assert left_in(place.cloud, name) == before
    end(place, "newts")
    return said[0], said[1], bool(left_in(place.cloud, "newts"))


def test_a_quota_that_is_too_low_is_named_before_anything_is_made(stories: dict[str, Future[Any]]) -> None:
    none, one, left = stories["short"].result()
    assert "`ml.c7i.large for endpoint usage` is 0, and this deployment needs 1" in none
    assert "`ml.c7i.large for endpoint usage` is 1, and an update" in one
    assert "needs 2" in one
    assert not left


CREATING = (
    "s3:PutObject",
    "scheduler:CreateSchedule",
    "sagemaker:CreateModel",
    "iam:PassRole",
    "sagemaker:CreateEndpointConfig",
    "cloudwatch:PutMetricAlarm",
    "sagemaker:CreateEndpoint",
)
REMOVING = (
    "cloudwatch:DeleteAlarms",
    "sagemaker:DeleteEndpoint",
    "sagemaker:DeleteEndpointConfig",
    "sagemaker:DeleteModel",
    "logs:DeleteLogGroup",
    "scheduler:DeleteSchedule",
)


def denied(place: Place) -> list[str]:
    """Take away one permission after the other that a deployment, an update and a teardown need.

    Return what was not as it should be.
    """
    wrong = []
    for action in CREATING:
        with pytest.raises(LaunchError) as caught:
            place.deployed("bees", f"+aws.faults.denied=[{action}]")
        if action not in str(caught.value):
            wrong.append(f"{action}: {caught.value}")
        wrong += [f"{action} leaves {text}" for text in left_in(place.cloud, "bees")]
    _, handle = place.deployed("bees")
    before, config = left_in(place.cloud, "bees"), endpoint(place, "bees")["EndpointConfigName"]
    for action in (*CREATING[2:-1], "sagemaker:UpdateEndpoint"):
        with pytest.raises(LaunchError) as caught:
            place.deployed("bees", "launcher.start_s=2999", f"+aws.faults.denied=[{action}]")
        if action not in str(caught.value):
            wrong.append(f"update, {action}: {caught.value}")
        if left_in(place.cloud, "bees") != before or endpoint(place, "bees")["EndpointConfigName"] != config:
            wrong.append(f"an update without {action} leaves {left_in(place.cloud, 'bees')}")
    for action in REMOVING:
        mine = replace(place.cloud, launch_as="dogbreed-launch", faults={"denied": [action]}, _clients={})
        try:
            said = str(DeployLauncher.at(mine).cancel(handle))
        except LaunchError as error:
            said = str(error)
        if not ("Not everything could be removed" in said and action in said):
            wrong.append(f"cancel, {action}: {said}")
        if not left_in(place.cloud, "bees"):
            wrong.append(f"nothing was kept by {action}")
        place.deployed("bees")
    end(place, "bees")
    return [*wrong, *left_in(place.cloud, "bees")]


def test_a_permission_that_is_missing_at_any_step_is_named_and_leaves_nothing(
    stories: dict[str, Future[Any]],
) -> None:
    assert stories["denied"].result() == []


@pytest.mark.slow
def test_a_pickled_network_of_another_program_becomes_an_endpoint_and_a_malicious_one_does_not(
    place: Place, tmp_path: Path
) -> None:
    network = torchvision.models.resnet50(num_classes=133)
    torch.save(network, tmp_path / "model.pth")
    foreign = replace(place, model=tmp_path / "model.pth")
    _, handle = foreign.deployed("foreign")
    assert len(DeployLauncher.at(place.cloud).invoke(handle, saved(upright(), "JPEG"))["probabilities"]) == 133
    end(place, "foreign")

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save(Malicious(), tmp_path / "model.pth")
    with pytest.raises(DogBreedError, match="state_dict"):
        foreign.prepared("malicious")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("call", range(1, 12))
def test_a_client_that_is_killed_after_any_call_leaves_only_what_ends_by_itself_or_is_cleaned_up(
    place: Place, call: int
) -> None:
    name = f"wasps-{call}"
    child = ROOT / "tests" / "support" / "children" / "deploy_killed.py"
    words = [*place.words(name), f"hydra.run.dir={place.here}/run"]
    done = subprocess.run([sys.executable, str(child), str(call), *words], cwd=place.here, env=environment())
    assert done.returncode == -signal.SIGKILL
    found = parts.of_deployment(place.cloud, name)
    kinds = {part.kind for part in found}
    schedules = [part.name for part in found if part.kind == "schedule"]
    for kind, what in (("endpoint", "endpoint"), ("alarm", "alarms"), ("model", "model")):
        if kind in kinds:
            assert any(text.endswith(f"expiry-{what}") for text in schedules)
    if "endpoint" in kinds:
        end(place, name)
    else:
        assert not DeployLauncher.at(place.cloud).cleanup(apply=True).found  # it could be in creation still
        DeployLauncher.at(place.cloud).cleanup(older_than=timedelta(0), apply=True)
    assert left_in(place.cloud, name) == []


def test_an_endpoint_that_is_not_ours_is_left_alone(place: Place, stories: dict[str, Future[Any]]) -> None:
    place.deployed("fish")
    config = endpoint(place, "fish")["EndpointConfigName"]
    place.cloud.client("sagemaker").create_endpoint(EndpointName="dogbreed-whale", EndpointConfigName=config)
    with pytest.raises(LaunchError, match="did not create"):
        place.prepared("whale")
    with pytest.raises(LaunchError, match="did not create"):
        end(place, "whale")
    assert endpoint(place, "whale")["EndpointStatus"] in ("Creating", "InService")
    for name in ("whale", "fish"):
        parts.remove(place.cloud, parts.Part("endpoint", Names(name).endpoint, name))
    for story in stories.values():
        story.exception()  # all have ended, so that what is left over is nobody's
    assert not DeployLauncher.at(place.cloud).cleanup().found  # what is an hour old may be in creation
    report = DeployLauncher.at(place.cloud).cleanup(older_than=timedelta(0), apply=True)
    assert any("fish" in text for text in report.found)
    assert report.left == ()
