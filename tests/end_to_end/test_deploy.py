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
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from dogbreed.inference import Predictor
from launchers import prepare
from launchers.cli.verbs import main as launchers_command
from launchers.deploy import parts
from launchers.deploy.launcher import DeployLauncher
from launchers.deploy.names import Names
from launchers.plan import Plan
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.image import Image
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.status import Handle, LaunchError, Phase
from tests.support.deployed import CONTAINER
from tests.support.launcher_contract import until
from tests.support.odd_pictures import saved, upright
from tests.support.project import ROOT
from tests.support.serving import tiny_model

pytestmark = pytest.mark.cloud
REPOSITORY = "dogbreed-serve"


@dataclass
class Place:
    """A cloud of its own with our image, and the folder that commands are typed in."""

    cloud: Rehearsal
    here: Path
    model: Path
    composing: Lock = field(default_factory=Lock)

    def words(self, name: str, *more: str) -> list[str]:
        """Return the words of the command that deploys."""
        return [
            "launcher=deploy",
            "aws=rehearsal",
            f"aws.state_dir={self.cloud.state_dir}",
            "aws.launch_as=dogbreed-launch",
            "aws.clock_rate=10",
            f"name={name}",
            f"checkpoint={self.model}",
            "launcher.bake_s=180",
            *more,
        ]

    def prepared(self, name: str, *more: str) -> tuple[DeployLauncher, Plan]:
        with self.composing:  # Hydra has one global state
            launcher, plan = prepare([*self.words(name, *more), f"hydra.run.dir={self.here}/run"])
        assert isinstance(launcher, DeployLauncher)
        return launcher, plan

    def deployed(self, name: str, *more: str) -> tuple[DeployLauncher, Handle]:
        launcher, plan = self.prepared(name, *more)
        return launcher, launcher.submit(plan)

    def image(self, tag: str, made: Image) -> str:
        manifest = made.save(self.cloud.state_folder / "images")
        self.cloud.client("ecr").put_image(repositoryName=REPOSITORY, imageManifest=manifest, imageTag=tag)
        return f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{REPOSITORY}:{tag}"

    def verb(self, *words: str) -> int:
        return launchers_command([*words, "--state-dir", self.cloud.state_dir])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    here = tmp_path_factory.mktemp("deploy")
    cloud = Rehearsal(state_dir=str(here / "state"), reclaims=0, clock_rate=10)
    found = Place(cloud, here, tiny_model(here / "model.tar.gz"))
    try:
        assert found.verb("iam", "--apply", "--for", "launcher=deploy") == 0
        found.deployed("first")  # builds the image
        end(found, "first")
        yield found
    finally:
        process.stop(Path(cloud.state_dir))


@pytest.fixture(scope="module")
def stories(place: Place) -> Iterator[dict[str, Future[Any]]]:
    """What takes minutes of AWS's time, all at once: deployments that are updated, and go wrong, side by side."""
    before = Path.cwd()
    os.chdir(place.here)
    try:
        with ThreadPoolExecutor(5) as pool:
            tales: tuple[Callable[[Place], Any], ...] = (updated, silent, failing, crashing, killed, expired)
            yield {tale.__name__: pool.submit(tale, place) for tale in tales}
    finally:
        os.chdir(before)


def left_in(cloud: Rehearsal, name: str) -> list[str]:
    return [str(part) for part in parts.of_deployment(cloud, name)]


def endpoint(place: Place, name: str) -> dict[str, Any]:
    return dict(place.cloud.client("sagemaker").describe_endpoint(EndpointName=Names(name).endpoint))


def end(place: Place, name: str) -> None:
    DeployLauncher.at(place.cloud).cancel(Handle("deploy", "rehearsal", name))


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
    assert re.search(r"deployments/dogs +in service", capsys.readouterr().out)
    assert place.verb("cancel", "dogs") == 0
    said = capsys.readouterr().out
    assert "1 model file in s3://dogbreed-rehearsal/dogbreed/models/dogs/" in said
    assert "in the repository dogbreed-serve of Amazon ECR" in said
    assert left_in(place.cloud, "dogs") == []
    assert place.verb("status", "dogs") == 1


def updated(place: Place) -> tuple[str, str, str]:
    """Return the configurations in service at first, after an update, and after a rollback."""
    place.deployed("cats")
    first = endpoint(place, "cats")["EndpointConfigName"]
    launcher, handle = place.deployed("cats", "launcher.fallback_type=null")  # another revision
    second = endpoint(place, "cats")["EndpointConfigName"]
    launcher.rollback(handle)
    third = endpoint(place, "cats")["EndpointConfigName"]
    end(place, "cats")
    return first, second, third


def test_an_update_can_be_rolled_back(place: Place, stories: dict[str, Future[Any]]) -> None:
    first, second, third = stories["updated"].result()
    assert first == third != second


def spoiled(place: Place, name: str, environment: dict[str, str]) -> tuple[str, list[str], list[str]]:
    """Update a deployment with a bad image. Return why it was rolled back, and its parts before and after."""
    place.deployed(name)
    before, config = left_in(place.cloud, name), endpoint(place, name)["EndpointConfigName"]
    uri = place.image(name, Image([sys.executable, str(CONTAINER)], environment=environment))
    with pytest.raises(LaunchError, match=f"rolled the update of {name} back") as caught:
        place.deployed(name, f"launcher.image={uri}", "launcher.start_s=60")
    assert endpoint(place, name)["EndpointConfigName"] == config
    after = left_in(place.cloud, name)
    end(place, name)
    return str(caught.value), before, after


def silent(place: Place) -> tuple[str, list[str], list[str]]:
    return spoiled(place, "silent", {"PING_STATUS": "500"})


def failing(place: Place) -> tuple[str, list[str], list[str]]:
    return spoiled(place, "failing", {"FAIL_ALL": "1"})


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
        place.deployed("crashing", f"launcher.image={uri}", "launcher.start_s=60")
    return caught.value, left_in(place.cloud, "crashing")


def test_a_first_deployment_that_fails_is_taken_down_and_says_why(stories: dict[str, Future[Any]]) -> None:
    error, left = stories["crashing"].result()
    assert "I do not start" in str(error)  # the container's own words
    assert "was removed" in " ".join(error.__notes__)
    assert left == []


def killed(place: Place) -> tuple[list[str], str, list[str]]:
    """Kill the command once it has made a model. Return the schedules then, and what the same command leads to."""
    words = place.words("ants", "launcher.ttl_hours=1")
    process_ = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words], cwd=place.here, stdout=subprocess.DEVNULL
    )
    until(lambda: any("model" in text for text in left_in(place.cloud, "ants")))
    os.kill(process_.pid, signal.SIGKILL)
    process_.wait()
    schedules = [part.name for part in parts.of_deployment(place.cloud, "ants") if part.kind == "schedule"]
    place.deployed("ants", "launcher.ttl_hours=1")
    status = endpoint(place, "ants")["EndpointStatus"]
    end(place, "ants")
    return schedules, status, left_in(place.cloud, "ants")


def test_a_client_that_is_killed_leaves_what_its_schedules_delete(stories: dict[str, Future[Any]]) -> None:
    schedules, status, left = stories["killed"].result()
    assert {*Names("ants").schedules.values()} <= set(schedules)
    assert len(schedules) == 4  # of the configuration and the model, too
    assert status == "InService"
    assert left == []


def expired(place: Place) -> list[str]:
    """Deploy for a minute, and go away. Return what is left once nothing is served and no schedule is to come."""
    place.deployed("flies", "launcher.ttl_hours=0.02")

    def over() -> bool:
        return not any(text.startswith(("endpoint", "schedule")) for text in left_in(place.cloud, "flies"))

    until(over)
    return left_in(place.cloud, "flies")


def test_a_deployment_ends_by_itself_when_its_time_is_over(stories: dict[str, Future[Any]]) -> None:
    assert stories["expired"].result() == ["log group /aws/sagemaker/Endpoints/dogbreed-flies"]


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
    report = DeployLauncher.at(place.cloud).cleanup(apply=True)
    assert any("fish" in text for text in report.found)
    assert report.left == ()
