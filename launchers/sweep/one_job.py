"""A whole search as one job: trials on cached features take seconds, and a machine's start takes minutes.

The machine runs the same command with `launcher=local`, and the search's folder there is what the job saves as it goes:
study, trials and features. So a machine that is taken away costs at most what its trials in flight have trained since
they were last saved, and what comes home is what a search on this machine would have left.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from dogbreed.errors import ConfigError
from launchers.base import (
    SEARCH_FILE,
    SPEC_FILE,
    STUDY_FILE,
    Handle,
    Launcher,
    LaunchError,
    Phase,
    Plan,
    RunSpec,
    SearchOutput,
)
from launchers.follow import detached, follow
from launchers.formatting import shown_path
from launchers.overrides import ABOUT_THIS_COMMAND
from launchers.registry import launched_run
from launchers.runs.find import handle_for
from launchers.runs.launched import launched
from launchers.runs.search_folder import SearchResult, read_search
from launchers.sweep.snapshots import Snapshots
from launchers.sweep.study import Study


def is_wanted(one_job: bool | None, launcher: Launcher, *, trains_heads: bool) -> bool:
    """Whether the search is to run as one job. one_job: as it was asked for; None for what is best."""
    if not launcher.capabilities.whole_search:
        return False  # on this machine a search is one process anyway
    return trains_heads and launcher.instances == 1 if one_job is None else one_job


def describe(trial: RunSpec, study: str, folder: Path, n_trials: int, typed: Sequence[str]) -> RunSpec:
    """The search as one run. trial: some trial's, of which it has code, photos and settings. typed: its overrides.

    The same search in the same folder is the same run, so that its command again finds it.
    """
    run_id = f"{study}-{datetime.fromisoformat(trial.created_at):%y%m%d%H%M%S}"
    if (before := _before(folder)) is not None:
        run_id = before.run_id
    lasting = tuple(text for text in typed if text.lstrip("+~").partition("=")[0] not in ABOUT_THIS_COMMAND)
    return replace(trial, run_id=run_id, overrides=lasting, folder=str(folder), output=SearchOutput(study, n_trials))


def _before(folder: Path) -> RunSpec | None:
    """The search that was sent from this folder before."""
    if launched(folder) is None:
        return None
    try:
        spec = RunSpec.from_json((folder / SPEC_FILE).read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return spec if isinstance(spec.output, SearchOutput) else None


def run(launcher: Launcher, plan: Plan) -> SearchResult | None:
    """Send the search, or come back to it, and stay to its end; null where nobody wants to wait."""
    print(plan.brief())  # the price, before anything costs it
    handle = launcher.submit(plan)
    if not launcher.wait:
        print(detached(launcher, handle))
        return None
    result = follow(launcher, handle)
    assert isinstance(result, SearchResult)
    print(result)
    return result


def at_home(opened: Callable[[str], Study], folder: Path, n_trials: int) -> SearchResult | None:
    """The result, where this machine has it with as many trials as are asked for now; null where there is more to do.

    opened: the study in a database. Raises LaunchError where a search on this machine is at work on it.
    """
    with tempfile.TemporaryDirectory() as place:
        copy = Snapshots(Path(place) / STUDY_FILE, folder / STUDY_FILE)  # whose date says when trials were added
        copy.restore()
        with closing(opened(f"sqlite:///{copy.live}")) as study:
            counts = study.counts()
    if counts.running:
        raise LaunchError(
            f"The search in {shown_path(folder)} is going on on this machine.\nTry: Ctrl-C there; then the same command"
        )
    note = launched(folder)
    away = note is not None and not note.get("home")
    if counts.finished < n_trials or away or not (folder / SEARCH_FILE).exists():
        return None
    return read_search(handle_for(folder) if note is None else Handle.parse(note["handle"]), folder)


def refuse_if_elsewhere(folder: Path) -> None:
    """Raises LaunchError where a search that is to go on here is a job's at the moment, or has results there."""
    note = launched(folder)
    if note is None or note.get("home"):
        return
    launcher, handle = launched_run(note)
    status = launcher.status(handle)
    name = launcher.name_of(handle)
    if status.phase is Phase.LOST:  # it was to be submitted, but never was
        return
    raise ConfigError(
        f"The search in {shown_path(folder)} is a job's: {handle}, {status.phase}.\n"
        + (
            f"Try: the same command with its launcher, which goes on with it; python -m launchers result {name}; "
            "or hpo.fresh=true, for a new one beside it"
            if status.finished
            else f"Try: python -m launchers attach {name}, or python -m launchers cancel {name} first"
        )
    )
