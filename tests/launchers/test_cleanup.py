"""What is kept in the bucket is found with its price, spared while something reads it, and deleted for good."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from launchers import registry
from launchers.aws.layout import Layout
from launchers.aws.stored import USD_PER_GB, Kept
from launchers.cli import verbs
from launchers.deploy import expiry
from launchers.payload.code import CodeBundle
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.spec import RunSpec
from tests.support.answers import SCHEMAS, problems

pytestmark = pytest.mark.cloud

BUCKET, LAYOUT = "dogbreed-rehearsal", Layout("dogbreed-rehearsal", "dogbreed")
SPEC = RunSpec("going", (), {"data": {"root": "/x", "source": "drawn"}}, "/runs/going", "2026-01-01", None, False)


def sent(spec: RunSpec) -> bytes:
    """Return what a launcher writes beside a run."""
    return json.dumps({"spec": json.loads(spec.to_json())}).encode()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """A bucket with the files of two runs, and features, code and a model."""
    cloud = Rehearsal(bucket=BUCKET, state_dir=str(tmp_path / "state"))
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    sizes = {
        "runs/going/spec.json": sent(SPEC),
        "runs/ended/spec.json": sent(replace(SPEC, run_id="ended")),
        "runs/ended/checkpoints/last.ckpt": bytes(3000),
        "features/key/one.npy": bytes(500),
        "code/abc/code.tar.gz": bytes(200),
        "models/dogs/abc/model.tar.gz": bytes(100),
        "photos/others": b"of somebody else",
    }
    for name, content in sizes.items():
        s3.put_object(Bucket=BUCKET, Key=f"dogbreed/{name}", Body=content)
    s3.put_object(Bucket=BUCKET, Key="another/runs/x/spec.json", Body=b"{}")
    try:
        yield Kept(cloud, LAYOUT)
    finally:
        process.stop(tmp_path / "state")


def test_what_is_old_and_unused_has_expired(kept: Kept) -> None:
    assert kept.expired([]) == []
    later = datetime.now(UTC) + timedelta(days=31)
    found = {str(each): each for each in kept.expired(["going", "dogs"], now=later)}
    assert set(found) == {"run ended", "features key", "code abc"}
    assert found["run ended"].size == 3000 + len(sent(replace(SPEC, run_id="ended")))
    assert found["features key"].usd_per_month == pytest.approx(500e-9 * USD_PER_GB)


def test_what_a_run_in_progress_reads_is_spared_however_old_it_is(kept: Kept) -> None:
    coded = replace(SPEC, code=CodeBundle("abc", ()))
    key = LAYOUT.features(coded)
    s3 = kept.cloud.client("s3")
    s3.put_object(Bucket=BUCKET, Key=LAYOUT.spec("going"), Body=sent(coded))
    s3.put_object(Bucket=BUCKET, Key=f"{key}one.npy", Body=b"1")
    later = datetime.now(UTC) + timedelta(days=31)
    assert {str(each) for each in kept.expired(["going"], now=later)} == {"run ended", "features key", "models of dogs"}


def test_the_command_lists_asks_deletes_and_verifies(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["cleanup", "rehearsal", "--state-dir", str(tmp_path / "state"), "--keep-days", "0"]
    assert verbs.main([*words, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert problems(listed, SCHEMAS["cleanup"]) == []
    assert {each["name"] for each in listed if each["state"] == "expired"} == {
        *("run going", "run ended", "features key", "code abc", "models of dogs")
    }
    assert verbs.main([*words, "--apply"]) == 1
    assert "Delete the files of 2 runs for good? That wants a yes." in capsys.readouterr().err
    assert len(kept.everything()) == 5
    assert verbs.main([*words, "--apply", "--yes"]) == 0
    printed = capsys.readouterr().out
    assert "removed    run ended  " in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert kept.everything() == []
    s3 = kept.cloud.client("s3")
    left = [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert left == ["another/runs/x/spec.json", "dogbreed/photos/others"]
    assert verbs.main(words) == 0
    assert capsys.readouterr().out == "Nothing is left over.\n"


def test_a_deployment_in_use_is_listed_with_its_price_and_stays(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.LAUNCHERS, "toydeploy", "tests.support.toy_deployments.ToyDeployments")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rehearsal").mkdir()
    (tmp_path / "rehearsal" / "dogs").write_text("in_service")
    words = ["cleanup", "rehearsal", "--state-dir", str(tmp_path / "state"), "--keep-days", "0", "--apply", "--yes"]
    assert verbs.main([*words, "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert listed["toydeploy://rehearsal/dogs"]["state"] == "in use"
    assert listed["toydeploy://rehearsal/dogs"]["usd_per_month"] == pytest.approx(2 * 0.115 * 730, rel=0.01)
    assert "models of dogs" not in listed
    assert (tmp_path / "rehearsal" / "dogs").exists()


@pytest.mark.parametrize(
    ("found", "over"),
    [
        ({}, False),
        ({"dogbreed:expires-at": "2026-11-29T10:00:00Z"}, True),
        ({"dogbreed:expires-at": "2026-11-29T11:30:00Z"}, False),  # its schedule is tried again for a while
        ({"dogbreed:expires-at": "2026-11-30T10:00:00Z"}, False),
    ],
)
def test_a_deployment_is_overdue_an_hour_after_its_time(found: dict[str, str], over: bool) -> None:
    assert expiry.is_over(found, datetime(2026, 11, 29, 12, tzinfo=UTC)) is over
