"""What a run elsewhere leaves in its folder on this machine, so that it is found again."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from dogbreed.run_folder import write_json, write_text
from launchers.base import LAUNCHED_FILE, SPEC_FILE, Handle, Plan, RunSpec

if TYPE_CHECKING:
    from launchers.sagemaker.training import SageMakerLauncher


def remember(folder: Path, plan: Plan, launcher: "SageMakerLauncher") -> None:
    """Leave in the run's folder what it is and where it runs, so that the folder's name is enough to follow it."""
    write_text(folder / SPEC_FILE, plan.spec.to_json())
    place = (
        {"state_dir": str(Path(state_dir).expanduser())}
        if (state_dir := getattr(launcher.cloud, "state_dir", ""))
        else {}
    )
    write_json(folder / LAUNCHED_FILE, {"handle": str(plan.handle), **place})


def launched(folder: Path) -> dict[str, str] | None:
    """What `remember` left; null for a run of this machine."""
    try:
        return dict(json.loads((folder / LAUNCHED_FILE).read_bytes()))
    except (OSError, ValueError):
        return None


def home_of(handle: Handle, spec: RunSpec) -> Path:
    """Where the run's folder is here: where it was started from, if that is this machine; else in runs/."""
    folder = Path(spec.folder)
    note = launched(folder)
    if note is not None and note.get("handle") == str(handle):
        return folder
    return (Path("runs", handle.run_id) if spec.search is None else Path("sweeps", spec.search)).absolute()
