"""The project's folder, and its commit."""

import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def describe_commit(commit: str | None, dirty: bool) -> str:
    """Describe the code's version, for people. commit, dirty: as `git_state` returns them."""
    if not commit:
        return "not under version control"
    return f"commit {commit[:12]}" + (", with changes that are not committed" if dirty else "")


def git_state() -> tuple[str | None, bool]:
    """Return the project's commit and whether tracked files differ from it; None and False outside a git repository,
    and in one around the project that does not track it.
    """
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
        subprocess.run(["git", "ls-files", "--error-unmatch", "train.py"], cwd=PROJECT, capture_output=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, False
    return commit.strip(), bool(changes.strip())
