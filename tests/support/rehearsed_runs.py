"""The contract of launchers for those whose runs the rehearsal cloud runs, and what their results are compared with."""

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any

import pytest

from dogbreed.run_folder import RunFolder
from launchers import launch
from launchers.base import Launcher
from launchers.plan import Plan
from launchers.rehearsal.cloud import Rehearsal
from launchers.spec import RunSpec
from tests.support.launcher_contract import LauncherContract, until
from tests.support.photos import tiny_settings
from tests.support.rehearsing import BUCKET
from tests.support.runs import history, same, unclocked, weights


class RehearsedRuns(LauncherContract):
    """Needs a fixture `good` of the module: a launcher, and the plan of a run that has succeeded."""

    @abstractmethod
    def prepared(self, place: Path, home: Path, *overrides: str) -> tuple[Any, Plan]:
        """Plan a run of seconds in the cloud at `place`. home: of its folder."""

    @pytest.fixture
    def launcher(self, good: tuple[Any, Plan]) -> Launcher:
        launcher: Launcher = good[0]
        return launcher

    @pytest.fixture
    def spec(self, good: tuple[Any, Plan]) -> RunSpec:
        return good[1].spec

    @pytest.fixture
    def succeeded(self, good: tuple[Any, Plan]) -> Plan:
        return good[1]

    @pytest.fixture
    def failing(self, cloud: Rehearsal, place: Path, tmp_path: Path) -> Plan:
        cloud.client("s3").put_object(Bucket=BUCKET, Key="no-photos/readme.txt", Body=b"none here")
        return self.prepared(place, tmp_path / "bad", f"data.root=s3://{BUCKET}/no-photos", "aws.reclaims=0")[1]

    @pytest.fixture
    def endless(self, place: Path, tmp_path: Path) -> Plan:
        launcher, plan = self.prepared(place, tmp_path / "endless", "trainer.max_epochs=100000", "aws.reclaims=0")
        launcher.submit(plan)
        until(lambda: any("epoch 1/" in line.text for line in launcher.logs(plan.handle)))
        return plan

    @pytest.fixture
    def in_use(self, good: tuple[Any, Plan]) -> str:
        return f"s3://{BUCKET}/dogbreed/runs/{good[1].spec.run_id}/spec.json"


def run_at_home(photos: Path, folder: Path, *overrides: str) -> Path:
    """Run on this machine what a rented one is compared with, and return its folder."""
    launch([*tiny_settings(photos), *overrides, f"hydra.run.dir={folder}"])
    return folder


def assert_same_run(one: Path, other: Path) -> None:
    """Fail unless two run folders have equal weights, histories and metrics."""
    for name in ("last.ckpt", "best.ckpt"):
        assert same(weights(one, name), weights(other, name)), name
    assert history(one) == history(other)
    numbers = [unclocked(json.loads(RunFolder(folder).metrics.read_text())) for folder in (one, other)]
    assert numbers[0] == numbers[1]
