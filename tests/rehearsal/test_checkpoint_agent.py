"""The rehearsal's copy of SageMaker's agent: markers, late uploads, mirrored deletions, and nothing after the end."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from launchers.rehearsal import object_store
from launchers.rehearsal.machine import Machine
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.services.training_checkpoints import Checkpoints
from launchers.rehearsal.services.training_record import JobRecord

BUCKET = "of-the-agent"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    made = ObjectStore(tmp_path / "s3")
    if not made.has_bucket(BUCKET):
        made.backend.create_bucket(BUCKET, "us-east-1")
    for key in made.keys(BUCKET, ""):
        made.delete(BUCKET, key)
    return made


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine", {"/opt/ml": "ml"})


@pytest.fixture
def agent(store: ObjectStore, machine: Machine, tmp_path: Path) -> Checkpoints:
    config = {"S3Uri": f"s3://{BUCKET}/run/checkpoints", "LocalPath": "/opt/ml/checkpoints"}
    record = JobRecord(tmp_path / "job", {"TrainingJobName": "job", "CheckpointConfig": config}, 0.0)
    made = Checkpoints(record, store, lag_s=1.0)
    store.put(BUCKET, "run/checkpoints/config.yaml", b"{}")
    made.download([machine])
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_marked_uploaded_late_and_marked_again(
    agent: Checkpoints, machine: Machine, store: ObjectStore
) -> None:
    folder = machine.path("/opt/ml/checkpoints")
    (folder / "last.ckpt").write_bytes(b"one")
    agent.sync(machine, 0.0)
    assert names(folder) == ["config.yaml", "last.ckpt", "last.ckpt.sagemaker-uploading"]
    assert store.get(BUCKET, "run/checkpoints/last.ckpt") is None
    agent.sync(machine, 1.0)
    assert names(folder) == ["config.yaml", "last.ckpt", "last.ckpt.sagemaker-uploaded"]
    assert store.get(BUCKET, "run/checkpoints/last.ckpt") == b"one"
    (folder / "last.ckpt").write_bytes(b"another")
    agent.sync(machine, 2.0)
    assert "last.ckpt.sagemaker-uploading" in names(folder)
    agent.sync(machine, 3.0)
    assert store.get(BUCKET, "run/checkpoints/last.ckpt") == b"another"
    assert store.keys(BUCKET, "run/") == ["run/checkpoints/config.yaml", "run/checkpoints/last.ckpt"]


def test_what_is_deleted_there_is_deleted_in_s3_with_its_markers(
    agent: Checkpoints, machine: Machine, store: ObjectStore
) -> None:
    folder = machine.path("/opt/ml/checkpoints")
    (folder / "last.ckpt").write_bytes(b"one")
    for moment in (0.0, 1.0):
        agent.sync(machine, moment)
    (folder / "last.ckpt").rename(folder / "previous.ckpt")
    (folder / "config.yaml").unlink()
    agent.sync(machine, 2.0)
    assert store.keys(BUCKET, "run/") == []
    agent.sync(machine, 3.0)
    assert store.keys(BUCKET, "run/") == ["run/checkpoints/previous.ckpt"]
    assert names(folder) == ["previous.ckpt", "previous.ckpt.sagemaker-uploaded"]


def test_files_that_are_to_be_ignored_are_not_saved(agent: Checkpoints, machine: Machine, store: ObjectStore) -> None:
    (machine.path("/opt/ml/checkpoints") / ".last.ckpt.tmp-9.sagemaker-ignore").write_bytes(b"half")
    for moment in (0.0, 1.0):
        agent.sync(machine, moment)
    assert store.keys(BUCKET, "run/") == ["run/checkpoints/config.yaml"]


@pytest.mark.parametrize("content", [b"new", None])
def test_an_object_that_a_thread_replaces_or_deletes_is_read_once_that_is_done(
    content: bytes | None, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(BUCKET, "key", b"old")
    store.backend.buckets[BUCKET].keys["key"].dispose()  # which comes first, and another thread may look meanwhile
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            store.delete(BUCKET, "key") if content is None else store.put(BUCKET, "key", content)

    monkeypatch.setattr(object_store, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    assert store.get(BUCKET, "key") == content
    assert len(slept) == 3
