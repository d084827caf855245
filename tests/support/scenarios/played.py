"""What the scenarios of all kinds share: the process that is killed, refusals and what they must say, what is left."""

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.scenarios.account import Account
from tests.support.scenarios.clouds import OwnCloud
from tests.support.scenarios.commands import Said, Terminal, commands_in, tells
from tests.support.scenarios.scenario import Scenario

MOST_ROUNDS = 6
_CLEANUP = ("rehearsal", "--apply", "--yes", "--older-than-h", "0")
SAVED_WITHIN_S = 4.0  # from a checkpoint to its place in S3: two intervals of a machine, which is busy here


@dataclass
class Played(ABC):
    """A scenario in a cloud. place: of its files. happened: what a person saw so far, in words."""

    scenario: Scenario
    cloud: OwnCloud
    terminal: Terminal
    place: Path
    happened: list[str] = field(default_factory=list)
    lacked: bool = False  # whether the verb with a permission missing was typed

    def __post_init__(self) -> None:
        self.account = Account(self.cloud)
        self.here = self.place / "home"  # the folder in which commands are typed
        self.option = ["--state-dir", str(self.cloud.state)]

    @abstractmethod
    def play(self) -> None:
        """Let it happen, and check what must hold. Raises AssertionError."""

    def type(self, *words: str, folder: Path | None = None, first: bool = False) -> Said:
        """Type a command. first: the one that is to be killed, if any is."""
        return self.terminal.type(folder or self.here, *words, kill=self.scenario.kill if first else None)

    def lack(self, verb: str, *words: str, folder: Path | None = None) -> None:
        """Type a verb with a permission missing, if it is that of the scenario, once; check that it says so.

        What it cannot do or show it may not leave out in silence: it names the action, and what to do about it.
        """
        lacking = self.scenario.lacking
        if lacking is None or lacking.verb != verb or self.lacked:
            return
        self.lacked = True
        said = self.terminal.type(folder or self.here, "launchers", verb, *words, *self.option, lacking=lacking.action)
        self.happened.append(f"{verb} without {', '.join(said.refused) or 'what it does not need'}")
        assert len(said.refused) <= 1, f"the printed policies do not grant what {verb} does: {said.refused}\n{said}"
        for action in said.refused:
            assert action in said.text, f"{action} was not permitted, and {verb} does not say so:\n{said}"
            assert said.status == 0 or tells(said.text), f"{verb} without {action} has no next action:\n{said}"

    @contextmanager
    def server_dying(self) -> Iterator[None]:
        """Kill the cloud's process at its moment, if that is in the scenario; it has come back at the end."""
        killer = threading.Thread(target=self._kill_server)
        killer.start()
        try:
            yield
        finally:
            killer.join()

    def _kill_server(self) -> None:
        if self.scenario.server_dies_s is not None:
            time.sleep(self.scenario.server_dies_s)
            self.cloud.kill()

    def cloud_words(self, *, first: bool, well: bool = False) -> list[str]:
        """Return the settings of the cloud. first: of the command that meets the client's faults. well: without any."""
        faults = {} if well else {**self.scenario.rented, **(self.scenario.client if first else {})}
        reclaims = faults.pop("reclaims", 0)
        return [
            "aws=rehearsal",
            "aws.launch_as=dogbreed-launch",
            "aws.role=dogbreed-training",
            f"aws.state_dir={self.cloud.state}",
            "aws.clock_rate=10",
            f"aws.reclaims={reclaims}",
            *(f"+aws.faults.{name}={_as_hydra(value)}" for name, value in faults.items()),
        ]

    def heed(self, said: Said, *verbs: str) -> None:
        """Type what a refusal tells to type, as far as it is one of these verbs."""
        for words in commands_in(said.text):
            if words[0] == "launchers" and words[1] in verbs:
                self.type(*words)

    def check_reason(self, said: Said) -> None:
        """Check that a refusal names one of the faults that were injected."""
        scenario, text = self.scenario, said.text
        reasons = {
            "denied": scenario.client.get("denied", ["?"])[0],
            "throttled": "throttled",
            "s3_failures": "throttled",
            "expires_after": "credentials",
            "quotas": "quota",
        }
        known = [words for name, words in reasons.items() if scenario.client.get(name)]
        if scenario.client.get("no_capacity_of"):
            known.append("capacity")
        if scenario.server_dies_s is not None:
            known += ["cannot be reached", "does not recognize these credentials"]
        assert any(words in text for words in known), f"it names none of {known}:\n{said}"

    def forget(self) -> Path:
        """Take away the folders in which commands were typed. Return one that shares nothing with them."""
        for name in ("home", "elsewhere"):
            if (self.place / name).exists():
                (self.place / name).rename(self.place / f"{name}-moved")
        return self.place / "there"

    def clean_up(self) -> None:
        there = self.place / "there"
        self.lack("cleanup", *_CLEANUP, folder=there)
        said = self.type("launchers", "cleanup", *_CLEANUP, *self.option, folder=there)
        assert said.status == 0, said

    def clean_up_too_early(self) -> None:
        """Type what removes leftovers while something is in progress, if the scenario has it with a permission missing.

        What is in progress stays: the scenario goes on as if nothing had been typed.
        """
        self.lack("cleanup", *_CLEANUP, folder=self.place / "there")

    def check_account(self, *, tuned: bool = False, most_usd: float | None = None) -> None:
        """Check what must hold of the account once everything is over."""
        wrong = list(self.account.wrong(tuned=tuned))
        assert not wrong, "; ".join(wrong)
        usd = self.account.usd()
        assert most_usd is None or usd <= most_usd, f"${usd:.4f} is more than limits.max_usd={most_usd}"
        left = self.account.left()
        assert not left, f"left in the account: {left}"


def _as_hydra(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{each}" for key, each in value.items()) + "}"
    return json.dumps(value)
