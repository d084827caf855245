"""Which copy of a run is resumed is decided by what was trained, whatever the dates of its files."""

import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from dogbreed import checkpoints
from dogbreed.run_folder import RunFolder
from dogbreed.saved_progress import SavedProgress, file_beside
from launchers.aws.saved import progress_there
from launchers.runs.progress import StudyProgress, is_further, progress_here
from launchers.spec import RunOutput, SearchOutput
from launchers.status import LaunchError
from launchers.sweep.storage import close, open_storage
from tests.support.runs import config, run

AT = SavedProgress(3, 40, "a-run", "d1", 64, 10)
progresses = st.builds(SavedProgress, st.integers(0, 9), st.integers(0, 99))


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return the folder of a run of two epochs with a checkpoint after each step."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run(config(photos, "save.every_n_steps=1", "test=false", "run_id=mine"), folder)
    return RunFolder(folder)


@pytest.fixture
def copy(trained: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(trained.path, tmp_path / "copy")
    return RunFolder(tmp_path / "copy")


def test_the_file_beside_a_checkpoint_says_what_the_checkpoint_holds(trained: RunFolder) -> None:
    for path in (trained.last, trained.previous):
        contents, beside = checkpoints.read(path), SavedProgress.beside(path)
        assert beside is not None
        assert beside.at == (contents["epoch"], contents["global_step"])
        assert (beside.run_id, beside.batch, beside.epoch_steps) == ("mine", 4, 6)
        file_beside(path).rename(aside := path.with_suffix(".aside"))
        assert SavedProgress.of(path) == replace(beside, run_id=None, epoch_steps=None)  # from the checkpoint, no torch
        aside.rename(file_beside(path))
    last, previous = SavedProgress.of(trained.last), SavedProgress.of(trained.previous)
    assert last is not None
    assert previous is not None
    assert last.at > previous.at


def test_a_file_beside_another_checkpoint_is_not_believed(copy: RunFolder) -> None:
    shutil.copy(file_beside(copy.previous), file_beside(copy.last))
    found = SavedProgress.of(copy.last)
    assert found is not None
    assert found.at == (1, 12)


def test_a_damaged_checkpoint_has_no_progress(copy: RunFolder) -> None:
    copy.last.write_bytes(b"half")
    assert SavedProgress.of(copy.last) is None
    assert progress_here(RunOutput(), copy.path) == SavedProgress.of(copy.previous)


def test_a_checkpoint_runs_no_code_when_its_progress_is_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"epoch": 1, "global_step": 2, "evil": Evil()}, tmp_path / "last.ckpt")
    assert SavedProgress.of(tmp_path / "last.ckpt") == SavedProgress(1, 2)
    assert not (tmp_path / "made").exists()


def test_the_furthest_checkpoint_is_resumed_whatever_its_name_and_date(copy: RunFolder) -> None:
    assert checkpoints.newest(copy) == copy.last
    copy.last.rename(copy.path / "x")
    copy.previous.rename(copy.last)  # as where only the older of two uploads has arrived
    (copy.path / "x").rename(copy.previous)
    os.utime(copy.previous, (0, 0))
    assert checkpoints.newest(copy) == copy.previous


@given(progresses, progresses)
def test_the_further_one_is_the_one_with_more_training(here: SavedProgress, there: SavedProgress) -> None:
    assert is_further(here, there, Path("runs/x"), "s3://b/x") == ((here.epoch, here.step) > (there.epoch, there.step))
    assert is_further(here, None, Path("runs/x"), "s3://b/x")
    assert not is_further(None, there, Path("runs/x"), "s3://b/x")


@pytest.mark.parametrize(
    "other",
    [{"run_id": "b-run"}, {"photos": "d2"}, {"batch": 32}, {"epoch_steps": 20}],
    ids=lambda other: next(iter(other)),
)
def test_two_histories_are_not_compared(other: dict[str, Any]) -> None:
    there = replace(AT, epoch=9, **other)
    with pytest.raises(LaunchError, match="cannot be said which one to resume") as refused:
        is_further(AT, there, Path("runs/x"), "s3://b/x")
    assert f"runs/x: {AT}" in str(refused.value)
    assert f"s3://b/x: {there}" in str(refused.value)
    unknown = replace(there, **dict.fromkeys(other))
    assert not is_further(AT, unknown, Path("runs/x"), "s3://b/x")  # of an earlier version, which did not record it


class Bucket:
    """S3 with the files of a folder as objects below `run/`; counts downloads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.downloaded = folder, list[str]()

    def client(self, service: str) -> "Bucket":
        return self

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803 (boto3's names)
        if not (self.folder / Key.removeprefix("run/")).is_file():
            raise ClientError({"Error": {"Code": "404", "Message": ""}}, "HeadObject")
        return {}

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        path = self.folder / Key.removeprefix("run/")
        if not path.is_file():
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": ""}}, "GetObject")
        return {"Body": io.BytesIO(path.read_bytes())}

    def download_file(self, bucket: str, key: str, path: str) -> None:
        self.downloaded.append(key.rpartition("/")[2])
        shutil.copy(self.folder / key.removeprefix("run/"), path)


def progress_of(bucket: Any, output: RunOutput | SearchOutput | None = None) -> Any:
    return progress_there(bucket, "s3://b/run", output or RunOutput())


def test_a_saved_run_is_compared_without_downloading_its_checkpoints(trained: RunFolder) -> None:
    bucket = Bucket(trained.path)
    assert progress_of(bucket) == progress_here(RunOutput(), trained.path)
    assert sorted(bucket.downloaded) == ["last.json", "previous.json"]


@pytest.mark.parametrize("missing", [["last.ckpt"], ["last.json", "previous.json"], ["last.ckpt", "previous.json"]])
def test_without_the_small_file_the_checkpoint_is_read(copy: RunFolder, missing: list[str]) -> None:
    for name in missing:
        (copy.checkpoints / name).unlink()
    kept = copy.last if copy.last.exists() else copy.previous
    found, known = progress_of(Bucket(copy.path)), SavedProgress.of(kept)
    assert known is not None
    assert found.at == known.at == progress_here(RunOutput(), copy.path).at  # type: ignore[union-attr]


def test_a_run_that_has_saved_nothing_has_no_progress(tmp_path: Path) -> None:
    for output in (RunOutput(), SearchOutput("mine", 3)):
        assert progress_of(Bucket(tmp_path), output) is None
        assert progress_here(output, tmp_path) is None


@pytest.fixture
def studies(tmp_path: Path) -> Iterator[list[Path]]:
    """Return the folders of a search after one trial, and after two."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    url = f"sqlite:///{folders[0] / 'study.db'}"
    storage = open_storage(url)
    study = optuna.create_study(storage=storage, study_name="mine")
    study.set_user_attr("dogbreed", {"uid": "abc"})
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), 1)
    close(storage)
    shutil.copy(folders[0] / "study.db", folders[1] / "study.db")
    storage = open_storage(f"sqlite:///{folders[1] / 'study.db'}")
    optuna.load_study(storage=storage, study_name="mine").optimize(lambda trial: trial.suggest_float("x", 0, 1), 1)
    close(storage)
    return folders


def test_a_search_is_further_with_more_trials(studies: list[Path]) -> None:
    output = SearchOutput("mine", 3)
    one, two = (progress_here(output, folder) for folder in studies)
    assert isinstance(one, StudyProgress)
    assert (one.ended, progress_of(Bucket(studies[1]), output)) == (1, two)
    os.utime(studies[0] / "study.db", (2e9, 2e9))
    assert is_further(two, one, studies[1], "s3://b/x")
    assert not is_further(one, two, studies[0], "s3://b/x")
    with pytest.raises(LaunchError, match="1 of 1 trials ended"):
        is_further(one, replace(one, uid="another"), studies[0], "s3://b/x")
