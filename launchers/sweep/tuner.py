"""Search with SageMaker's own tuner: the same space, study and page as a search with Optuna.

A tuning job goes on without this process, so the same command comes back to it. When it has ended, its trials are
imported into an Optuna study in the search's folder, with which Optuna can go on.
"""

import math
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dogbreed import commands
from dogbreed.commands import shown_path
from dogbreed.errors import ConfigError, Interrupted, raise_findings
from dogbreed.interruption import signal_of_exit
from launchers.capacity_wait import IN_A_SEARCH_H, CapacityWait
from launchers.config_sources import ConfigSources
from launchers.follow import detached
from launchers.overrides import override_key, root_key
from launchers.plan import Plan
from launchers.registry import find_run
from launchers.runs.find import handle_for
from launchers.runs.identity import refuse_another_run
from launchers.runs.search_folder import SearchResult
from launchers.sagemaker import tuning as service
from launchers.sagemaker.training import SageMakerLauncher
from launchers.sagemaker.tuner import Tuner
from launchers.sagemaker.tuning_job import TunedTrial, best_of
from launchers.spec import RunSpec, SearchOutput, TunedParameter, Tuning
from launchers.status import Handle, LaunchError, Phase, Status
from launchers.sweep.folders import refuse_folder_of_another
from launchers.sweep.identity import NamedStudy, about_trials, study_of
from launchers.sweep.imported import bring_home, shown_trial, space_of
from launchers.sweep.one_job import drawn_letters, lasting, refuse_if_elsewhere, search_in
from launchers.sweep.search import checked, refuse_command, whole_findings
from launchers.sweep.space import Choice, SearchSpace, read
from launchers.sweep.table import SweepTable
from launchers.sweep.tuner_settings import TunerSettings

_LONGEST_LABEL = service.MOST_NAME - len("-aaaaaa--99")  # of the name of a tuning job, which may be the 99th
_ENDED = (Phase.SUCCEEDED, Phase.CANCELLED, Phase.FAILED)


@dataclass(frozen=True)
class _Search:
    """A search as a command asks for it, checked before anything is written. plan: of the tuning job."""

    space: SearchSpace
    tuner: Tuner
    plan: Plan
    study: NamedStudy


def search(cfg: DictConfig, typed: Sequence[str]) -> float | None:
    """Run, or come back to, the search that a command asks for. Return the best value of the objective.

    cfg: the whole config, Hydra's own included. typed: the command's overrides, without those of hydra.*.
    """
    asked = _read(cfg, typed)
    if cfg.dry_run:
        print(_dry(asked))
        return None
    tuner, plan = asked.tuner, asked.plan
    print(plan.brief(), flush=True)  # the price, before anything costs money
    handle = CapacityWait(tuner, IN_A_SEARCH_H).submit(plan)
    if not tuner.wait and not tuner.status(handle).finished:
        print(detached(tuner, handle))
        return None
    result = attach(tuner, handle)
    print(result)
    return result.metrics.get(asked.study.about.monitor)


# --- what a command asks for ---


def _read(cfg: DictConfig, typed: Sequence[str]) -> _Search:
    """Read a search from a command and check it. Raises ConfigError, with everything that is wrong."""
    refuse_command(typed)
    settings = TunerSettings.of(cfg)
    space, fixed = read(about_trials(typed), settings.space or {})
    no_logger = [] if any(root_key(text) == "logger" for text in fixed) else ["logger=none"]
    limits = [text for text in fixed if override_key(text) in ("limits.max_usd", "limits.max_hours")]  # of the whole
    of_trials = [text for text in fixed if text not in limits]
    overrides = (*ConfigSources.of(cfg.hydra).words, *of_trials, "hpo=none", *no_logger)
    wanted = _wanted(settings, space)
    tuning = _tuning(cfg, settings, space, overrides, wanted)
    parents, findings = _parents(cfg, settings, tuning)
    findings += service.findings(tuning, wanted, OmegaConf.select(cfg, "trainer.max_epochs"))
    try:
        raise_findings(ConfigError, list(whole_findings(overrides, space)))
        launcher, trial = checked([*overrides, *limits], space)
    except ConfigError as error:
        if not findings:
            raise
        raise_findings(ConfigError, [str(error), *findings])
        raise
    if not isinstance(launcher, SageMakerLauncher):
        findings.append(
            "SageMaker's tuner starts training jobs of SageMaker, but the launcher is another one.\n"
            "Try: launcher=sagemaker_spot, also with aws=rehearsal; or hpo=optuna, which searches anywhere"
        )
    raise_findings(ConfigError, findings)
    assert isinstance(launcher, SageMakerLauncher)
    study = study_of(cfg, settings, space, trial, fixed, None)
    folder = Path(study.folder)
    refuse_folder_of_another(folder, study.about.name)
    tuning = replace(tuning, settings=study.about.settings, parents=parents)
    tuner = Tuner(launcher)
    return _Search(space, tuner, tuner.plan(_spec(trial.spec, study, wanted, typed, tuning)), study)


def _wanted(settings: TunerSettings, space: SearchSpace) -> int:
    """Return how many trials the search has: a grid has one for each combination of its values."""
    choices = [each for each in space.parameters.values() if isinstance(each, Choice)]
    if settings.strategy == "Grid" and len(choices) == len(space.parameters):
        return math.prod(len(each.texts) for each in choices)
    return settings.n_trials


def _tuning(
    cfg: DictConfig, settings: TunerSettings, space: SearchSpace, overrides: tuple[str, ...], wanted: int
) -> Tuning:
    return Tuning(
        overrides=overrides,
        settings="",
        parameters=tuple(_parameter(key, each) for key, each in space.parameters.items()),
        monitor=str(cfg.monitor),
        mode=str(cfg.mode),
        parallel=min(settings.parallel, wanted),
        strategy=settings.strategy,
        early_stopping=settings.early_stopping,
        seed=int(cfg.seed),
        max_run_s=settings.max_run_s,
        target=settings.target,
        patience=settings.patience,
        converges=settings.converges,
        min_epochs=settings.min_epochs,
    )


def _parameter(key: str, parameter: Any) -> TunedParameter:
    return TunedParameter(key, **asdict(parameter))


def _parents(cfg: DictConfig, settings: TunerSettings, tuning: Tuning) -> tuple[tuple[str, ...], list[str]]:
    """Return the run ids of the earlier searches to learn from, and what is wrong with them."""
    ids, findings = list[str](), list[str]()
    for text in settings.warm_start or []:
        try:
            launcher, handle = find_run(text, state_dir=OmegaConf.select(cfg, "aws.state_dir"))
            before = None if "://" in text else search_in(Path(text).absolute())
            if isinstance(launcher, Tuner) and before is None:
                before = launcher.spec_of(handle)
        except LaunchError as error:
            findings.append(f"hpo.warm_start={text}: {error}")
            continue
        if not isinstance(launcher, Tuner) or before is None or before.tuning is None:
            findings.append(
                f"hpo.warm_start={text} is not a search by SageMaker's tuner.\n"
                "Try: the folder or the handle of one, or hpo.warm_start=[]"
            )
            continue
        ids.append(handle.run_id)
        findings += _other_space(text, before.tuning, tuning)
    return tuple(ids), findings


def _other_space(text: str, before: Tuning, now: Tuning) -> Iterator[str]:
    """Yield why a search cannot learn from an earlier one: it needs the same parameters, in whatever ranges."""
    kinds = [{each.key: each.kind for each in tuning.parameters} for tuning in (before, now)]
    differing = [
        f"  {key}: {kinds[0].get(key, 'not searched')} there, {kinds[1].get(key, 'not searched')} here"
        for key in sorted(kinds[0].keys() | kinds[1].keys())
        if kinds[0].get(key) != kinds[1].get(key)
    ]
    if (before.monitor, before.mode) != (now.monitor, now.mode):
        differing.append(f"  objective: {before.monitor} there, {now.monitor} here")
    if differing:
        listed = "\n".join(differing)
        yield (
            f"hpo.warm_start={text} has searched another space:\n{listed}\n"
            "Try: the same parameters, whose ranges may differ, or hpo.warm_start=[]"
        )


def _spec(trial: RunSpec, study: NamedStudy, wanted: int, typed: Sequence[str], tuning: Tuning) -> RunSpec:
    """Return the spec of the search. The same search in the same folder keeps its run id.

    Raises LaunchError if the folder belongs to a search with other settings, or one that is elsewhere.
    """
    folder = Path(study.folder)
    label = study.about.name[:_LONGEST_LABEL].rstrip("-")
    output = SearchOutput(study.about.name, wanted, study.about.digest)
    spec = replace(
        trial,
        run_id=f"{label}-{drawn_letters()}",
        overrides=lasting(typed),
        folder=study.folder,
        output=output,
        tuning=tuning,
    )
    if (before := search_in(folder)) is not None and before.tuning is not None:
        spec = replace(spec, run_id=before.run_id)
        refuse_another_run(spec, before, handle_for(folder))
        own = tuple(each for each in tuning.parents if each != before.run_id)  # it learns from its own jobs anyway
        return replace(spec, tuning=replace(tuning, parents=own))
    refuse_if_elsewhere(folder)
    return spec


def _dry(asked: _Search) -> str:
    """Return the plan of a search as text, for `dry_run=true`."""
    about = asked.study.about
    lines = [
        f"Plan for the search {about.name}",
        f"  objective {about.monitor}, {about.direction}",
        f"  folder    {asked.study.folder}",
        *asked.space.lines(),
        str(asked.plan),
    ]
    return "\n".join(lines)


# --- follow it, and bring it home ---


def attach(tuner: Tuner, handle: Handle) -> SearchResult:
    """Show the trials of a search until it has ended, then import them and return the result.

    Raises LaunchError if it did not succeed, after importing the trials that it has, and Interrupted after a signal to
    stop, while the search continues.
    """
    try:
        status = tuner.status(handle)
        if not status.finished:
            status = _watch(tuner, handle)
        return result(tuner, handle, status)
    except (KeyboardInterrupt, SystemExit) as error:
        signum = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal_of_exit(error)
        if signum is None:
            raise
        raise Interrupted(detached(tuner, handle), signum) from None


def result(tuner: Tuner, handle: Handle, status: Status | None = None) -> SearchResult:
    """Import the trials of a search that has ended, and return its result. Raises LaunchError if it has none."""
    status = tuner.status(handle) if status is None else status
    if status.phase not in _ENDED:
        raise LaunchError(f"Search {handle} has no result: {status}", status.cause)
    tuner.record(handle)
    if status.phase is Phase.SUCCEEDED:
        return bring_home(tuner, handle)
    note = ""
    if any(trial.state == "complete" for trial in tuner.trials(handle)):
        folder = bring_home(tuner, handle).folder
        note = f"\nIts trials that have ended are in {shown_path(folder / 'study.html')}"
    raise LaunchError(f"Search {handle}: {status}{note}", status.cause, status.shortage)


def download(tuner: Tuner, handle: Handle) -> None:
    """Import the trials of a search that has ended, and download the files of all of them."""
    status = tuner.status(handle)
    if status.phase in _ENDED:
        bring_home(tuner, handle, every=True)
    elif status.phase is not Phase.LOST:
        ways = [commands.launchers(verb, *tuner.name_of(handle)) for verb in ("attach", "cancel")]
        raise LaunchError(f"Search {handle} is still running remotely.\n{commands.one_per_line(ways)}")


def _watch(tuner: Tuner, handle: Handle) -> Status:
    """Show the trials as they run, and return the status with which the search has ended."""
    spec = tuner.spec_of(handle)
    assert spec.tuning is not None
    space, shared = space_of(spec.tuning), False
    with SweepTable(spec.run_id, space, service.trials_of(spec)) as table:
        while True:
            status, trials = tuner.look(handle)
            best = best_of(trials, spec.tuning.mode)
            shown = [shown_trial(trial, space, time.time()) for trial in trials]
            table.show(shown, None if best is None else shown[best.number])
            if best is not None and not shared:  # the trials that start later find them
                tuner.share_features(_first_complete(trials), handle)
                shared = True
            if status.finished:
                return status
            time.sleep(tuner.poll_s)


def _first_complete(trials: Sequence[TunedTrial]) -> TunedTrial:
    return next(trial for trial in trials if trial.state == "complete")
