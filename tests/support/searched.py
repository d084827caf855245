"""Searches by whole commands: what they say, and the trials that they leave."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.project import ROOT


def said_by(here: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words], cwd=here, capture_output=True, text=True, timeout=1500
    )
    said = done.stdout + done.stderr
    assert done.returncode == status, said
    return said


def trials_in(database: Path) -> list[Any]:
    import optuna

    return list(optuna.load_study(study_name="mine", storage=f"sqlite:///{database}").trials)


def tmp_path_of(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name
