"""Run a whole search as one job: trials on cached features take seconds, but starting a machine takes minutes.

The machine runs the same command with `launcher=local`, and the job continuously saves the search's folder there:
study, trials and features. So an interruption loses at most what running trials have trained since they were last
saved, and the downloaded results are the same as those of a search on this machine.
"""

import secrets
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from dogbreed import commands
from dogbreed.commands import shown_path
from dogbreed.errors import ConfigError
from dogbreed.run_folder import SEARCH_FILE
from launchers.base import Launcher
from launchers.capacity_wait import IN_A_SEARCH_H, CapacityWait
from launchers.follow import detached
from launchers.overrides import ABOUT_THIS_COMMAND
from launchers.plan import Plan
from launchers.registry import launched_run
from launchers.runs.find import handle_for, search_command
from launchers.runs.identity import refuse_another_run
from launchers.runs.launched import launched
from launchers.runs.search_folder import SearchResult, read_search
from launchers.spec import SPEC_FILE, STUDY_FILE, RunSpec, SearchOutput
from launchers.status import Handle, LaunchError, Phase
from launchers.sweep.identity import StudyAbout
from launchers.sweep.snapshots import Snapshots
from launchers.sweep.study import Study

_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


def is_wanted(one_job: bool | None, launcher: Launcher, *, trains_heads: bool) -> bool:
    """Whether to run the search as one job. one_job: the setting; None chooses automatically."""
    if not launcher.capabilities.whole_search:
        return False  # a local search has its trials on this machine anyway
    return trains_heads and launcher.instances == 1 if one_job is None else one_job


def describe(trial: RunSpec, study: StudyAbout, folder: Path, n_trials: int, typed: Sequence[str]) -> RunSpec:
    """Return the spec of a search as one run. The same search in the same folder keeps its run id.

    trial: the spec of one trial, which supplies code, photos and settings. typed: the search's overrides. Raises
    LaunchError if the folder belongs to a search with other settings.
    """
    run_id = f"{study.name}-{datetime.fromisoformat(trial.created_at):%y%m%d}-{drawn_letters()}"
    output = SearchOutput(study.name, n_trials, study.digest)
    spec = replace(trial, run_id=run_id, overrides=lasting(typed), folder=str(folder), output=output)
    if (before := search_in(folder)) is not None:
        if before.tuning is not None:  # SageMaker's tuner has searched here, under a name of its own
            refuse_if_elsewhere(folder)
            return spec
        spec = replace(spec, run_id=before.run_id)
        refuse_another_run(spec, before, handle_for(folder))
    return spec


def lasting(typed: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides of a search that say something about it, beyond this command."""
    return tuple(text for text in typed if text.lstrip("+~").partition("=")[0] not in ABOUT_THIS_COMMAND)


def drawn_letters() -> str:
    """Draw what tells two searches apart that begin in the same second."""
    return "".join(secrets.choice(_LETTERS) for _ in range(6))


def search_in(folder: Path) -> RunSpec | None:
    """Return the spec of the search that was submitted from this folder before; None if there was none."""
    if launched(folder) is None:
        return None
    try:
        spec = RunSpec.from_json((folder / SPEC_FILE).read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return spec if isinstance(spec.output, SearchOutput) else None


def run(launcher: Launcher, plan: Plan) -> SearchResult | None:
    """Submit the search, or attach to it, and wait for its result; return None if the launcher does not wait."""
    print(plan.brief())  # the price, before anything costs money
    submission = CapacityWait(launcher, IN_A_SEARCH_H)
    handle = submission.submit(plan)
    if not launcher.wait and not launcher.status(handle).finished:
        print(detached(launcher, handle))
        return None
    result = submission.follow(plan)
    assert isinstance(result, SearchResult)
    print(result)
    return result


def result_on_this_machine(opened: Callable[[str], Study], folder: Path, n_trials: int) -> SearchResult | None:
    """Return the result if it is on this machine and has `n_trials` trials; None if there is more to do.

    opened: opens the study in a database. Raises LaunchError if a search on this machine is working on it.
    """
    with tempfile.TemporaryDirectory() as place:
        copy = Snapshots(Path(place) / STUDY_FILE, folder / STUDY_FILE)  # whose date says when trials were added
        copy.restore()
        with closing(opened(f"sqlite:///{copy.live}")) as study:
            counts = study.counts()
    if counts.running:
        raise LaunchError(
            f"The search in {shown_path(folder)} is running on this machine.\nTry: stop it with Ctrl-C, then repeat "
            "this command"
        )
    note = launched(folder)
    away = note is not None and not note.get("home")
    if counts.finished < n_trials or away or not (folder / SEARCH_FILE).exists():
        return None
    return read_search(handle_for(folder) if note is None else Handle.parse(note["handle"]), folder)


def refuse_if_elsewhere(folder: Path) -> None:
    """Raise ConfigError if a job is running this search, or has results that were not downloaded."""
    note = launched(folder)
    if note is None or note.get("home"):
        return
    launcher, handle = launched_run(note)
    status = launcher.status(handle)
    if status.phase is Phase.LOST:  # submitting it has failed
        return
    where, name = shown_path(folder), launcher.name_of(handle)
    if not status.finished:
        attach_or_cancel = [commands.launchers("attach", *name), commands.launchers("cancel", *name)]
        raise ConfigError(
            f"The search in {where} is running as job {handle} ({status.phase}).\n"
            f"{commands.one_per_line(attach_or_cancel)}"
        )
    ways = [commands.launchers("result" if status.phase is Phase.SUCCEEDED else "download", *name)]
    if (before := search_in(folder)) is not None:
        ways.append(search_command(before))
    raise ConfigError(
        f"The search in {where} ran as job {handle} ({status.phase}), whose trials are not on this machine.\n"
        f"{commands.one_per_line(ways)}\n"
        "or: hpo.fresh=true, for a new search beside it"
    )
