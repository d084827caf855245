"""Find a run of this machine by what a person typed, and name it."""

import os
from collections.abc import Iterator
from pathlib import Path

from dogbreed import commands
from dogbreed.commands import override, shown_path
from launchers.overrides import without_faults
from launchers.runs.state import STATE_FILE, State
from launchers.spec import RunSpec
from launchers.status import Handle, LaunchError

LOCAL = "local"  # scheme of the handles of this machine's runs
RUNS_DIR, SWEEPS_DIR = "runs", "sweeps"  # the default folders of run folders
DEPLOYMENTS_DIR = "deployments"


def handle_for(folder: Path) -> Handle:
    return Handle(LOCAL, folder.parent.as_posix().rstrip("/"), folder.name)


def folder_of(handle: Handle) -> Path:
    if handle.launcher != LOCAL:
        raise LaunchError(f"{handle} is not a local run.\nTry: a run folder, or {LOCAL}://<its absolute path>")
    return Path(f"{handle.scope}/{handle.run_id}")


def find(text: str, runs_dir: str = RUNS_DIR) -> Handle:
    """Return the handle of a local run.

    text: a handle, a run folder, the name of a folder in `runs_dir`, or that of a deployment launched from here.
    Raises LaunchError if there is no such folder.
    """
    if commands.is_address(text):
        folder = folder_of(Handle.parse(text))
    else:
        candidates = [Path(text).absolute(), *(Path(below, text).absolute() for below in (runs_dir, DEPLOYMENTS_DIR))]
        folder = next((Path(os.path.normpath(path)) for path in candidates if path.is_dir()), candidates[0])
    if folder.is_dir():
        return handle_for(folder)
    newest = [shown_path(folder) for folder in sorted(run_folders(runs_dir), key=_started_at, reverse=True)][:3]
    raise LaunchError(
        f"There is no run folder {shown_path(folder)}.\n"
        + (f"Try: one of the newest, {', '.join(newest)}" if newest else "Try: python -m launchers list --all")
    )


def resume_command(folder: Path) -> str:
    """Return the command that resumes the run in `folder`, quoted for a shell and for Hydra."""
    return commands.train(override("resume", shown_path(folder)))


def search_command(spec: RunSpec) -> str:
    """Return the command that resumes a search, without the faults that it was told to inject."""
    return commands.train(*spec.sources.flags, "-m", *spec.sources.searchpath, *without_faults(spec.overrides))


def run_folders(runs_dir: str = RUNS_DIR, sweeps_dir: str = SWEEPS_DIR) -> Iterator[Path]:
    """Find the folders of local runs: runs/<run> and sweeps/<sweep>/<run>."""
    for base, pattern in ((runs_dir, "*"), (sweeps_dir, "*/*")):
        yield from (state.parent for state in Path(base).absolute().glob(f"{pattern}/{STATE_FILE}"))


def _started_at(folder: Path) -> str:
    state = State.read(folder)
    return "" if state is None else state.first_started_at
