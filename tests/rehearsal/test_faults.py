"""What goes wrong on demand: when, for whom, and in which words it is asked for."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dogbreed.errors import ConfigError
from launchers import prepare
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.faults import Faults, Progress, Session
from tests.support.project import ROOT


@pytest.mark.parametrize(
    ("moment", "progress", "reached"),
    [
        ("start", Progress(), True),
        ("2.5s", Progress(seconds=2.4), False),
        ("2.5s", Progress(seconds=2.5), True),
        ("epoch 2", Progress(epoch=1), False),
        ("epoch 2", Progress(epoch=2), True),
        ("checkpoint 3", Progress(checkpoints=3), True),
        ("trial 4", Progress(trials=3), False),
        ("trial 4", Progress(trials=4), True),
        (None, Progress(seconds=1e9), False),
    ],
)
def test_a_moment_is_reached_once_it_is_there(moment: str | None, progress: Progress, reached: bool) -> None:
    assert progress.reached(moment) is reached


def test_each_attempt_has_its_own_moment_and_the_last_one_holds_for_the_rest() -> None:
    faults = Faults(reclaims=3, reclaim_at=("1s", "epoch 2"))
    assert [faults.reclaim_moment(n) for n in range(1, 6)] == ["1s", "epoch 2", "epoch 2", None, None]
    assert Faults.from_header(faults.to_header()).reclaim_moment(2) == "epoch 2"


def test_a_machine_dies_in_the_first_attempt_alone() -> None:
    assert [Faults(crash_at="epoch 1").crash_moment(n) for n in (1, 2)] == ["epoch 1", None]
    assert Faults().crash_moment(1) is None


def test_what_is_counted_is_counted_by_kind() -> None:
    session = Session()
    assert [session.among_first(2, "jobs") for _ in range(3)] == [True, True, False]
    assert session.among_first(1, "requests")
    assert not session.among_first(0, "others")


@pytest.mark.parametrize(
    ("settings", "findings"),
    [
        ({}, []),
        ({"faults": {"reclaim_at": ["12.5s", "epoch 2", "start"], "crash_at": "trial 4"}}, []),
        ({"faults": {"wind": 1}}, ["Unknown keys in aws.faults: wind."]),
        ({"reclaims": -1}, ["aws.reclaims must be a number of at least 0, got -1."]),
        ({"faults": {"s3_delay_s": "2"}}, ["aws.faults.s3_delay_s must be a number of at least 0, got '2'."]),
        ({"clock_rate": 10, "faults": {"start_s": 1.5}}, []),
        ({"clock_rate": 20}, ["aws.clock_rate must be from 1 to 10, got 20."]),
        ({"faults": {"reclaim_at": []}}, ["aws.faults.reclaim_at is empty."]),
        ({"faults": {"crash_at": "noon"}}, ["aws.faults: 'noon' is not a valid moment."]),
    ],
)
def test_settings_that_cannot_be_are_found_before_anything_starts(
    settings: dict[str, object], findings: list[str], tmp_path: Path
) -> None:
    cloud = Rehearsal(state_dir=str(tmp_path / "state"), **settings)  # type: ignore[arg-type]
    assert [text.splitlines()[0] for text in cloud.findings()] == findings
    if findings:
        with pytest.raises(ConfigError, match="aws"):
            cloud.client("s3")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("typed", "now"),
    [
        ("+aws.trouble.hard=true", "+aws.faults.hard=true"),
        ("aws.trouble.hard=true", "+aws.faults.hard=true"),
        ("++aws.trouble.reclaim_at=[epoch 1,start]", "+aws.faults.reclaim_at=[epoch 1,start]"),
        ("aws[trouble].hard=true", "+aws.faults.hard=true"),
        ("+aws.trouble={hard:true}", "+aws.faults={hard:true}"),
    ],
)
def test_the_former_name_of_a_setting_is_answered_with_the_present_one(typed: str, now: str, tmp_path: Path) -> None:
    words = ["data=drawn", "launcher=sagemaker_spot", "aws=rehearsal", f"aws.state_dir={tmp_path}/state"]
    with pytest.raises(ConfigError) as caught:
        prepare([*words, f"hydra.run.dir={tmp_path}/run", typed])
    assert str(caught.value) == f"aws.trouble is now aws.faults, got {typed}.\nTry: {shlex.quote(now)}"
    launcher, _ = prepare([*words, f"hydra.run.dir={tmp_path}/run", now])
    assert launcher
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "run").exists()


def test_the_command_says_so_as_well(tmp_path: Path) -> None:
    words = ["train.py", "experiment=quickstart", "launcher=sagemaker_spot", "aws=rehearsal", "aws.trouble.hard=true"]
    ended = subprocess.run(
        [sys.executable, *words, f"hydra.run.dir={tmp_path}/run"], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "error: aws.trouble is now aws.faults, got aws.trouble.hard=true.",
        "Try: +aws.faults.hard=true",
    ]
    assert not (tmp_path / "run").exists()
