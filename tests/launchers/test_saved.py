"""What a run has saved is read alike, whichever launcher's machine saved it, and handed over from one to the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dogbreed.saved_progress import SavedProgress
from launchers.aws import s3, saved
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import BUCKET
from launchers.remote.sync import Sync
from launchers.spec import RunOutput

pytestmark = pytest.mark.cloud

RUN = "dogbreed/runs/r"
URI = f"s3://{BUCKET}/{RUN}/checkpoints"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    place = tmp_path_factory.mktemp("saved") / "state"
    try:
        cloud = Rehearsal(bucket=BUCKET, state_dir=str(place))
        cloud.client("s3").create_bucket(Bucket=BUCKET)
        yield cloud
    finally:
        process.stop(place)


def machine(cloud: Rehearsal, folder: Path, attempt: int) -> Sync:
    one = Sync(cloud.client("s3"), BUCKET, RUN, folder, attempt)
    one.take_over()
    one.restore()
    return one


def train(folder: Path, step: int) -> None:
    last = folder / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True, exist_ok=True)
    last.write_text(f"weights of step {step}")
    SavedProgress(epoch=1, step=step).write(last)


def step_there(cloud: Rehearsal) -> int | None:
    found = saved.progress_there(cloud, URI, RunOutput())
    assert found is None or isinstance(found, SavedProgress)
    return None if found is None else found.step


def test_checkpoints_go_from_ec2_to_sagemaker_and_back(cloud: Rehearsal, tmp_path: Path) -> None:
    assert step_there(cloud) is None
    first = machine(cloud, tmp_path / "1", 1)
    train(first.folder, 7)
    first.save()
    assert step_there(cloud) == 7
    assert saved.download(cloud, URI, tmp_path / "home") == 2
    assert (tmp_path / "home/checkpoints/last.ckpt").read_text() == "weights of step 7"
    assert saved.download(cloud, URI, tmp_path / "light", lambda name: name.endswith(".json")) == 1

    saved.give_own_names(cloud, URI, {})  # as a submission to SageMaker does
    assert saved.pointer(cloud, URI) is None
    assert step_there(cloud) == 7
    assert {name for name, _ in s3.objects(cloud, URI)} == {"checkpoints/last.ckpt", "checkpoints/last.json"}
    train(tmp_path / "job", 9)
    for path in (tmp_path / "job").rglob("*.*"):  # its agent saves each file under its own name
        key = f"{RUN}/checkpoints/{path.relative_to(tmp_path / 'job').as_posix()}"
        cloud.client("s3").put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    assert step_there(cloud) == 9

    second = machine(cloud, tmp_path / "2", 2)
    assert (second.folder / "checkpoints/last.ckpt").read_text() == "weights of step 9"
    assert step_there(cloud) == 9
    train(second.folder, 12)
    second.save()
    assert step_there(cloud) == 12
    saved.give_own_names(cloud, URI, {})
    saved.give_own_names(cloud, URI, {})  # once is enough
    assert step_there(cloud) == 12
