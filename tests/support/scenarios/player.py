"""Play scenarios by their seeds, several at once, and say what happened in each."""

import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support.scenarios.clouds import copy_of
from tests.support.scenarios.commands import Terminal
from tests.support.scenarios.deployments import PlayedDeployment
from tests.support.scenarios.runs import PlayedRun
from tests.support.scenarios.scenario import DEPLOYMENTS, SEARCHES, Scenario
from tests.support.scenarios.searches import PlayedSearch

AT_ONCE = 8  # each waits most of the time
REPEAT = "DOGBREED_SCENARIOS={seed} python -m pytest -n0 -s -m slow tests/launchers/test_scenarios.py"


@dataclass(frozen=True)
class Played:
    """A scenario that was played. failure: why it did not hold; empty if it did."""

    scenario: Scenario
    happened: str
    failure: str
    seconds: float

    def __str__(self) -> str:
        line = f"{self.scenario.seed}: {self.scenario}: {self.happened}"
        if not self.failure:
            return f"{line}; held, {self.seconds:.0f} s"
        return f"{line}; FAILED\n{self.failure}\nAgain: {REPEAT.format(seed=self.scenario.seed)}"


def play(state: Path, place: Path, seed: int) -> Played:
    """Play one scenario in a copy of a cloud. state: of that cloud. place: for this scenario's files."""
    scenario, began, failure = Scenario.draw(seed), time.monotonic(), ""
    terminal = Terminal(place / "cloud" / "notes", place.parent / "cache")
    happened: list[str] = []
    try:
        with copy_of(state, place / "cloud") as cloud:
            _played_by(scenario.kind)(scenario, cloud, terminal, place, happened).play()
    except Exception as error:
        why = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
        failure = f"{why}\n--- what was typed ---\n{terminal.transcript()}"
    else:
        shutil.rmtree(place, ignore_errors=True)  # hundreds of clouds, with their packages, would fill a disk
    return Played(scenario, ", ".join(happened), failure, time.monotonic() - began)


def _played_by(kind: str) -> type[PlayedRun] | type[PlayedDeployment] | type[PlayedSearch]:
    if kind in DEPLOYMENTS:
        return PlayedDeployment
    return PlayedSearch if kind in SEARCHES else PlayedRun


def play_all(state: Path, place: Path, seeds: Sequence[int]) -> list[Played]:
    """Play scenarios, print a line for each, and return those that did not hold."""

    def one(seed: int) -> Played:
        played = play(state, place / f"s{seed}", seed)
        print(played, flush=True)
        return played

    with ThreadPoolExecutor(AT_ONCE) as pool:
        played = list(pool.map(one, seeds))
    failed = [each for each in played if each.failure]
    print(f"{len(played) - len(failed)} of {len(played)} scenarios held", file=sys.stderr, flush=True)
    return failed
