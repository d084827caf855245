"""The commands of the guides, run in a folder of their own, and held against the output that the guides show."""

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.guides import GUIDES, Session
from tests.support.launcher_contract import until
from tests.support.ports import reserved_port
from tests.support.project import TRAIN


@dataclass
class Shell:
    """A folder in which commands of the guides are run, and what came of them."""

    folder: Path
    photos: Path
    done: dict[str, str] = field(default_factory=dict)  # command: its output
    failed: list[str] = field(default_factory=list)
    port: int = 8080

    def type(self, command: str, added: str = "", *, status: int = 0) -> None:
        """Run a command of a guide, with words added to it, and note what came of it."""
        self._run(command, self._words(f"{command} {added}"), status)

    def type_python(self, code: str) -> None:
        """Run a notebook's cell of a guide."""
        self._run(code, [sys.executable, "-c", self._filled(code)], 0)

    @contextmanager
    def serving(self, command: str) -> Iterator[None]:
        """Run a command that starts the server, at a free port, which later commands then ask."""
        with reserved_port() as self.port, (self.folder / "server.log").open("w") as log:
            words = self._words(f"{command} --port {self.port}")
            server = subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
            try:
                until(lambda: server.poll() is not None or self._answers())
                assert server.poll() is None, f"The server ended:\n{(self.folder / 'server.log').read_text()}"
                yield
            finally:
                server.terminate()
                server.wait(120)

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=60):
            return True
        return False

    def _run(self, command: str, words: Sequence[str], status: int) -> None:
        began = time.monotonic()
        ended = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        print(f"{time.monotonic() - began:6.1f} s  {command}", flush=True)
        self.done[command] = ended.stdout
        if ended.returncode != status:
            tail = "\n".join(ended.stdout.splitlines()[-15:])
            self.failed.append(
                f"{command}\nas {shlex.join(words)}\nended with {ended.returncode}, not {status}:\n{tail}"
            )

    def _words(self, command: str) -> list[str]:
        """Split a command as a shell would, with this environment's programs."""
        program, *words = shlex.split(self._filled(command))
        ours = Path(sys.executable).parent / program
        return [sys.executable if program == "python" else str(ours) if ours.exists() else program, *words]

    def _filled(self, command: str) -> str:
        """Put what exists here in place of the names that stand for it in the guides."""
        photo = next(self.photos.rglob("*.jpg"))
        for name, here in (
            (r"\btrain\.py\b", str(TRAIN)),
            (r"sagemaker://REGION/RUN\b", f"sagemaker://rehearsal/{self.run.name}"),
            (r"\bruns/RUN\b", f"runs/{self.run.name}"),
            (r"\bRUN\b", f"runs/{self.run.name}"),
            (r"\bsweeps/SEARCH\b", f"sweeps/{self.search}"),
            (r"\bPHOTOS\b", str(self.photos)),
            (r"\b(PHOTO|photo)\.jpg\b", str(photo)),
            (r'(?<=")photos(?=")', str(self.photos)),
            (r"127\.0\.0\.1:8080\b", f"127.0.0.1:{self.port}"),
        ):
            command = re.sub(name, here.replace("\\", r"\\"), command)
        return command

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "DOGBREED_CACHE": str(self.cache), "AWS_REGION": "us-east-1", "COLUMNS": "100"}

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def run(self) -> Path:
        """The first run."""
        return min((self.folder / "runs").glob("*"), default=Path("none"))

    @property
    def search(self) -> str:
        return min((path.name for path in (self.folder / "sweeps").glob("quickstart-*")), default="none")

    def settle(self) -> None:
        """Fail for all commands that failed, and for output that the guides show and no command prints any more."""
        for guide in GUIDES:
            for session in guide.sessions():
                if session.command in self.done and "train.py" in session.command:
                    printed = self.done[session.command]
                    missing = _not_printed(session, printed.splitlines())
                    for line in missing:
                        self.failed.append(f"{guide}: {session.command}\nno longer prints\n{line}\nbut\n{printed}")
        assert not self.failed, "\n\n".join(["", *self.failed])


def _not_printed(session: Session, printed: list[str]) -> Iterator[str]:
    """Yield the first line that a guide shows and that was not printed, or not in this order."""
    at = 0
    for line in session.shown:
        if line in ("", "..."):
            continue
        pattern = _as_pattern(line)
        found = next((n for n in range(at, len(printed)) if pattern.fullmatch(printed[n])), None)
        if found is None:
            yield line
            return
        at = found + 1


def _as_pattern(line: str) -> re.Pattern[str]:
    """A line of a guide, with any numbers, run, search, cache folder, path of train.py and column widths."""
    free = r"\d{8}-\d{6}-\w{4}|quickstart-\w{8}|~/\.cache/dogbreed|\btrain\.py\b|\d+(?:[.,]\d+)*|\s+"
    parts = re.split(f"({free})", line)
    between = [_freely(part) for part in parts[1::2]]
    return re.compile("".join(map("{}{}".format, map(re.escape, parts[::2]), [*between, ""])))


def _freely(part: str) -> str:
    if part.isspace():
        return r"\s+"
    return r"\S*train\.py" if part == "train.py" else r"\S*\w"
