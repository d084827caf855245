"""A search as a process, and what it leaves."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launchers.sweep.storage import open_storage
from tests.support.fake_training import OVERRIDES
from tests.support.project import ROOT

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
        output, _ = process.communicate(timeout=120)
        assert process.returncode == status, output
        return output

    @property
    def notes(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.notes_file.read_text().splitlines()]

    @property
    def ended(self) -> dict[int, dict[str, Any]]:
        return {note["trial"]: note for note in self.notes if "ended" in note}

    def folder(self) -> Path:
        (found,) = (self.place / "sweeps").iterdir()
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


def wait_for(condition: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
