"""What a run elsewhere leaves in its folder on this machine, so that it is found again."""

import json
from collections.abc import Mapping
from pathlib import Path

from dogbreed.run_folder import write_json, write_text
from launchers.base import LAUNCHED_FILE, SPEC_FILE, Handle, Plan, RunSpec

NOT_OF_THE_PLACE = frozenset({"handle", "home", "saved"})  # keys of launched.json; the others are the cloud's `place`


def remember(folder: Path, plan: Plan, place: Mapping[str, str]) -> None:
    """Write into the run's folder what it is and where it runs, so that the folder's name is enough to follow it.

    place: the cloud's.
    """
    write_text(folder / SPEC_FILE, plan.spec.to_json())
    write_json(folder / LAUNCHED_FILE, {"handle": str(plan.handle), **place})


def launched(folder: Path) -> dict[str, str] | None:
    """Return what `remember` wrote; None for a run of this machine."""
    try:
        return dict(json.loads((folder / LAUNCHED_FILE).read_bytes()))
    except (OSError, ValueError):
        return None


def home_of(handle: Handle, spec: RunSpec) -> Path:
    """Return the run's folder here: the one it was started from, if that was on this machine; else one in runs/."""
    folder = Path(spec.folder)
    note = launched(folder)
    if note is not None and note.get("handle") == str(handle):
        return folder
    return spec.output.default_folder(handle.run_id).absolute()
