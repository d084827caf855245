"""Where the project lies, and which commit of it this is."""

import subprocess
from pathlib import Path

from launchers.base import RunSpec


def code_of(spec: RunSpec) -> str:
    """Which code it is, for people."""
    if not spec.commit:
        return "not under version control"
    return f"commit {spec.commit[:12]}" + (", with changes that are not committed" if spec.dirty else "")


PROJECT = Path(__file__).resolve().parents[1]


def git_state() -> tuple[str | None, bool]:
    """The project's commit, and whether tracked files differ from it; None where git or the repository is not there."""
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=10).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None, False
    return commit.strip(), bool(changes.strip())
