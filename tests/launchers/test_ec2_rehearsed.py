"""Runs on EC2 in the rehearsal cloud: real machines that run their user data, real interruptions, the same results."""

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from launchers import prepare
from launchers.base import Launcher
from launchers.ec2 import groups, state
from launchers.ec2.spot import Ec2Launcher
from launchers.follow import wait
from launchers.plan import Plan
from launchers.rehearsal.cloud import Rehearsal
from launchers.spec import RunSpec
from launchers.status import Cause, LaunchError, Phase
from tests.support.launcher_contract import until
from tests.support.rehearsed_runs import RehearsedRuns, assert_same_run, run_at_home
from tests.support.rehearsing import settings

pytestmark = pytest.mark.cloud

LONGER = ("trainer.max_epochs=6", "model.dropout=0.5", "save.every_n_steps=1")


def prepared(place: Path, home: Path, *overrides: str) -> tuple[Ec2Launcher, Plan]:
    """home: of the run's folder."""
    words = [text for text in settings(place, *overrides, launcher="ec2_spot") if not text.startswith("aws.role=")]
    made, plan = prepare([*words, f"hydra.run.dir={home}"])
    assert isinstance(made, Ec2Launcher)
    made.cloud.poll_s = 1.0  # a status is ten requests or more, on the CPU that trains
    return made, plan


def nothing_is_left(launcher: Ec2Launcher, run_id: str) -> bool:
    """Whether no group, template or machine of a run is there any more, as the administrator sees it."""
    admin = replace(launcher.cloud, launch_as=None, _clients={})  # type: ignore[type-var]
    machines = [
        each
        for reservation in admin.client("ec2").describe_instances()["Reservations"]
        for each in reservation["Instances"]
        if {"Key": "dogbreed:run-id", "Value": run_id} in each.get("Tags", [])
    ]
    alive = [each for each in machines if each["State"]["Name"] not in ("terminated", "shutting-down")]
    templates = [name for name, _ in groups.templates(admin) if run_id in name]
    return not alive and not templates and not groups.find(admin, run_id)


@pytest.fixture(scope="module")
def good(cloud: Rehearsal, place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ec2Launcher, Plan]:
    home = tmp_path_factory.mktemp("home") / "good"
    launcher, plan = prepared(place, home, "trainer.max_epochs=1", "aws.reclaims=0")
    launcher.submit(plan)
    wait(launcher, plan.handle)
    return launcher, plan


class TestEc2Launcher(RehearsedRuns):
    def prepared(self, place: Path, home: Path, *overrides: str) -> tuple[Ec2Launcher, Plan]:
        return prepared(place, home, *overrides)

    @pytest.fixture
    def wrong_spec(self, spec: RunSpec) -> RunSpec:
        return replace(spec, run_id="not/a name", folder="relative")

    @pytest.fixture
    def left_over(self, cloud: Rehearsal, launcher: Launcher) -> str:
        """A template of a client that was killed before it had made the group."""
        launcher.cleanup(older_than=timedelta(0), apply=True)  # of runs whose result nobody asked for
        data = {"ImageId": "ami-0123456789abcdef0", "InstanceType": "m5.large"}
        labels = [{"Key": "dogbreed:run-id", "Value": "never-a-group"}]
        cloud.client("ec2").create_launch_template(
            LaunchTemplateName="dogbreed-never-a-group",
            LaunchTemplateData=data,
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": labels}],
        )
        return "group dogbreed-never-a-group, with its template and deadline"


def test_of_a_run_whose_result_is_here_nothing_is_left_in_aws(good: tuple[Ec2Launcher, Plan]) -> None:
    launcher, plan = good
    assert nothing_is_left(launcher, plan.spec.run_id)


# --- the same weights, wherever it runs ---


@pytest.fixture(scope="module")
def at_home(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_at_home(photos, tmp_path_factory.mktemp("home") / "run", *LONGER)


@pytest.mark.parametrize("hard", [False, True])
def test_five_interruptions_at_random_steps_give_the_same_weights(
    hard: bool, at_home: Path, cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    steps = [f"checkpoint {random.Random(n + hard).randint(1, 6)}" for n in range(5)]
    faults = [f"faults.reclaim_at=[{','.join(steps)}]", f"faults.hard={hard}"]
    launcher, plan = prepared(place, tmp_path / "run", *LONGER, "aws.reclaims=5", *faults)
    launcher.cloud.poll_s = 3.0  # it lasts for a minute
    launcher.submit(plan)
    wait(launcher, plan.handle)
    assert_same_run(at_home, tmp_path / "run")
    assert launcher.status(plan.handle).attempt == 6
    numbers = [line.attempt for line in launcher.logs(plan.handle)]
    assert numbers == sorted(numbers)
    assert set(numbers) == {1, 2, 3, 4, 5, 6}
    assert nothing_is_left(launcher, plan.spec.run_id)


def test_a_recommendation_to_leave_causes_a_checkpoint_and_does_not_end_the_run(
    cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    launcher, plan = prepared(place, tmp_path / "run", *LONGER, "aws.reclaims=0", "faults.rebalance_at=start")
    launcher.submit(plan)
    wait(launcher, plan.handle)
    assert launcher.status(plan.handle).attempt == 1
    text = "AWS may soon take the spot machine away: saving a checkpoint"
    assert [line.text for line in launcher.logs(plan.handle)].count(text) == 1


def test_todays_spot_prices_are_in_the_plan_if_asked_for(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    _, plan = prepared(place, tmp_path / "run", "launcher.live=true", "launcher.other_types=[g4dn.xlarge]")
    today = dict(plan.rows)["today"].splitlines()
    shape = re.compile(r"(m5\.large|g4dn\.xlarge) in us-east-1\w: \$[\d.]+ an hour, -?\d+% below on demand")
    assert all(map(shape.match, today)), today
    assert len(today) >= 4


# --- what is refused, and leaves nothing ---


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["faults.quotas={L-34B43A08: 0}"], ["Spot Instance Requests", "launcher.on_demand=true"]),
        (["launcher.image=ami-0123456789abcdef0"], ["ami-0123456789abcdef0 does not exist"]),
        (["launcher.image=/aws/service/no/such/parameter"], ["AWS has no parameter"]),
        (["launcher.subnets=[subnet-0123456789abcdef0]"], ["subnet-0123456789abcdef0"]),
        (["launcher.machine_role=nobody"], ["instance profile nobody", "iam --apply"]),
        (["launcher.volume_gb=20"], ["needs a disk of at least"]),
        (["launcher.instance_type=m5.nonsense"], ["EC2 has no instance type m5.nonsense"]),
    ],
)
def test_what_cannot_run_is_refused_with_a_next_action_and_leaves_nothing(
    words: list[str], texts: list[str], cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    launcher, plan = prepared(place, tmp_path / "run", *words)
    with pytest.raises(LaunchError) as refused:
        launcher.submit(plan)
    for text in [*texts, "Try: "]:
        assert text in str(refused.value)
    assert launcher.status(plan.handle).phase is Phase.LOST
    assert nothing_is_left(launcher, plan.spec.run_id)


@pytest.fixture
def hurried(cloud: Rehearsal) -> Iterator[None]:
    """Have the clock of that cloud run ten times faster meanwhile."""
    for_rates = {rate: replace(cloud, clock_rate=rate, _clients={}) for rate in (10, 1)}
    for_rates[10].client("sts").get_caller_identity()
    yield
    for_rates[1].client("sts").get_caller_identity()


def test_a_machine_that_may_not_read_the_bucket_ends_for_good_and_says_so(
    cloud: Rehearsal, hurried: None, place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launcher, plan = prepared(place, tmp_path / "run", "aws.reclaims=0", "faults.denied_to_role=[s3:GetObject]")
    launcher.submit(plan)
    assert re.search(r"The role of the machine on EC2, \S+/dogbreed-machine, lacks permissions", caplog.text)
    assert "  s3:GetObject on arn:aws:s3:::" in caplog.text
    assert "Try: python -m launchers iam --apply --for " in caplog.text
    until(lambda: launcher.status(plan.handle).finished, timeout_s=300)
    status = launcher.status(plan.handle)
    assert (status.phase, status.cause) == (Phase.FAILED, Cause.PERMISSION)
    assert "the code cannot be fetched" in status.detail
    assert "grants it to the role dogbreed-machine with: python -m launchers iam --apply" in status.next_action
    with pytest.raises(LaunchError, match="has no result"):
        launcher.result(plan.handle)
    assert nothing_is_left(launcher, plan.spec.run_id)
    assert launcher.status(plan.handle).cause is Cause.PERMISSION  # noted in the bucket


def test_a_submission_that_is_broken_off_bills_nothing_and_the_same_command_submits_again(
    cloud: Rehearsal, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, plan = prepared(place, tmp_path / "run", "trainer.max_epochs=1", "aws.reclaims=0")
    make = groups.make

    def killed(cloud: Any, request: Any) -> None:
        make(cloud, request)
        if request.operation == "PutScheduledUpdateGroupAction":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(groups, "make", killed)
        with pytest.raises(KeyboardInterrupt) as stopped:
            launcher.submit(plan)
    assert "python -m launchers cancel" in "\n".join(stopped.value.__notes__)
    (group,) = groups.find(launcher.cloud, plan.spec.run_id)
    assert (group.desired, group.machines) == (0, ())
    assert launcher.status(plan.handle).phase is Phase.FAILED
    assert any(plan.spec.run_id in name for name in launcher.cleanup(older_than=timedelta(0)).found)
    launcher.submit(plan)
    assert wait(launcher, plan.handle).metrics["val/acc"] >= 0
    assert nothing_is_left(launcher, plan.spec.run_id)


def test_a_run_that_is_interrupted_too_often_ends_for_good(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    faults = ("aws.reclaims=9", "faults.reclaim_at=[epoch 1]", "faults.hard=true", "limits.max_attempts=2")
    launcher, plan = prepared(place, tmp_path / "run", "trainer.max_epochs=1000", *faults)
    launcher.submit(plan)
    until(lambda: launcher.status(plan.handle).finished, timeout_s=300)
    status = launcher.status(plan.handle)
    assert (status.phase, status.cause, status.attempt) == (Phase.FAILED, Cause.INTERRUPTED, 2)
    assert "limits.max_attempts=2" in status.detail
    assert len(state.read(launcher.cloud, launcher.layout, plan.spec.run_id).attempts) == 2
    with pytest.raises(LaunchError):
        launcher.result(plan.handle)
    assert nothing_is_left(launcher, plan.spec.run_id)
