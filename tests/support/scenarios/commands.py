"""Commands as a person types them, in processes of their own, and the commands that their messages tell to type."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from launchers.status import LaunchError
from tests.support.project import ROOT
from tests.support.scenarios.scenario import Kill

_CLIENT = ROOT / "tests" / "support" / "children" / "scenario_client.py"
_COMMAND = re.compile(r"\bpython (?:\S*train\.py|-m launchers)\b.*")
_LONGEST_S = 900  # a limit that is never reached, however busy the machine is, unless something hangs
Found = TypeVar("Found")


@dataclass(frozen=True)
class Said:
    """What a command has printed, and its exit status. refused: the actions that the cloud did not permit it."""

    words: tuple[str, ...]
    status: int
    text: str
    refused: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"$ {shlex.join(self.words)}\n{self.text}[exit status {self.status}]"

    @property
    def facts(self) -> dict[str, Any]:
        """What it has printed with --json, without the warnings before it."""
        begin = re.search(r"^\{", self.text, re.M)
        assert begin is not None, f"no JSON:\n{self}"
        found: dict[str, Any] = json.JSONDecoder().raw_decode(self.text[begin.start() :])[0]
        return found


@dataclass
class Terminal:
    """Types commands, and holds what holds for each of them. notes: where runs on this machine write theirs."""

    notes: Path
    cache: Path
    said: list[Said] = field(default_factory=list)

    def type(self, folder: Path, *words: str, kill: Kill | None = None, lacking: int | None = None) -> Said:
        """Type a command in a folder, and return what came of it. words: `train.py` or `launchers`, and the rest.

        lacking: which of the actions that it takes is not permitted, from 1. Raises AssertionError for a traceback, or
        an exit status that says nothing.
        """
        with tempfile.TemporaryDirectory() as place:
            refused = Path(place) / "refused"
            missing: dict[str, Any] = {} if lacking is None else {"lacking": lacking, "refused": str(refused)}
            return self._type(folder, words, kill, missing, refused)

    def _type(
        self, folder: Path, words: tuple[str, ...], kill: Kill | None, missing: dict[str, Any], refused: Path
    ) -> Said:
        folder.mkdir(parents=True, exist_ok=True)
        how: dict[str, Any] = {"notes": str(self.notes), **({} if kill is None else asdict(kill)), **missing}
        paths = filter(None, [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
            "DOGBREED_CACHE": str(self.cache),
            "COLUMNS": "80",
        }
        try:
            done = subprocess.run(
                [sys.executable, str(_CLIENT), json.dumps(how), *words],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_LONGEST_S,
            )
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{shlex.join(words)} took more than {_LONGEST_S} s:\n{error.stdout}") from None
        actions = refused.read_text().split() if refused.exists() else []
        said = Said(words, done.returncode, done.stdout, tuple(dict.fromkeys(actions)))
        self.said.append(said)
        assert "Traceback" not in said.text, f"a traceback:\n{said}"
        statuses = {0, 1}
        if kill is not None:
            number = signal.Signals[kill.signal]
            statuses |= {-number, 128 + number, 128 + signal.SIGTERM}  # that of `cancel` on this machine
        assert said.status in statuses, f"an exit status that says nothing:\n{said}"
        if said.status == 1 and words[0] == "train.py":
            assert tells(said.text), f"a failure without a next action:\n{said}"
        return said

    def transcript(self) -> str:
        return "\n\n".join(map(str, self.said))


def tells(text: str) -> bool:
    """Return whether a message says what to do next."""
    return "Try" in text or bool(commands_in(text)) or "and run it again" in text


def commands_in(text: str) -> list[list[str]]:
    """Return the commands that a message tells to type, each as `Terminal.type` takes it."""
    found = []
    for line in text.splitlines():
        for match in _COMMAND.finditer(line):
            words = _until_prose(match[0])
            found.append(["train.py", *words[2:]] if words[1] != "-m" else ["launchers", *words[3:]])
    return found


def _until_prose(text: str) -> list[str]:
    """Split a command, and leave out what the sentence around it goes on with."""
    text = re.split(r", (?:which|and|or)\b|; |` ", text)[0].rstrip("`.;,)")
    return shlex.split(text)


def steady(read: Callable[[], Found]) -> Found:
    """Read something of the cloud, and again if its process was killed meanwhile."""
    from botocore.exceptions import BotoCoreError

    end = time.monotonic() + 300
    while True:
        try:
            return read()
        except (BotoCoreError, LaunchError):
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def wait_until(reached: Callable[[], bool], longest_s: float = 1200) -> None:
    """Wait, looking seldom: many scenarios share few processors."""
    end = time.monotonic() + longest_s
    while not steady(reached):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(1)
