"""Trials of a search that are jobs of their own: they outlive the search's process, and its connection to them."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launchers import registry
from launchers.cost.limits import Limits
from launchers.status import Handle, LaunchError, Phase, Shortage, Status
from launchers.sweep import worker
from launchers.sweep.budget import Budget
from launchers.sweep.machines import Machines
from launchers.sweep.running import RunningSearch
from launchers.sweep.space import SearchSpace
from launchers.sweep.worker import Outcome, Task
from tests.support.toy_deployments import ToyDeployments

# --- list and cancel ---


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search whose process has ended: trial 0 is at home and has cost 0.5, trial 1 is billed 0.25, trial 2 runs."""
    monkeypatch.setitem(registry.LAUNCHERS, "toydeploy", "tests.support.toy_deployments.ToyDeployments")
    status = ToyDeployments.status
    monkeypatch.setattr(ToyDeployments, "status", lambda self, handle: replace(status(self, handle), usd=1.0))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "job-2").write_text("running")
    folder = tmp_path / "sweeps" / "mine"
    for number in range(3):
        trial = folder / f"{number:05d}"
        trial.mkdir(parents=True)
        home = {"home": "yes"} if number == 0 else {}
        note = {"handle": f"toydeploy://{tmp_path}/there/job-{number}", **home}
        (trial / "launched.json").write_text(json.dumps(note))
    with closing(sqlite3.connect(folder / "study.db")) as database:
        database.execute("CREATE TABLE trials (trial_id INTEGER, number INTEGER, state TEXT)")
        database.execute("CREATE TABLE trial_user_attributes (trial_id INTEGER, key TEXT, value_json TEXT)")
        database.execute("CREATE TABLE study_user_attributes (key TEXT, value_json TEXT)")
        states = ("COMPLETE", "FAIL", "RUNNING")
        database.executemany("INSERT INTO trials VALUES (?, ?, ?)", [(n + 7, n, s) for n, s in enumerate(states)])
        database.executemany(
            "INSERT INTO trial_user_attributes VALUES (?, 'usd', ?)", [(7, "0.125"), (8, "0.25"), (9, "9.0")]
        )
        database.execute("INSERT INTO study_user_attributes VALUES ('tested_usd', '{\"0\": 0.5}')")
        gone = json.dumps({"host": "another", "pid": 1, "started": 1.0, "beat": 1})
        database.execute("INSERT INTO study_user_attributes VALUES ('sweeper:abc', ?)", [gone])
        database.commit()
    return folder


@pytest.fixture
def live(search: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes of the search, of which one lives."""
    from launchers.runs.searches import SearchFolder

    alive = [SimpleNamespace(children=lambda recursive: [], terminate=lambda: alive.clear())]
    monkeypatch.setattr(SearchFolder, "processes", lambda self: list(alive))
    monkeypatch.setattr("psutil.wait_procs", lambda processes, timeout: (processes, []))
    return alive


def test_jobs_of_a_search_that_was_killed_are_listed(search: Path, said: Callable[..., str]) -> None:
    (row,) = json.loads(said("list", "--json"))
    assert (row["folder"], row["phase"]) == (str(search / "00002"), "running")
    rows = {each["folder"]: each for each in json.loads(said("list", "--json", "--all"))}
    assert rows.keys() == {str(search), str(search / "00002")}
    assert rows[str(search)]["phase"] == "cancelled"


@pytest.mark.usefixtures("live")
def test_jobs_of_a_search_that_goes_on_are_its_row_with_all_that_they_have_cost(
    search: Path, said: Callable[..., str]
) -> None:
    (row,) = json.loads(said("list", "--json"))
    assert (row["folder"], row["phase"]) == (str(search), "running")
    assert row["usd"] == pytest.approx(0.5 + 0.25 + 1.0)  # with its test, from the study; and the job that runs
    assert len(json.loads(said("list", "--json", "--trials"))) == 2


@pytest.mark.parametrize("words", [["mine"], ["--all", "--yes"]])
@pytest.mark.parametrize("lives", [True, False])
def test_what_cancels_a_search_cancels_its_jobs_once_its_process_has_ended(
    words: list[str], lives: bool, search: Path, live: list[Any], said: Callable[..., str], monkeypatch: Any
) -> None:
    if not lives:
        live.clear()
    cancel = ToyDeployments.cancel

    def after_the_search(self: ToyDeployments, handle: Handle, *, grace_s: float = 110) -> Status:
        assert not live
        return cancel(self, handle, grace_s=grace_s)

    monkeypatch.setattr(ToyDeployments, "cancel", after_the_search)
    printed = said("cancel", *words)
    assert "job-2: cancelled" in printed
    assert "job-1" not in printed  # it has ended
    assert not (search.parent.parent / "there" / "job-2").exists()
    assert "Nothing is in progress." in said("cancel", "--all")


@pytest.mark.parametrize("lives", [True, False])
def test_cancelling_all_jobs_of_a_place_ends_the_search_of_this_machine_that_would_start_others(
    lives: bool, search: Path, live: list[Any], said: Callable[..., str], monkeypatch: Any
) -> None:
    if not lives:
        live.clear()
    there, cancel = search.parent.parent / "there", ToyDeployments.cancel
    (there / "alone").write_text("running")

    def after_the_search(self: ToyDeployments, handle: Handle, *, grace_s: float = 110) -> Status:
        assert handle.run_id == "alone" or not live
        return cancel(self, handle, grace_s=grace_s)

    monkeypatch.setattr(ToyDeployments, "cancel", after_the_search)
    printed = said("cancel", "--all", "--yes", f"toydeploy://{there}")
    assert ("mine: cancelled" in printed) == lives
    assert "job-2: cancelled" in printed
    assert "alone: cancelled" in printed
    assert list(there.iterdir()) == []


@pytest.mark.parametrize("known", [True, False])
def test_jobs_of_a_search_that_is_elsewhere_are_cancelled_and_the_search_is_named(
    known: bool, search: Path, said: Callable[..., str], monkeypatch: Any
) -> None:
    there, name = search.parent.parent / "there", "yours-a1b2c3-7"
    monkeypatch.setattr(ToyDeployments, "capabilities", replace(ToyDeployments.capabilities, deploys=False))
    (there / name).write_text("running")
    if known:  # its process has ended, which is known here
        note = {"handle": f"toydeploy://{there}/{name}"}
        (search / "00001" / "launched.json").write_text(json.dumps(note))
    printed = said("cancel", "--all", "--yes", f"toydeploy://{there}")
    assert f"{name}: cancelled" in printed
    assert ("first: python -m launchers cancel yours\n" in printed) == (not known)


# --- a job that cannot be followed ---

EXPIRED = LaunchError("Describing the job failed. The AWS credentials have expired.\nTry: aws sso login")


@pytest.mark.parametrize(
    ("known", "submits", "remote", "ended"),
    [
        (EXPIRED, None, True, "out of sight"),
        (EXPIRED, EXPIRED, True, "out of sight"),
        (Status(Phase.RUNNING), EXPIRED, True, "out of sight"),
        (Status(Phase.RUNNING), OSError("connection reset"), True, "out of sight"),
        (Status(Phase.LOST), LaunchError("Not permitted: s3:PutObject."), True, "failed"),  # it never began
        (Status(Phase.FAILED), None, True, "failed"),
        (Status(Phase.LOST), LaunchError("none", shortage=Shortage("none")), True, "no machine"),
        (Status(Phase.FAILED), EXPIRED, False, "failed"),
    ],
)
def test_a_trial_has_failed_only_if_its_job_has(
    known: Any, submits: Exception | None, remote: bool, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raised(what: Any) -> Any:
        if isinstance(what, Exception):
            raise what
        return what

    handle = Handle("toy", "there", "trial")
    launcher = SimpleNamespace(
        capabilities=SimpleNamespace(remote=remote),
        poll_s=0.0,
        submit=lambda plan: raised(submits) or handle,
        status=lambda handle: raised(known),
        result=lambda handle: raised(LaunchError("Run has no result: failed")),
    )
    plan = SimpleNamespace(handle=handle, spec=SimpleNamespace(config={"trainer": {"max_epochs": 1}}, folder="/none"))
    monkeypatch.setattr("launchers.api.prepare", lambda overrides: (launcher, plan))
    unused: Any = None
    assert worker._run(Task(()), unused).ended == ended


def test_a_trial_that_a_process_of_an_earlier_search_begins_in_this_moment_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = iter([Status(Phase.LOST), Status(Phase.RUNNING)])  # when it is looked for, and after it was refused

    def refused(plan: Any) -> Handle:
        raise LaunchError("The run is already running, in process 7.")

    launcher = SimpleNamespace(
        capabilities=SimpleNamespace(remote=False), submit=refused, status=lambda handle: next(known)
    )
    spec = SimpleNamespace(config={"trainer": {"max_epochs": 1}}, folder="/none")
    plan = SimpleNamespace(handle=Handle("local", "there", "trial"), spec=spec)
    monkeypatch.setattr("launchers.api.prepare", lambda overrides: (launcher, plan))
    unused: Any = None
    assert worker._run(Task(()), unused).ended == "busy"


def test_a_job_out_of_sight_ends_the_search_without_a_failed_trial(tmp_path: Path) -> None:
    given_back: list[int] = []
    study: Any = SimpleNamespace(give_back=given_back.append, counts=lambda: SimpleNamespace(finished=4))
    running = RunningSearch(
        study=study,
        space=SearchSpace({}),
        overrides=(),
        folder=tmp_path,
        n_trials=10,
        parallel=1,
        machines=Machines(1, 0.0, 1.0, 1),
        budget=Budget(Limits(), None, 10),
        monitor="val/acc",
        asks=False,
        warms_up=False,
        elsewhere=True,
        home=tmp_path,
    )
    running._raise_out_of_sight()
    assert not running._ends
    running._ended(0, 3, Outcome("out of sight", detail=str(EXPIRED)))
    assert given_back == [3]
    assert running._ends
    with pytest.raises(LaunchError, match="cannot be followed, and may go on; 4 of 10 trials have ended") as error:
        running._raise_out_of_sight()
    assert "The AWS credentials have expired.\nTry: aws sso login\nThen, to come back to it: " in str(error.value)
