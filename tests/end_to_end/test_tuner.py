"""Whole searches by SageMaker's tuner in the rehearsal cloud: its trials really train, and come home as one study."""

import json
import re
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from launchers.cli.verbs import main as launchers_command
from launchers.rehearsal.cloud import Rehearsal
from launchers.sagemaker.tuner import Tuner
from launchers.sagemaker.tuning_job import TunedTrial
from launchers.spec import RunSpec
from launchers.status import Handle, Phase
from tests.support.launcher_contract import until
from tests.support.photos import tiny_settings
from tests.support.project import ROOT
from tests.support.rehearsing import ROLES, held, prepared
from tests.support.searched import said_by, tmp_path_of, trials_in

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1800)]
BAD = "data.batch_size=choice(2,4,-1)"  # the trials with the last one fail
LAST = "-00[34]-"  # the last two of four trials


def words(place: Path, photos: Path, *more: str) -> list[str]:
    tiny = [text for text in tiny_settings(photos) if not text.startswith(("data.batch_size", "logger", "model.train"))]
    space = ["hpo.space=null", "model.lr=tag(log,interval(1e-4,1e-1))"]
    head = ["model.trainable=head", "trainer.max_epochs=3", *space]
    there = ["launcher=sagemaker_spot", "aws=rehearsal", f"aws.state_dir={place}", *ROLES]
    return ["-m", "hpo=sagemaker_tuner", "hpo.study=mine", *tiny, *head, *there, *more]


def tuner_at(place: Path, home: Path) -> Tuner:
    """As the role that launches."""
    launcher, _ = prepared(place, home)
    return Tuner(launcher)


def handle_in(folder: Path) -> Handle:
    return Handle.parse(json.loads((folder / "launched.json").read_text())["handle"])


def begun(tuner: Tuner, handle: Handle, count: int = 1) -> bool:
    return sum(trial.started is not None for trial in tuner.trials(handle)) >= count


def cost_of(handle: Handle, place: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the row of a search in `python -m launchers cost`."""
    capsys.readouterr()
    assert launchers_command(["cost", "sagemaker://rehearsal", "--state-dir", str(place), "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
    (found,) = (row for row in rows if row["name"].startswith(handle.run_id))
    return found


def running(cloud: Rehearsal, handle: Handle) -> list[str]:
    """Return the training jobs of a search that run."""
    client = cloud.client("sagemaker")
    states = ("InProgress", "Stopping")
    found = [client.list_training_jobs(NameContains=handle.run_id, StatusEquals=state) for state in states]
    return [each["TrainingJobName"] for page in found for each in page["TrainingJobSummaries"]]


def job(cloud: Rehearsal, name: str) -> dict[str, Any]:
    return dict(cloud.client("sagemaker").describe_training_job(TrainingJobName=name))


@pytest.mark.plots
def test_a_search_comes_home_as_an_optuna_study_whatever_happens_to_its_client(
    cloud: Rehearsal,
    place: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = words(place, photos, BAD, "hpo.n_trials=4", "hpo.early_stopping=false", "aws.reclaims=1")
    folder = tmp_path / "sweeps" / "mine"
    with held(place, LAST):
        client = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *command],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        until(lambda: (folder / "launched.json").exists() or client.poll() is not None)
        handle, tuner = handle_in(folder), tuner_at(place, tmp_path / "other")
        until(partial(begun, tuner, handle))
        client.kill()
        client.communicate()
        # it goes on, is listed, and the same command comes back to it
        monkeypatch.chdir(tmp_path)
        assert launchers_command(["list"]) == 0
        assert re.search(r"sweeps/mine +tuner +running", capsys.readouterr().out)
        assert handle in [found for found, _ in tuner.list()]
        changed = said_by(tmp_path, *command, "hpo.n_trials=5", status=1)
        assert "is still running with other machines, code or settings" in changed
    said = said_by(tmp_path, *command)
    assert "4 trials, 2 at once, each a training job" in said
    assert "loses up to" not in said  # that is in the plan
    assert len(tuner.jobs.all(handle.run_id)) == 1
    trials = tuner.trials(handle)
    check_home(folder, cloud, trials, handle, photos)
    for trial in trials:  # an interruption of a trial costs no trial; those that fail do so before their first epoch
        steps = [step["Status"] for step in job(cloud, trial.name)["SecondaryStatusTransitions"]]
        assert steps.count("Interrupted") == (trial.state == "complete")
    failed = [trial for trial in trials if trial.state == "failed"]
    assert failed
    assert all("data.batch_size must be a whole number, at least 1, got -1" in trial.cause for trial in failed)
    assert "data.batch_size must be a whole number, at least 1, got -1" in said
    # there is nothing more to do
    said_by(tmp_path, *command)
    assert len(tuner.jobs.all(handle.run_id)) == 1
    # its handle alone brings it home, where its folder is not; with the files of all trials, if asked for
    folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path_of(tmp_path, "elsewhere"))
    for verb in ("result", "download"):
        assert launchers_command([verb, str(handle), "--state-dir", str(place)]) == 0
        assert "val/acc" in capsys.readouterr().out
    here = Path("sweeps/mine").absolute()
    check_home(here, cloud, trials, handle, photos)
    assert len(list(here.glob("0*/metrics.json"))) == sum(trial.state == "complete" for trial in trials)
    (tmp_path / "moved").rename(folder)
    monkeypatch.chdir(tmp_path)
    # more trials are a further job, which learns from the first
    said_by(tmp_path, *command, "hpo.n_trials=6", "aws.reclaims=0")
    further = tuner_at(place, tmp_path / "other").jobs.all(handle.run_id)
    assert [each.trials for each in further] == [4, 2]
    assert running(cloud, handle) == []
    answer = cloud.client("sagemaker").describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=further[1].name)
    parents = answer["WarmStartConfig"]["ParentHyperParameterTuningJobs"]
    assert parents == [{"HyperParameterTuningJobName": handle.run_id}]
    trials = tuner_at(place, tmp_path / "other").trials(handle)
    check_home(folder, cloud, trials, handle, photos)
    # what its trials have cost is known in any folder, also once SageMaker has forgotten the search
    monkeypatch.chdir(tmp_path / "elsewhere")
    hours = sum(trial.seconds(0.0) for trial in trials) / 3600
    row = cost_of(handle, place, capsys)
    assert (row["launcher"], row["state"]) == ("tuner", "succeeded")
    assert row["name"] == f"{handle.run_id} (6 trials)"
    assert (row["hours"], row["usd"]) == (pytest.approx(hours), pytest.approx(hours * 0.115))
    assert launchers_command(["list", "rehearsal", "--all", "--json", "--state-dir", str(place)]) == 0
    listed = {each["handle"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed[str(handle)]["usd"] == pytest.approx(row["usd"])
    for each in further:
        cloud.client("sagemaker").delete_hyper_parameter_tuning_job(HyperParameterTuningJobName=each.name)
    assert tuner_at(place, tmp_path / "other").status(handle).phase is Phase.LOST
    assert cost_of(handle, place, capsys) == row
    monkeypatch.chdir(tmp_path)
    # Optuna goes on with the same study
    local = [text for text in command if not text.startswith(("launcher", "aws", "hpo"))]
    optuna = ["hpo=optuna", "hpo.space=null", "hpo.study=mine", "hpo.n_trials=7", "hpo.parallel=1"]
    said = said_by(tmp_path, *local, *optuna)
    assert "resumed after 6" in said
    assert len(trials_in(folder / "study.db")) == 7


def check_home(folder: Path, cloud: Rehearsal, trials: list[TunedTrial], handle: Handle, photos: Path) -> None:
    """The study has what SageMaker's answers have: the same values, states and best trial."""
    study = trials_in(folder / "study.db")
    assert [trial.user_attrs["job"] for trial in study] == [trial.name for trial in trials]
    states_there = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "cut off": "WAITING"}
    for here, there in zip(study, trials, strict=True):
        assert here.state.name == states_there[there.state]
        assert here.value == (there.objective if there.state in ("complete", "pruned") else None)
        values = here.params or here.system_attrs["fixed_params"]  # of one that waits
        assert values.keys() == there.values.keys()
        assert values["model.lr"] == pytest.approx(float(there.values["model.lr"]), rel=1e-12)
        assert str(values.get("data.batch_size")) == str(there.values.get("data.batch_size"))
        if there.state == "complete":
            assert len(here.intermediate_values) == here.user_attrs["epochs"] == 3
            assert max(here.intermediate_values.values()) == pytest.approx(here.value, abs=1e-6)
    answer = cloud.client("sagemaker").describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=handle.run_id)
    best = json.loads((folder / "best.json").read_text())
    chosen = trials[best["trial"]]
    if len(trials) == answer["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxNumberOfTrainingJobs"]:
        assert chosen.name == answer["BestTrainingJob"]["TrainingJobName"]
    assert (
        best["value"] == chosen.objective == max(trial.objective or 0 for trial in trials if trial.state == "complete")
    )
    run = folder / f"{best['trial']:05d}"
    assert (run / "report.html").exists()
    assert (run / "checkpoints" / "best.ckpt").exists()
    assert "test/acc" in json.loads((run / "metrics.json").read_text())
    assert RunSpec.from_json((run / "spec.json").read_text()).config["model"]["lr"] == float(chosen.values["model.lr"])
    assert "Parallel coordinates" in (folder / "study.html").read_text()
    assert not list(folder.glob("*/features"))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", ["experiment=best", f"hydra.searchpath=[file://{folder}]"])
    assert (composed.data.root, composed.model.lr) == (str(photos), float(chosen.values["model.lr"]))


@pytest.mark.plots
def test_a_stopped_search_goes_on_to_its_end_and_repeats_nothing(
    cloud: Rehearsal, place: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = words(place, photos, "hpo.n_trials=2", "hpo.parallel=1", "data.batch_size=4", "aws.reclaims=0")
    folder = tmp_path / "sweeps" / "mine"
    monkeypatch.chdir(tmp_path)
    with held(place, "-002-"):
        said = said_by(tmp_path, *command, "launcher.wait=false")
        assert "The run continues without this terminal: tuner://rehearsal/mine-" in said
        handle, tuner = handle_in(folder), tuner_at(place, tmp_path / "other")
        until(partial(begun, tuner, handle, 2))  # the first has ended, the second is starting its program
        # nobody has recorded anything: SageMaker is asked
        assert cost_of(handle, place, capsys)["state"] == "not ended"
        assert launchers_command(["download", "sweeps/mine"]) == 1
        assert "is still running remotely" in capsys.readouterr().err
        assert launchers_command(["cancel", "sweeps/mine"]) == 0
    assert "cancelled (by user)\n1 of 2 trials have ended; best 0." in capsys.readouterr().out
    before = tuner.trials(handle)
    assert [trial.state for trial in before] == ["complete", "cut off"]
    assert running(cloud, handle) == []
    stopped = cost_of(handle, place, capsys)
    assert (stopped["name"], stopped["state"]) == (f"{handle.run_id} (2 trials)", "stopped")
    assert launchers_command(["logs", "sweeps/mine", "--attempt", "1"]) == 0
    assert "1 | objective 0." in capsys.readouterr().out
    # the same command runs the trial that is missing, knows the one that has ended, and brings all home
    said = said_by(tmp_path, *command)
    assert "2 trials complete, 0 pruned, 0 failed" in said
    after = tuner_at(place, tmp_path / "other")
    assert [(each.name, each.trials) for each in after.jobs.all(handle.run_id)] == [
        (handle.run_id, 2),
        (f"{handle.run_id}--2", 1),
    ]
    trials = after.trials(handle)
    assert [trial.state for trial in trials] == ["complete", "cut off", "complete"]
    assert trials[:2] == before
    assert trials[2].values != trials[0].values  # it draws on, and not the first again
    again = {"HyperParameterTuningJobName": f"{handle.run_id}--2"}
    described = cloud.client("sagemaker").describe_hyper_parameter_tuning_job(**again)
    parents = described["WarmStartConfig"]["ParentHyperParameterTuningJobs"]
    assert parents == [{"HyperParameterTuningJobName": handle.run_id}]
    check_home(folder, cloud, trials, handle, photos)
    assert running(cloud, handle) == []
    assert cost_of(handle, place, capsys)["usd"] > stopped["usd"]


def test_a_search_that_the_quota_does_not_hold_is_refused_and_leaves_nothing(
    cloud: Rehearsal, place: Path, photos: Path, tmp_path: Path
) -> None:
    command = words(place, photos, "+aws.faults.quotas={ml.m5.large: 1}")
    said = said_by(tmp_path, *command, status=1)
    assert "'ml.m5.large for spot training job usage' is 1 Instances" in said
    assert not tuner_at(place, tmp_path / "other").jobs.all(handle_in(tmp_path / "sweeps/mine").run_id)


@pytest.fixture(scope="module")
def dogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn dogs of 20 breeds."""
    from dogbreed.drawn.source import DrawnDogs

    folder = tmp_path_factory.mktemp("dogs") / "photos"
    DrawnDogs(breeds=20).prepare(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_eight_trials_is_as_good_as_the_defaults(
    seed: int, cloud: Rehearsal, place: Path, dogs: Path, tmp_path: Path
) -> None:
    about = ["experiment=quickstart", "data=folder", f"data.root={dogs}", f"seed={seed}"]
    space = ["hpo.space=null", "model.lr=tag(log,interval(1e-3,1e-2))", "model.dropout=interval(0.0,0.3)"]
    space += ["model.label_smoothing=interval(0.0,0.2)", "hpo.early_stopping=false"]
    there = ["launcher=sagemaker_spot", "aws=rehearsal", f"aws.state_dir={place}", *ROLES, "aws.reclaims=0"]
    run = tmp_path / "usual"
    said_by(tmp_path, *about, *there, f"hydra.run.dir={run}")
    usual = json.loads((run / "metrics.json").read_text())["val/acc"]
    said_by(tmp_path, "-m", "hpo=sagemaker_tuner", "hpo.study=mine", "hpo.n_trials=8", *space, *about, *there)
    best = json.loads((tmp_path / "sweeps/mine/best.json").read_text())
    print(f"seed {seed}: defaults {usual:.4f}, best of 8 {best['value']:.4f}")
    assert best["value"] >= usual
    assert len(trials_in(tmp_path / "sweeps/mine/study.db")) == 8
    logs = tuner_at(place, tmp_path / "other").logs(handle_in(tmp_path / "sweeps/mine"))
    assert not [line for line in logs if "Computing features" in line.text]  # those of the run with the defaults


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sagemaker_training") is None, reason="needs sagemaker-training, 300 MB")
def test_trials_start_through_the_toolkit_of_aws_s_images(
    cloud: Rehearsal, place: Path, photos: Path, tmp_path: Path
) -> None:
    command = words(place, photos, BAD, "hpo.n_trials=4", "aws.reclaims=0")
    said_by(tmp_path, *command)
    folder = tmp_path / "sweeps" / "mine"
    tuner, handle = tuner_at(place, tmp_path / "other"), handle_in(folder)
    check_home(folder, cloud, tuner.trials(handle), handle, photos)
    lines = [line.text for line in tuner.logs(handle, attempt=1)]
    assert any("sagemaker-training-toolkit" in line for line in lines)
