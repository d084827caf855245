"""Photos are sent once: identified by their content, complete or not at all, and checked on arrival."""

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dogbreed.errors import DataError
from launchers import prepare
from launchers.follow import wait
from launchers.payload import photos as datasets
from launchers.payload.photos import MANIFEST, pack, scan
from launchers.rehearsal.cloud import Rehearsal
from launchers.sagemaker.training import SageMakerLauncher
from launchers.status import Cause, LaunchError, Phase
from tests.support.launcher_contract import until
from tests.support.machines import SAYS, Machine
from tests.support.photos import make_photos, tiny_settings
from tests.support.rehearsing import BUCKET, ROLES
from tests.support.runs import same, weights

pytestmark = pytest.mark.cloud


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos")


def test_the_same_photos_have_the_same_digest_wherever_and_whenever(folder: Path, tmp_path: Path) -> None:
    before = scan(folder, tmp_path / "cache")
    for path in folder.rglob("*.jpg"):
        os.utime(path, (1, 1))
    moved = folder.rename(tmp_path / "elsewhere")
    after = scan(moved, tmp_path / "cache")
    assert (before.digest, before.files, before.size) == (after.digest, after.files, after.size)
    assert before.files == len(list(moved.rglob("*.jpg")))


def test_a_changed_photo_a_new_one_or_a_new_name_changes_the_digest(folder: Path, tmp_path: Path) -> None:
    first = next(folder.rglob("*.jpg"))
    digests = {scan(folder, tmp_path / "cache").digest}
    first.write_bytes(first.read_bytes() + b"x")
    digests.add(scan(folder, tmp_path / "cache").digest)
    first.rename(first.with_name("other.jpg"))
    digests.add(scan(folder, tmp_path / "cache").digest)
    (folder / "new.jpg").write_bytes(b"x")
    digests.add(scan(folder, tmp_path / "cache").digest)
    assert len(digests) == 4


def test_a_second_scan_reads_no_photo(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = scan(folder, tmp_path / "cache")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("a photo was read"))
    assert scan(folder, tmp_path / "cache") == before


def test_shards_hold_every_file_once_and_are_the_same_each_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "SHARD_BYTES", 5_000)
    (folder / ".hidden").write_text("stays here")
    found = scan(folder, tmp_path / "cache")
    assert len(found.shards) > 3
    packed = list(pack(found, tmp_path / "cache"))
    assert packed == list(pack(found, tmp_path / "cache"))
    names: list[str] = []
    for _, content in packed:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            names += archive.getnames()
    assert sorted(names) == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))


@pytest.mark.parametrize("change", ["content", "gone", "new"])
def test_a_folder_that_changes_while_it_is_sent_is_refused(change: str, folder: Path, tmp_path: Path) -> None:
    found = scan(folder, tmp_path / "cache")
    first = next(folder.rglob("*.jpg"))
    if change == "content":
        first.write_bytes(first.read_bytes()[::-1])
        os.utime(first, (1, 1))
    elif change == "gone":
        first.unlink()
    else:
        (folder / "new.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="changed while they were being sent"):
        list(pack(found, tmp_path / "cache"))


# --- in the rehearsal cloud ---


def planned(place: Path, photos: Path, home: Path, *overrides: str) -> tuple[SageMakerLauncher, Any]:
    there = ["launcher=sagemaker_spot", "aws=rehearsal", f"aws.state_dir={place}", *ROLES, "aws.reclaims=0"]
    launcher, plan = prepare([*tiny_settings(photos), *there, f"hydra.run.dir={home}", *overrides])
    assert isinstance(launcher, SageMakerLauncher)
    return launcher, plan


def written(cloud: Rehearsal, digest: str) -> dict[str, Any]:
    found = cloud.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"dogbreed/data/{digest}/").get("Contents", [])
    return {item["Key"].rpartition("/")[2]: item["LastModified"] for item in found}


def test_a_local_folder_trains_there_as_here_and_is_sent_once(
    cloud: Rehearsal, place: Path, photos: Path, tmp_path: Path
) -> None:
    launcher, plan = planned(place, photos, tmp_path / "there", "aws.reclaims=1", "save.every_n_steps=1")
    launcher.submit(plan)
    wait(launcher, plan.handle)
    here, local = prepare([*tiny_settings(photos), f"hydra.run.dir={tmp_path}/here", "save.every_n_steps=1"])
    here.submit(local)
    for name in ("last.ckpt", "best.ckpt"):
        assert same(weights(tmp_path / "there", name), weights(tmp_path / "here", name)), name
    before = written(cloud, plan.spec.photos.digest)
    assert before.keys() == {"00000.tar", MANIFEST}
    again, second = planned(place, photos, tmp_path / "second", "trainer.max_epochs=100000")
    again.submit(second)
    again.cancel(second.handle)
    assert written(cloud, plan.spec.photos.digest) == before


def test_an_interrupted_upload_is_resumed_and_a_missing_shard_is_sent_again(
    cloud: Rehearsal, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "SHARD_BYTES", 5_000)
    photos = make_photos(tmp_path / "photos", px=44)
    launcher, plan = planned(place, photos, tmp_path / "run", "trainer.max_epochs=1")
    digest, count = plan.spec.photos.digest, len(plan.spec.photos.shards)
    whole = datasets.pack

    def broken(*args: Any, **kwargs: Any) -> Iterator[tuple[str, bytes]]:
        for number, shard in enumerate(whole(*args, **kwargs)):
            if number == 2:
                raise KeyboardInterrupt
            yield shard

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "pack", broken)
        with pytest.raises(KeyboardInterrupt):
            launcher.submit(plan)
    first = written(cloud, digest)
    assert first.keys() == {"00000.tar", "00001.tar"}
    launcher.submit(plan)
    then = written(cloud, digest)
    assert len(then) == count + 1
    assert {name: then[name] for name in first} == first
    assert wait(launcher, plan.handle).metrics

    cloud.client("s3").delete_object(Bucket=BUCKET, Key=f"dogbreed/data/{digest}/00001.tar")
    again, second = planned(place, photos, tmp_path / "second", "trainer.max_epochs=1")
    again.submit(second)
    assert written(cloud, digest).keys() == then.keys()
    assert wait(again, second.handle).metrics


def test_a_damaged_shard_fails_the_job_and_is_named(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", px=45)
    launcher, plan = planned(place, photos, tmp_path / "run", "launcher.wait=false")
    from launchers.aws import transfer

    request = next(
        request for request in plan.requests if request.parameters["Key"].endswith(f"{plan.spec.photos.digest}/")
    )
    transfer.send_photos(launcher.cloud, request.parameters, plan.spec)
    cloud.client("s3").put_object(Bucket=BUCKET, Key=f"dogbreed/data/{plan.spec.photos.digest}/00000.tar", Body=b"x")
    launcher.submit(plan)
    until(lambda: launcher.status(plan.handle).finished)
    status = launcher.status(plan.handle)
    assert (status.phase, status.cause) == (Phase.FAILED, Cause.BAD_CONFIG)
    assert "00000.tar of the photos is damaged" in status.detail
    with pytest.raises(LaunchError, match="damaged"):
        launcher.result(plan.handle)


def test_the_machine_unpacks_shards_and_names_a_missing_one(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "ml", SAYS, unpacks="/tmp/dogbreed/photos")
    channel = machine.base / "input/data/photos"
    channel.mkdir()
    assert machine.run()[0] == 1
    assert "manifest.json is missing" in machine.failure
    photos = scan(make_photos(tmp_path / "photos"), tmp_path / "cache")
    ((name, content),) = pack(photos, tmp_path / "cache")
    shards = [{"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}]
    (channel / "manifest.json").write_text(json.dumps({"shards": shards}))
    assert machine.run()[0] == 1
    assert "00000.tar of the photos is missing" in machine.failure
    (channel / name).write_bytes(content)
    assert machine.run()[0] == 0
    assert len(list((machine.base / "tmp/dogbreed/photos").rglob("*.jpg"))) == photos.files


def test_photos_are_counted_by_split_for_the_cost_of_a_plan(tmp_path: Path) -> None:
    found = scan(make_photos(tmp_path / "photos", classes=3, train=8, valid=3, test=2), cache=tmp_path / "digests")
    assert found.counts({"valid_fraction": 0.1, "test_fraction": 0.1}) == {"train": 24, "valid": 9, "test": 6}
    unsplit = scan(tmp_path / "photos" / "train", cache=tmp_path / "digests")
    assert unsplit.counts({"valid_fraction": 0.25, "test_fraction": 0.125}) == {"train": 15, "valid": 6, "test": 3}


def test_the_plan_of_a_data_folder_has_an_expected_cost(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos")
    words = ["data=folder", f"data.root={photos}", "launcher=sagemaker_gpu", "aws=rehearsal"]
    _, plan = prepare([*words, f"hydra.run.dir={tmp_path / 'run'}"])
    assert (plan.spec.workload.train_photos, plan.spec.workload.other_photos) == (24, 18)
    cost = dict(plan.rows)["cost"]
    assert re.search(r"about \$\S+ expected", cost), cost
