"""A search as a process, and what it leaves."""

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from launchers.sweep.storage import open_storage
from tests.support.fake_training import OVERRIDES, whole_notes
from tests.support.project import ROOT

LONGEST_S = 400  # of a command, on a machine that is busy with others
SEARCH = ["-m", "hpo=optuna", "hpo/sampler=random", "hpo/pruner=none", *OVERRIDES]


class Sweep:
    """A folder to search in, and what its trials noted."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(exist_ok=True)
        self.notes_file = place / "notes.jsonl"
        self.environment = {
            **os.environ,
            "FAKE_LOG": str(self.notes_file),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "DOGBREED_CACHE": str(place / "cache"),
            "COLUMNS": "80",
        }

    def start(self, *overrides: str, words: Sequence[str] = SEARCH, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words, *overrides],
            cwd=self.place,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *overrides: str, words: Sequence[str] = SEARCH, status: int = 0, **environment: str) -> str:
        process = self.start(*overrides, words=words, **environment)
        output, _ = process.communicate(timeout=LONGEST_S)
        assert process.returncode == status, output
        return output

    def release(self) -> None:
        """Let the trials go on that FAKE_HELD holds."""
        Path(f"{self.notes_file}.released").touch()

    @property
    def notes(self) -> list[dict[str, Any]]:
        return whole_notes(self.notes_file)

    @property
    def begun(self) -> set[int]:
        return {note["trial"] for note in self.notes if "trial" in note}

    @property
    def ended(self) -> dict[int, dict[str, Any]]:
        return {note["trial"]: note for note in self.notes if "ended" in note}

    def folder(self) -> Path:
        (found,) = (self.place / "sweeps").iterdir()
        return found

    def recorded(self) -> "Counter[str]":
        """Return how many trials are in each state by now, in the database beside them: after their notes."""
        found: Counter[str] = Counter()
        address = f"{(self.folder() / 'study.db').as_uri()}?mode=ro"
        with suppress(sqlite3.Error), closing(sqlite3.connect(address, uri=True)) as database:
            found.update(state for (state,) in database.execute("SELECT state FROM trials"))
        return found

    def study(self, storage: str | None = None) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        rdb = open_storage(storage or f"sqlite:///{self.folder() / 'study.db'}")
        (name,) = [study.study_name for study in rdb.get_all_studies()]
        in_memory = optuna.storages.InMemoryStorage()  # a copy: nothing stays open
        optuna.copy_study(from_study_name=name, from_storage=rdb, to_storage=in_memory)
        rdb.remove_session()
        rdb.engine.dispose()
        return optuna.load_study(study_name=name, storage=in_memory)


def states(study: Any) -> Counter[str]:
    return Counter(trial.state.name for trial in study.trials)


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """Read what a process prints until a line has this text, and return it."""
    assert process.stdout is not None
    said = ""
    while text not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said
