"""Searches as a person starts them, in real processes that are really killed; a formula replaces the network."""

import csv
import io
import json
import random
import re
import shlex
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import launchers.resolvers  # noqa: F401 (registers ${aws_region:})
from launchers import launch
from launchers.status import LaunchError
from launchers.sweep.processors import cpus_of
from launchers.sweep.space import Choice, Number
from launchers.sweep.study import MOST_DEATHS
from launchers.sweep.table import SweepTable
from launchers.sweep.trials import Trial, trial_of
from tests.support.fake_training import OVERRIDES
from tests.support.launcher_contract import until
from tests.support.photos import tiny_settings
from tests.support.postgres import empty_database, server_and_restart
from tests.support.project import ROOT
from tests.support.sweeps import LONGEST_S, SEARCH, Sweep, states


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "here")


def best_of(study: Any) -> Trial:
    """Return the best complete trial; Optuna's own `best_trial` is the first of several with the same value."""
    complete = [trial for trial in map(trial_of, study.trials) if trial.state == "complete"]
    return max(complete, key=lambda trial: trial.merit("max"))


def sequence(study: Any) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.state.name, trial.values, trial.params) for trial in study.trials]


# --- results ---


@pytest.mark.plots
def test_a_search_runs_its_trials_and_ends_with_the_best(sweep: Sweep) -> None:
    output = sweep.run("hpo.n_trials=6", "hpo.parallel=2")
    study = sweep.study()
    assert states(study) == {"COMPLETE": 6}
    best = study.best_trial
    assert f"trial {best.number}, val/acc {best.value:.4f}" in output
    folders = sorted(path.name for path in sweep.folder().iterdir() if path.name.isdigit())
    assert folders == [f"{n:05d}" for n in range(6)]
    tested = [n for n in range(6) if "test/acc" in (sweep.folder() / f"{n:05d}" / "metrics.json").read_text()]
    assert tested == [best.number]  # only the best trial is reported, tested and exported
    assert (sweep.folder() / "study.html").stat().st_size > 100_000
    command = re.search(r"Train with these settings: (.*)", output)
    assert command is not None
    assert shlex.split(command[1])[2:] == ["--config-dir", f"sweeps/{sweep.folder().name}", "experiment=best"]


def test_the_command_searches_without_m_too(sweep: Sweep) -> None:
    sweep.run("hpo.n_trials=2", words=SEARCH[1:])
    assert states(sweep.study()) == {"COMPLETE": 2}


def test_hydras_own_grid_still_works(sweep: Sweep) -> None:
    sweep.run("model.lr=1e-3,1e-2", "run_id=grid-${hydra:job.num}", "test=false", words=["-m", *OVERRIDES])
    assert len(sweep.ended) == 2
    assert not list(sweep.place.rglob("study.db"))


def test_typed_ranges_and_values_replace_those_of_the_yaml(sweep: Sweep) -> None:
    sweep.run("hpo.n_trials=3", "hpo.space=null", "model.lr=choice(1e-3,1e-2)", "model.optimizer=sgd")
    assert {key for trial in sweep.study().trials for key in trial.params} == {"model.lr"}
    config = [json.loads((f / "spec.json").read_text())["config"] for f in sweep.folder().glob("0*")]
    assert {each["model"]["optimizer"] for each in config} == {"sgd"}
    assert {each["model"]["lr"] for each in config} <= {1e-3, 1e-2}


def test_the_best_settings_are_an_experiment_of_their_own(sweep: Sweep) -> None:
    sweep.run("hpo.n_trials=3", "experiment=quickstart", "+trainer.limit_train_batches=7", "model=resnet50")
    best = sweep.study().best_trial.number
    config = json.loads((sweep.folder() / f"{best:05d}" / "spec.json").read_text())["config"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        place = f"hydra.searchpath=[file://{sweep.folder()}]"
        composed = OmegaConf.to_container(compose("config", ["experiment=best", place]), resolve=True)
    assert isinstance(composed, dict)
    assert composed["test"] is True
    same = set(config) & set(composed) - {"launcher", "run_id", "test", "logger", "dry_run", "debug", "resume"}
    assert {"data", "model", "trainer", "features", "seed"} <= same
    composed["data"]["root"] = config["data"]["root"]  # a folder in the cache of the machine that trains
    assert {key: composed[key] for key in same} == {key: config[key] for key in same}
    assert composed["model"]["backbone"] == "resnet50"
    assert composed["logger"] is not None


def test_a_dry_run_prints_the_plan_and_does_nothing(sweep: Sweep) -> None:
    output = sweep.run("hpo.n_trials=3", "dry_run=true")
    assert "3, 1 at once" in output
    assert "model.lr" in output
    assert not sweep.notes_file.exists()
    assert not (sweep.place / "sweeps").exists()


def test_a_command_draws_the_same_trials_in_another_folder(tmp_path: Path) -> None:
    arguments = ("hpo.n_trials=12", "hpo/sampler=tpe", "hpo/pruner=asha", "hpo.parallel=1")
    one, other = Sweep(tmp_path / "one"), Sweep(tmp_path / "other")
    one.run(*arguments)
    other.run(*arguments)
    assert sequence(one.study()) == sequence(other.study())
    assert states(one.study())["PRUNED"] > 0


# --- no barrier ---


def test_slots_never_idle_while_trials_remain(sweep: Sweep) -> None:
    # trial 1 ends after all others, which begin to train after it
    sweep.run("hpo.n_trials=9", "hpo.parallel=2", FAKE_WAITS='{"1": 8}', FAKE_AFTER='{"0": 1}')
    ended = sweep.ended
    assert len(ended) == 9
    slow = ended.pop(1)
    # while the slow trial ran, the other slot ran the quick ones one after the other
    beside = [note for note in ended.values() if slow["began"] < note["began"] and note["ended"] < slow["ended"]]
    assert len(beside) >= 7  # trial 0 may have begun first
    assert len({note["pid"] for note in beside}) == 1  # one warm process
    assert max(note["began"] for note in ended.values()) < slow["ended"]  # none waited for it


@pytest.mark.parametrize(("parallel", "total"), [(1, 1), (2, 2), (3, 2)])
def test_slots_share_the_cpus(parallel: int, total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launchers.sweep.processors.all_cpus", lambda: {4, 7})
    monkeypatch.setattr("launchers.sweep.processors.available_cpus", lambda: 2)
    shares = [cpus_of(slot, parallel) or () for slot in range(parallel)]
    assert {cpu for share in shares for cpu in share} == {4, 7}
    assert max(Counter(cpu for share in shares for cpu in share).values()) == -(-parallel // 2)
    assert len(set(shares)) == min(parallel, total)
    monkeypatch.setattr("launchers.sweep.processors.available_cpus", lambda: 1)  # a container's quota
    assert cpus_of(0, parallel) is None


# --- resuming ---


def test_a_search_in_a_custom_folder_is_resumed(sweep: Sweep) -> None:
    where = f"hydra.sweep.dir={sweep.place / 'mine'}"
    sweep.run("hpo.n_trials=2", where)
    assert "resumed after 2" in sweep.run("hpo.n_trials=3", where)
    assert sorted(path.name for path in (sweep.place / "mine").glob("0*")) == ["00000", "00001", "00002"]
    assert "hydra.sweep.dir=<a new folder>" in sweep.run("hpo.n_trials=3", where, "hpo.fresh=true", status=1)


def test_folders_of_another_study_are_renamed_not_mistaken_for_results(sweep: Sweep) -> None:
    sweep.run("hpo.n_trials=2", "hpo.study=mine")
    (sweep.folder() / "study.db").unlink()  # as if somebody had moved it
    output = sweep.run("hpo.n_trials=2", "hpo.study=mine", "model.lr=choice(0.001,0.002)")
    assert "belongs to another study" in output
    assert states(sweep.study()) == {"COMPLETE": 2}
    for trial in sweep.study().trials:
        spec = json.loads((sweep.folder() / f"{trial.number:05d}" / "spec.json").read_text())
        assert spec["config"]["model"]["lr"] == trial.params["model.lr"]
    assert len(list(sweep.folder().glob("old-0*"))) == 2


def test_a_moved_search_is_resumed(sweep: Sweep) -> None:
    sweep.run("hpo.n_trials=2")
    place = sweep.place.rename(sweep.place.with_name("elsewhere"))
    moved = Sweep(place)
    output = moved.run("hpo.n_trials=2")
    assert "another machine" not in output
    assert "test/acc" in output


@pytest.mark.plots
def test_the_order_of_overrides_does_not_change_the_study(sweep: Sweep) -> None:
    sweep.run("hpo.n_trials=1", "seed=1", "model.warmup=0.1")
    assert "resumed after 1" in sweep.run("hpo.n_trials=1", "model.warmup=0.1", "seed=1", "save.every_s=7")


def test_experiments_in_a_custom_folder_are_searched_and_copied(sweep: Sweep) -> None:
    own = sweep.place / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nmodel:\n  warmup: 0.25\nhpo:\n  sampler:\n    seed: 3\n")
    words = ["--config-dir", str(own.parent), *SEARCH, "experiment=mine"]
    output = sweep.run("hpo.n_trials=2", "hpo.study=first", words=words)
    assert "test/acc" in output
    around = ["--config-dir", str(sweep.place / "sweeps" / "first"), *SEARCH, "experiment=best"]
    sweep.run("hpo.n_trials=2", "hpo.study=second", "model.lr=0.005", words=around)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        found = f"hydra.searchpath=[file://{sweep.place / 'sweeps' / 'second'}]"
        composed = compose("config", ["experiment=best", found])
    assert (composed.model.warmup, composed.model.lr) == (0.25, 0.005)


def test_a_run_with_the_state_of_another_machine_is_taken_over(sweep: Sweep) -> None:
    process = sweep.start("hpo.n_trials=2", FAKE_HELD='{"1": 0}')
    until(lambda: 1 in sweep.begun)
    process.kill()
    process.communicate()
    none_is_left(sweep)
    state = sweep.folder() / "00001" / "state.json"  # as in a restarted container
    state.write_text(json.dumps({**json.loads(state.read_text()), "host": "gone"}))
    sweep.run("hpo.n_trials=2")
    assert states(sweep.study()) == {"COMPLETE": 2}


def test_the_death_of_the_process_that_tests_the_best_is_reported(sweep: Sweep) -> None:
    output = sweep.run("hpo.n_trials=2", FAKE_TEST="dies", status=1)
    assert "cannot be tested: its process died: exit status 9" in output
    assert "Traceback" not in output
    none_is_left(sweep)
    assert "test/acc" in sweep.run("hpo.n_trials=2")


def test_the_same_command_resumes_and_repeats_nothing(sweep: Sweep) -> None:
    sweep.run("hpo.n_trials=3")
    before = sequence(sweep.study())
    output = sweep.run("hpo.n_trials=5")
    assert "resumed after 3" in output
    after = sequence(sweep.study())
    assert after[:3] == before
    assert [trial[0] for trial in after] == [0, 1, 2, 3, 4]
    assert Counter(note["trial"] for note in sweep.notes if "ended" in note) == dict.fromkeys(range(5), 1)
    whole = Sweep(sweep.place.with_name("whole"))
    whole.run("hpo.n_trials=5")
    assert sequence(whole.study()) == after  # the same as without an interruption
    assert "resumed after 5" in sweep.run("hpo.n_trials=5")
    assert len(sweep.ended) == 5


def test_fresh_starts_a_new_study_beside_the_old_one(sweep: Sweep) -> None:
    sweep.run("hpo.n_trials=2", "hpo.study=mine")
    sweep.run("hpo.n_trials=1", "hpo.study=mine", "hpo.fresh=true")
    assert sorted(path.name for path in (sweep.place / "sweeps").iterdir()) == ["mine", "mine-2"]
    sweep.run("hpo.n_trials=2", "hpo.study=mine")  # the newest
    assert len(list((sweep.place / "sweeps" / "mine-2").glob("0*"))) == 2
    assert len(list((sweep.place / "sweeps" / "mine").glob("0*"))) == 2


def test_another_space_is_another_study(sweep: Sweep) -> None:
    sweep.run("hpo.n_trials=1")
    sweep.run("hpo.n_trials=1", "model.lr=interval(0.001,0.002)")
    sweep.run("hpo.n_trials=1", "seed=1")
    assert len(list((sweep.place / "sweeps").iterdir())) == 3
    names = {path.name for path in (sweep.place / "sweeps").iterdir()}
    output = sweep.run("hpo.n_trials=1", f"hpo.study={names.pop()}", "model.lr=interval(0.003,0.004)", status=1)
    assert "already exists with different settings" in output
    assert "now low 0.003, high 0.004" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_search_cleanly_and_says_how_to_resume_it(sweep: Sweep, number: signal.Signals) -> None:
    process = sweep.start("hpo.n_trials=4", "hpo.parallel=2", FAKE_HELD='{"2": 0}')
    until(lambda: {0, 1, 3} <= sweep.ended.keys() and sweep.recorded()["COMPLETE"] == 3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 128 + number, output
    assert "3 of 4 trials have ended" in output
    assert "Resume with: python " in output
    assert "train.py -m hpo=optuna" in output
    none_is_left(sweep)
    assert states(sweep.study()) == {"COMPLETE": 3, "WAITING": 1}
    sweep.run("hpo.n_trials=4", "hpo.parallel=2")
    assert states(sweep.study()) == {"COMPLETE": 4}


def workers(sweep: Sweep) -> list[psutil.Process]:
    """Return the living worker processes of searches in this folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "cwd", "status"])
        if process.info["cwd"] == str(sweep.place)
        and any("launchers.sweep.worker" in word for word in process.info["cmdline"] or [])
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def none_is_left(sweep: Sweep) -> None:
    """See all workers end after their sweeper."""
    until(lambda: not workers(sweep))


# --- kills ---


def kill_at_random(sweep: Sweep, rng: random.Random, kills: int, n_trials: int, *more: str) -> None:
    """Start the search again and again; each time kill the sweeper or one of its workers at a random moment."""
    for kill in range(kills):
        process = sweep.start(f"hpo.n_trials={n_trials}", "hpo.parallel=2", *more, FAKE_SECONDS='{"others": 0.3}')
        until(lambda: process.poll() is not None or bool(workers(sweep)), every_s=0.05)  # noqa: B023
        time.sleep(rng.uniform(0.0, 1.2))
        victims = workers(sweep)
        if kill % 2 == 1 and victims and not near_failing(sweep):
            with suppress(psutil.NoSuchProcess):
                rng.choice(victims).kill()
            time.sleep(rng.uniform(0.0, 0.6))
        if process.poll() is None:
            process.kill()
        process.communicate()


def near_failing(sweep: Sweep) -> bool:
    """Whether one more death of its worker would make a trial fail, as it should."""
    if not list(sweep.place.glob("sweeps/*/study.db")) or not list(sweep.place.glob("sweeps/*/0*")):
        return False
    return any(
        not trial.state.is_finished() and trial.user_attrs.get("deaths", 0) >= MOST_DEATHS - 1
        for trial in sweep.study().trials
    )


def check_after_kills(sweep: Sweep, n_trials: int) -> None:
    study = sweep.study()
    assert states(study) == {"COMPLETE": n_trials}
    assert [trial.number for trial in study.trials] == list(range(n_trials))
    notes = sweep.notes
    assert not [note for note in notes if "overlap" in note]  # no two processes ever wrote to one folder
    # a trial that was killed between its last note and reporting its success runs again
    assert {note["trial"] for note in notes if "ended" in note} == set(range(n_trials))
    for number, trial in enumerate(study.trials):
        folder = sweep.folder() / f"{number:05d}"
        assert json.loads((folder / "metrics.json").read_text())["val/acc"] == trial.value
        spec = json.loads((folder / "spec.json").read_text())
        assert spec["run_id"].endswith(f"-{number}")
        assert spec["config"]["model"]["lr"] == trial.params["model.lr"]
    assert len(list(sweep.folder().glob("0*"))) == n_trials


def test_kills_lose_no_trial_and_count_none_twice(sweep: Sweep) -> None:
    kill_at_random(sweep, random.Random(4), 6, 10)
    sweep.run("hpo.n_trials=10", "hpo.parallel=2")
    check_after_kills(sweep, 10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_more_kills_lose_no_trial(sweep: Sweep, seed: int) -> None:
    kill_at_random(sweep, random.Random(seed), 20, 30)
    sweep.run("hpo.n_trials=30", "hpo.parallel=2")
    check_after_kills(sweep, 30)


def test_a_killed_worker_is_replaced_and_its_trial_runs_again(sweep: Sweep) -> None:
    process = sweep.start("hpo.n_trials=3", FAKE_HELD='{"1": 0}')
    until(lambda: 1 in sweep.begun)
    (worker,) = workers(sweep)
    worker.kill()
    sweep.release()
    output, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0, output
    assert states(sweep.study()) == {"COMPLETE": 3}
    began = [note["pid"] for note in sweep.notes if note["trial"] == 1 and "ended" not in note]
    assert len(set(began)) == 2


# --- several machines ---


def test_two_sweepers_on_one_postgresql_share_a_study(postgres: str, tmp_path: Path) -> None:
    storage = empty_database(postgres)
    arguments = ("hpo.n_trials=16", "hpo.study=shared", "hpo.parallel=2", f"hpo.storage={storage}")
    one, other = Sweep(tmp_path / "one"), Sweep(tmp_path / "other")
    held = {"FAKE_HELD": '{"others": 0}', "FAKE_SECONDS": '{"others": 0.1}'}
    processes = [each.start(*arguments, **held) for each in (one, other)]
    until(lambda: bool(one.begun and other.begun))  # neither has run them all before the other was there
    for each in (one, other):
        each.release()
    outputs = [process.communicate(timeout=LONGEST_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    study = one.study(storage)
    assert states(study) == {"COMPLETE": 16}
    assert [trial.number for trial in study.trials] == list(range(16))
    assert sorted([*one.ended, *other.ended]) == list(range(16))  # each trial ran on one of them
    assert min(len(one.ended), len(other.ended)) > 0
    for output in outputs:
        assert "secret-word" not in output
        assert f"trial {study.best_trial.number}, val/acc {study.best_value:.4f}" in output


def test_a_sweeper_takes_over_from_one_that_was_killed_elsewhere(postgres: str, tmp_path: Path) -> None:
    storage = empty_database(postgres)
    arguments = ("hpo.n_trials=4", "hpo.study=shared", f"hpo.storage={storage}")
    one, other = Sweep(tmp_path / "one"), Sweep(tmp_path / "other")
    first = one.start(*arguments, FAKE_HELD='{"1": 0}')
    until(lambda: 1 in one.begun)
    second = other.start(*arguments)
    until(lambda: len(other.ended) == 2)
    first.kill()
    first.communicate()
    output, _ = second.communicate(timeout=LONGEST_S)
    assert second.returncode == 0, output
    assert states(one.study(storage)) == {"COMPLETE": 4}
    assert sorted([*one.ended, *other.ended]) == [0, 1, 2, 3]


def test_a_database_that_is_started_again_is_waited_for(sweep: Sweep) -> None:
    with server_and_restart() as (storage, restart):
        arguments = ("hpo.n_trials=10", "hpo.study=shared", "hpo.parallel=2", f"hpo.storage={storage}")
        held = {"FAKE_HELD": '{"3": 0}', "FAKE_SECONDS": '{"others": 0.5}'}  # the search outlasts the restart
        process = sweep.start(*arguments, "hpo/pruner=median", **held)
        until(lambda: len(sweep.ended) >= 2)
        restart(2.0)
        sweep.release()
        output, _ = process.communicate(timeout=LONGEST_S)
        assert process.returncode == 0, output
        assert sum(states(sweep.study(storage)).values()) == 10
        assert set(states(sweep.study(storage))) <= {"COMPLETE", "PRUNED"}
        assert sorted(sweep.ended) == list(range(10))


# --- pruning ---


@pytest.mark.parametrize("pruner", [pytest.param("asha", marks=pytest.mark.plots), "median", "hyperband"])
def test_bad_trials_are_pruned_and_reported_as_pruned(sweep: Sweep, pruner: str) -> None:
    output = sweep.run("hpo.n_trials=16", f"hpo/pruner={pruner}", "hpo.parallel=2", "trainer.max_epochs=9")
    study = sweep.study()
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED"]
    assert pruned
    assert states(study)["COMPLETE"] + len(pruned) == 16
    for trial in pruned:
        epochs = json.loads((sweep.folder() / f"{trial.number:05d}" / "metrics.json").read_text())["epochs"]
        assert epochs == max(trial.intermediate_values) < 9
        assert f"pruned after epoch {epochs}" in output
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert all(max(trial.intermediate_values) == 9 for trial in complete)


# --- failures ---


@pytest.mark.plots
def test_a_failed_trial_is_recorded_with_its_cause_and_the_search_continues(sweep: Sweep) -> None:
    output = sweep.run("hpo.n_trials=6", FAKE_FAILS="1:bad,3:code", FAKE_NAN="4")
    study = sweep.study()
    assert states(study) == {
        "COMPLETE": 3,
        "FAIL": 3,
    }  # six have ended, since trials that failed by their own error count
    causes = {trial.number: trial.user_attrs["cause"] for trial in study.trials if trial.state.name == "FAIL"}
    assert "diverged" in causes[1]
    assert causes[3] == "ZeroDivisionError: of trial 3"
    assert causes[4] == "val/acc is nan"
    assert "3 trials complete, 0 pruned, 3 failed" in output
    assert "ZeroDivisionError: of trial 3" in output


def test_three_failures_in_a_row_for_one_reason_end_the_search(sweep: Sweep) -> None:
    output = sweep.run("hpo.n_trials=20", FAKE_FAILS="1:bad,3:bad,4:bad,5:bad", status=1)
    assert states(sweep.study()) == {"COMPLETE": 2, "FAIL": 4}
    assert "3 trials in a row failed for the same reason" in output
    assert "Training has diverged" in output
    assert "train.py -m" in output
    sweep.run("hpo.n_trials=8")  # the cause is fixed, so the search continues
    assert states(sweep.study()) == {"COMPLETE": 4, "FAIL": 4}


def test_three_failures_for_different_reasons_do_not(sweep: Sweep) -> None:
    sweep.run("hpo.n_trials=5", FAKE_FAILS="1:bad,2:code,3:bad")
    assert states(sweep.study()) == {"COMPLETE": 2, "FAIL": 3}


def test_a_trial_that_kills_its_process_each_time_fails(sweep: Sweep) -> None:
    output = sweep.run("hpo.n_trials=3", FAKE_FAILS="1:death")
    assert states(sweep.study()) == {"COMPLETE": 2, "FAIL": 1}
    assert "its process died 3 times: exit status 9" in output


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.lrr=interval(0,1)"], ["model.lrr", "Try: model.lr"]),
        (["model.lr=interval(1e-1,1e-4)"], ["starts at 0.1 and ends at 0.0001"]),
        (["model.lr=tag(log,interval(0,1))"], ["must start above 0, got 0.0"]),
        (["hpo/sampler=tpee"], ["tpee", "random", "tpe", "grid"]),
        (["hpo.sampler._target_=optuna.samplers.Nothing"], ["TPESampler", "GPSampler"]),
        (["hpo/sampler=grid"], ["A grid cannot search model.lr", "hpo/sampler=tpe"]),
        (["hpo.n_trials=0", "hpo.parallel=0"], ["hpo.n_trials must be", "hpo.parallel must be"]),
        (["hpo.study='a b'"], ["is not a valid study name"]),
        (["hpo.storage=redis://127.0.0.1/0"], ["not a supported database URL"]),
        (["resume=runs/there"], ["no run folder runs/there"]),
        (["hpo.n_trial=3"], ["n_trial"]),
    ],
)
def test_bad_input_is_a_clear_error(sweep: Sweep, overrides: list[str], expected: list[str]) -> None:
    output = sweep.run(*overrides, status=1)
    assert all(part in output for part in expected), output
    assert "Traceback" not in output
    assert not sweep.notes_file.exists()


def test_an_error_of_every_trial_is_reported_before_the_first(sweep: Sweep, photos: Path) -> None:
    words = ["-m", "hpo=optuna", "data=folder", f"data.root={sweep.place / 'nothing'}", "model=efficientnet_lite0"]
    output = sweep.run(words=words, status=1)
    assert "nothing" in output
    assert "Try: " in output
    assert not list((sweep.place / "sweeps").glob("*"))  # nothing was searched


def test_launch_refuses_a_search() -> None:
    with pytest.raises(LaunchError, match=r"train\.py -m hpo=optuna"):
        launch(["hpo=optuna", "data=drawn"])


# --- real training ---


def test_heads_are_searched_on_shared_features_and_a_kill_costs_one_trials_epochs(sweep: Sweep, photos: Path) -> None:
    """A small real search: warm processes, one pass over the photos, pruning by validation, resuming after SIGKILL."""
    words = [
        "-m",
        "hpo=optuna",
        "hpo.study=small",
        "hpo.n_trials=8",
        "hpo.parallel=2",
        "hpo/pruner=asha",
        "data.batch_size=choice(2,4)",
        *(text for text in tiny_settings(photos) if not text.startswith(("data.batch_size", "logger", "trainer."))),
        "model.trainable=head",
        "trainer.max_epochs=9",
    ]
    first = sweep.start(words=words)
    until(lambda: len(list(sweep.place.glob("sweeps/small/*/metrics.json"))) >= 2)
    first.kill()
    first.communicate()
    output = sweep.run(words=words)
    study = sweep.study()
    assert states(study)["COMPLETE"] + states(study)["PRUNED"] == 8
    assert states(study)["PRUNED"] > 0
    for trial in study.trials:
        folder = sweep.folder() / f"{trial.number:05d}"
        with (folder / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(row["epoch"]) for row in rows] == list(range(1, trial.user_attrs["epochs"] + 1))
        reported = [trial.intermediate_values[epoch] for epoch in range(1, len(rows) + 1)]
        assert reported == [float(row["val/acc"]) for row in rows]
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["val/acc"] == pytest.approx(max(reported))
        assert trial.state.name == "PRUNED" or trial.value == max(reported)
        best = trial.number == best_of(study).number
        assert best == (folder / "report.html").exists() == (folder / "predictions.csv").exists()
    computed = re.findall(r"Computing features", "".join(f.read_text() for f in sweep.folder().glob("workers/*.log")))
    assert len(computed) <= 1  # 0 if another test has computed them
    assert "test/acc" in output


# --- the table ---


def test_the_table_fits_a_small_terminal_and_shows_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from launchers.sweep.space import SearchSpace

    keys = ("model.lr", "model.weight_decay", "data.batch_size", "model.label_smoothing", "model.optimizer")
    space = SearchSpace({**dict.fromkeys(keys[:2], Number(1e-5, 1e-1)), **dict.fromkeys(keys[2:], Choice(("1", "2")))})
    values = dict(zip(keys, (0.0123456, 1.5e-5, 128, 0.1234, "adamw"), strict=True))
    trials = [Trial(n, "pruned" if n % 3 else "complete", values, 0.5 + n / 100, "", 1.5, 4, "") for n in range(40)]
    trials.append(Trial(40, "running", values, None, "", 0.5, 2, ""))
    table = SweepTable("quickstart-12345678", space, 50)._rows(trials, trials[3], 12)
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "40 of 50 trials, best 0.5300 (trial 3)" in lines[0]
    assert any(" 3 " in line and "best" in line for line in lines)
    assert any("epoch 2" in line for line in lines)
    assert any(all(part in line for part in ("0.012", "1.5e-05", "128", "0.12", "adamw", "0.53")) for line in lines)
