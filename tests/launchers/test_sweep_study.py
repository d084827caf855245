"""The study in its database: each number once, exact counts, and trials that outlive their sweepers."""

import dataclasses
import itertools
import math
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import psutil
import pytest

from dogbreed.errors import ConfigError
from launchers.cost.limits import Limits
from launchers.runs.processes import living_process
from launchers.sweep import running as running_module
from launchers.sweep import storage as storage_module
from launchers.sweep import study as study_module
from launchers.sweep.budget import Budget
from launchers.sweep.identity import StudyAbout
from launchers.sweep.machines import Machines
from launchers.sweep.samplers import build_pruner, build_sampler
from launchers.sweep.space import Choice, Number, SearchSpace
from launchers.sweep.storage import StudyError, hidden
from launchers.sweep.study import DEAD_AFTER_S, MOST_DEATHS, Study
from launchers.sweep.worker import Epoch, Outcome
from tests.support.project import ROOT

SPACE = SearchSpace({"model.lr": Number(1e-4, 1e-1, log=True), "model.optimizer": Choice(("adamw", "sgd"))})
ABOUT = StudyAbout("try", SPACE, "val/acc", "max", "experiment=quickstart", "digest")


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'sweep' / 'study.db'}"
    return str(request.getfixturevalue("postgres"))


@pytest.fixture
def about(request: pytest.FixtureRequest) -> StudyAbout:
    """A study with its own name for each test, because the PostgreSQL server is shared."""
    return dataclasses.replace(ABOUT, name=f"try-{abs(hash(request.node.nodeid))}")


_OPEN: list[Study] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _OPEN:
        _OPEN.pop().close()


def opened(about: StudyAbout, storage: str, **more: Any) -> Study:
    study = Study(
        about, storage, lambda before: optuna.samplers.RandomSampler(seed=before), optuna.pruners.NopPruner(), **more
    )
    _OPEN.append(study)
    return study


def test_trials_are_numbered_once_and_counted_exactly(about: StudyAbout, storage: str) -> None:
    study = opened(about, storage)
    numbers = []
    while (trial := study.claim(5)) is not None:
        numbers.append(trial.number)
        if trial.number % 2:
            study.complete(trial.number, 0.5 + trial.number / 100, Path("there"), {"epochs": 3})
        else:
            study.report(trial.number, 1, 0.9)
    assert numbers == [0, 1, 2, 3, 4]
    assert (study.counts().complete, study.counts().running) == (2, 3)
    study.failed(0, "no good")
    study.complete(2, 0.9, Path("there"), {"epochs": 1}, pruned=True)
    counts = study.counts()
    assert (counts.complete, counts.pruned, counts.failed, counts.running, counts.finished) == (2, 1, 1, 1, 4)
    assert study.claim(5) is None
    best = study.best()
    assert best is not None
    assert (best.number, best.value, best.epochs) == (3, 0.53, 3)  # the pruned trial was better, but is not complete
    assert study.trial(0).cause == "no good"


def test_of_equal_trials_the_best_epoch_decides_and_then_the_first_trial(about: StudyAbout, storage: str) -> None:
    study = opened(about, storage)
    best_epochs = [(0.4, 9), (0.2, 3), (0.2, 5), (0.2, 5)]
    of_an_earlier_version: dict[str, float] = {}
    recorded = [{"val/loss": loss, "best_epoch": epoch} for loss, epoch in best_epochs]
    best = []
    for metrics in (of_an_earlier_version, *recorded):
        trial = study.claim(5)
        assert trial is not None
        study.complete(trial.number, 0.5, Path("there"), {"epochs": 9, **metrics})
        found = opened(about, storage).best()  # as another process reads it
        assert found is not None
        best.append(found.number)
    assert best == [0, 1, 2, 3, 3]


def test_many_threads_of_several_studies_share_the_trials(about: StudyAbout, storage: str) -> None:
    opened(about, storage)
    claimed: list[int] = []

    def work() -> None:
        own = opened(about, storage)
        while (trial := own.claim(24)) is not None:
            claimed.append(trial.number)
            own.complete(trial.number, 0.5, Path("there"), {"epochs": 1})
        own.close()  # in its own thread

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(24))


_CLAIMS_AND_DIES = """
import os, sys
from pathlib import Path
from tests.launchers.test_sweep_study import *
study = opened(dataclasses.replace(ABOUT, name=sys.argv[1]), sys.argv[2])
print([study.claim(9).values for _ in range(2)], flush=True)
study.report(0, 1, 0.25)
os.kill(os.getpid(), 9)
"""


def test_trials_of_a_dead_sweeper_run_again_with_their_numbers_and_parameters(about: StudyAbout, storage: str) -> None:
    died = subprocess.run(
        [sys.executable, "-c", _CLAIMS_AND_DIES, about.name, storage],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert died.returncode == -9, died.stderr
    study = opened(about, storage)
    assert study.counts().running == 0  # its sweeper is dead, so it does not count as running
    again = [study.claim(9) for _ in range(2)]
    assert [trial.number for trial in again if trial] == [0, 1]
    assert str([trial.values for trial in again if trial]) == died.stdout.strip()
    third = study.claim(9)
    assert third is not None
    assert third.number == 2
    assert study.report(0, 1, 0.25) is False  # reported again: no error, and nothing changes
    study.report(0, 2, 0.5)
    assert study.optuna_study.trials[0].intermediate_values == {1: 0.25, 2: 0.5}


def test_a_living_sweeper_keeps_its_trials(about: StudyAbout, storage: str) -> None:
    mine, other = opened(about, storage), opened(about, storage)
    first = mine.claim(2)
    second = other.claim(2)
    assert first is not None
    assert second is not None
    assert (first.number, second.number) == (0, 1)
    assert mine.claim(2) is None
    assert other.counts().running == 2


@pytest.mark.parametrize("dies_at_look", range(1, 7))
def test_a_sweeper_that_dies_while_another_claims_costs_no_further_trial(
    about: StudyAbout, storage: str, monkeypatch: pytest.MonkeyPatch, dies_at_look: int
) -> None:
    dying, other = opened(about, storage), opened(about, storage)
    assert dying.claim(2) is not None
    second = other.claim(2)
    assert second is not None
    looks = iter(range(1, 100))

    def alive(pid: int, started: float) -> object:
        return None if next(looks) >= dies_at_look else living_process(pid, started)

    monkeypatch.setattr(study_module, "living_process", alive)
    other.complete(second.number, 0.5, Path("other"), {"epochs": 1})
    claimed = [trial.number for _ in range(dies_at_look) if (trial := other.claim(2)) is not None]
    assert claimed == [0]  # the dead sweeper's, not a third one
    assert len(other.trials()) == 2


def test_a_sweeper_on_another_machine_is_dead_when_its_heartbeat_stops(
    about: StudyAbout, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(study_module, "this_host", lambda: "another machine")
        distant = opened(about, storage, clock=lambda: now[0])
        assert distant.claim(9) is not None
    here = opened(about, storage, clock=lambda: now[0])
    assert here.counts().running == 1
    now[0] += DEAD_AFTER_S - 1
    assert here.counts().running == 1
    distant.beat()  # late, but alive
    now[0] += DEAD_AFTER_S - 1
    assert here.counts().running == 1  # first seen now, so the time without a heartbeat starts now
    now[0] += DEAD_AFTER_S - 1
    assert here.counts().running == 1
    now[0] += 2
    assert here.counts().running == 0
    taken = here.claim(9)
    assert taken is not None
    assert taken.number == 0


def test_a_sweeper_whose_trial_was_taken_over_changes_nothing(
    about: StudyAbout, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(study_module, "this_host", lambda: "another machine")
        asleep = opened(about, storage)
        taken = [asleep.claim(9) for _ in range(4)]
    here = opened(about, storage, clock=lambda: now[0])
    here.counts()
    now[0] += DEAD_AFTER_S + 1
    again = [here.claim(9) for _ in range(4)]
    assert [trial.number for trial in again if trial] == [trial.number for trial in taken if trial] == [0, 1, 2, 3]
    assert asleep.report(0, 1, 0.9) is None
    asleep.complete(0, 0.9, Path("there"), {"epochs": 1})
    asleep.failed(1, "no good")
    asleep.give_back(2)
    assert asleep.died(3, "killed") == ""
    assert (here.counts().finished, here.counts().running) == (0, 4)
    for number in range(4):
        assert here.report(number, 1, 0.5) is False
        here.complete(number, 0.5, Path("here"), {"epochs": 1})
    assert here.counts().complete == 4
    assert asleep.counts().running == 0


def test_a_trial_whose_sweeper_died_before_claiming_it_is_free(about: StudyAbout, storage: str) -> None:
    one, other = opened(about, storage), opened(about, storage)
    first = one.claim(9)
    assert first is not None
    one.give_back(first.number)
    other.optuna_study.ask()  # asks for it and dies before it claims it: the trial still has `one`'s id
    assert one.counts().running == 0
    again = one.claim(9)
    assert again is not None
    assert again.number == first.number


def test_a_pruning_decision_outlives_the_sweeper(about: StudyAbout, storage: str) -> None:
    pruner = optuna.pruners.ThresholdPruner(lower=0.3)
    first = Study(about, storage, lambda before: optuna.samplers.RandomSampler(seed=before), pruner)
    _OPEN.append(first)
    trial = first.claim(2)
    assert trial is not None
    assert first.report(trial.number, 1, 0.5) is False
    assert first.report(trial.number, 2, 0.1) is True
    first.give_back(trial.number)  # stopped before it was ended as pruned
    second = opened(about, storage)  # its pruner prunes nothing
    elsewhere = second.claim(2, jobs=True)  # whose run may go on without the sweeper
    assert elsewhere is not None
    assert elsewhere.number == 0
    assert [second.report(0, epoch, 0.5) for epoch in (1, 2, 3)] == [False, True, True]
    second.give_back(0)
    following = second.claim(2)
    assert following is not None
    assert following.number == 1
    ended = second.trial(0)
    assert (ended.state, ended.epochs, ended.value) == ("pruned", 2, 0.1)


def test_a_process_with_the_pid_of_a_dead_one_is_not_mistaken_for_it() -> None:
    started = psutil.Process().create_time()
    assert living_process(os.getpid(), started) is not None
    assert living_process(os.getpid(), started - 60) is None
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert living_process(child.pid, started) is None


def test_a_trial_that_kills_its_process_each_time_fails(about: StudyAbout, storage: str) -> None:
    study = opened(about, storage)
    for death in range(1, MOST_DEATHS + 1):
        trial = study.claim(1)
        assert trial is not None
        assert trial.number == 0
        cause = study.died(0, "killed by SIGSEGV")
        assert study.counts().failed == bool(cause) == (death == MOST_DEATHS)
    assert "3 times: killed by SIGSEGV" in study.trial(0).cause


def test_a_trial_that_is_given_back_is_claimed_again(about: StudyAbout, storage: str) -> None:
    study = opened(about, storage)
    first = study.claim(1)
    assert first is not None
    study.give_back(first.number)
    again = study.claim(1)
    assert again is not None
    assert (again.number, again.values) == (first.number, first.values)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"space": SearchSpace({"model.lr": Number(0.1, 0.2)})}, "search space"),
        ({"mode": "min"}, "direction: was maximize, now minimize"),
        (
            {"settings": "experiment=finetune", "digest": "other"},
            "settings: were experiment=quickstart, now experiment=finetune",
        ),
        ({"monitor": "val/loss"}, "objective: was val/acc, now val/loss"),
        (
            {"space": SearchSpace({**SPACE.parameters, "model.lr": Number(1e-4, 0.2, log=True)})},
            "search space, model.lr: was low 0.0001, high 0.1, log True, now low 0.0001, high 0.2, log True",
        ),
    ],
)
def test_another_study_of_the_same_name_is_refused_and_both_are_shown(
    about: StudyAbout, storage: str, change: dict[str, Any], expected: str
) -> None:
    opened(about, storage)
    opened(
        dataclasses.replace(about, settings="seed=0 experiment=quickstart"), storage
    )  # the same settings in another order
    with pytest.raises(StudyError) as raised:
        opened(dataclasses.replace(about, **change), storage)
    message = str(raised.value)
    assert expected in message
    assert ", now " in message
    assert "hpo.fresh=true" in message


def test_a_locked_file_is_a_clear_error_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "SQLITE_WAIT_S", 0.2)
    file = tmp_path / "study.db"
    study = opened(ABOUT, f"sqlite:///{file}")
    trial = study.claim(3)
    assert trial is not None
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StudyError) as raised:
        study.claim(3)
    assert "locked" in str(raised.value)
    assert "network disk" in str(raised.value)
    other.execute("ROLLBACK")
    other.close()
    study.complete(trial.number, 0.5, Path("there"), {"epochs": 1})
    assert study.counts().complete == 1


class Obedient:
    """Stands for a worker process, whose runs end at once: the first one of trial 0 is given back, trial 1 fails."""

    def __init__(self, slot: int, log: Path) -> None:
        self.connection, self._other = Pipe()

    def send(self, task: Any) -> None:
        folder = Path(next(text for text in task.overrides if text.startswith("hydra.run.dir=")).partition("=")[2])
        number = int(folder.name)
        with folder.with_suffix(".begun").open("a") as begun:
            first = begun.tell() == 0
            begun.write("x")
        ended: Any = "failed" if number == 1 else "busy" if number == 0 and first else "well"
        self._other.send(Outcome(ended, {"val/acc": 0.5, "epochs": 1}, 1, detail="of its own", usd=0.25))

    def receive(self) -> object:
        return self.connection.recv()

    def end(self, *, wait_s: float = 0.0) -> str:
        self.connection.close()
        self._other.close()
        return ""


@pytest.mark.parametrize("n_trials", [1, 2])  # for two workers, of which one is free or none
@pytest.mark.parametrize("after", [False, True], ids=["before it answers", "after it has recorded"])
def test_a_search_ends_whenever_the_database_breaks_off(
    after: bool, n_trials: int, about: StudyAbout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_module, "Worker", Obedient)
    monkeypatch.setattr(running_module, "_CLAIM_S", 0.0)
    monkeypatch.setattr(running_module, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None))
    broken = 0
    while search_with_break(
        broken, after, n_trials, dataclasses.replace(about, name=f"{about.name}-{broken}"), tmp_path
    ):
        broken += 1
    assert broken > 6 * n_trials  # each of which is claimed, asked for, billed and ended


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "as a job"])
def test_a_trial_that_was_taken_over_ends_here_and_goes_on_as_a_job(
    elsewhere: bool, about: StudyAbout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_module, "Worker", Obedient)
    study = opened(about, f"sqlite:///{tmp_path / 'study.db'}")
    search = search_of(study, 1, tmp_path, elsewhere=elsewhere)
    search._fill()
    worker: Any = search._workers[0]
    worker.receive()  # its outcome: it has not ended yet
    worker._other.send(Epoch(1, {"val/acc": 0.5}))
    study._asked[0].set_user_attr("sweeper", "another")
    told: list[object] = []
    worker.send = told.append
    search._receive()
    assert (told, list(search._busy), list(search._workers)) == (([], [], []) if elsewhere else ([True], [0], [0]))
    worker.end()


def search_of(study: Study, n_trials: int, home: Path, *, elsewhere: bool = False) -> running_module.RunningSearch:
    return running_module.RunningSearch(
        study=study,
        space=SPACE,
        overrides=(),
        folder=home,
        n_trials=n_trials,
        parallel=2,
        machines=Machines(2, 0.0, 1.0, 1),
        budget=Budget(Limits(), None, n_trials),
        monitor="val/acc",
        asks=False,
        warms_up=False,
        elsewhere=elsewhere,
        home=home,
    )


def search_with_break(broken: int, after: bool, n_trials: int, about: StudyAbout, folder: Path) -> bool:
    """Search while the database breaks off once. Return whether that moment came. broken: how many answers it gave."""
    study = opened(about, f"sqlite:///{folder / 'study.db'}")
    (home := folder / str(broken)).mkdir()
    turns = itertools.count()
    errors = study._errors

    @contextmanager
    def breaking() -> Iterator[None]:
        breaks = next(turns) == broken
        if breaks and not after:
            raise StudyError("the server closed the connection")
        with errors():
            yield
        if breaks:
            raise StudyError("the server closed the connection")

    search = search_of(study, n_trials, home)
    table: Any = SimpleNamespace(show=lambda trials, best: None, _printed=[])
    study.__dict__["_errors"] = breaking
    try:
        search._fill_until_done(table)
    finally:
        del study.__dict__["_errors"]
        for worker in search._workers.values():
            worker.end()
    found = [(trial.number, trial.state, trial.usd) for trial in study.trials()]
    assert found == [(0, "complete", 0.25), (1, "failed", 0.25)][:n_trials]
    assert [len(file.read_text()) for file in sorted(home.glob("*.begun"))] == [2, 1][:n_trials]
    return next(turns) > broken + 1


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://me:secret-word@127.0.0.1:1/db", "check that the server runs"),
        ("mysql://me:secret-word@127.0.0.1/db", "not a supported database URL"),
        ("nonsense", "not a supported database URL"),
        ("sqlite:////proc/nowhere/study.db", "cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_a_clear_error(url: str, expected: str) -> None:
    with pytest.raises(StudyError) as raised:
        opened(ABOUT, url)
    assert expected in str(raised.value)
    assert "secret-word" not in str(raised.value)


def test_a_file_that_is_not_a_database_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    file.write_text("notes on dogs\n" * 100)
    with pytest.raises(StudyError, match="not a database"):
        opened(ABOUT, f"sqlite:///{file}")
    assert file.read_text().startswith("notes on dogs")


def test_passwords_are_hidden() -> None:
    assert hidden("postgresql://me:a:b@host/db") == "postgresql://me:***@host/db"
    assert hidden("sqlite:////x/y.db") == "sqlite:////x/y.db"
    assert hidden("postgresql://host/db?user=me&password=ab%40c&x=1") == "postgresql://host/db?user=me&password=***&x=1"


def test_the_next_draw_is_a_function_of_seed_and_trials_before() -> None:
    node = {"_target_": "optuna.samplers.RandomSampler", "seed": None}

    def draws(seed: int, before: int) -> dict[str, Any]:
        study = optuna.create_study(sampler=build_sampler(node, SPACE, seed, before))
        return study.ask(SPACE.distributions()).params

    assert draws(0, 3) == draws(0, 3)
    assert len({str(draws(seed, before)) for seed in range(3) for before in range(3)}) == 9


def test_each_grid_point_is_drawn_once_also_by_several_sweepers(about: StudyAbout, storage: str) -> None:
    space = SearchSpace({"a": Choice(("1", "2", "3")), "b": Number(0, 4, whole=True, step=2)})
    node = {"_target_": "optuna.samplers.GridSampler", "seed": 0}
    seen = []
    for _ in range(3):
        study = Study(
            dataclasses.replace(about, space=space),
            storage,
            lambda before: build_sampler(node, space, 0, before),
            build_pruner(None),
        )
        _OPEN.append(study)
        for _ in range(3):
            trial = study.claim(9)
            assert trial is not None
            seen.append(tuple(trial.values.values()))
            study.complete(trial.number, 0.5, Path("there"), {"epochs": 1})
    assert len(set(seen)) == 9


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"_target_": "optuna.samplers.Tpe"}, "TPESampler"),
        ({"_target_": "optuna.samplers.TPESampler", "startup": 3}, "startup"),
        ({"_target_": "optuna.pruners.MedianPruner"}, "is not an Optuna sampler"),
    ],
)
def test_the_error_of_an_unknown_sampler_lists_the_known_ones(node: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build_sampler(node, SPACE, 0, 0)
    assert expected in str(raised.value)
    assert "RandomSampler" in str(raised.value)


def test_a_nan_objective_never_becomes_the_best(about: StudyAbout, storage: str) -> None:
    study = opened(about, storage)
    for value in (0.5, math.nan):
        trial = study.claim(2)
        assert trial is not None
        if math.isnan(value):
            study.failed(trial.number, "val/acc is nan")
        else:
            study.complete(trial.number, value, Path("there"), {"epochs": 1})
    best = study.best()
    assert best is not None
    assert best.value == 0.5
