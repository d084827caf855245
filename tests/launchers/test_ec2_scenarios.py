"""Runs on EC2 under seeded faults: nothing is billed for ever, no progress is lost, and nothing is left.

All of them: python -m pytest -m slow tests/launchers/test_ec2_scenarios.py
"""

import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.ec2_scenarios import Played, Scenario, cloud_for

ALL, SAMPLE = range(100), (60, 33)
_AT_ONCE = 8  # each waits most of the time


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    with cloud_for(tmp_path / "state") as place:
        yield place


def play(state: Path, folder: Path, seeds: Sequence[int]) -> list[str]:
    """Play scenarios, and return what went wrong in each that failed."""

    def one(seed: int) -> str:
        scenario, began = Scenario.draw(seed), time.monotonic()
        failure = ""
        try:
            Played(scenario, state, folder / f"s{seed}").play()
        except Exception:
            failure = f"{scenario}\n{traceback.format_exc()}"
        print(f"{seed}: {failure or 'held'}, {time.monotonic() - began:.0f} s", flush=True)
        return failure

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(filter(None, pool.map(one, seeds)))


def test_a_sample_of_scenarios(state: Path, tmp_path: Path) -> None:
    assert play(state, tmp_path, SAMPLE) == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_all_scenarios(state: Path, tmp_path: Path) -> None:
    failed = play(state, tmp_path, ALL)
    assert not failed, f"{len(failed)} of {len(ALL)} failed:\n" + "\n".join(failed)


def test_the_scenarios_have_all_kinds_of_faults() -> None:
    drawn = [Scenario.draw(seed) for seed in ALL]
    faults = {name for each in drawn for name in each.faults}
    assert faults >= {"hard", "crash_at", "boot_failures", "no_capacity", "no_capacity_in", "rebalance_at"}
    assert faults >= {"denied_to_role", "clock_skew_s", "s3_failures"}
    assert {each.last for each in drawn} == {"result", "cancel", "cleanup"}
    assert sum(each.killed_at is not None for each in drawn) > 20
    assert sum(each.endless for each in drawn) > 10
