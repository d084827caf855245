"""`python -m launchers download`: fetch what a run has left, and say where it is."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dogbreed import commands
from dogbreed.commands import shown_path
from dogbreed.run_folder import RunFolder
from launchers.base import Launcher
from launchers.registry import launched_run
from launchers.runs.launched import launched
from launchers.runs.released import trial_folders
from launchers.spec import JOB_LOG, STUDY_FILE
from launchers.status import Handle, LaunchError, Phase


def downloaded(launcher: Launcher, handle: Handle, *, as_json: bool) -> str:
    """Fetch what a run or a search has left; return what is there as text, or as JSON.

    Raises LaunchError if the run is unknown, has not ended, or has left nothing.
    """
    here = launcher.folder(handle)
    if here is not None and (trials := trial_folders(here)):
        waiting = list(_fetch_trials(trials))
        return _search_as_json(handle, here) if as_json else "\n".join([_search(here), *waiting])
    status = launcher.status(handle)
    if status.phase is Phase.LOST:
        raise LaunchError(status.detail)
    folder = launcher.download(handle)
    if trial_folders(folder):
        return _search_as_json(handle, folder) if as_json else _search(folder)
    files = _files(folder)
    if as_json:
        listed = {name: str(path) for name, path in files.items()}
        return json.dumps({"handle": str(handle), "folder": str(folder.absolute()), "files": listed}, indent=2)
    ended = f"ended: {status.phase}" if status.finished else str(status.phase)
    where = "is on this machine" if here is not None else "is now on this machine"
    lines = [f"{handle} ({ended}) {where}:", *_rows({**files, "run folder": folder})]
    if "checkpoint" in files:
        lines += ["", f"Next: {commands.module('dogbreed.predict', shown_path(files['checkpoint']), 'PHOTO')}"]
    else:
        lines.append("There is no checkpoint: no epoch had ended.")
    return "\n".join(lines)


def _fetch_trials(trials: list[Path]) -> Iterator[str]:
    """Fetch the trials of a search that are jobs of their own. Yield a line for each that is still running."""
    for trial in trials:
        note = launched(trial)
        if note is None or note.get("home"):
            continue
        launcher, handle = launched_run(note)
        status = launcher.status(handle)
        if status.phase is Phase.LOST:  # it was never submitted
            continue
        if status.finished:
            launcher.download(handle)
        else:
            yield f"still {status.phase}: {handle}"


def _search(folder: Path) -> str:
    trials = {trial: _metrics(trial) for trial in trial_folders(folder)}
    ended = {trial: metrics for trial, metrics in trials.items() if metrics}
    lines = [f"The search in {shown_path(folder)}: {len(ended)} of {len(trials)} trials have ended and are here."]
    for trial, metrics in ended.items():
        accuracy = metrics.get("val/acc")
        shown = "" if accuracy is None else f"val/acc {accuracy:.4f}  "
        lines.append(f"trial {int(trial.name[:5]):<4}  {shown}{shown_path(trial)}")
    logs = {"job's log": folder / JOB_LOG, "study": folder / STUDY_FILE}
    return "\n".join([*lines, *_rows({name: path for name, path in logs.items() if path.exists()})])


def _search_as_json(handle: Handle, folder: Path) -> str:
    trials = [
        {"trial": int(trial.name[:5]), "folder": str(trial.absolute()), "metrics": metrics}
        for trial in trial_folders(folder)
        if (metrics := _metrics(trial))
    ]
    return json.dumps({"handle": str(handle), "folder": str(folder.absolute()), "trials": trials}, indent=2)


def _metrics(trial: Path) -> dict[str, Any]:
    """Return the metrics of a trial that has ended; an empty dictionary for any other."""
    try:
        return dict(json.loads(RunFolder(trial).metrics.read_bytes()))
    except (OSError, ValueError):
        return {}


def _files(folder: Path) -> dict[str, Path]:
    run = RunFolder(folder)
    files = {
        "log": run.log,
        "job's log": folder / JOB_LOG,
        "metrics": run.history,
        "numbers": run.metrics,
        "checkpoint": run.best,
        "report": run.report,
    }
    return {name: path for name, path in files.items() if path.exists()}


def _rows(files: Mapping[str, Path]) -> list[str]:
    return [f"{name:<10}  {shown_path(path)}" for name, path in files.items()]
