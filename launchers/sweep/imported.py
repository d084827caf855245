"""Import the trials of SageMaker's tuner into an Optuna study, with the page and the files of any other search."""

import csv
import io
import json
import math
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dogbreed.commands import shown_path
from dogbreed.run_folder import RunFolder, trial_folder, write_json, write_text
from launchers.runs.collect import settle
from launchers.runs.launched import home_of, launched
from launchers.runs.search_folder import SearchResult, Value, read_search
from launchers.sagemaker.tuner import Tuner
from launchers.sagemaker.tuning_job import TrialState, TunedTrial
from launchers.spec import LAUNCHED_FILE, SPEC_FILE, STUDY_FILE, RunSpec, SearchOutput, TunedParameter, Tuning
from launchers.status import Handle, LaunchError
from launchers.sweep import page
from launchers.sweep.best import write_best
from launchers.sweep.folders import TrialFolders
from launchers.sweep.identity import StudyAbout
from launchers.sweep.samplers import build_pruner
from launchers.sweep.space import Choice, Number, Parameter, SearchSpace
from launchers.sweep.study import Study
from launchers.sweep.summary import summarize
from launchers.sweep.trials import Elsewhere, State, Trial

if TYPE_CHECKING:
    import optuna

_STATES: dict[TrialState, State] = {
    "running": "running", "complete": "complete", "pruned": "pruned", "failed": "failed", "cut off": "waiting"
}  # fmt: skip


def space_of(tuning: Tuning) -> SearchSpace:
    """Return what a tuning job searches, as any other search has it."""

    def parameter(each: TunedParameter) -> Parameter:
        if each.texts:
            return Choice(each.texts)
        return Number(each.low, each.high, each.whole, each.log, each.step)

    return SearchSpace({each.key: parameter(each) for each in tuning.parameters})


def shown_trial(trial: TunedTrial, space: SearchSpace, now: float) -> Trial:
    """Return a trial for the table of a search that is going on. now: seconds since 1970."""
    return Trial(
        number=trial.number,
        state=_STATES[trial.state],
        values=_values(trial, space),
        value=trial.objective if trial.state in ("complete", "pruned") else None,
        cause=trial.cause,
        seconds=trial.seconds(now),
        epochs=0,
        folder="",
    )


def bring_home(tuner: Tuner, handle: Handle, *, every: bool = False) -> SearchResult:
    """Import the trials that have ended, download the best one's run, and write the search's page and summary.

    What is here already is left alone, also trials that Optuna has added. every: download the files of all trials.
    Raises LaunchError if no trial is complete.
    """
    spec = tuner.spec_of(handle)
    assert spec.tuning is not None
    folder, space = home_of(handle, spec), space_of(spec.tuning)
    trials = [trial for trial in tuner.trials(handle) if trial.finished]
    folder.mkdir(parents=True, exist_ok=True)
    with closing(_study(spec, spec.tuning, space, folder)) as study:
        numbers = study.add([_elsewhere(tuner, handle, trial, spec.tuning, space) for trial in trials])
        best = study.best()
        wanted = [each for each in trials if every or (best is not None and numbers[each.name] == best.number)]
        for trial in wanted:
            _bring(tuner, handle, trial, TrialFolders(folder, study, space, has_leftovers=False), numbers[trial.name])
        settle(folder, spec)
        note = launched(folder) or {"handle": str(handle), **tuner.cloud.place}
        write_json(folder / LAUNCHED_FILE, {**note, "home": tuner.status(handle).job})
        if best is None:
            failed = [trial for trial in trials if trial.state == "failed"]
            why = f"\nThe latest failed: {failed[-1].cause}" if failed else ""
            raise LaunchError(f"No trial of {handle} is complete, so there is no best one.{why}")
        if not (RunFolder(trial_folder(folder, best.number)).metrics).exists():
            raise LaunchError(
                f"The best trial, {best.number}, has left no metrics.json in {best.folder}.\n"
                f"Its settings are in {shown_path(folder / STUDY_FILE)}"
            )
        everyone = study.trials()
        summary = summarize(study, everyone, best, space, spec.tuning.overrides)
        if not summary.words:
            write_best(folder, study.about.name, spec.tuning.overrides, space.overrides(best.values))
            settle(folder, spec)  # the photos' folder in it is this machine's
        page.write(study, folder / "study.html", folder)
        summary.write(folder)
    return read_search(handle, folder)


def _study(spec: RunSpec, tuning: Tuning, space: SearchSpace, folder: Path) -> Study:
    assert isinstance(spec.output, SearchOutput)
    about = StudyAbout(spec.output.study, space, tuning.monitor, tuning.mode, tuning.settings, spec.output.digest)

    def sampler(before: int) -> "optuna.samplers.BaseSampler":
        from optuna.samplers import RandomSampler

        return RandomSampler()  # nothing is drawn here

    return Study(about, f"sqlite:///{folder / STUDY_FILE}", sampler, build_pruner(None))


def _elsewhere(tuner: Tuner, handle: Handle, trial: TunedTrial, tuning: Tuning, space: SearchSpace) -> Elsewhere:
    state = _STATES[trial.state]
    return Elsewhere(
        job=trial.name,
        state=state,
        values=_values(trial, space),
        value=trial.objective if state in ("complete", "pruned") else None,
        epochs=[] if state == "waiting" else _epochs(tuner.read(trial, handle, "metrics.csv"), tuning.monitor),
        cause=trial.cause,
        folder=tuner.uri_of(trial, handle),
        started=trial.started,
        ended=trial.ended,
    )


def _epochs(content: bytes | None, monitor: str) -> list[float]:
    """Return the objective after each epoch, from a run's metrics.csv; NaN where it was not measured."""
    if content is None:
        return []
    rows = csv.DictReader(io.StringIO(content.decode(errors="replace")))
    return [_number(row.get(monitor)) for row in rows]


def _number(text: str | None) -> float:
    with suppress(ValueError):
        return float(text or "nan")
    return math.nan


def _values(trial: TunedTrial, space: SearchSpace) -> dict[str, Value]:
    """Return a trial's values, which SageMaker has as text, as the study has them."""
    found = {key: trial.values[key] for key in space.parameters if key in trial.values}
    return {key: _value(space.parameters[key], text) for key, text in found.items()}


def _value(parameter: Parameter, text: str) -> Value:
    if isinstance(parameter, Choice):
        if text not in parameter.texts:
            with suppress(ValueError):
                text = str(json.loads(text))  # quoted by a client that SageMaker has been told the search with
        return parameter.values[parameter.texts.index(text)]
    number = min(max(float(text), parameter.low), parameter.high)
    return round(number) if parameter.whole else number


def _bring(tuner: Tuner, handle: Handle, trial: TunedTrial, folders: TrialFolders, number: int) -> None:
    """Download a trial's folder, unless it is here, under the run id that the study gives it."""
    target = folders.of(number)
    if folders.holds(number):
        return
    with tempfile.TemporaryDirectory(dir=folders.search, prefix=".home-") as place:
        fresh = Path(place) / "trial"
        if not tuner.bring(trial, handle, fresh):
            return  # it was stopped before it had saved anything
        about = cast(dict[str, object], json.loads((fresh / SPEC_FILE).read_bytes()))
        write_text(fresh / SPEC_FILE, json.dumps({**about, "run_id": folders.run_id(number)}, indent=2) + "\n")
        if not target.exists():
            fresh.replace(target)
