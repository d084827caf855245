"""Every launcher under seeded faults: nothing is billed for ever, no progress is lost, and messages say what to do.

All of them: python -m pytest -n0 -s -m slow tests/launchers/test_scenarios.py
DOGBREED_SCENARIOS names others by their seeds: a number, or the first and the one after the last, as 100:200.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scenarios.clouds import set_up
from tests.support.scenarios.player import play_all
from tests.support.scenarios.scenario import KINDS, Scenario

ALL, SAMPLE = range(300), (1, 15)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    with set_up(tmp_path / "cloud") as place:
        yield place


@pytest.fixture
def state_of_runs(tmp_path: Path) -> Iterator[Path]:
    with set_up(tmp_path / "cloud", "launcher=sagemaker_spot") as place:
        yield place


def seeds() -> range:
    first, colon, end = os.environ.get("DOGBREED_SCENARIOS", "0:300").partition(":")
    return range(int(first), int(end) if colon else int(first) + 1)


def test_a_sample_of_scenarios(state_of_runs: Path, tmp_path: Path) -> None:
    assert play_all(state_of_runs, tmp_path, SAMPLE) == []


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_all_scenarios(state: Path, tmp_path: Path) -> None:
    failed = play_all(state, tmp_path, seeds())
    assert not failed, f"{len(failed)} of {len(seeds())} failed:\n" + "\n".join(map(str, failed))


def test_the_scenarios_have_all_kinds_of_troubles() -> None:
    drawn = [Scenario.draw(seed) for seed in ALL]
    assert {each.kind for each in drawn} == set(KINDS)
    assert {each.last for each in drawn} == {"result", "download", "cancel", "cleanup"}
    for name in ("kill", "server_dies_s", "cancel_after_s"):
        assert sum(getattr(each, name) is not None for each in drawn) > 20
    assert sum(each.endless for each in drawn) > 10
    assert {each.during for each in drawn} == {"create", "update", "rollback", "cancel"}
