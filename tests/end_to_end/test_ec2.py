"""A run on EC2 whose command is killed in the middle, brought home from another folder, deployed and asked."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launchers.registry import find_run
from launchers.rehearsal import process
from tests.support.launcher_contract import until
from tests.support.photos import make_photos
from tests.support.project import TRAIN

pytestmark = pytest.mark.cloud

FEW_DOGS = ["+data.source.breeds=8", "data.source.train=10", "data.source.valid=2", "data.source.test=2"]
REHEARSED = ["launcher=ec2_spot", "aws=rehearsal"]


@dataclass
class Machine:
    """A laptop: its commands, its folder of runs, and the rehearsal cloud of its default state folder."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "cache" / "rehearsal"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOGBREED_CACHE": str(self.folder / "cache")}

    def start(self, *words: str, here: Path) -> "subprocess.Popen[str]":
        here.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=here,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, here: Path) -> str:
        started = self.start(*words, here=here)
        out, _ = started.communicate(timeout=600)
        assert started.returncode == 0, out
        return out

    def launchers(self, *words: str, here: Path) -> str:
        return self.run("-m", "launchers", *words, here=here)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    process.stop(made.state)


@pytest.mark.exports
@pytest.mark.onnx
@pytest.mark.plots
@pytest.mark.ordinary_start  # as on rented machines; those of other tests fork training
@pytest.mark.timeout(1800)
def test_a_run_whose_command_is_killed_ends_by_itself_comes_home_and_is_deployed(machine: Machine) -> None:
    here, elsewhere = machine.folder / "here", machine.folder / "elsewhere"
    submitting = machine.start(str(TRAIN), "experiment=quickstart", *FEW_DOGS, *REHEARSED, here=here)
    assert submitting.stdout is not None
    said = ""
    while "epoch 1/" not in said:  # it is interrupted after that
        line = submitting.stdout.readline()
        assert line, said
        said += line
    os.killpg(submitting.pid, signal.SIGKILL)
    submitting.wait()
    submitting.stdout.close()
    run_id = re.findall(r"\d{8}-\d{6}-\w{4}", said)[0]
    handle = f"ec2://rehearsal/{run_id}"
    launcher, known = find_run(handle, state_dir=str(machine.state))
    until(lambda: launcher.status(known).finished, timeout_s=600, every_s=1)
    status = machine.launchers("status", handle, here=elsewhere)
    assert "succeeded" in status
    assert "attempt 2" in status
    (here / "runs" / run_id).rename(machine.folder / "lost")  # the laptop is another one
    shown = machine.launchers("result", handle, here=elsewhere)
    assert "test/acc" in shown
    assert (elsewhere / "runs" / run_id / "model.tar.gz").exists()
    assert "Nothing is left over." in machine.launchers("cleanup", "ec2://rehearsal", "--older-than-h", "0", here=here)

    photo = next(make_photos(machine.folder / "photos").rglob("*.jpg"))
    machine.launchers("iam", "--apply", "--for", "launcher=deploy", "aws=rehearsal", here=elsewhere)
    deploy = ["launcher=deploy", "aws=rehearsal", "aws.clock_rate=10", "name=dogs", f"checkpoint={handle}"]
    deploy.append("launcher.start_s=3000")  # of which ten pass in a second
    assert "in service" in machine.run(str(TRAIN), *deploy, here=elsewhere)
    answer = machine.launchers("invoke", "deploy://rehearsal/dogs", str(photo), here=elsewhere)
    assert re.search(r"\d+\.\d%  \w+", answer)
    machine.launchers("cancel", "deploy://rehearsal/dogs", here=elsewhere)
