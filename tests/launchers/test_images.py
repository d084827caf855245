"""Images of training jobs: what auto takes and when, what is said about support, and the table made anew."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launchers.sagemaker import images, images_refresh
from launchers.status import LaunchError
from tests.support.plans import planned
from tests.support.project import ROOT

GPU, CPU = "ml.g4dn.xlarge", "ml.m5.large"
TODAY = "2026-11-24"


def test_our_bound_of_torch_is_that_of_pyproject() -> None:
    bound = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if '"torch>=' in line)
    assert images.version(bound.split(">=")[1].split('"')[0]) == images.TORCH_AT_LEAST
    assert all(images.version(row.torch) >= images.TORCH_AT_LEAST for row in images.table())


def test_the_image_fits_the_instance_and_the_region() -> None:
    assert "-cu" in images.resolve("auto", "eu-west-1", GPU, TODAY)
    assert "-cpu-" in images.resolve("auto", "eu-west-1", CPU, TODAY)
    assert "-cu" in images.resolve("auto", "eu-west-1", "ml.g6.xlarge", TODAY)  # a type without a price
    common, own = (images.resolve("auto", region, CPU, TODAY) for region in ("eu-west-1", "eu-south-1"))
    assert ".eu-west-1.amazonaws.com/" in common
    assert common.split(".")[0] != own.split(".")[0]
    assert ".cn-north-1.amazonaws.com.cn/" in images.resolve("auto", "cn-north-1", CPU, TODAY)
    assert images.resolve("mine", "eu-west-1", CPU, TODAY) == "mine"


@settings(deadline=None)
@given(st.dates(min_value=date(2026, 1, 1)), st.sampled_from(["eu-west-1", "cn-north-1", None]))
def test_auto_takes_the_newest_that_is_known_to_be_supported(day: date, region: str | None) -> None:
    taken = images.chosen(region, str(day))
    assert taken is not None
    assert region not in taken.not_in
    there = [row for row in images.table() if region not in row.not_in]
    supported = [row for row in there if row.ends is not None and row.ends >= str(day)]
    unknown = [row for row in there if row.ends is None]
    assert taken == (supported or unknown or there)[0]  # the table's first is its newest


def test_newer_is_by_number_and_not_by_letter() -> None:
    assert [row.torch for row in images.table()] == sorted(
        (row.torch for row in images.table()), key=lambda text: [int(part) for part in text.split(".")], reverse=True
    )
    assert "2.10" in {row.torch for row in images.table()}


def test_what_is_not_in_a_region_is_not_taken_there() -> None:
    newest = images.table()[0]
    assert newest.not_in, "the committed table has no such case any more: make one here"
    late = "2040-01-01"
    assert images.chosen("eu-west-1", late) == newest
    there = images.chosen(min(newest.not_in), late)
    assert there is not None
    assert there != newest


def uri(torch: str) -> str:
    row = next(row for row in images.table() if row.torch == torch)
    return images.resolve("auto", "eu-west-1", CPU, TODAY).rpartition("/")[0] + "/" + row.cpu


def test_the_end_of_support_is_said_before_and_after_it() -> None:
    row = next(row for row in images.table() if row.torch == "2.10")
    assert row.ends == "2027-01-21"
    mine = uri("2.10")
    assert images.note(mine, "eu-west-1", "2026-10-22") == ""  # 91 days before
    assert "in 90 days" in images.note(mine, "eu-west-1", "2026-10-23")
    assert "in 0 days" in images.note(mine, "eu-west-1", "2027-01-21T23:59:59+00:00")
    assert "not patched this image since 2027-01-21" in images.note(mine, "eu-west-1", "2027-01-22")
    assert images.note("123456789012.dkr.ecr.eu-west-1.amazonaws.com/mine:1", "eu-west-1", TODAY) == ""
    unknown = next(row.torch for row in images.table() if row.ends is None)
    assert "is unknown" in images.note(uri(unknown), "eu-west-1", TODAY)


def test_auto_warns_of_nothing_while_something_is_supported() -> None:
    assert images.note("auto", "eu-west-1", TODAY) == ""
    last = max(row.ends for row in images.table() if row.ends)
    assert last in images.note("auto", "eu-west-1", last)


def test_a_plan_warns_by_its_own_date() -> None:
    launcher, plan = planned_with("2026-11-24T12:00:00+00:00")
    assert "patch" not in str(launcher.plan(plan))
    launcher, plan = planned_with("2027-06-01T12:00:00+00:00")
    assert re.search(r"AWS stops patching this image on 2027-07-20,\s+in 49 days", str(launcher.plan(plan)))
    assert launcher.plan(plan) == launcher.plan(plan)


def planned_with(created_at: str) -> tuple[object, object]:
    from launchers import prepare
    from tests.support.plans import COMMANDS

    launcher, _ = prepare([*COMMANDS["gpu"], "run_id=20261124-120000-abcd", "hydra.run.dir=/runs/abcd"])
    return launcher, replace(planned("gpu").spec, created_at=created_at)


def test_a_region_without_a_registry_is_refused() -> None:
    assert "lists no image in mars-1" in next(images.findings("auto", "mars-1", CPU, TODAY))
    assert not list(images.findings("auto", None, CPU, TODAY))


# --- the command ---


def command(*words: str, folder: Path = ROOT, path: str = "") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, str(folder)]))}
    words = (sys.executable, "-m", "launchers", "images", *words)
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_table_is_shown_in_80_columns_with_what_auto_takes_and_why() -> None:
    done = command()
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    lines = done.stdout.splitlines()
    for row in images.table():
        above = next(line for line in lines if line.startswith(row.torch))
        assert f"CPU {row.cpu} " in above
        assert (row.ends or "unknown") in above
        assert lines[lines.index(above) + 1].strip() == f"GPU {row.gpu}"
    taken = images.chosen(None, TODAY)
    assert taken is not None
    assert f"auto takes torch {taken.torch}: the newest that AWS is known to patch" in images.shown(TODAY)
    assert "58 d" in images.shown(TODAY)
    assert "the newest; none is known to be patched" in images.shown("2040-01-01")
    assert max(map(len, images.shown("2040-01-01").splitlines())) <= 80


FAKE = '''
"""The shape of the SDK's module."""
ACCOUNTS = {"us-east-1": "111111111111", "eu-west-1": "111111111111",
            "cn-north-1": "222222222222", "us-iso-east-1": "3"}
OLD = {"versions": {"2.9.1": {"py_versions": ["py312"], "registries": ACCOUNTS},
                    "2.10.0": {"py_versions": ["py312", "py313"], "registries": ACCOUNTS}},
       "version_aliases": {"2.9": "2.9.1", "2.10": "2.10.0"}}
NEW = {"versions": {"2.13": {"registries": ACCOUNTS}, "2.20": {"registries": {"us-east-1": "111111111111"}}},
       "version_aliases": {"latest": "2.20"}}

def config_for_framework(framework):
    return {"training": {"pytorch": OLD, "pytorch-amzn2023": NEW}[framework]}

def retrieve(framework, region, version, py_version, instance_type, image_scope):
    assert image_scope == "training"
    kind = "gpu" if instance_type.startswith("ml.g") else "cpu"
    name = f"pytorch-training:{version}-{kind}-{py_version}" if py_version else f"pytorch:{version}-{kind}-fake"
    return f"{ACCOUNTS[region]}.dkr.ecr.{region}.amazonaws.com/{name}"
'''


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Of the project, whose table may be written over."""
    for package in ("launchers", "dogbreed"):
        shutil.copytree(ROOT / package, tmp_path / "clone" / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "clone"


def fake_sdk(folder: Path, module: str = FAKE) -> str:
    place = folder / "sdk"
    (place / "sagemaker/core").mkdir(parents=True)
    (place / "sagemaker/core/image_uris.py").write_text(module)
    (place / "sagemaker_core-9.9.dist-info").mkdir()
    (place / "sagemaker_core-9.9.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: sagemaker-core\nVersion: 9.9\n"
    )
    return str(place)


def test_refresh_writes_the_table_from_the_sdk_and_keeps_what_is_kept_by_hand(clone: Path, tmp_path: Path) -> None:
    file = clone / "launchers/sagemaker/images.yaml"
    before = file.read_text().partition(images_refresh.MARK)[0]
    done = command("--refresh", folder=clone, path=fake_sdk(tmp_path))
    assert done.returncode == 0, done.stderr
    text = file.read_text()
    assert text.startswith(before + images_refresh.MARK)
    seen = json.loads(
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import json\nfrom launchers.sagemaker import images as i\n"
                "print(json.dumps([[r.torch, r.cpu, r.python, r.ends, sorted(r.not_in)] for r in i.table()]))",
            ],
            cwd=clone,
            env={**os.environ, "PYTHONPATH": str(clone)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert seen == [
        ["2.20", "pytorch:2.20-cpu-fake", None, None, ["cn-north-1", "eu-west-1"]],
        ["2.13", "pytorch:2.13-cpu-fake", "3.12", "2027-07-20", []],
        ["2.10", "pytorch-training:2.10-cpu-py313", "3.13", "2027-01-21", []],
    ]
    assert "us-iso" not in text
    assert "sagemaker-core 9.9" in done.stdout
    assert "Unknown, of torch 2.20" in done.stdout
    again = command("--refresh", folder=clone, path=str(tmp_path / "sdk"))
    assert again.returncode == 0
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("", "does not have the expected tables"),
        (FAKE.replace('"versions"', '"editions"'), "does not have the expected tables"),
        (FAKE.replace('"2.10', '"1.10').replace('"2.13', '"1.13').replace('"2.20', '"1.20'), "lists no image"),
        (FAKE.replace('return f"{ACC', "raise ValueError('gone')\n    return f\"{ACC"), "gone"),
    ],
)
def test_an_sdk_of_another_shape_is_refused_and_the_table_stays(
    clone: Path, tmp_path: Path, module: str, says: str
) -> None:
    file = clone / "launchers/sagemaker/images.yaml"
    before = file.read_text()
    done = command("--refresh", folder=clone, path=fake_sdk(tmp_path, module))
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_text() == before


def test_without_the_sdk_it_is_said_what_to_install(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "none/sagemaker").mkdir(parents=True)
    (tmp_path / "none/sagemaker/__init__.py").write_text("")  # also where it is installed
    done = command("--refresh", folder=clone, path=str(tmp_path / "none"))
    assert done.returncode == 1
    assert "pip install 'dogbreed[sagemaker]'" in done.stderr


def test_a_table_without_its_mark_is_not_written_over() -> None:
    with pytest.raises(LaunchError, match="has no line"):
        images_refresh.refreshed("images: []\n")


@pytest.mark.filterwarnings("default")  # of the SDK's own
def test_the_real_sdk_gives_the_committed_table() -> None:
    pytest.importorskip("sagemaker.core.image_uris")
    text = images.TABLE.read_text()
    fresh = images_refresh.refreshed(text)
    assert set(re.findall(r'torch: "([\d.]+)"', fresh)) >= {"2.11", "2.12", "2.13"}
    assert "us-east-1" in fresh
    if re.findall("sdk: .*", fresh) == re.findall("sdk: .*", text):
        assert fresh == text
