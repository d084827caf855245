"""The local launcher keeps the launcher contract, and the values that launchers take and return keep their format."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.commands import override, shown_path, unquoted
from dogbreed.data import DogBreedData
from dogbreed.distributed.ranks import PeerLost
from dogbreed.errors import CheckpointError, ConfigError, DataError, StorageError, WeightsError
from dogbreed.run_folder import RunFolder, write_text
from launchers import launch, prepare
from launchers.base import Launcher
from launchers.cli.verbs import main as launchers_command
from launchers.follow import wait
from launchers.local import LocalLauncher
from launchers.plan import Plan
from launchers.runs.find import find, folder_of
from launchers.runs.state import STATE_FILE, State
from launchers.spec import LAUNCHED_FILE, RunSpec
from launchers.status import Cause, Handle, LaunchError, Phase, RunResult, Status
from tests.support.launcher_contract import LauncherContract, submitted, until
from tests.support.photos import tiny_settings
from tests.support.project import TRAIN
from tests.support.stored import stored_run

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def succeeded(runs: Path, photos: Path) -> Plan:
    launcher, plan = prepare([*tiny_settings(photos), "trainer.max_epochs=1", f"hydra.run.dir={runs}/good"])
    launcher.submit(plan)
    return plan


class TestLocalLauncher(LauncherContract):
    @pytest.fixture
    def launcher(self, runs: Path) -> Launcher:
        return LocalLauncher(str(runs), str(runs / "sweeps"), poll_s=0.05)

    @pytest.fixture
    def spec(self, runs: Path, tiny_overrides: list[str]) -> RunSpec:
        return prepare([*tiny_overrides, f"hydra.run.dir={runs}/never"])[1].spec

    @pytest.fixture
    def wrong_spec(self, spec: RunSpec) -> RunSpec:
        return replace(spec, run_id="not/a name", folder="relative")

    @pytest.fixture
    def succeeded(self, succeeded: Plan) -> Plan:
        return succeeded

    @pytest.fixture
    def failing(self, runs: Path, tmp_path: Path) -> Plan:
        folder = runs / tmp_path.name  # another one for each test, which counts its attempts
        return prepare(["data=folder", f"data.root={runs}/no-photos", f"hydra.run.dir={folder}"])[1]

    @pytest.fixture
    def endless(self, runs: Path, tiny_overrides: list[str]) -> Iterator[Plan]:
        words = [*tiny_overrides, "trainer.max_epochs=100000", f"hydra.run.dir={runs}/endless"]
        process = subprocess.Popen([sys.executable, TRAIN, *words], cwd=runs, stdout=subprocess.DEVNULL)
        log = runs / "endless" / "train.log"
        try:
            until(lambda: log.exists() and "epoch 1/" in log.read_text())
            yield prepare(words)[1]
        finally:
            process.kill()
            process.wait()

    @pytest.fixture
    def left_over(self, runs: Path, dead: State) -> str:
        folder = runs / "killed"
        folder.mkdir()
        dead.write(folder)
        path = folder / f".last.ckpt.tmp-{dead.pid}.sagemaker-ignore"
        path.touch()
        return str(path)

    @pytest.fixture
    def in_use(self, runs: Path, left_over: str) -> str:
        path = runs / "killed" / f".last.ckpt.tmp-{os.getpid()}.sagemaker-ignore"
        path.touch()
        return str(path)

    def test_cleanup_can_be_limited_to_old_files(self, tmp_path: Path, dead: State) -> None:
        dead.write(folder := _folder(tmp_path / "run"))
        (folder / f".metrics.json.tmp-{dead.pid}.sagemaker-ignore").touch()
        launcher = LocalLauncher(str(tmp_path))
        assert not launcher.cleanup(older_than=timedelta(hours=1)).found
        assert launcher.cleanup(older_than=timedelta(seconds=-1)).found


@pytest.fixture
def dead() -> State:
    """Return the state that a killed process has left."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    state = replace(State.of_this_process(Status(Phase.LOST)), pid=process.pid)
    state = replace(state, process_started=psutil.Process(process.pid).create_time())
    process.kill()
    process.communicate()
    return state


@given(st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True), TEXT, TEXT)
def test_a_handle_parses_back(launcher: str, scope: str, run_id: str) -> None:
    handle = Handle(launcher, scope, run_id.replace("/", "-"))
    assert Handle.parse(str(handle)) == handle


def test_a_local_handle_is_the_folder_s_path() -> None:
    assert str(Handle("local", "/home/me/runs", "x1")) == "local:///home/me/runs/x1"
    assert folder_of(Handle.parse("local:///home/me/runs/x1/")) == Path("/home/me/runs/x1")
    assert folder_of(Handle.parse("local:///x1")) == Path("/x1")


@pytest.mark.parametrize("text", ["", "runs/x", "local:", "local://", "://a/b", "sagemaker://run"])
def test_an_invalid_handle_is_refused(text: str) -> None:
    with pytest.raises(LaunchError, match="not a valid run handle"):
        Handle.parse(text)


def test_a_handle_of_another_launcher_is_not_a_local_run() -> None:
    with pytest.raises(LaunchError, match="not a local run"):
        LocalLauncher().status(Handle("sagemaker", "eu-west-1", "x"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.lists(st.text()), st.dictionaries(st.text(), JSON, max_size=4), st.none() | st.text())
def test_a_spec_survives_json(run_id: str, overrides: list[str], config: dict[str, Any], commit: str | None) -> None:
    spec = RunSpec(run_id, tuple(overrides), config, "/runs/x", "2026-11-23T00:00:00+00:00", commit, dirty=True)
    assert RunSpec.from_json(spec.to_json()) == spec


@given(TEXT)
def test_any_path_survives_quoting_for_hydra(path: str) -> None:
    text = override("resume", f"/{path}")
    assert OverridesParser.create().parse_override(text).value() == f"/{path}"
    assert unquoted(text.removeprefix("resume=")) == f"/{path}"


def test_a_killed_run_is_interrupted_and_says_how_to_resume_it(tmp_path: Path, dead: State) -> None:
    dead.write(tmp_path)
    status = LocalLauncher().status(find(str(tmp_path)))
    assert (status.phase, status.cause) == (Phase.FAILED, Cause.INTERRUPTED)
    assert f"train.py resume={shown_path(tmp_path)}" in status.next_action


def test_another_process_with_the_same_number_is_not_the_run(tmp_path: Path) -> None:
    mine = State.of_this_process(Status(Phase.LOST))
    parent = psutil.Process(os.getppid())
    replace(mine, pid=parent.pid, process_started=parent.create_time()).write(tmp_path)
    handle = find(str(tmp_path))
    assert LocalLauncher().status(handle).phase is Phase.RUNNING
    replace(mine, pid=parent.pid, process_started=parent.create_time() - 1000).write(tmp_path)
    assert LocalLauncher().status(handle).cause is Cause.INTERRUPTED
    mine.write(tmp_path)  # this process's own pid, left by an earlier process of a restarted container
    assert LocalLauncher().status(handle).cause is Cause.INTERRUPTED


def test_a_run_that_is_alive_elsewhere_is_refused(tmp_path: Path, tiny_overrides: list[str]) -> None:
    launcher, plan = prepare([*tiny_overrides, f"hydra.run.dir={tmp_path}"])
    parent = psutil.Process(os.getppid())
    alive = State.of_this_process(Status(Phase.LOST))
    alive = replace(alive, pid=parent.pid, process_started=parent.create_time())
    alive.write(tmp_path)
    with pytest.raises(LaunchError, match=f"already running, in process {parent.pid}"):
        launcher.submit(plan)
    replace(alive, host="another").write(tmp_path)
    with pytest.raises(LaunchError, match="on another, which cannot be checked"):
        launcher.submit(plan)
    with pytest.raises(LaunchError, match="cancel it there"):
        launcher.cancel(plan.handle)
    assert not (tmp_path / "spec.json").exists()


def test_a_run_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        state = State.of_this_process(Status(Phase.LOST))
        replace(state, pid=process.pid, process_started=psutil.Process(process.pid).create_time()).write(tmp_path)
        status = LocalLauncher(poll_s=0.01).cancel(find(str(tmp_path)), grace_s=0.1)
        assert (status.phase, status.cause) == (Phase.CANCELLED, Cause.BY_USER)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("content", ["", "{", "[]", '{"phase": "tired"}'])
def test_a_folder_with_a_damaged_state_is_lost(tmp_path: Path, content: str) -> None:
    (tmp_path / STATE_FILE).write_text(content)
    assert LocalLauncher().status(find(str(tmp_path))).phase is Phase.LOST


def test_runs_are_listed_newest_first_sweeps_included(tmp_path: Path, dead: State) -> None:
    for name, day in (("runs/a", 1), ("sweeps/s/0", 3), ("runs/b", 2)):
        folder = _folder(tmp_path / name)
        replace(dead, phase=Phase.SUCCEEDED, first_started_at=f"2026-11-0{day}").write(folder)
    launcher = LocalLauncher(str(tmp_path / "runs"), str(tmp_path / "sweeps"))
    assert [handle.run_id for handle, _ in launcher.list(active_only=False)] == ["0", "b", "a"]


def test_waiting_polls_until_the_run_has_finished() -> None:
    phases = [Phase.RUNNING, Phase.STOPPING, Phase.SUCCEEDED]

    class Scripted(LocalLauncher):
        def status(self, handle: Handle) -> Status:
            return Status(phases.pop(0))

        def result(self, handle: Handle) -> RunResult:
            return RunResult(handle, Path("x"), {"val/acc": 1.0}, {})

    waits: list[float] = []
    assert wait(Scripted(poll_s=7), Handle("local", "", "x"), sleep=waits.append).metrics == {"val/acc": 1.0}
    assert waits == [7, 7]


@pytest.mark.parametrize("setting", ["trainer.max_epochs=0", "model.weights=nope", "model.backbone=nope", "seed=-1"])
@pytest.mark.parametrize("before", [None, "empty", "notes"])
def test_a_refused_run_leaves_no_folder_unless_there_was_one(
    setting: str, before: str | None, tiny_overrides: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    if before is not None:
        folder.mkdir()
    if before == "notes":
        (folder / "notes.txt").write_text("mine")
    launcher, plan = prepare([*tiny_overrides, setting, f"hydra.run.dir={folder}"])
    with pytest.raises((ConfigError, WeightsError)) as raised:
        launcher.submit(plan)
    assert folder.exists() == (before == "notes")
    assert any("resume" in note for note in getattr(raised.value, "__notes__", [])) == (before == "notes")
    if before == "notes":
        assert (folder / "notes.txt").read_text() == "mine"


def test_a_refused_continuation_keeps_what_was_trained(tiny_overrides: list[str], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    launcher, plan = prepare([*tiny_overrides, "trainer.max_epochs=0", f"hydra.run.dir={folder.path}"])
    folder.last.write_bytes(b"trained")
    with pytest.raises(ConfigError):
        launcher.submit(plan)
    assert folder.last.read_bytes() == b"trained"


def test_an_unexpected_error_leaves_its_traceback_in_the_log(
    tmp_path: Path, tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("nonsense")

    monkeypatch.setattr("dogbreed.report.write", fail)
    launcher, plan = prepare([*tiny_overrides, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run"])
    with pytest.raises(Exception, match="nonsense") as raised:
        launcher.submit(plan)
    assert any("train.log" in note for note in raised.value.__notes__)
    status = launcher.status(plan.handle)
    assert (status.phase, status.cause) == (Phase.FAILED, Cause.USER_CODE)
    assert "Traceback (most recent call last)" in (tmp_path / "run" / "train.log").read_text()


def test_a_half_written_line_of_a_killed_process_does_not_hide_the_next_attempt(tmp_path: Path) -> None:
    launcher, plan = prepare(["data=folder", f"data.root={tmp_path}/none", f"hydra.run.dir={tmp_path}/run"])
    submitted(launcher, plan)
    with (tmp_path / "run" / "train.log").open("a") as log:
        log.write("2026-11-23 00:00:00,000 INFO epo")
    submitted(launcher, plan)
    assert {line.attempt for line in launcher.logs(plan.handle)} == {1, 2}


def test_a_full_disk_is_reported_as_one_storage_error(tmp_path: Path, tiny_overrides: list[str]) -> None:
    words = [*tiny_overrides, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(StorageError, match="No room to write"):
            launch(words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    launcher, plan = prepare(words)
    status = launcher.status(plan.handle)
    assert (status.phase, status.cause) == (Phase.FAILED, Cause.QUOTA)


def test_a_notebook_run_ends_with_its_error_and_has_a_log(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        launch(["data=folder", f"data.root={tmp_path}/none", f"hydra.run.dir={tmp_path}/run"])
    assert "failed" in (tmp_path / "run" / "train.log").read_text()


def test_only_the_first_rank_records_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # no process listens there
        taken.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        for name, value in {
            **address,
            "RANK": "1",
            "LOCAL_RANK": "1",
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
        }.items():
            monkeypatch.setenv(name, value)
        words = ["data=folder", f"data.root={tmp_path}/none", f"hydra.run.dir={tmp_path}/run", "ranks.timeout_s=5"]
        with pytest.raises(PeerLost, match=r"Process 1 of 2: not all processes joined at 127\.0\.0\.1"):
            launch([*words, "run_id=together"])
    assert not (tmp_path / "run" / STATE_FILE).exists()


def test_a_dry_run_leaves_no_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_overrides: list[str]
) -> None:
    handle = launch([*tiny_overrides, "dry_run=true", f"hydra.run.dir={tmp_path}/run"])
    assert "no cost" in capsys.readouterr().out
    assert folder_of(handle) == tmp_path / "run"
    assert not (tmp_path / "run").exists()


def test_each_composition_has_its_own_run_id(tmp_path: Path) -> None:
    plans = [prepare([f"hydra.run.dir={tmp_path}/${{run_id}}"])[1] for _ in range(3)]
    assert len({plan.spec.run_id for plan in plans}) == 3
    assert all(Path(plan.spec.folder).name == plan.spec.run_id == plan.spec.config["run_id"] for plan in plans)


@pytest.fixture
def stored(tmp_path: Path, tiny_overrides: list[str]) -> Plan:
    """Write the files of a run that succeeded, as far as launchers read them, without training."""
    return stored_run(tmp_path / "runs" / "good", *tiny_overrides, "trainer.max_epochs=1")


@pytest.mark.parametrize(
    ("metrics", "report", "trained"),
    [
        (None, True, True),
        ('{"val/acc": 0.5}', True, True),  # of an earlier end, before the test
        ('{"val/acc": 0.5, "test/acc": 0.25}', False, True),
        ('{"val/acc": 0.5, "test/acc": 0.25}', True, False),
    ],
)
def test_a_run_whose_result_was_saved_only_in_part_is_gone_on_with(
    metrics: str | None, report: bool, trained: bool, stored: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a rented machine files are saved one by one, in any order: the state may be there without the result."""
    folder, calls = RunFolder(Path(stored.spec.folder)), []

    def train(_: LocalLauncher, spec: RunSpec, folder: RunFolder, watch: object) -> None:
        calls.append(spec.run_id)
        folder.metrics.write_text('{"val/acc": 0.75, "test/acc": 0.25}')

    monkeypatch.setattr(LocalLauncher, "_train", train)
    folder.metrics.unlink()
    if metrics is not None:
        folder.metrics.write_text(metrics)
    if not report:
        folder.report.unlink()
    launcher = LocalLauncher()
    result = wait(launcher, launcher.submit(stored))
    assert result.metrics["val/acc"] == (0.75 if trained else 0.5)
    assert len(calls) == trained


class TestResume:
    def test_allowed_changes_apply_and_the_rest_comes_from_the_folder(self, stored: Plan) -> None:
        folder = stored.spec.folder
        plan = prepare([f"resume={folder}", "trainer.max_epochs=7", "data.workers=3", "logger=tensorboard"])[1]
        before, after = stored.spec.config, plan.spec.config
        assert (after["trainer"]["max_epochs"], after["data"]["workers"]) == (7, 3)
        assert after["logger"]["_target_"].endswith("TensorBoardLogger")
        assert (after["model"], after["data"]["root"]) == (before["model"], before["data"]["root"])
        assert (plan.handle, plan.spec.run_id) == (stored.handle, stored.spec.run_id)
        assert {"trainer.max_epochs=7", "logger=tensorboard", "data=folder"} <= set(plan.spec.overrides)
        assert not {"trainer.max_epochs=1", "logger=csv"} & set(plan.spec.overrides)

    def test_the_folder_s_config_is_authoritative(self, stored: Plan) -> None:
        folder = Path(stored.spec.folder)
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("weight_decay: 0.01", "weight_decay: 1e-4"))
        config = prepare([f"resume={folder}", "seed=0"])[1].spec.config
        assert config["model"]["weight_decay"] == 1e-4

    def test_a_run_killed_before_its_config_was_written_uses_the_spec(self, stored: Plan) -> None:
        folder = Path(stored.spec.folder)
        (folder / "config.yaml").unlink()
        assert prepare([f"resume={folder}"])[1].spec.config["trainer"] == stored.spec.config["trainer"]

    def test_a_handle_works_like_a_folder(self, stored: Plan) -> None:
        assert prepare([f"resume={stored.handle}"])[1].handle == stored.handle

    def test_a_finished_run_is_not_trained_again(self, stored: Plan) -> None:
        launcher = LocalLauncher()
        before = launcher.status(stored.handle)
        assert launch([f"resume={stored.handle}"]) == stored.handle
        assert launcher.status(stored.handle) == before

    def test_changes_that_make_it_another_run_are_refused_and_all_listed(self, stored: Plan) -> None:
        typed = ["model.lr=0.5", "seed=3", "data.batch_size=9", "data.root=/x", "experiment=finetune"]
        with pytest.raises(ConfigError) as refused:
            prepare([f"resume={stored.handle}", *typed])
        listed = [line.strip().split(" was ")[0] for line in str(refused.value).splitlines() if " was " in line]
        assert sorted(listed) == ["data.batch_size", "experiment", "model.lr", "seed"]
        assert "model.lr was 0.002, now 0.5" in str(refused.value)

    @pytest.mark.parametrize("typed", [["model=efficientnet_lite0"], ["data=drawn"]])
    def test_another_group_is_refused(self, stored: Plan, typed: list[str]) -> None:
        with pytest.raises(ConfigError, match="with other data, another model or another seed"):
            prepare([f"resume={stored.handle}", *typed])

    def test_before_the_first_checkpoint_wrong_settings_can_be_fixed(self, stored: Plan) -> None:
        folder = Path(stored.spec.folder)
        for path in (*folder.glob("checkpoints/*"), folder / "metrics.json"):
            path.unlink()
        config = prepare([f"resume={stored.handle}", "data.batch_size=9", "model.weights=other.pth"])[1].spec.config
        assert (config["data"]["batch_size"], config["model"]["weights"]) == (9, "other.pth")
        with pytest.raises(ConfigError, match="experiment"):
            prepare([f"resume={stored.handle}", "experiment=finetune"])

    def test_repeating_the_same_overrides_changes_nothing(self, stored: Plan) -> None:
        assert prepare([f"resume={stored.handle}", *stored.spec.overrides])[1].spec.config["model"]

    @pytest.mark.parametrize("typed", ["run_id=other", "hydra.run.dir=/other"])
    def test_its_run_id_and_folder_cannot_change(self, stored: Plan, typed: str) -> None:
        with pytest.raises(ConfigError, match="keeps its"):
            prepare([f"resume={stored.handle}", typed])

    def test_a_folder_without_a_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(LaunchError, match="no run folder"):
            prepare([f"resume={tmp_path}/nothing"])
        with pytest.raises(ConfigError, match="is not a run folder"):
            prepare([f"resume={tmp_path}"])
        (tmp_path / "spec.json").write_text("{")
        with pytest.raises(ConfigError, match="damaged"):
            prepare([f"resume={tmp_path}"])

    def test_resume_in_a_file_is_refused(self, stored: Plan) -> None:
        with pytest.raises(ConfigError, match="resume is set in a file"):
            prepare([f"++resume={stored.spec.folder}", f"hydra.run.dir={stored.spec.folder}"])

    def test_an_odd_folder_name_can_be_resumed(self, stored: Plan, tmp_path: Path) -> None:
        folder = Path(stored.spec.folder).rename(tmp_path / "a b, c=d's {e}")
        assert prepare([f"resume={folder}"])[1].handle == find(str(folder))
        assert prepare([override("resume", str(folder))])[1].handle == find(str(folder))


class TestCommand:
    """`python -m launchers`, called in this process."""

    def test_it_lists_runs(self, stored: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert launchers_command(["list", "--all", "--json", "--runs-dir", str(tmp_path / "runs")]) == 0
        listed = {entry["handle"]: entry for entry in json.loads(capsys.readouterr().out)}
        assert listed[str(stored.handle)]["phase"] == "succeeded"
        assert launchers_command(["list", "--all", "--runs-dir", str(tmp_path / "runs")]) == 0
        assert "succeeded" in capsys.readouterr().out
        assert launchers_command(["list", "--runs-dir", str(tmp_path / "none")]) == 0
        assert "No runs in progress" in capsys.readouterr().out

    def test_it_shows_status_logs_and_result(
        self, stored: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in (str(stored.handle), stored.spec.folder):
            assert launchers_command(["status", name, "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["attempt"] == 1
        assert launchers_command(["logs", "good", "--attempt", "1", "--runs-dir", str(tmp_path / "runs")]) == 0
        assert "1 | " in capsys.readouterr().out
        assert launchers_command(["result", "good", "--json", "--runs-dir", str(tmp_path / "runs")]) == 0
        assert "test/acc" in json.loads(capsys.readouterr().out)["metrics"]
        assert launchers_command(["result", "good", "--runs-dir", str(tmp_path / "runs")]) == 0
        assert "test/acc" in capsys.readouterr().out

    @pytest.mark.parametrize("command", ["status", "logs", "cancel", "result"])
    def test_an_unknown_run_is_an_error(self, command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert launchers_command([command, "nothing", "--runs-dir", str(tmp_path)]) == 1
        assert "no run folder" in capsys.readouterr().err
        assert launchers_command([command, str(tmp_path)]) == 1

    def test_it_loads_neither_torch_nor_hydra(self) -> None:
        code = (
            "import sys, launchers.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
        )
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert not {"torch", "lightning", "hydra", "rich"} & set(loaded.split("\n")[-2].split())
        assert "Name a run by its folder" in loaded


def test_a_result_fits_80_columns(tmp_path: Path) -> None:
    metrics = {"val/acc": 0.9, "test/acc": 0.8, "test/top5": 1.0, "test/f1": 0.5, "test/ece": 0.1}
    metrics |= {"train/images_per_s": 61.25, "train/seconds": 4000.0, "temperature": 1.0}
    text = str(RunResult(Handle("local", "/r", "x"), Path("/r/x"), metrics, {"best": Path("/r/x/best.ckpt")}))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "1 h 6 min" in text
    assert "python -m dogbreed.predict /r/x/best.ckpt PHOTO" in text
    served = RunResult(Handle("local", "/r", "x"), Path("/r/x"), metrics, {"model": Path("/r/x/model.tar.gz")})
    assert "Next: python -m dogbreed.predict /r/x PHOTO\nor:   python -m dogbreed.serving /r/x" in str(served)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("root", "ways"),
    [
        (
            "s3://pets/my dogs/",
            "Try: aws s3 sync 's3://pets/my dogs/' 'my dogs'\nthen the same command with 'data.root=\"my dogs\"'",
        ),
        ("s3://pets", "Try: aws s3 sync s3://pets pets\nthen the same command with data.root=pets"),
        ("gs://pets/dogs", "Try: download gs://pets/dogs\nthen the same command with data.root=dogs"),
    ],
)
def test_photos_that_are_not_on_this_machine_are_refused_with_how_to_get_them(
    root: str, ways: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        prepare(["data=folder", f"data.root={root}", f"hydra.run.dir={tmp_path}/run"])
    assert str(raised.value).partition("\n")[2] == ways
    with pytest.raises(DataError) as in_a_notebook:
        DogBreedData(root).setup()
    assert str(in_a_notebook.value) == str(raised.value)


@pytest.mark.parametrize("downloaded", [False, True])
def test_a_refused_resume_leaves_a_finished_run_finished(
    downloaded: bool, tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, plan = prepare([*tiny_overrides, f"hydra.run.dir={tmp_path}/run"])
    folder = tmp_path / "run"
    monkeypatch.setattr(LocalLauncher, "_train", lambda self, spec, here, watch: write_text(here.metrics, "{}"))
    launcher.submit(plan)
    if downloaded:  # of a remote run there is no state here
        (folder / STATE_FILE).unlink()
        write_text(folder / LAUNCHED_FILE, '{"handle": "sagemaker://eu-west-1/x", "home": "x"}')
    before = {path.name: path.read_bytes() for path in folder.glob("*.json")}

    def refuse(*_: object) -> None:
        raise CheckpointError("the photos differ")

    monkeypatch.setattr(LocalLauncher, "_train", refuse)
    further, longer = (
        prepare([override("resume", str(folder)), "trainer.max_epochs=9"])
        if not downloaded
        else (
            launcher,
            launcher.plan(replace(plan.spec, config={**plan.spec.config, "seed": 1}, going_on=())),
        )
    )
    with pytest.raises(CheckpointError) as raised:
        further.submit(longer)
    assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == before
    assert not any("resume=" in note for note in raised.value.__notes__)

    def begin(_: LocalLauncher, spec: RunSpec, here: RunFolder, watch: object) -> None:
        here.metrics.unlink()  # as training does
        raise CheckpointError("the disk was removed")

    monkeypatch.setattr(LocalLauncher, "_train", begin)
    with pytest.raises(CheckpointError):
        further.submit(longer)
    assert further.status(longer.handle).phase is Phase.FAILED
