"""`python train.py` as a person uses it: real processes, real signals, exit statuses and messages."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.launcher_contract import until
from tests.support.photos import tiny_settings
from tests.support.project import TRAIN

HEAVY = {"torch", "torchvision", "lightning", "timm", "matplotlib", "psutil", "rich", "numpy", "PIL"}


def train(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TRAIN, *words], cwd=cwd, capture_output=True, text=True)


def train_launchers(*words: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "launchers", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, TRAIN, *words], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stop(process: subprocess.Popen[str], signum: int) -> tuple[str, float]:
    """Return what the process printed on stderr, and how many seconds it took to end."""
    began = time.monotonic()
    process.send_signal(signum)
    _, output = process.communicate(timeout=500)
    return output, time.monotonic() - began


def only_run(cwd: Path) -> Path:
    (run,) = (cwd / "runs").iterdir()
    return run


def state(run: Path) -> tuple[str, str, int]:
    found = json.loads((run / "state.json").read_text())
    return found["phase"], found["cause"], found["attempt"]


def assert_one_message(output: str) -> None:
    assert output.startswith("error: ")
    assert "Traceback" not in output
    assert "\x1b" not in output


class TestStart:
    @pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["dry_run=true"]], ids=" ".join)
    def test_nothing_heavy_is_loaded_to_show_a_config(self, words: Sequence[str], tmp_path: Path) -> None:
        command = [sys.executable, "-X", "importtime", str(TRAIN), *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert "hydra" in loaded
        assert not HEAVY & loaded

    @pytest.mark.parametrize(
        "module",
        [
            "dogbreed.export",
            "dogbreed.serving",
            "dogbreed.predict",
            "dogbreed.features",
            "dogbreed.benchmark",
            "launchers",
        ],
    )
    def test_the_other_commands_report_it_as_well(self, module: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            cwd=TRAIN.parent,
            env=os.environ | {"COLUMNS": "80"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"python -m {module}" in done.stdout
        assert not re.search(r"option_strings|%\(|<argparse", done.stdout)
        assert max(map(len, done.stdout.splitlines())) <= 80

    def test_help_says_what_to_type(self, tmp_path: Path) -> None:
        text = train("--help", cwd=tmp_path).stdout
        head = text.partition("Settings, ")[0]
        assert all(len(line) <= 80 for line in head.splitlines())
        for part in (
            "experiment=quickstart",
            "resume=",
            "-m ",
            "data=\n    dogimages",
            "drawn ",
            "launcher=\n    deploy",
        ):
            assert part in head
        assert "python -m launchers" in text

    def test_the_config_is_shown_as_composed(self, tmp_path: Path) -> None:
        shown = train("--cfg", "job", "model.lr=0.5", cwd=tmp_path).stdout
        assert "lr: 0.5" in shown
        assert not (tmp_path / "runs").exists()


class TestBadInput:
    """Bad input prints one message and no traceback, and the exit status is 1."""

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["model.lrr=1"], "Try: model.lr=1"),
            (["data=nope"], "data=nope is not one of the choices: dogimages, drawn, folder."),
            (["data=folder", "model.lr=???"], "2 values are missing: data.root, model.lr"),
            (["resume=runs/nope"], "no run folder runs/nope"),
            (["run_id=a_b"], "is not a valid run id"),
            (["hydra.run.dir=/dev/null/x"], "Cannot write /dev/null/x"),
            (["launcher._target_=launchers.local.Nothing"], "launchers.local.Nothing"),
            (["model.lr={"], "model.lr={"),
        ],
        ids=lambda value: value[-1] if isinstance(value, list) else None,
    )
    def test_bad_input_is_named(self, words: list[str], expected: str, tmp_path: Path) -> None:
        done = train(*words, cwd=tmp_path)
        assert done.returncode == 1
        assert_one_message(done.stderr)
        assert expected in done.stderr
        assert not any((tmp_path / "runs").glob("*"))  # a run that did not start leaves nothing

    def test_debug_shows_the_traceback(self, tmp_path: Path) -> None:
        done = train("run_id=a_b", "debug=true", cwd=tmp_path)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "ConfigError" in done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Return the folder of a run that succeeded; its output is beside it."""
    cwd = tmp_path_factory.mktemp("cli")
    done = train(*tiny_settings(photos), cwd=cwd)
    assert done.returncode == 0, done.stderr
    (cwd / "output").write_text(done.stdout)
    return only_run(cwd)


class TestRun:
    def test_it_ends_with_a_table_the_paths_and_what_to_try(self, finished: Path) -> None:
        output = (finished.parents[1] / "output").read_text()
        for part in ("test/acc", "test/top5", "test/f1", "test/ece", "images/s", "duration"):
            assert part in output
        for name in ("report.html", "checkpoints/best.ckpt", "metrics.json"):
            (path,) = re.findall(rf"  (\S+/{name})\n", output)
            assert path == f"runs/{finished.name}/{name}"
            assert (finished / name).exists()
        assert "Next: python -m dogbreed.predict" in output

    def test_its_folder_records_what_was_run(self, finished: Path) -> None:
        assert state(finished) == ("succeeded", "none", 1)
        spec = json.loads((finished / "spec.json").read_text())
        assert spec["run_id"] == finished.name == spec["config"]["run_id"]
        assert spec["overrides"][0] == "data=folder"
        log = (finished / "train.log").read_text().splitlines()
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ", line) for line in log)
        assert log[0].endswith(")")
        assert "attempt 1 (pid " in log[0]
        assert not (finished / ".hydra").exists()

    def test_resumed_it_prints_its_result_without_training(self, finished: Path) -> None:
        cwd = finished.parents[1]
        command = [sys.executable, "-X", "importtime", str(TRAIN), f"resume=runs/{finished.name}"]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
        assert "test/acc" in done.stdout
        assert " torch\n" not in done.stderr
        assert state(finished) == ("succeeded", "none", 1)

    def test_resume_in_a_sweep_is_refused(self, tmp_path: Path, finished: Path) -> None:
        done = train("-m", f"resume={finished}", "trainer.max_epochs=4,5", cwd=tmp_path)
        assert done.returncode == 1
        assert "without -m" in done.stderr

    def test_a_changed_model_is_refused(self, finished: Path) -> None:
        done = train(f"resume={finished}", "model.lr=0.5", "seed=9", cwd=finished.parents[1])
        assert done.returncode == 1
        assert_one_message(done.stderr)
        assert "model.lr was 0.002, now 0.5" in done.stderr
        assert "seed was 0, now 9" in done.stderr


def test_sigterm_saves_and_the_printed_command_resumes(tmp_path: Path, tiny_overrides: list[str]) -> None:
    process = start(*tiny_overrides, "trainer.max_epochs=100000", cwd=tmp_path)
    until(lambda: any((tmp_path / "runs").glob("*/metrics.csv")))
    output, _ = stop(process, signal.SIGTERM)
    assert process.returncode == 143
    assert "Traceback" not in output
    run = only_run(tmp_path)
    assert state(run) == ("cancelled", "interrupted", 1)
    assert (run / "checkpoints" / "last.ckpt").exists()
    (command,) = re.findall(r"^Resume it with: (python \S+ resume=.+)$", output, re.MULTILINE)
    with (run / "metrics.csv").open() as file:
        epochs = len(list(csv.reader(file))) - 1
    pasted = [sys.executable, *shlex.split(command)[1:], f"trainer.max_epochs={epochs + 1}"]
    done = subprocess.run(pasted, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert state(run) == ("succeeded", "none", 2)
    assert json.loads((run / "metrics.json").read_text())["epochs"] == epochs + 1
    assert only_run(tmp_path) == run


@pytest.mark.ordinary_start
@pytest.mark.parametrize(
    ("signum", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_a_signal_while_torch_is_loaded_ends_it_at_once(
    signum: int, status: int, tmp_path: Path, tiny_overrides: list[str]
) -> None:
    process = start(*tiny_overrides, "trainer.max_epochs=100000", cwd=tmp_path)
    until(lambda: any((tmp_path / "runs").glob("*/state.json")))
    output, _ = stop(process, signum)
    assert process.returncode == status
    assert "Traceback" not in output
    assert "Resume it with: python " in output
    assert "train.py resume=" in output
    assert state(only_run(tmp_path))[0] == "cancelled"


def test_a_sweep_continues_after_a_failed_run_and_ctrl_c_ends_all_of_it(
    tmp_path: Path, tiny_overrides: list[str]
) -> None:
    roots = f"data.root={tmp_path}/none,{tiny_overrides[1].removeprefix('data.root=')}"
    process = start("-m", *tiny_overrides, "trainer.max_epochs=100000", roots, "seed=0,1", cwd=tmp_path)
    until(lambda: any((tmp_path / "sweeps").glob("*/2/metrics.csv")))
    output, _ = stop(process, signal.SIGINT)
    assert process.returncode == 130
    assert "Resume it with: python " in output
    assert "train.py resume=" in output
    (sweep,) = (tmp_path / "sweeps").iterdir()
    bad, stopped = ("failed", "bad_config"), ("cancelled", "by_user")
    assert [state(sweep / job)[:2] for job in "012"] == [bad, bad, stopped]
    assert not (sweep / "3").exists()
    assert len({json.loads((sweep / job / "spec.json").read_text())["run_id"] for job in "012"}) == 3
    listed = train_launchers("list", "--all", cwd=tmp_path)
    assert f"sweeps/{sweep.name}/2" in listed


def test_a_sweep_with_a_failed_run_fails(tmp_path: Path) -> None:
    done = train("-m", "run_id=a_b,c_d", cwd=tmp_path)
    assert done.returncode == 1
    assert_one_message(done.stderr.partition("\n")[2])
    assert "#1 : run_id=c_d" in done.stdout  # the second run was started


def test_colour_is_for_terminals_that_want_it(tmp_path: Path) -> None:
    import pty

    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        ours, theirs = pty.openpty()
        env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | environment
        subprocess.run([sys.executable, TRAIN, "foo=1"], cwd=tmp_path, stderr=theirs, env=env, check=False)
        os.close(theirs)
        assert (b"\x1b[" in os.read(ours, 10_000)) is coloured
        os.close(ours)
