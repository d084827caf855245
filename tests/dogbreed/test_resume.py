"""Real processes and signals: `python train.py` is killed at random moments, and nothing is lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import awaited
import pytest

from dogbreed import run_folder
from dogbreed.commands import shown_path
from dogbreed.run_folder import RunFolder
from tests.support.photos import make_photos, tiny_settings
from tests.support.project import ROOT
from tests.support.runs import config, history, run, same, weights

SETTINGS = ("trainer.max_epochs=10", "model.dropout=0.5", "save.every_n_steps=3", "save.every_s=0.5")


def start(*arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
    )


def finish(process: "subprocess.Popen[bytes]") -> str:
    """Return the output of a process that must succeed."""
    output = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 0, output
    return output


def wait_until_training(folder: Path, process: "subprocess.Popen[bytes]", attempt: int) -> bool:
    """Wait until the process trains (for the n-th time in this folder); return False if it ended first."""
    log = folder / "train.log"
    while process.poll() is None:
        if log.exists() and log.read_text().count("Training ") + log.read_text().count("Resuming from ") >= attempt:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def photos_and_reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("resume")
    photos = make_photos(base / "photos", train=40)
    finish(start(*tiny_settings(photos), *SETTINGS, f"hydra.run.dir={base / 'whole'}"))
    return photos, base / "whole"


@pytest.mark.parametrize(
    ("signum", "status", "times"),
    [
        (signal.SIGKILL, -9, 3),
        (signal.SIGTERM, 143, 3),
        (signal.SIGINT, 130, 2),
        pytest.param(signal.SIGKILL, -9, 25, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, 25, marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_at_random_moments_ends_with_the_same_weights(
    signum: signal.Signals, status: int, times: int, photos_and_reference: tuple[Path, Path], tmp_path: Path
) -> None:
    photos, whole = photos_and_reference
    folder = tmp_path / "run"
    chance = random.Random(signum)
    first = (*tiny_settings(photos), *SETTINGS, f"hydra.run.dir={folder}")
    for attempt in range(1, times + 1):
        # it waits for a signal that comes late, so that it is not over before the last one
        hold = {awaited.AFTER: str(max(1, 9 * attempt // times))}
        process = start(*(first if attempt == 1 else [f"resume={folder}"]), **hold)
        assert wait_until_training(folder, process, attempt), process.communicate()[0].decode()
        time.sleep(chance.uniform(0.0, 3.0 / times))
        os.kill(process.pid, signum)
        output = process.communicate(timeout=240)[0].decode()
        assert process.returncode == status, output
        if signum != signal.SIGKILL:
            assert f"resume={shown_path(folder)}" in output, output
    finish(start(f"resume={folder}"))
    assert same(weights(whole), weights(folder))
    assert history(whole) == history(folder)


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, bytes]]]:
    """Photos, a finished run, and the state of its folder after each file that it wrote."""
    base = tmp_path_factory.mktemp("moments")
    photos, folder = make_photos(base / "photos"), base / "whole"
    seen: list[dict[str, bytes]] = []
    write_bytes = run_folder.write_bytes

    def noted(path: Path, content: bytes) -> None:
        write_bytes(path, content)
        files = (path for path in folder.rglob("*") if path.is_file())
        seen.append({str(path.relative_to(folder)): path.read_bytes() for path in files})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dogbreed.checkpoints.write_bytes", noted)
        patch.setattr(run_folder, "write_bytes", noted)
        run(config(photos, "trainer.max_epochs=4", "save.every_n_steps=1", "model.dropout=0.5"), folder)
    return photos, folder, seen


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(n, marks=pytest.mark.slow) for n in range(5, 200))])
def test_a_folder_whose_files_are_of_different_moments_ends_with_the_same_result(
    seed: int, moments: tuple[Path, Path, list[dict[str, bytes]]], tmp_path: Path
) -> None:
    """Restore the folder as it comes from S3 after an interruption between two uploads."""
    photos, whole, seen = moments
    chance = random.Random(seed)
    moment = chance.randrange(len(seen))
    for name in {name for files in seen[: moment + 1] for name in files}:
        content = seen[max(0, moment - chance.randrange(6))].get(name)
        if content is not None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    metrics = run(config(photos, "trainer.max_epochs=4", "save.every_n_steps=1", "model.dropout=0.5"), tmp_path)
    for name in ("last.ckpt", "best.ckpt"):
        assert same(weights(whole, name), weights(tmp_path, name)), name
    assert history(whole) == history(tmp_path)
    assert metrics["test/acc"] == json.loads(RunFolder(whole).metrics.read_text())["test/acc"]
    assert RunFolder(tmp_path).report.exists()


@pytest.mark.parametrize(
    ("lost", "older"),
    [
        ("predictions.csv", False),
        ("predictions.csv", True),
        ("metrics.csv", False),
        ("metrics.csv", True),
        ("fit.json", False),
        ("metrics.json", False),
        ("config.yaml", False),
    ],
)
def test_a_file_that_was_not_uploaded_is_made_again(
    lost: str, older: bool, moments: tuple[Path, Path, list[dict[str, bytes]]], tmp_path: Path
) -> None:
    """The machine was taken away after the test, with all files uploaded but the report and this one."""
    photos, whole, seen = moments
    for name, content in seen[-1].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    RunFolder(tmp_path).report.unlink(missing_ok=True)
    file = tmp_path / lost
    if older:
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))  # as it was a row before
    else:
        file.unlink()
    run(config(photos, "trainer.max_epochs=4", "save.every_n_steps=1", "model.dropout=0.5"), tmp_path)
    assert RunFolder(tmp_path).report.exists()
    for name in ("predictions.csv", "metrics.csv"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    kept = [json.loads((folder / "metrics.json").read_text()) for folder in (whole, tmp_path)]
    assert kept[0] == kept[1]
