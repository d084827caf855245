"""The files that a remote run has in its folder on this machine, so that the folder is enough to find it again."""

import json
from collections.abc import Mapping
from pathlib import Path

from dogbreed import commands
from dogbreed.run_folder import write_json, write_text
from launchers.plan import Plan
from launchers.spec import LAUNCHED_FILE, SPEC_FILE, RunSpec
from launchers.status import Handle

NOT_OF_THE_PLACE = frozenset({"handle", "home", "saved"})  # keys of launched.json; the others are the cloud's `place`


def remember(folder: Path, plan: Plan, place: Mapping[str, str]) -> None:
    """Write the run's spec and handle into its folder, so that the folder's name is enough to follow it.

    place: the cloud's `Cloud.place`.
    """
    write_text(folder / SPEC_FILE, plan.spec.to_json())
    write_json(folder / LAUNCHED_FILE, {"handle": str(plan.handle), **place})


def launched(folder: Path) -> dict[str, str] | None:
    """Return what `remember` wrote; None for a local run."""
    try:
        return dict(json.loads((folder / LAUNCHED_FILE).read_bytes()))
    except (OSError, ValueError):
        return None


def folder_here(handle: Handle, runs_dir: str = "runs", sweeps_dir: str = "sweeps") -> Path | None:
    """Return the folder of a remote run or search below the present one; None if it was launched from elsewhere."""
    here = commands.working_folder()
    for folder in (here / runs_dir / handle.run_id, *sorted((here / sweeps_dir).glob("*"))):
        if (launched(folder) or {}).get("handle") == str(handle):
            return folder
    return None


def home_of(handle: Handle, spec: RunSpec) -> Path:
    """Return the run's folder on this machine: the one it was submitted from, or the default if that was elsewhere."""
    folder = Path(spec.folder)
    note = launched(folder)
    if note is not None and note.get("handle") == str(handle):
        return folder
    return commands.working_folder() / spec.output.default_folder(handle.run_id)
