"""SageMaker runs in the rehearsal cloud: real jobs, real interruptions, the same results."""

import json
import random
import re
import secrets
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dogbreed.errors import ConfigError
from dogbreed.run_folder import RunFolder, write_json
from launchers import launch, prepare
from launchers.aws.layout import RunLocation
from launchers.aws.results import download_search
from launchers.base import Launcher
from launchers.capacity_wait import CapacityWait
from launchers.cli.download import downloaded
from launchers.cli.verbs import main as launchers_command
from launchers.follow import wait
from launchers.local import LocalLauncher
from launchers.plan import Plan
from launchers.rehearsal.cloud import Rehearsal
from launchers.runs.find import handle_for
from launchers.sagemaker.training import SageMakerLauncher
from launchers.spec import RunSpec, SearchOutput
from launchers.status import Cause, Handle, LaunchError, Phase
from tests.support.launcher_contract import until
from tests.support.photos import tiny_settings
from tests.support.project import TRAIN
from tests.support.rehearsed_runs import RehearsedRuns, assert_same_run, run_at_home
from tests.support.rehearsing import BUCKET, held, job_of, prepared, settings, states
from tests.support.runs import history
from tests.support.sweeps import LONGEST_S, Sweep, read_until

pytestmark = pytest.mark.cloud

LONGER = ("trainer.max_epochs=6", "model.dropout=0.5", "save.every_n_steps=1")


@pytest.fixture(scope="module")
def good(cloud: Rehearsal, place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SageMakerLauncher, Plan]:
    home = tmp_path_factory.mktemp("home") / "good"
    launcher, plan = prepared(place, home, "trainer.max_epochs=1", "aws.reclaims=0")
    launcher.submit(plan)
    wait(launcher, plan.handle)
    return launcher, plan


def test_a_run_id_is_used_again_for_the_same_settings_only(
    good: tuple[SageMakerLauncher, Plan], place: Path, tmp_path: Path
) -> None:
    launcher, plan = good
    words = ("trainer.max_epochs=1", "aws.reclaims=0", f"run_id={plan.spec.run_id}")
    assert launcher.submit(prepared(place, tmp_path / "same", *words)[1]) == plan.handle
    with pytest.raises(LaunchError, match=r"model\.lr was 0\.002, now 0\.5"):
        launcher.submit(prepared(place, tmp_path / "other", *words, "model.lr=0.5")[1])
    assert len(launcher.jobs.all(plan.spec.run_id)) == 1


class TestSageMakerLauncher(RehearsedRuns):
    def prepared(self, place: Path, home: Path, *overrides: str) -> tuple[SageMakerLauncher, Plan]:
        return prepared(place, home, *overrides)

    @pytest.fixture
    def wrong_spec(self, spec: RunSpec) -> RunSpec:
        return replace(spec, run_id="not/a name", folder="relative")

    @pytest.fixture
    def left_over(self, cloud: Rehearsal, launcher: Launcher) -> str:
        launcher.cleanup(older_than=timedelta(0), apply=True)  # of other tests in this cloud, whichever came before
        cloud.client("s3").put_object(Bucket=BUCKET, Key="dogbreed/runs/never-a-job/spec.json", Body=b"{}")
        return f"s3://{BUCKET}/dogbreed/runs/never-a-job/spec.json"


# --- the same weights, wherever it runs ---


@pytest.fixture(scope="module")
def at_home(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_at_home(photos, tmp_path_factory.mktemp("home") / "run", *LONGER)


def test_on_demand_gives_the_same_weights_as_this_machine(
    at_home: Path, cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    launcher, plan = prepared(place, tmp_path / "run", *LONGER, launcher="sagemaker_gpu")
    launcher.submit(plan)
    assert wait(launcher, plan.handle).folder == tmp_path / "run"
    assert_same_run(at_home, tmp_path / "run")
    assert launcher.status(plan.handle).attempt == 1


@pytest.mark.parametrize("hard", [False, True])
def test_spot_with_five_reclaims_at_random_steps_gives_the_same_weights(
    hard: bool, at_home: Path, cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    steps = [f"checkpoint {random.Random(n + hard).randint(1, 6)}" for n in range(5)]
    faults = [f"faults.reclaim_at=[{','.join(steps)}]", f"faults.hard={hard}"]
    launcher, plan = prepared(place, tmp_path / "run", *LONGER, "aws.reclaims=5", *faults)
    launcher.submit(plan)
    wait(launcher, plan.handle)
    assert_same_run(at_home, tmp_path / "run")
    job = job_of(launcher, plan)
    assert states(job).count("Interrupted") == 5
    assert launcher.status(plan.handle).attempt == 6
    numbers = [line.attempt for line in launcher.logs(plan.handle)]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 7))


@pytest.mark.parametrize(("times", "epochs"), [(4, 6), pytest.param(50, 40, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_interrupted_at_random_moments_nothing_is_lost_beyond_the_interval(
    times: int, epochs: int, photos: Path, cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    """Before, at and between steps: each later attempt begins no earlier than the step that was saved last."""
    long = (*LONGER, f"trainer.max_epochs={epochs}")
    launch([*tiny_settings(photos), *long, f"hydra.run.dir={tmp_path}/whole"])
    chance = random.Random(times)
    moments = [f"checkpoint {chance.randint(1, 4)}" for _ in range(times)]
    for n in range(0, times, 5):
        moments[n] = chance.choice(["start", f"{chance.uniform(0.1, 2.5):.2f}s"])
    faults = [f"aws.reclaims={times}", f"faults.reclaim_at=[{','.join(moments)}]"]
    launcher, plan = prepared(place, tmp_path / "run", *long, *faults)
    launcher.submit(plan)
    wait(launcher, plan.handle)
    assert states(job_of(launcher, plan)).count("Interrupted") == times
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    lines = list(launcher.logs(plan.handle))
    numbers = [line.attempt for line in lines]
    assert numbers == sorted(numbers)
    saved = 0
    for line in lines:
        if found := re.search(r"Stopped by SIGTERM after step (\d+), with a checkpoint", line.text):
            assert int(found[1]) >= saved
            saved = int(found[1])
    assert saved > 0
    steps = [int(row["step"]) for row in history(tmp_path / "run")]
    assert steps == sorted(set(steps))
    assert len(steps) == epochs


# --- submitting ---


def jobs_named(cloud: Rehearsal, text: str) -> list[str]:
    found = cloud.client("sagemaker").list_training_jobs(NameContains=text, MaxResults=100)["TrainingJobSummaries"]
    return [job["TrainingJobName"] for job in found]


def test_the_same_plan_twice_is_one_job(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    launcher, plan = prepared(place, tmp_path / "run", "trainer.max_epochs=100000", "aws.reclaims=0")
    other, _ = prepared(place, tmp_path / "other")
    assert launcher.submit(plan) == other.submit(plan) == launcher.submit(plan) == plan.handle
    assert jobs_named(cloud, plan.spec.run_id) == [plan.spec.run_id]
    launcher.cancel(plan.handle)


def test_a_crash_between_upload_and_create_leaves_nothing_twice(
    cloud: Rehearsal, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, plan = prepared(place, tmp_path / "run", "trainer.max_epochs=100000", "aws.reclaims=0")

    def crash(**_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(launcher.cloud.client("sagemaker"), "create_training_job", crash)
        with pytest.raises(KeyboardInterrupt):
            launcher.submit(plan)
    assert not jobs_named(cloud, plan.spec.run_id)
    launcher.submit(plan)
    assert jobs_named(cloud, plan.spec.run_id) == [plan.spec.run_id]
    launcher.cancel(plan.handle)


def test_the_same_code_is_uploaded_once(
    cloud: Rehearsal, good: tuple[SageMakerLauncher, Plan], place: Path, tmp_path: Path
) -> None:
    def written() -> dict[str, Any]:
        found = cloud.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="dogbreed/code/")["Contents"]
        return {item["Key"]: item["LastModified"] for item in found}

    before = written()
    launcher, plan = prepared(place, tmp_path / "run", "trainer.max_epochs=100000", "aws.reclaims=0")
    launcher.submit(plan)
    launcher.cancel(plan.handle)
    assert written() == before


def test_a_run_that_goes_on_with_other_settings_is_not_taken_for_the_same(
    cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    launcher, plan = prepared(place, tmp_path / "run", "trainer.max_epochs=100000", "aws.reclaims=0")
    launcher.submit(plan)
    words = ["trainer.max_epochs=7", f"run_id={plan.spec.run_id}", "aws.reclaims=0"]
    with pytest.raises(LaunchError, match="belongs to another run, with other settings") as caught:
        launcher.submit(prepared(place, tmp_path / "other", *words)[1])
    assert "\n  trainer.max_epochs was 100000, now 7\n" in str(caught.value)
    launcher.cancel(plan.handle)


# --- going on, elsewhere ---


def test_a_run_stopped_on_spot_goes_on_on_demand_and_then_at_home(
    at_home: Path, cloud: Rehearsal, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOGBREED_CACHE", str(place.parent))
    shutil.rmtree(place.parent / "rehearsal", ignore_errors=True)
    (place.parent / "rehearsal").symlink_to(place)  # so that a handle alone finds it
    short = ("faults.log_delay_s=0", "aws.reclaims=0", "launcher.max_run_s=1")
    launcher, plan = prepared(place, tmp_path / "run", *LONGER, *short)
    launcher.submit(plan)
    until(lambda: launcher.status(plan.handle).finished)
    status = launcher.status(plan.handle)
    assert (status.phase, status.cause) == (Phase.FAILED, Cause.TIME_LIMIT)
    assert f"resume={plan.handle}" in status.next_action

    on_demand, again = prepare([f"resume={plan.handle}", "launcher=sagemaker_gpu", "launcher.max_run_s=600"])
    assert again.spec.run_id == plan.spec.run_id
    on_demand.submit(again)
    until(lambda: any("epoch 2/" in line.text for line in on_demand.logs(again.handle)))
    assert on_demand.cancel(again.handle).phase in (Phase.CANCELLED, Phase.SUCCEEDED)
    assert jobs_named(cloud, plan.spec.run_id) == [f"{plan.spec.run_id}--2", plan.spec.run_id]

    launch([f"resume={plan.handle}", "launcher=local", f"data.root={_photos_of(at_home)}"])
    assert_same_run(at_home, tmp_path / "run")


def _photos_of(run: Path) -> str:
    return str(json.loads((run / "spec.json").read_text())["config"]["data"]["root"])


def test_a_run_begun_at_home_goes_on_in_the_cloud(
    at_home: Path, cloud: Rehearsal, place: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = [str(TRAIN), *tiny_settings(photos), *LONGER, f"hydra.run.dir={folder}"]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: (folder / "checkpoints" / "last.ckpt").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(LONGEST_S) in (143, 0)
    elsewhere = [text for text in settings(place) if text.startswith(("data.root", "launcher", "aws"))]
    launcher, plan = prepare([f"resume={folder}", *elsewhere, "aws.reclaims=0"])
    launcher.submit(plan)
    wait(launcher, plan.handle)
    assert_same_run(at_home, folder)


def test_a_finished_run_is_not_started_again_only_to_say_so(
    cloud: Rehearsal, good: tuple[SageMakerLauncher, Plan], place: Path
) -> None:
    launcher, plan = good
    wait(launcher, plan.handle)
    again, same_plan = prepare([f"resume={plan.spec.folder}", f"aws.state_dir={place}"])
    assert again.submit(same_plan) == plan.handle
    assert jobs_named(cloud, plan.spec.run_id) == [plan.spec.run_id]


# --- following ---


def command(place: Path, *words: str, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def test_the_command_shows_a_reclaim_and_the_result(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    said, _ = command(place, *settings(place, *LONGER), cwd=tmp_path).communicate(timeout=LONGEST_S)
    for text in (
        "interrupted, getting another machine",
        "--- attempt 2 ---",
        "Resuming from",
        "succeeded after 2 attempts",
    ):
        assert text in said, said
    assert said.count("val/acc   ") == 1  # not the machine's table as well
    assert "run folder  runs/" in said
    assert f"{place}/jobs" not in said  # paths are as on a rented machine
    assert "at worst" in said.partition("getting a machine")[0]  # the price comes first


def test_ctrl_c_detaches_and_says_how_to_come_back(
    cloud: Rehearsal, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = command(place, *settings(place, "trainer.max_epochs=100000", "aws.reclaims=0"), cwd=tmp_path)
    read_until(process, "epoch 1/")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=LONGEST_S)[0]
    assert process.returncode == 130
    assert "Traceback" not in said
    folder = next((tmp_path / "runs").iterdir())
    assert f"python -m launchers attach sagemaker://rehearsal/{folder.name}" in said
    assert f"python -m launchers cancel sagemaker://rehearsal/{folder.name}" in said
    monkeypatch.chdir(tmp_path)
    assert launchers_command(["status", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("running")
    assert launchers_command(["list"]) == 0
    assert folder.name in capsys.readouterr().out
    assert launchers_command(["cancel", folder.name]) == 0
    assert capsys.readouterr().out.startswith("cancelled (by user)")


def test_without_waiting_it_comes_back_at_once(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    process = command(place, *settings(place, "trainer.max_epochs=100000", "launcher.wait=false"), cwd=tmp_path)
    said = process.communicate(timeout=LONGEST_S)[0]
    assert process.returncode == 0
    assert "python -m launchers attach" in said
    launcher, _ = prepared(place, tmp_path / "other")
    handle = Handle("sagemaker", "rehearsal", next((tmp_path / "runs").iterdir()).name)
    assert not launcher.status(handle).finished
    launcher.cancel(handle)


def test_what_a_cancelled_run_has_left_comes_home_without_another_job(
    cloud: Rehearsal, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("trainer.max_epochs=100000", "save.every_n_steps=1", "aws.reclaims=0")
    launcher, plan = prepared(place, tmp_path / "runs" / "left", *words)
    launcher.submit(plan)
    assert launchers_command(["download", "left"]) == 1
    assert "still running" in capsys.readouterr().err
    next(line for line in launcher.logs(plan.handle, follow=True) if line.text.startswith("epoch 2/"))
    hint = launcher.cancel(plan.handle).next_action.splitlines()[-1]
    assert hint.startswith("Fetch what it has left: ")
    assert launchers_command(shlex.split(hint)[shlex.split(hint).index("launchers") + 1 :]) == 0
    said = capsys.readouterr().out
    run = RunFolder(tmp_path / "runs" / "left")
    for path in (run.log, run.path / "job.log", run.history, run.best):
        assert path.stat().st_size > 0
        assert f"runs/left/{path.relative_to(run.path)}" in said
    assert len(history(run.path)) >= 2
    assert "1 | epoch 2/" in (run.path / "job.log").read_text()
    assert len(launcher.jobs.all(plan.spec.run_id)) == 1


def test_a_search_that_was_cancelled_comes_home_with_its_trials(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    there, here = Sweep(tmp_path / "there"), tmp_path / "here"
    here.mkdir()
    there.run("hpo.n_trials=3")
    left = there.folder()
    run_id = f"cut-{secrets.token_hex(4)}"
    trial = RunSpec.from_json((left / "00000" / "spec.json").read_text())
    spec = replace(trial, run_id=run_id, folder=str(here), output=SearchOutput(left.name, 9))
    (left / "best.json").unlink()  # a search that was cancelled has no result
    with closing(sqlite3.connect(left / "study.db")) as database:  # and a trial that was running
        database.execute("UPDATE trials SET state = 'RUNNING' WHERE number = 2")
        database.commit()
    (left / "00002" / "metrics.json").unlink()
    location, s3 = RunLocation(f"s3://{BUCKET}/dogbreed/runs/{run_id}"), cloud.client("s3")
    s3.put_object(
        Bucket=BUCKET, Key=f"dogbreed/runs/{run_id}/spec.json", Body=json.dumps({"spec": json.loads(spec.to_json())})
    )
    for path in (path for path in left.rglob("*") if path.is_file() and "workers" not in path.parts):
        s3.upload_file(str(path), BUCKET, f"dogbreed/runs/{run_id}/checkpoints/{path.relative_to(left)}")
    handle = Handle("sagemaker", "rehearsal", run_id)
    write_json(here / "launched.json", {"handle": str(handle), **cloud.place})
    assert download_search(cloud, handle, location, "job") == here
    assert (here / "00001" / "checkpoints" / "best.ckpt").exists()
    _, shown, _ = downloaded(LocalLauncher(), handle_for(here))
    assert "2 of 3 trials have ended and are here" in shown
    assert f"{here.name}/00001" in shown  # its path may be shown relative to the present folder
    with closing(sqlite3.connect(here / "study.db")) as database:
        assert database.execute("SELECT state FROM trials WHERE number = 2").fetchone() == ("WAITING",)
    assert not (here / "00002" / "state.json").exists()
    assert (here / "00000" / "state.json").exists()


def test_watching_ends_a_run_early_and_that_is_no_failure(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    launcher, plan = prepared(place, tmp_path / "run", "trainer.max_epochs=100000", "aws.reclaims=0")
    asked: list[int] = []

    def enough(epoch: int, metrics: Any) -> bool:
        assert 0 <= metrics["val/acc"] <= 1
        asked.append(epoch)
        return epoch >= 2

    launcher.submit(plan, watch=enough)
    assert asked == [1, 2]
    result = launcher.result(plan.handle)
    assert 2 <= result.metrics["epochs"] < 100000
    assert result.metrics["val/acc"] == max(float(row["val/acc"]) for row in history(tmp_path / "run"))


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("faults", "cause", "text"),
    [
        ("faults.no_capacity=1", Cause.CAPACITY, "launcher=sagemaker_gpu"),
        ("faults.crash_at=epoch 1, faults.crashes=3", Cause.INTERRUPTED, "Resume it with"),
        ("faults.disk_mb=0.3", Cause.QUOTA, "launcher.volume_gb"),
        ("launcher.max_run_s=1", Cause.TIME_LIMIT, "launcher.max_run_s"),
        (f"data.root=s3://{BUCKET}/no-photos", Cause.BAD_CONFIG, "Resume it with"),
    ],
)
def test_what_stops_a_job_has_a_cause_and_a_next_action(
    faults: str, cause: Cause, text: str, cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    cloud.client("s3").put_object(Bucket=BUCKET, Key="no-photos/readme.txt", Body=b"none here")
    launcher, plan = prepared(place, tmp_path / "run", *LONGER, "aws.reclaims=0", *faults.split(", "))
    launcher.submit(plan)
    until(lambda: launcher.status(plan.handle).finished)
    status = launcher.status(plan.handle)
    assert (status.phase, status.cause) == (Phase.FAILED, cause), status
    assert text in status.next_action, status
    with pytest.raises(LaunchError, match="has no result") as caught:
        launcher.result(plan.handle)
    assert caught.value.cause is cause


def test_a_job_that_found_no_machine_is_submitted_again(
    cloud: Rehearsal, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("trainer.max_epochs=1", "faults.no_capacity=1", "aws.reclaims=0", "launcher.wait_for_capacity_h=1")
    launcher, plan = prepared(place, tmp_path / "run", *words)
    waiting = CapacityWait(launcher, sleep=lambda seconds: None)
    waiting.submit(plan)
    assert waiting.follow(plan).metrics["epochs"] == 1
    first, second = launcher.jobs.all(plan.spec.run_id)
    assert first.reason.startswith("CapacityError")
    assert second.status == "Completed"
    assert "No machine: AWS has no capacity for this instance type." in capsys.readouterr().out


def test_sagemaker_repeats_a_job_whose_node_dies_and_nothing_is_lost(
    at_home: Path, cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    launcher, plan = prepared(place, tmp_path / "run", *LONGER, "aws.reclaims=0", "faults.crash_at=checkpoint 3")
    launcher.submit(plan)
    wait(launcher, plan.handle)
    assert "Interrupted" not in states(job_of(launcher, plan))
    assert launcher.status(plan.handle).attempt == 2
    assert_same_run(at_home, tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "message", "cause"),
    [
        (["launcher.bucket=nobody", "faults.no_bucket=true"], "The bucket nobody does not exist", Cause.UNKNOWN),
        (["aws.role=NoSuchRole"], "The role NoSuchRole does not exist", Cause.UNKNOWN),
        (["aws.role=OfLambda"], "sagemaker.amazonaws.com may not assume the role OfLambda", Cause.UNKNOWN),
        (["launcher.bucket=open-to-all"], "The bucket open-to-all is publicly readable", Cause.UNKNOWN),
        (["launcher.bucket=in-ireland"], "The bucket in-ireland is in eu-west-1", Cause.UNKNOWN),
        (["launcher.bucket=none", "faults.no_bucket=true", "aws.role=None"], "2 problems found", Cause.UNKNOWN),
        (["faults.quotas={ml.m5.large:0}"], "ml.m5.large for spot training job usage", Cause.QUOTA),
        ([f"data.root=s3://{BUCKET}/pho"], f"There are no files under s3://{BUCKET}/pho", Cause.BAD_CONFIG),
        (["data.root=s3://nobody/photos"], "The bucket nobody does not exist", Cause.BAD_CONFIG),
        (["faults.expires_after=0"], "The AWS credentials have expired", Cause.PERMISSION),
    ],
)
def test_what_only_the_account_knows_is_found_before_anything_is_created(
    overrides: list[str], message: str, cause: Cause, cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    s3, iam = cloud.client("s3"), cloud.client("iam")
    buckets = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    if "open-to-all" not in buckets:
        s3.create_bucket(Bucket="open-to-all", ACL="public-read", ObjectOwnership="ObjectWriter")
        s3.create_bucket(Bucket="in-ireland", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
            ],
        }
        iam.create_role(RoleName="OfLambda", AssumeRolePolicyDocument=json.dumps(trust))
    launcher, plan = prepared(place, tmp_path / "run", "aws.launch_as=null", *overrides)  # who may look at all of it
    with pytest.raises(LaunchError, match=message) as caught:
        launcher.submit(plan)
    assert caught.value.cause is cause
    assert not jobs_named(cloud, plan.spec.run_id)


def test_throttling_and_a_failing_s3_are_waited_out(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    faults = ["faults.throttled=3", "faults.s3_failures=3", "faults.log_delay_s=2", "aws.reclaims=0"]
    launcher, plan = prepared(place, tmp_path / "run", "trainer.max_epochs=1", *faults)
    launcher.submit(plan)
    wait(launcher, plan.handle)
    lines = [line.text for line in launcher.logs(plan.handle, follow=True)]
    assert any(line.startswith("test/acc") for line in lines)  # the last ones, however late


def test_credentials_that_expire_while_a_run_is_followed_do_not_stop_it(
    cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    launcher, plan = prepared(
        place, tmp_path / "run", "trainer.max_epochs=1", "aws.reclaims=0", "faults.expires_after=27"
    )
    launcher.submit(plan)
    with pytest.raises(LaunchError, match="have expired") as caught:
        wait(launcher, plan.handle)
    assert caught.value.cause is Cause.PERMISSION
    renewed, _ = prepared(place, tmp_path / "other")
    assert wait(renewed, plan.handle).metrics


def test_a_launcher_without_an_account_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["data=drawn", "launcher=sagemaker_spot", "aws.region=eu-west-1", "aws.bucket=some-bucket", "aws.role=Some"]
    launcher, plan = prepare([*words, f"hydra.run.dir={tmp_path}/run"])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LaunchError, match="No AWS credentials were found") as caught:
        launcher.submit(plan)
    assert caught.value.cause is Cause.PERMISSION
    assert "aws=rehearsal" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        ([], ["No AWS region", "No bucket", "No execution role"]),
        (["launcher.instance_type=ml.g4dn.xlrge"], ["ml.g4dn.xlarge"]),
        (["launcher.max_wait_s=60"], ["launcher.max_wait_s=60 must be at least launcher.max_run_s=14400"]),
        (["save.every_s=0"], ["would save no checkpoint"]),
        (["launcher.instances=0"], ["launcher.instances must be at least 1, got 0"]),
        (["launcher.image=python:3.12"], ["is not a valid Amazon ECR image"]),
        (["launcher.subnets=[subnet-1]"], ["A VPC needs both"]),
        (["launcher.network_isolation=true", "data=dogimages"], ["Without a network the photos cannot be downloaded"]),
        (["launcher.network_isolation=true"], ["AWS's image lacks lightning, torchmetrics, timm", "launcher.image="]),
        (["launcher.instance_type=ml.g5.xlarge", "launcher.volume_gb=200"], ["launcher.volume_gb=200 has no effect"]),
        (["data=folder", "data.root=/home/me/photos"], ["The data folder /home/me/photos does not exist"]),
        (["model.weights=/home/me/w.pth"], ["model.weights=/home/me/w.pth does not exist"]),
        (["logger=wandb"], ["WandbLogger needs WANDB_API_KEY", "+logger.offline=true"]),
        (["launcher=sagemaker_gpu", "launcher.max_wait_s=9"], ["only valid for spot jobs"]),
        (["launcher.bucket=s3://mine"], ["the name alone, without s3://"]),
        (["aws=rehearsal", "+aws.faults.reclaim_at=[noon]", "+aws.faults.x=1"], ["Unknown keys in aws.faults: x"]),
    ],
)
def test_what_a_plan_can_see_is_refused_there(overrides: list[str], messages: list[str], tmp_path: Path) -> None:
    words = ["data=drawn", "launcher=sagemaker_spot", f"hydra.run.dir={tmp_path}/run", *overrides]
    with pytest.raises(ConfigError) as caught:
        prepare(words)
    for message in messages:
        assert message in str(caught.value)


def test_a_search_runs_its_trials_as_jobs(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    """The account's quota is one machine at a time, and the search wants two."""
    quota = "faults.quotas={ml.g4dn.xlarge:1}"
    words = settings(place, "trainer.max_epochs=2", "aws.reclaims=0", quota, launcher="sagemaker_gpu")
    search = [
        "-m",
        "hpo=optuna",
        "hpo.n_trials=2",
        "hpo.parallel=2",
        "hpo.study=some-heads",
        "hpo.space={model.lr:'interval(1e-4,1e-2)'}",
    ]
    process = command(place, *search, *words, cwd=tmp_path)
    with held(place, "some-heads-"):  # the first is there for as long as the second is refused
        said = read_until(process, "From now on 1 at once.")
    said += process.communicate(timeout=LONGEST_S)[0]
    assert process.returncode == 0, said
    assert "2 trials complete" in said or "1 trials complete, 1 pruned" in said, said
    names = jobs_named(cloud, "some-heads-")
    assert len([name for name in names if "--" not in name]) == 2, (names, said)
