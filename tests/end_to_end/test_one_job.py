"""A whole search in one job: machines are interrupted, files come back in no order, and every trial is there once."""

import functools
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from dogbreed.errors import StorageError
from launchers import prepare
from launchers.aws.account import Account
from launchers.base import Launcher
from launchers.cli.verbs import main as launchers_command
from launchers.local import LocalLauncher
from launchers.rehearsal.cloud import Rehearsal
from launchers.remote.context import SENT
from launchers.sagemaker.training import SageMakerLauncher
from launchers.spec import RunSpec, SearchOutput
from launchers.status import Handle
from launchers.sweep import one_job
from launchers.sweep.identity import StudyAbout
from launchers.sweep.samplers import build_pruner, build_sampler
from launchers.sweep.snapshots import Snapshots
from launchers.sweep.study import Study
from tests.support.fake_training import OVERRIDES
from tests.support.launcher_contract import until
from tests.support.photos import tiny_settings
from tests.support.project import ROOT
from tests.support.rehearsing import BUCKET, ROLES, held, prepared, states
from tests.support.searched import said_by, tmp_path_of, trials_in
from tests.support.stores import file_size_limit
from tests.support.sweeps import Sweep
from tests.support.sweeps import states as states_of_trials

pytestmark = pytest.mark.cloud

# --- a database on a machine that may be interrupted ---


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    made = Snapshots(tmp_path / "live" / "study.db", tmp_path / "kept" / "study.db")
    made.restore()
    with closing(sqlite3.connect(made.live)) as database:
        database.execute("CREATE TABLE trials (number INTEGER)")
        database.execute("INSERT INTO trials VALUES (0)")
        database.commit()
    return made


def numbers(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as database:
        return [row[0] for row in database.execute("SELECT number FROM trials ORDER BY number")]


def test_a_snapshot_holds_whole_transactions_and_nothing_lies_beside_it(snapshots: Snapshots) -> None:
    with closing(sqlite3.connect(snapshots.live)) as database:
        database.execute("INSERT INTO trials VALUES (1)")  # not committed yet
        snapshots.save()
        assert numbers(snapshots.kept) == [0]
        database.commit()
    snapshots.save()
    assert numbers(snapshots.kept) == [0, 1]
    assert [path.name for path in snapshots.kept.parent.iterdir()] == ["study.db"]
    elsewhere = Snapshots(snapshots.live.with_name("next") / "study.db", snapshots.kept)
    elsewhere.restore()
    assert numbers(elsewhere.live) == [0, 1]


def test_a_damaged_snapshot_is_set_aside(snapshots: Snapshots, capsys: pytest.CaptureFixture[str]) -> None:
    snapshots.save()
    content = bytearray(snapshots.kept.read_bytes())
    content[:100] = bytes(100)
    snapshots.kept.write_bytes(content)
    snapshots.restore()
    assert not snapshots.live.exists()
    assert "starts over" in capsys.readouterr().out
    assert [path.name.partition(".damaged")[0] for path in snapshots.kept.parent.iterdir()] == ["study.db"]


def test_without_room_the_last_snapshot_stays_and_the_error_says_so(snapshots: Snapshots) -> None:
    snapshots.save()
    with closing(sqlite3.connect(snapshots.live)) as database:
        database.executemany("INSERT INTO trials VALUES (?)", [(n,) for n in range(1, 20_000)])
        database.commit()
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error of the write, as on a full disk
    try:
        with file_size_limit(snapshots.kept.stat().st_size), pytest.raises(StorageError, match=r"study\.db"):
            snapshots.save()
    finally:
        signal.signal(signal.SIGXFSZ, before)
    assert numbers(snapshots.kept) == [0]
    assert [path.name for path in snapshots.kept.parent.iterdir()] == ["study.db"]


def opened(path: Path, **how: Any) -> Study:
    from launchers.sweep.space import Number, SearchSpace

    space = SearchSpace({"model.lr": Number(1e-4, 1e-1, log=True)})
    about = StudyAbout("mine", space, "val/acc", "max", "the defaults", "0123")
    node = {"_target_": "optuna.samplers.RandomSampler", "seed": None}
    return Study(about, f"sqlite:///{path}", lambda n: build_sampler(node, space, 0, n), build_pruner(None), **how)


def test_a_trial_is_in_the_snapshot_before_it_begins_and_is_handed_out_again_at_once_elsewhere(tmp_path: Path) -> None:
    kept = Snapshots(tmp_path / "live" / "study.db", tmp_path / "kept" / "study.db")
    kept.restore()
    study = opened(kept.live, alone=True, changed=kept.save)
    first = study.claim(3)
    assert first is not None
    study._study.set_user_attr(f"sweeper:{study.me}", {"host": "gone", "pid": 1, "started": 0.0, "beat": 7})
    kept.save()  # as another machine has left it
    there = Snapshots(tmp_path / "next" / "study.db", kept.kept)
    there.restore()
    with closing(opened(there.live, alone=True, changed=there.save)) as again:
        taken = again.claim(3)
        assert taken is not None
        assert (taken.number, taken.values) == (first.number, first.values)
        assert again.counts().running == 1
    study.close()


# --- the machine's part, with formulas for trials ---


_SPACE = ("hpo.space=null", "model.lr=tag(log,interval(1e-4,1e-1))", "model.dropout=interval(0.0,0.5)")


class Taken(Sweep):
    """A search on rented machines, of which nothing is left but what has been saved: `bucket`, file by file."""

    def __init__(self, place: Path, *typed: str) -> None:
        super().__init__(place)
        self.bucket, self.home, self.typed = place / "bucket", place / "home", typed
        self.bucket.mkdir()
        self.machines = 0
        shared = [*OVERRIDES, "hpo=none", "test=false", "logger=none"]
        drawn = ["model.lr=0.0001", "model.dropout=0.0"]  # the first point of the space below
        trial = prepare([*shared, *drawn])[1].spec
        spec = replace(
            trial, output=SearchOutput("mine", 0), folder=str(self.home), overrides=(*OVERRIDES, *_SPACE, *typed)
        )
        (place / "sent.json").write_text(json.dumps({"spec": json.loads(spec.to_json())}))
        self.environment[SENT] = str(place / "sent.json")
        self.folder_now = place

    def words(self) -> list[str]:
        own = ["hpo.study=mine", "hpo.one_job=false", "hpo.fresh=false", f"hydra.sweep.dir={self.folder_now}"]
        return ["-m", "hpo=optuna", "hpo/pruner=none", *OVERRIDES, *_SPACE, *self.typed, *own]

    def machine(self, **environment: str) -> "subprocess.Popen[str]":
        """The next one, with what the bucket has."""
        self.machines += 1
        self.folder_now = self.place / "machines" / str(self.machines)
        shutil.copytree(self.bucket, self.folder_now)
        for path in self.folder_now.rglob(".*.tmp-*"):
            path.unlink()
        return self.start(words=self.words(), **environment)

    def save(self, share: float, rng: random.Random) -> None:
        """As S3 has it when the machine goes: some of the files that have changed, in no order."""
        paths = [Path(folder, name) for folder, _, names in os.walk(self.folder_now) for name in names]
        for path in sorted(paths):
            saved = self.bucket / path.relative_to(self.folder_now)
            if rng.random() < share:
                saved.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # it was temporary
                    shutil.copy2(path, saved)

    def count(self) -> int:
        """Of trials that have ended, on all machines."""
        return sum("ended" in note for note in self.notes) if self.notes_file.exists() else 0

    def is_past(self, process: "subprocess.Popen[str]", count: int) -> bool:
        return process.poll() is not None or self.count() >= count

    def check(self, n_trials: int) -> None:
        study = self.study(f"sqlite:///{self.folder_now / 'study.db'}")
        assert {trial.number: trial.user_attrs["cause"] for trial in study.trials if "cause" in trial.user_attrs} == {}
        assert states_of_trials(study) == {"COMPLETE": n_trials}
        assert [trial.number for trial in study.trials] == list(range(n_trials))
        folders = [path for path in self.folder_now.iterdir() if re.fullmatch(r"\d{5}(-\d+)?", path.name)]
        assert len({path.name[:5] for path in folders}) == len(folders)
        for folder in folders:  # whatever has been saved of a trial is this very trial's
            trial = study.trials[int(folder.name[:5])]
            spec = json.loads((folder / "spec.json").read_text())["config"]
            assert spec["model"]["lr"] == trial.params["model.lr"]
            if (folder / "metrics.json").exists():
                assert json.loads((folder / "metrics.json").read_text())["val/acc"] == trial.value
                best = folder / "checkpoints/best.ckpt"
                assert not best.exists() or best.read_text() == f"weights of {trial.params['model.lr']}\n"
        best = study.best_trial
        (chosen,) = [folder for folder in folders if int(folder.name[:5]) == best.number]
        assert json.loads((chosen / "metrics.json").read_text())["test/acc"] == 0.5
        assert (chosen / "checkpoints/best.ckpt").exists()
        ending = json.loads((self.folder_now / "best.json").read_text())
        assert (ending["trial"], ending["value"], ending["complete"]) == (best.number, best.value, n_trials)
        assert f"model:\n  lr: {best.params['model.lr']}" in (self.folder_now / "experiment/best.yaml").read_text()


@pytest.mark.parametrize(
    ("seed", "machines", "n_trials"), [(1, 3, 8), *(pytest.param(n, 12, 30, marks=pytest.mark.slow) for n in range(5))]
)
def test_files_that_come_back_in_no_order_mix_no_two_trials(
    seed: int, machines: int, n_trials: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    search = Taken(tmp_path / "here", f"hpo.n_trials={n_trials}", "hpo.parallel=2")
    for _ in range(machines):
        process = search.machine(FAKE_SECONDS='{"others": 0.3}')
        until(functools.partial(search.is_past, process, search.count() + rng.randint(1, 3)))
        time.sleep(rng.uniform(0.0, 0.3))
        search.save(rng.choice([0.3, 0.6, 0.9]), rng)  # while it is writing
        process.kill()
        process.communicate()
    process = search.machine()
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said
    search.check(n_trials)


def test_a_folder_with_other_values_is_not_taken_for_the_trial_s(tmp_path: Path) -> None:
    search = Taken(tmp_path / "here", "hpo.n_trials=2")
    foreign = search.bucket / "00001"  # of a trial that the study has forgotten: only some of its files came back
    (foreign / "checkpoints").mkdir(parents=True)
    (foreign / "checkpoints" / "last.ckpt").write_text("of other values")
    said, _ = search.machine().communicate(timeout=500)
    search.check(2)
    assert not (search.folder_now / "00001").exists()
    assert (search.folder_now / "00001-2" / "metrics.json").exists(), said


def test_a_best_trial_whose_files_were_not_saved_is_trained_again(tmp_path: Path) -> None:
    search = Taken(tmp_path / "here", "hpo.n_trials=3")
    search.machine().communicate(timeout=500)
    best = json.loads((search.folder_now / "best.json").read_text())
    shutil.copy2(search.folder_now / "study.db", search.bucket)
    said, _ = search.machine().communicate(timeout=500)
    assert "resumed after 3" in said
    again = json.loads((search.folder_now / "best.json").read_text())
    assert again == best
    assert [path.name for path in search.folder_now.glob("0*")] == [f"{best['trial']:05d}"]
    search.check(3)


def test_a_machine_that_makes_other_settings_of_the_command_refuses(tmp_path: Path) -> None:
    search = Taken(tmp_path / "here", "hpo.n_trials=2", "seed=7")
    process = search.machine()
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 1
    assert "seed: 0 submitted, 7 here" in said


# --- from a person's command to what comes home ---


def words(place: Path, photos: Path, n_trials: int, *more: str) -> list[str]:
    tiny = [text for text in tiny_settings(photos) if not text.startswith(("data.batch_size", "logger", "model.train"))]
    head = ["model.trainable=head", "data.batch_size=choice(2,4)", "trainer.max_epochs=3"]
    there = ["launcher=sagemaker_spot", "aws=rehearsal", f"aws.state_dir={place}", *ROLES]
    return ["-m", "hpo=optuna", "hpo.study=mine", f"hpo.n_trials={n_trials}", *tiny, *head, *there, *more]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("n_trials", "moments", "hard"),
    [
        (4, ["trial 2"], True),
        pytest.param(30, ["trial 3", "trial 9", "trial 5"], False, marks=pytest.mark.slow),
        pytest.param(30, ["trial 9", "trial 3", "trial 5"], True, marks=pytest.mark.slow),
    ],
)
def test_a_search_in_one_job_comes_home_as_from_this_machine(
    n_trials: int,
    moments: list[str],
    hard: bool,
    cloud: Rehearsal,
    place: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults = [f"aws.reclaims={len(moments)}", f"+aws.faults.reclaim_at=[{','.join(moments)}]"]
    command = words(place, photos, n_trials, *faults, f"+aws.faults.hard={hard}")
    # the command comes back, and the job goes on
    monkeypatch.chdir(tmp_path)
    with held(place):
        said = said_by(tmp_path, *command, "launcher.wait=false")
        assert launchers_command(["list"]) == 0
    assert "at worst" in said.partition("attach")[0]
    assert "sweeps/mine" in capsys.readouterr().out
    folder = tmp_path / "sweeps" / "mine"
    run_id = json.loads((folder / "spec.json").read_text())["run_id"]
    # the same command finds it again, and stays to its end
    said = said_by(tmp_path, *command)
    launcher = SageMakerLauncher(cloud)
    ((name, job),) = jobs(launcher, run_id)
    assert name == run_id
    assert states(job).count("Interrupted") == len(moments)
    # once, by the first machine; without a notice, what it has computed since checkpoints were last sent is lost
    assert said.count("Computing features of") <= (1 + len(moments) if hard else 1)
    assert f"trial {best_of(folder)['trial']}, val/acc" in said
    assert said.count("val/acc   ") == 1  # not the machine's table as well
    assert "train.py --config-dir sweeps/mine experiment=best" in said
    assert str(place) not in (folder / "study.html").read_text()
    check_home(folder, n_trials, photos)
    # there is nothing more to do
    assert "trials complete" in said_by(tmp_path, *command)
    assert len(jobs(launcher, run_id)) == 1
    # its handle alone brings it home, where its folder is not
    handle = Handle("sagemaker", "rehearsal", run_id)
    folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path_of(tmp_path, "elsewhere"))
    assert launchers_command(["result", str(handle), "--state-dir", str(place)]) == 0
    assert "best        trial" in capsys.readouterr().out
    check_home(Path("sweeps/mine").absolute(), n_trials, photos)
    (tmp_path / "moved").rename(folder)
    monkeypatch.chdir(tmp_path)
    if n_trials < 30:
        check_more_trials_are_a_further_job(folder, place, photos, tmp_path)
        return
    # with more trials it goes on where it was: at home, and from there in the cloud again
    local = [text for text in command if not text.startswith(("launcher", "aws", "+aws", "hpo.n_trials"))]
    said = said_by(tmp_path, *local, f"hpo.n_trials={n_trials + 1}", "hpo.parallel=1")
    assert f"resumed after {n_trials}" in said
    said = said_by(tmp_path, *command, f"hpo.n_trials={n_trials + 2}", "aws.reclaims=0")
    assert f"resumed after {n_trials + 1}" in said
    assert len(jobs(launcher, run_id)) == 2
    check_home(folder, n_trials + 2, photos)


def check_more_trials_are_a_further_job(folder: Path, place: Path, photos: Path, tmp_path: Path) -> None:
    """And what this machine has added to the study meanwhile is sent there first."""
    spec = RunSpec.from_json((folder / "spec.json").read_text())
    launcher, _ = prepared(place, tmp_path / "other", "aws.reclaims=0")
    launcher.submit(launcher.plan(spec))
    assert len(jobs(launcher, spec.run_id)) == 1
    queued_at_home(folder / "study.db")
    assert isinstance(spec.output, SearchOutput)
    output = replace(spec.output, trials=99)
    more = launcher.plan(replace(spec, overrides=(*spec.overrides, "hpo.n_trials=99"), output=output))
    key, there = f"dogbreed/runs/{spec.run_id}/checkpoints/study.db", []

    def look(**_: Any) -> None:
        there.append(launcher.cloud.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read())

    launcher.cloud.client("sagemaker").meta.events.register("before-call.sagemaker.CreateTrainingJob", look)
    launcher.submit(more)
    assert len(jobs(launcher, spec.run_id)) == 2
    assert there == [(folder / "study.db").read_bytes()]
    launcher.cancel(more.handle)


def queued_at_home(database: Path) -> None:
    """Add a trial to a study, to be run next."""
    import optuna

    optuna.load_study(study_name="mine", storage=f"sqlite:///{database}").enqueue_trial({"data.batch_size": 2})


def jobs(launcher: SageMakerLauncher, run_id: str) -> list[tuple[str, dict[str, Any]]]:
    client = launcher.cloud.client("sagemaker")
    found = client.list_training_jobs(MaxResults=100)["TrainingJobSummaries"]
    names = [job["TrainingJobName"] for job in found]
    assert not [name for name in names if re.fullmatch(r"mine-[0-9a-f]{6}-\d+", name)]  # no job for a trial
    names = [name for name in names if name.startswith(run_id)]
    return [(name, client.describe_training_job(TrainingJobName=name)) for name in names]


def best_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "best.json").read_text())
    return found


def check_home(folder: Path, n_trials: int, photos: Path) -> None:
    trials = trials_in(folder / "study.db")
    assert [trial.number for trial in trials] == list(range(n_trials))
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert not (folder / "features").exists()
    best = best_of(folder)
    assert best["value"] == max(trial.value for trial in trials if trial.state.name == "COMPLETE")
    assert best["complete"] + best["pruned"] == n_trials
    for trial in trials:
        here = folder / f"{trial.number:05d}"
        if not (here / "spec.json").exists():  # a machine that was interrupted without notice may not have saved it
            continue
        config = json.loads((here / "spec.json").read_text())["config"]
        assert {"lr": config["model"]["lr"], "batch": config["data"]["batch_size"]} == {
            "lr": trial.params["model.lr"],
            "batch": trial.params["data.batch_size"],
        }
    chosen = folder / f"{best['trial']:05d}"
    assert (chosen / "report.html").exists()
    assert (chosen / "checkpoints" / "best.ckpt").exists()
    assert f"root: {photos}" in (chosen / "config.yaml").read_text()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", ["experiment=best", f"hydra.searchpath=[file://{folder}]"])
    assert (composed.data.root, composed.model.lr) == (str(photos), trials[best["trial"]].params["model.lr"])


@pytest.mark.parametrize(
    ("asked", "launcher", "heads", "wanted"),
    [
        (None, SageMakerLauncher(Account()), True, True),
        (None, SageMakerLauncher(Account()), False, False),
        (None, SageMakerLauncher(Account(), instances=2), True, False),  # a search in one job has one machine
        (True, SageMakerLauncher(Account()), False, True),
        (False, SageMakerLauncher(Account()), True, False),
        (True, LocalLauncher(), True, False),  # on this machine a search is one process anyway
    ],
)
def test_what_suits_the_trials_decides_and_what_is_asked_for_counts(
    asked: bool | None, launcher: Launcher, heads: bool, wanted: bool
) -> None:
    assert one_job.is_wanted(asked, launcher, trains_heads=heads) is wanted


def test_a_dry_run_shows_the_job_with_the_search_s_time_and_price(tmp_path: Path) -> None:
    there = ["launcher=sagemaker_spot", "aws.region=eu-west-1", "aws.bucket=my-bucket", "aws.role=MyRole"]
    said = said_by(tmp_path, "-m", "hpo=optuna", "experiment=quickstart", *there, "dry_run=true")
    assert "  trials    30, in one job" in said
    assert re.search(r"time +about \d+ min expected, at most 4 h", said)
    assert (
        "command      python train.py -m hpo=optuna experiment=quickstart launcher=local hpo.study=quickstart-" in said
    )
    assert said.count("sagemaker CreateTrainingJob {") == 1
    assert not list(tmp_path.iterdir())


def test_a_search_is_not_gone_on_with_as_if_it_were_a_run(
    cloud: Rehearsal, place: Path, photos: Path, tmp_path: Path
) -> None:
    command = words(place, photos, 100, "aws.reclaims=0")
    with held(place):
        said_by(tmp_path, *command, "launcher.wait=false")
        assert "is a search.\nTry: the command that started it" in said_by(tmp_path, "resume=sweeps/mine", status=1)
        local = [text for text in command if not text.startswith(("launcher", "aws"))]
        said = said_by(tmp_path, *local, status=1)
        assert "as job " in said
        assert "python -m launchers attach sagemaker://rehearsal/mine-" in said
        said = said_by(tmp_path, *command, "hpo.n_trials=99", status=1)
        assert "still running with another machine, code or number of trials" in said
    run_id = json.loads((tmp_path / "sweeps/mine/spec.json").read_text())["run_id"]
    SageMakerLauncher(cloud, bucket=BUCKET).cancel(Handle("sagemaker", "rehearsal", run_id))
