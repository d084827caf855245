"""A new back end is a class and a line in the registry's table: nothing else names the launchers."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import train
from dogbreed.errors import ConfigError
from dogbreed.run_folder import NOT_SAVED
from launchers import prepare, registry
from launchers.base import Launcher
from launchers.cli.verbs import main as launchers_command
from launchers.follow import follow, wait
from launchers.plan import Plan
from launchers.spec import RunSpec
from launchers.status import Handle, LaunchError, Phase, RunResult
from tests.support.fake_training import OVERRIDES as FORMULA
from tests.support.fake_training import release
from tests.support.launcher_contract import LauncherContract
from tests.support.project import TRAIN
from tests.support.sweeps import LONGEST_S, SEARCH, Sweep
from tests.support.toy_launcher import ToyLauncher

TOY = "tests.support.toy_launcher.ToyLauncher"
FAKE = "tests.support.fake_training.FakeLauncher"


@pytest.fixture(scope="module", autouse=True)
def toy_is_known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Add the toy launcher to the table, and make fake_training fail run 12 and never end run 13."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.LAUNCHERS, "toy", TOY)
        patch.setenv("FAKE_LOG", str(tmp_path_factory.mktemp("notes") / "notes.jsonl"))
        patch.setenv("FAKE_FAILS", "12:bad")
        patch.setenv("FAKE_SECONDS", json.dumps({"13": 600}))
        yield


class NoNumbers(ToyLauncher):
    """Succeeds without metrics, as a deployment does."""

    def result(self, handle: Handle) -> RunResult:
        return RunResult(handle, Path(self.machine, handle.run_id), {}, {})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


def planned(place: Path, number: int, *more: str, name: str = "toy") -> tuple[Launcher, Plan]:
    """Plan a run for the machine place/machine; its folder here is place/runs/NAME-NUMBER."""
    own = (f"run_id={name}-{number}", f"hydra.run.dir={place}/runs/{name}-{number}")
    return prepare([*settings(place / "machine"), *own, *more])


def settings(machine: Path) -> list[str]:
    formula = [text for text in FORMULA if not text.startswith("launcher.")]
    return [
        *formula,
        f"launcher._target_={TOY}",
        "~launcher.runs_dir",
        "~launcher.sweeps_dir",
        f"+launcher.machine={machine}",
    ]


@pytest.fixture(scope="module")
def succeeded(place: Path) -> Plan:
    launcher, plan = planned(place, 1)
    launcher.submit(plan)
    wait(launcher, plan.handle, sleep=lambda _: time.sleep(0.02))
    return plan


class TestToyLauncher(LauncherContract):
    @pytest.fixture
    def launcher(self, place: Path) -> Launcher:
        return ToyLauncher(str(place / "machine"))

    @pytest.fixture
    def spec(self, place: Path) -> RunSpec:
        return planned(place, 0)[1].spec

    @pytest.fixture
    def wrong_spec(self, spec: RunSpec) -> RunSpec:
        return replace(spec, run_id="not/a name", folder="relative")

    @pytest.fixture
    def succeeded(self, succeeded: Plan) -> Plan:
        return succeeded

    @pytest.fixture
    def failing(self, place: Path, tmp_path: Path) -> Plan:
        name = tmp_path.name.replace("_", "-")  # another one for each test, which counts its attempts
        return planned(place, 12, name=name)[1]

    @pytest.fixture
    def endless(self, place: Path) -> Iterator[Plan]:
        launcher, plan = planned(place, 13)
        launcher.submit(plan)
        yield plan
        launcher.cancel(plan.handle)

    @pytest.fixture
    def left_over(self, place: Path, succeeded: Plan) -> str:
        with subprocess.Popen(["true"]) as ended:
            pass
        path = place / "machine" / succeeded.spec.run_id / f".last.ckpt.tmp-{ended.pid}{NOT_SAVED}"
        path.touch()
        return str(path)

    @pytest.fixture
    def in_use(self, left_over: str) -> str:
        path = Path(left_over).with_name(f".last.ckpt.tmp-{os.getpid()}{NOT_SAVED}")
        path.touch()
        return str(path)


@pytest.mark.parametrize("scheme", registry.LAUNCHERS)
def test_schemes_in_the_table_match_the_classes(scheme: str) -> None:
    assert registry.launcher_of(Handle(scheme, "there", "x")).scheme == scheme


def test_a_run_continues_without_the_process_that_submitted_it_until_watch_ends_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "notes.jsonl"))
    monkeypatch.setenv("FAKE_HELD", json.dumps({"4": 2}))  # until it has been told to end
    launcher, plan = planned(place, 4)
    seen = []

    def watch(epoch: int, metrics: Mapping[str, float]) -> bool:
        seen.append((epoch, sorted(metrics)))
        return epoch == 2

    launcher.submit(plan, watch=watch)
    release()
    assert seen == [(1, ["val/acc", "val/loss"]), (2, ["val/acc", "val/loss"])]
    assert follow(launcher, plan.handle).metrics["epochs"] < 4


class TestResume:
    @pytest.fixture
    def cancelled(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
        """Return the plan of a run that would not have ended; when it is resumed, it is quick."""
        with monkeypatch.context() as slow:
            slow.setenv("FAKE_SECONDS", json.dumps({"others": 600}))
            launcher, plan = planned(tmp_path, 5)
            launcher.submit(plan)
        assert launcher.cancel(plan.handle).phase is Phase.CANCELLED
        return plan

    @pytest.fixture
    def saved(self, cancelled: Plan) -> Plan:
        checkpoint = Path(cancelled.handle.scope, cancelled.handle.run_id, "checkpoints", "last.ckpt")
        checkpoint.parent.mkdir()
        checkpoint.write_text("of the other machine\n")
        return cancelled

    @pytest.mark.parametrize("by", ["handle", "folder"])
    def test_a_cancelled_run_can_be_resumed_there(self, cancelled: Plan, by: str) -> None:
        name = str(cancelled.handle) if by == "handle" else cancelled.spec.folder
        launcher, plan = prepare([f"resume={name}", "trainer.max_epochs=5"])
        assert (plan.handle, plan.spec.going_on) == (cancelled.handle, ("trainer.max_epochs=5",))
        launcher.submit(plan)
        result = follow(launcher, plan.handle)
        assert (result.folder, result.metrics["epochs"]) == (Path(cancelled.spec.folder), 5)
        assert launcher.status(plan.handle).attempt == 2

    @pytest.mark.parametrize("chosen", [["launcher=local", f"launcher._target_={FAKE}"], ["launcher=mine"]])
    def test_it_can_be_resumed_here_whatever_the_local_launcher_is_called(
        self, saved: Plan, chosen: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "conf" / "launcher").mkdir(parents=True)
        (tmp_path / "conf" / "launcher" / "mine.yaml").write_text(f"_target_: {FAKE}\n")
        launcher, plan = prepare([f"resume={saved.handle}", f"hydra.searchpath=[file://{tmp_path}/conf]", *chosen])
        assert (Path(saved.spec.folder) / "checkpoints" / "last.ckpt").read_text() == "of the other machine\n"
        launcher.submit(plan)
        assert launcher.result(plan.handle).metrics["epochs"] == 4
        assert registry.find_run(saved.spec.folder)[1] == plan.handle != saved.handle

    def test_only_its_settings_are_downloaded_to_resume_it_there(self, saved: Plan) -> None:
        prepare([f"resume={saved.handle}"])
        assert not (Path(saved.spec.folder) / "checkpoints").exists()
        with pytest.raises(ConfigError, match="seed was 0, now 7"):
            prepare([f"resume={saved.handle}", "seed=7"])

    def test_while_it_runs_there_it_cannot_be_resumed_here(self, place: Path) -> None:
        launcher, plan = planned(place, 13)
        launcher.submit(plan)
        try:
            with pytest.raises(LaunchError, match="cannot be resumed now"):
                prepare([f"resume={plan.spec.folder}", "launcher=local"])
        finally:
            launcher.cancel(plan.handle)


class TestCommand:
    """`python -m launchers`, called in this process."""

    @pytest.fixture
    def printed(
        self, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., str]:
        monkeypatch.chdir(place)

        def printed(*words: str, status: int = 0) -> str:
            assert launchers_command(words) == status
            printed = capsys.readouterr()
            return printed.out + printed.err

        return printed

    def test_a_run_is_shown_and_its_results_are_downloaded(self, succeeded: Plan, printed: Callable[..., str]) -> None:
        for name in (str(succeeded.handle), "toy-1"):
            assert json.loads(printed("status", name, "--json"))["phase"] == "succeeded"
            assert "epoch 4/4" in printed("logs", name)
            assert "val/acc" in printed("attach", name)
            assert json.loads(printed("result", name, "--json"))["metrics"]["epochs"] == 4
        assert (Path(succeeded.spec.folder) / "report.html").exists()
        listed = json.loads(printed("list", f"toy://{succeeded.handle.scope}", "--all", "--json"))
        assert str(succeeded.handle) in [run["handle"] for run in listed]

    def test_a_running_run_is_listed_here_and_there_until_it_is_cancelled(
        self, place: Path, printed: Callable[..., str]
    ) -> None:
        launcher, plan = planned(place, 13)
        launcher.submit(plan)
        for where in ([], [f"toy://{plan.handle.scope}"]):
            assert [run["handle"] for run in json.loads(printed("list", *where, "--json"))] == [str(plan.handle)]
        assert "cancelled" in printed("cancel", "toy-13")
        assert "No runs in progress" in printed("list")
        assert f"train.py resume={plan.handle}" in printed("status", "toy-13")
        assert "has no result" in printed("result", "toy-13", status=1)

    def test_errors_name_the_known_launchers(self, printed: Callable[..., str]) -> None:
        assert "toy://REGION" in printed("list", "elsewhere", status=1)
        error = printed("status", "gone://there/x", status=1)
        assert "known are local://, sagemaker://, tuner://, deploy://, ec2://, toy://" in error

    def test_a_run_of_an_unknown_launcher_does_not_hide_other_runs(
        self, printed: Callable[..., str], tmp_path: Path, succeeded: Plan
    ) -> None:
        for name, handle in (("a", succeeded.handle), ("b", "gone://there/x")):
            (tmp_path / "runs" / name).mkdir(parents=True)
            (tmp_path / "runs" / name / "launched.json").write_text(json.dumps({"handle": str(handle)}))
        listed = printed("list", "--all", "--runs-dir", f"{tmp_path}/runs", status=1)
        assert "runs/a" in listed  # its folder names it
        assert "succeeded" in listed
        assert "Not shown, or not all of it: gone://there/x" in listed


def test_a_run_without_the_monitored_metric_is_not_a_failure(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, plan = planned(place, 6, f"launcher._target_={NoNumbers.__module__}.NoNumbers")
    monkeypatch.setattr(train, "describe", lambda cfg: plan.spec)
    cfg = OmegaConf.create(dict(plan.spec.config))
    assert train.main.__wrapped__(cfg) is None
    assert f"{plan.handle}: succeeded" in capsys.readouterr().out


@pytest.mark.ordinary_start  # quicker here: what would be forked has imported torch, and nothing below needs that
def test_a_search_runs_its_trials_on_the_toy_launcher(tmp_path: Path) -> None:
    search = Sweep(tmp_path / "here")
    known = f"from launchers import registry; registry.LAUNCHERS['toy'] = {TOY!r}; "
    started = f"""
{known}
import runpy, sys
import launchers.sweep.worker
launchers.sweep.worker._START = {known!r} + launchers.sweep.worker._START
sys.argv[0] = {str(TRAIN)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    words = [*SEARCH[: -len(FORMULA)], *settings(tmp_path / "machine"), "hpo.n_trials=2", "hpo.parallel=2"]
    done = subprocess.run(
        [sys.executable, "-c", started, *words],
        cwd=search.place,
        env=search.environment,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
    )
    assert done.returncode == 0, done.stderr
    assert "2 trials complete, 0 pruned, 0 failed" in done.stdout
    assert sorted(search.ended) == [0, 1]
    assert len(list((tmp_path / "machine").glob("*/state.json"))) == 2
    best = json.loads((search.folder() / "best.json").read_text())["trial"]
    assert "test/acc" in (search.folder() / f"{best:05d}" / "metrics.json").read_text()
    assert (search.folder() / f"{best:05d}" / "launched.json").exists()
