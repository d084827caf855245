"""A rehearsal cloud of the tests' own in which models are deployed, under the generated roles."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from launchers import prepare
from launchers.cli.verbs import main as launchers_command
from launchers.deploy import doctor, expiry, parts, settings_checks
from launchers.deploy.checks import Checks
from launchers.deploy.launcher import DeployLauncher
from launchers.deploy.names import Names
from launchers.plan import Plan
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.image import Image
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.status import Handle
from tests.support.project import ROOT
from tests.support.serving import tiny_model

REPOSITORY = "dogbreed-serve"
BAKE_S = 180  # the least that is accepted
_BRIEF_S = 20  # of an update whose alarms are no matter of the test
_STARTS_S = 3000  # in which a container must answer: on the clock, ten of whose seconds pass in a real one


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
            f"launcher.bake_s={BAKE_S}",
            f"launcher.start_s={_STARTS_S}",
            *more,
        ]

    def prepared(self, name: str, *more: str) -> tuple[DeployLauncher, Plan]:
        """Return what that command comes to, with an update that waits less for its alarms, unless `more` says it."""
        words = self.words(name, f"launcher.bake_s={_BRIEF_S}", *more, f"hydra.run.dir={self.here}/run")
        with self.composing:  # Hydra has one global state
            launcher, plan = prepare(words)
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


@contextmanager
def deploying(here: Path, *permitted: str, image: bool = True) -> Iterator[Place]:
    """With a cloud that has the roles, on a clock that runs ten times faster; in the folder `here`.

    permitted: further settings whose deployments the roles permit, as `launcher/preset=report`. image: whether it has
    the image already.
    """
    before = Path.cwd()
    os.chdir(here)
    cloud = Rehearsal(state_dir=str(here / "state"), reclaims=0, clock_rate=10)
    found = Place(cloud, here, tiny_model(here / "model.tar.gz"))
    try:
        more = [word for text in permitted for word in ("--for", "launcher=deploy", *text.split())]
        assert found.verb("iam", "--apply", "--for", "launcher=deploy", *more) == 0
        with in_less_time() as patch:
            patch.setattr(settings_checks, "_LEAST_BAKE_S", _BRIEF_S)
            if image:
                found.deployed("first")
                end(found, "first")
            yield found
    finally:
        process.stop(Path(cloud.state_dir))
        os.chdir(before)


@contextmanager
def in_less_time() -> Iterator[pytest.MonkeyPatch]:
    """A model is examined before its first deployment alone, and what outlasts an endpoint is deleted sooner."""
    examine, found = doctor.examine, dict[tuple[str, str], Checks]()

    def examined(model: Path, **settings: Any) -> Checks:
        key = hashlib.sha256(model.read_bytes()).hexdigest(), repr(settings)
        if key not in found:
            found[key] = examine(model, **settings)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "examine", examined)
        patch.setattr(expiry, "_LATER", timedelta(minutes=2))
        yield patch


def left_in(cloud: Rehearsal, name: str) -> list[str]:
    return [str(part) for part in parts.of_deployment(cloud, name)]


def endpoint(place: Place, name: str) -> dict[str, Any]:
    return dict(place.cloud.client("sagemaker").describe_endpoint(EndpointName=Names(name).endpoint))


def end(place: Place, name: str) -> None:
    DeployLauncher.at(place.cloud).cancel(Handle("deploy", "rehearsal", name))


def environment() -> dict[str, str]:
    """Return the variables of a command that is started elsewhere and uses this code."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}
