"""`python -m launchers result` and `download`: fetch what runs have left, and say where it is."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from dogbreed import commands
from dogbreed.commands import shown_path
from dogbreed.run_folder import RunFolder
from launchers.base import Launcher, Tunes
from launchers.cli import named
from launchers.registry import launched_run
from launchers.runs.launched import launched
from launchers.runs.released import trial_folders
from launchers.spec import JOB_LOG, STUDY_FILE
from launchers.status import Failures, Handle, LaunchError, Phase, RunResult

RESULT_HELP = "Show the metrics and files of runs that succeeded."
RESULT_EPILOG = """\
  python -m launchers result RUN
  python -m launchers result NAME ID --json
"""
DOWNLOAD_HELP = "Fetch what runs left that failed or were cancelled: log, metrics, best checkpoint; a search's trials."
DOWNLOAD_EPILOG = """\
  python -m launchers download RUN
"""


def result(args: argparse.Namespace) -> int:
    return named.each(args, _result)


def _result(launcher: Launcher, handle: Handle) -> tuple[dict[str, Any], str, int]:
    try:
        if isinstance(launcher, Tunes):
            from launchers.sweep import tuner

            found: RunResult = tuner.result(cast(Any, launcher), handle)
        else:
            found = launcher.result(handle)
    except LaunchError as error:
        for hint in named.unfinished(launcher, handle):
            error.add_note(hint)
        raise
    return result_facts(found), str(found).strip(), 0


def result_facts(found: RunResult) -> dict[str, Any]:
    """Return a result for programs."""
    artifacts = {name: str(path) for name, path in found.artifacts.items()}
    return {"handle": str(found.handle), "metrics": found.metrics, "artifacts": artifacts}


def download(args: argparse.Namespace) -> int:
    return named.each(args, _download)


def _download(launcher: Launcher, handle: Handle) -> tuple[dict[str, Any], str, int]:
    if isinstance(launcher, Tunes):
        from launchers.sweep import tuner

        tuner.download(cast(Any, launcher), handle)
    return downloaded(launcher, handle)


def downloaded(launcher: Launcher, handle: Handle) -> tuple[dict[str, Any], str, int]:
    """Fetch what a run or a search has left; return what is there for programs and for people, and the exit status.

    That is 1 for a search of which a trial cannot be fetched, which is printed: the others are. Raises LaunchError if
    the run is unknown, has not ended, or has left nothing.
    """
    here = launcher.folder(handle)
    if here is not None and (trials := trial_folders(here)):
        failures = Failures()
        waiting = list(_fetch_trials(trials, failures))
        for error in failures.errors:
            print(named.message(error), file=sys.stderr)
        return _search_facts(handle, here), "\n".join([_search(here), *waiting]), 1 if failures.errors else 0
    status = launcher.status(handle)
    if status.phase is Phase.LOST:
        raise LaunchError(status.detail)
    folder = launcher.download(handle)
    if trial_folders(folder):
        return _search_facts(handle, folder), _search(folder), 0
    files = _files(folder)
    ended = f"ended: {status.phase}" if status.finished else str(status.phase)
    where = "is on this machine" if here is not None else "is now on this machine"
    lines = [f"{handle} ({ended}) {where}:", *_rows({**files, "run folder": folder})]
    if "checkpoint" in files:
        lines += ["", f"Next: {commands.module('dogbreed.predict', shown_path(files['checkpoint']), 'PHOTO')}"]
    else:
        lines.append("There is no checkpoint: no epoch had ended.")
    listed = {name: str(path) for name, path in files.items()}
    return {"handle": str(handle), "folder": str(folder.absolute()), "files": listed}, "\n".join(lines), 0


def _fetch_trials(trials: list[Path], failures: Failures) -> Iterator[str]:
    """Fetch the trials of a search that are jobs of their own. Yield a line for each that is still running."""
    for trial in trials:
        note = launched(trial)
        if note is None or note.get("home"):
            continue
        with failures.noted():
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


def _search_facts(handle: Handle, folder: Path) -> dict[str, Any]:
    trials = [
        {"trial": int(trial.name[:5]), "folder": str(trial.absolute()), "metrics": metrics}
        for trial in trial_folders(folder)
        if (metrics := _metrics(trial))
    ]
    return {"handle": str(handle), "folder": str(folder.absolute()), "trials": trials}


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
