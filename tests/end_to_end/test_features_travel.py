"""Features that one machine has computed are there for the next: known by content, checked, never sent twice."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dogbreed.features import shards
from dogbreed.features.store import FeatureStore, Recipe, stores_folder
from launchers import prepare
from launchers.aws import transfer
from launchers.follow import wait
from launchers.plan import Plan
from launchers.rehearsal.cloud import Rehearsal
from launchers.sagemaker.training import SageMakerLauncher
from tests.support.machines import SAYS, Machine
from tests.support.photos import make_photos, tiny_settings
from tests.support.rehearsing import BUCKET, ROLES, job_of, states
from tests.support.runs import same, weights
from tests.support.stores import RECIPE, assert_holds, data_files, fill, keys, small_shards, values  # noqa: F401 (a fixture)

pytestmark = pytest.mark.cloud

# --- taking rows from elsewhere ---


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None) -> FeatureStore:  # noqa: F811
    """A store of ten rows in three shards, which this process is told of."""
    store = fill(FeatureStore(RECIPE, "net", tmp_path / "elsewhere"), keys(10))
    store.close()
    monkeypatch.setenv("DOGBREED_FEATURES_FROM", str(tmp_path / "elsewhere"))
    return store


def test_a_store_takes_what_is_elsewhere_and_computes_the_rest(elsewhere: FeatureStore) -> None:
    store = FeatureStore(RECIPE, "net")
    assert_holds(store, keys(10))
    assert store.missing(keys(12)) == keys(12)[10:]
    fill(store, keys(12))
    assert_holds(store, keys(12))
    assert len(data_files(store)) == 1  # what was taken is not its own, to be saved once more
    assert_holds(FeatureStore(RECIPE, "net"), keys(12))


def test_rows_that_were_taken_are_there_when_the_place_is_not(elsewhere: FeatureStore) -> None:
    rows = FeatureStore(RECIPE, "net").read(keys(10))
    shutil.rmtree(elsewhere.path)  # a stream cannot be read twice
    np.testing.assert_array_equal(rows.take(np.arange(10)), values(keys(10)))
    assert_holds(FeatureStore(RECIPE, "net"), keys(10))


@pytest.mark.parametrize("damage", ["numbers", "cut", "no data", "index"])
def test_a_damaged_shard_is_passed_over(damage: str, elsewhere: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    data = data_files(elsewhere)[0]
    lost = next(rows for name, rows, _ in elsewhere.inspect() if name == data.stem)
    content = bytearray(data.read_bytes())
    if damage == "numbers":
        content[-20] ^= 1
        data.write_bytes(content)
    elif damage == "cut":
        data.write_bytes(content[:-1])
    elif damage == "no data":
        data.unlink()
    else:
        data.with_suffix(".json").write_text("{")
    store = FeatureStore(RECIPE, "net")
    assert store.missing(keys(10)) == list(lost)
    assert "skipped, its rows are recomputed" in caplog.text
    assert_holds(fill(store, keys(10)), keys(10))


def test_only_the_store_that_is_asked_for_is_read(elsewhere: FeatureStore, tmp_path: Path) -> None:
    other = FeatureStore(Recipe({**RECIPE.fields, "image_px": 64}, (4,)), "net", tmp_path / "there")
    fill(other, keys(3)).path.rename(tmp_path / "elsewhere" / other.path.name)
    FeatureStore(RECIPE, "net")
    brought = Path(os.environ["DOGBREED_CACHE"]) / "brought"
    assert [path.name for path in brought.iterdir()] == [elsewhere.path.name]


def test_what_a_store_has_itself_is_not_taken_again(elsewhere: FeatureStore) -> None:
    shutil.copytree(elsewhere.path, stores_folder() / elsewhere.path.name)  # as after a reclaim
    assert_holds(FeatureStore(RECIPE, "net"), keys(10))
    assert not list((Path(os.environ["DOGBREED_CACHE"]) / "brought").rglob("*.npy"))


def test_a_named_folder_is_that_of_all_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOGBREED_FEATURES", str(tmp_path / "named"))
    assert FeatureStore(RECIPE, "net").path.parent == tmp_path / "named" == stores_folder()


def test_features_are_no_part_of_the_run_that_made_them(tmp_path: Path) -> None:
    train = """
import os
from pathlib import Path
store = Path(os.environ["DOGBREED_FEATURES"]) / "net-0123456789abcdef"
(store / "shards").mkdir(parents=True)
(store / "recipe.json").write_text("{}")
print(os.environ["DOGBREED_FEATURES_FROM"])
"""
    machine = Machine(tmp_path / "ml", train + SAYS)
    _, lines = machine.run()
    assert lines[0] == str(machine.base / "input/data/features")
    assert (machine.base / "checkpoints/features/net-0123456789abcdef/recipe.json").exists()
    assert sorted(path.name for path in (machine.base / "output/data").iterdir()) == ["checkpoints", "metrics.json"]


# --- in the rehearsal cloud ---


def planned(place: Path, photos: Path, home: Path, *overrides: str) -> tuple[SageMakerLauncher, Plan]:
    there = ["launcher=sagemaker_spot", "aws=rehearsal", f"aws.state_dir={place}", *ROLES, "aws.reclaims=0"]
    head = ["model.trainable=head", "trainer.max_epochs=60", f"hydra.run.dir={home}"]
    launcher, plan = prepare([*tiny_settings(photos), *there, *head, *overrides])
    assert isinstance(launcher, SageMakerLauncher)
    return launcher, plan


def run(launcher: SageMakerLauncher, plan: Plan) -> tuple[list[str], Counter[str]]:
    """The lines of its log, and how often which operation changed S3, with what was put where."""
    writes: Counter[str] = Counter()

    def count(model: Any, params: Any, **_: Any) -> None:
        if model.name not in ("HeadBucket", "HeadObject", "GetObject", "ListObjectsV2") and "Get" not in model.name:
            writes[f"{model.name} {params['url_path'].rpartition('/')[2]}"] += 1

    launcher.cloud.client("s3").meta.events.register("before-call.s3", count)
    launcher.submit(plan)
    wait(launcher, plan.handle)
    return [line.text for line in launcher.logs(plan.handle)], writes


def kept(cloud: Rehearsal, prefix: str) -> set[str]:
    pages = cloud.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", [])}


def test_the_second_job_on_the_same_photos_sends_its_settings_alone_and_extracts_nothing(
    cloud: Rehearsal, place: Path, tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", px=42)  # none of another test's
    first, plan = planned(place, photos, tmp_path / "first", "aws.reclaims=1")
    said, writes = run(first, plan)
    assert states(job_of(first, plan)).count("Interrupted") == 1
    assert sum(line.startswith("Computing features of 42 photo views") for line in said) == 1, said  # the first one
    assert plan.spec.photos is not None
    there = kept(cloud, f"dogbreed/features/{plan.spec.photos.digest}/")
    stores = {name.partition("/")[0] for name in there if "/" in name}
    assert len(stores) == 2  # of features, and of what photos are compared by
    assert sum(name.endswith(".npy") for name in there) == len(stores)
    assert sum(name.endswith(".json") for name in there) == 2 * len(stores) + 1
    assert writes["CopyObject recipe.json"] == len(stores)
    assert not (tmp_path / "first" / "features").exists()

    second, again = planned(place, photos, tmp_path / "second")
    said, writes = run(second, again)
    del writes[f"PutObject {again.spec.run_id}.json"]  # what it has cost
    assert writes == {"PutObject spec.json": 1}
    assert not any("Computing features" in line for line in said), said
    assert "Features: imported 42 views computed by earlier runs" in said
    own = kept(cloud, f"dogbreed/runs/{again.spec.run_id}/checkpoints/features/")
    assert not [name for name in own if name.endswith(".npy")]  # nothing lies there twice
    assert same(weights(tmp_path / "first", "best.ckpt"), weights(tmp_path / "second", "best.ckpt"))
    assert kept(cloud, f"dogbreed/features/{plan.spec.photos.digest}/") == there


def test_two_machines_leave_their_features_to_the_next_two(cloud: Rehearsal, place: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", train=10)  # 48 in all, none of another test's
    two = ("launcher=sagemaker_multi", "launcher.instances=2", "trainer.max_epochs=3")
    first, plan = planned(place, photos, tmp_path / "first", *two)
    said, _ = run(first, plan)
    assert sum(line.startswith("Computing features of 24 photo views") for line in said) == 1, said  # its share
    second, again = planned(place, photos, tmp_path / "second", *two)
    said, writes = run(second, again)
    del writes[f"PutObject {again.spec.run_id}.json"]  # what it has cost
    assert writes == {"PutObject spec.json": 1}
    assert not any("Computing features" in line for line in said), said
    assert "Features: imported 48 views computed by earlier runs" in said
    assert same(weights(tmp_path / "first", "best.ckpt"), weights(tmp_path / "second", "best.ckpt"))


def test_a_run_without_features_has_no_place_for_them(place: Path, photos: Path, tmp_path: Path) -> None:
    for words in (["model.trainable=all"], ["features.mode=off"]):
        _, plan = planned(place, photos, tmp_path / "run", *words)
        assert "features" not in str(plan.requests), words


def test_of_a_broken_off_upload_whole_shards_alone_are_shared(cloud: Rehearsal, tmp_path: Path) -> None:
    client, names = cloud.client("s3"), [f"{n:032x}" for n in range(3)]
    objects = ["recipe.json", *(f"shards/{name}.npy" for name in names[:2]), *(f"shards/{name}.json" for name in names)]
    left = ["used", "claims/0.lock", f"shards/.{names[0]}.npy.tmp-0a1b2c3d", f"shards/{names[2]}.damaged"]
    for name in [*objects, *left]:
        client.put_object(Bucket=BUCKET, Key=f"from/net-0123456789abcdef/{name}", Body=name.encode())
    client.put_object(Bucket=BUCKET, Key=f"to/net-0123456789abcdef/shards/{names[0]}.npy", Body=b"as it was")
    assert transfer.share_features(cloud, f"s3://{BUCKET}/from", f"s3://{BUCKET}/to", {}) == len(objects) - 2
    assert kept(cloud, "to/net-0123456789abcdef/") == {*objects} - {f"shards/{names[2]}.json"}
    found = client.get_object(Bucket=BUCKET, Key=f"to/net-0123456789abcdef/shards/{names[0]}.npy")["Body"].read()
    assert found == b"as it was"
    assert transfer.share_features(cloud, f"s3://{BUCKET}/from", f"s3://{BUCKET}/to", {}) == 0


def test_shards_have_the_names_that_are_shared() -> None:
    assert transfer._FEATURE.fullmatch(f"net-0123456789abcdef/shards/{'0' * 32}.npy")
    assert shards.SHARD_NAME.fullmatch("0" * 32)
