"""Every launcher under seeded faults: nothing is billed for ever, no progress is lost, and messages say what to do.

All of them: python -m pytest -n0 -s -m slow tests/launchers/test_scenarios.py
DOGBREED_SCENARIOS names others by their seeds: 17, or 16,18,19, or the first and the one after the last, as 100:200.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.support.scenarios.clouds import OwnCloud, set_up
from tests.support.scenarios.commands import Said, Terminal, commands_in
from tests.support.scenarios.player import play_all
from tests.support.scenarios.runs import PlayedRun
from tests.support.scenarios.scenario import CHANGES, KINDS, ONWARD_OF_SEARCHES, SEARCHES, Scenario

ALL, SAMPLE = range(300), (1, 104)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    with set_up(tmp_path / "cloud") as place:
        yield place


@pytest.fixture
def state_of_runs(tmp_path: Path) -> Iterator[Path]:
    with set_up(tmp_path / "cloud", "launcher=sagemaker_spot") as place:
        yield place


def seeds() -> list[int]:
    found: list[int] = []
    for part in os.environ.get("DOGBREED_SCENARIOS", "0:300").split(","):
        first, colon, end = part.partition(":")
        found += range(int(first), int(end) if colon else int(first) + 1)
    return found


@pytest.mark.timeout(1800)
def test_a_sample_of_scenarios(state_of_runs: Path, tmp_path: Path) -> None:
    assert play_all(state_of_runs, tmp_path, SAMPLE) == []


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_all_scenarios(state: Path, tmp_path: Path) -> None:
    failed = play_all(state, tmp_path, seeds())
    assert not failed, f"{len(failed)} of {len(seeds())} failed:\n" + "\n".join(map(str, failed))


def test_the_scenarios_have_all_kinds_of_troubles() -> None:
    drawn = [Scenario.draw(seed) for seed in ALL]
    assert set(Counter(each.kind for each in drawn)) == set(KINDS)
    assert min(Counter(each.kind for each in drawn).values()) > 25
    assert {each.last for each in drawn} == {"result", "download", "cancel", "cleanup"}
    for name in ("kill", "server_dies_s", "cancel_after_s"):
        assert sum(getattr(each, name) is not None for each in drawn) > 20
    assert sum(each.endless for each in drawn) > 10
    assert {each.during for each in drawn} == {"create", "update", "rollback", "cancel"}
    assert {each.change for each in drawn if each.during == "update"} == set(chain.from_iterable(CHANGES.values()))
    lacking = [each.lacking.verb for each in drawn if each.lacking is not None]
    assert len(lacking) > 100
    assert {*lacking} == {"status", "logs", "invoke", "result", "download", "cancel", "cleanup", "rollback"}
    assert {each.kind for each in drawn if each.lacking is not None} == set(KINDS) - {"local"}
    assert {each.onward for each in drawn if each.kind in SEARCHES} == {*ONWARD_OF_SEARCHES}


@pytest.mark.parametrize(
    ("message", "commands"),
    [
        ("Resume it with: python ../dogs/train.py resume=runs/a", [["train.py", "resume=runs/a"]]),
        (
            "Try: python -m launchers cancel dogs, which removes it, and then a new deployment",
            [["launchers", "cancel", "dogs"]],
        ),
        (
            "Try: python -m launchers attach a\n or: python -m launchers cancel 'a b'",
            [["launchers", "attach", "a"], ["launchers", "cancel", "a b"]],
        ),
        ("Try: later", []),
    ],
)
def test_the_commands_of_a_message_are_typed_without_the_sentence_around_them(
    message: str, commands: list[list[str]]
) -> None:
    assert commands_in(message) == commands


def test_json_is_read_whatever_warnings_are_around_it() -> None:
    assert Said(("status",), 0, 'a {warning}\n{\n  "a": {"b": 1}\n}\nanother\n').facts == {"a": {"b": 1}}


def test_progress_that_was_saved_and_is_lost_is_noticed(tmp_path: Path) -> None:
    played = PlayedRun(Scenario(0, "sagemaker_gpu"), OwnCloud(tmp_path), Terminal(tmp_path, tmp_path), tmp_path)

    def note(event: str, step: int, at: float) -> dict[str, Any]:
        return {"event": event, "step": step, "at": at, "job": "a"}

    killed = [note("started", 0, 0), note("saved", 10, 2), note("saved", 20, 9), note("at", 21, 10)]
    for resumed, lost in ((0, True), (10, False), (20, False)):  # what was saved a second before may not have arrived
        with pytest.raises(AssertionError, match="10 was saved") if lost else nullcontext():
            played._check_progress([*killed, note("started", resumed, 20)])
    stopped = [*killed, note("asked to end", 22, 11)]
    with pytest.raises(AssertionError, match="22 was saved"):
        played._check_progress([*stopped, note("started", 20, 20)])
