"""Turn a command into a study and run it: what to search, under which name, with which sampler."""

import math
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dogbreed import commands
from dogbreed.distributed import ranks
from dogbreed.errors import ConfigError, raise_findings
from dogbreed.hardware import available_cpus
from launchers import known
from launchers.api import prepare
from launchers.base import Launcher
from launchers.capacity_wait import IN_A_SEARCH_H, pause_s_of, wait_s_of
from launchers.config_sources import ConfigSources
from launchers.cost.limits import Limits
from launchers.describe import check_as_sent, sent
from launchers.overrides import override_key, root_key
from launchers.plan import Plan
from launchers.runs.state import CANCEL_FILE
from launchers.spec import STUDY_FILE, RunSpec
from launchers.sweep import one_job
from launchers.sweep.budget import Budget
from launchers.sweep.folders import refuse_folder_of_another
from launchers.sweep.identity import NamedStudy, about_trials, study_of
from launchers.sweep.machines import Machines
from launchers.sweep.running import RunningSearch
from launchers.sweep.samplers import build_pruner, build_sampler, is_grid
from launchers.sweep.settings import Settings
from launchers.sweep.snapshots import Snapshots
from launchers.sweep.space import SearchSpace, read
from launchers.sweep.storage import hidden, sqlite_file
from launchers.sweep.study import Study

WHOLE_OR_NULL = frozenset(  # settings whose value, null by default, does not tell that they take whole numbers
    {"data.batch_size", "data.workers", "data.start_px", "data.grow_epochs", "save.every_n_steps"}
)
_MOST_AT_ONCE = 8  # by default, because each process takes half a gigabyte
# parameters that can be searched on the same features
_OF_THE_HEAD = frozenset(
    {"model.lr", "model.weight_decay", "model.label_smoothing", "model.optimizer", "model.dropout", "model.warmup"}
    | {"model.ema_decay", "data.batch_size", "seed"}
)


@dataclass(frozen=True)
class _Search:
    """A search as a command asks for it, checked before anything is written.

    overrides: those of every trial. trial: the plan of one trial. n_trials: how many trials the finished search has.
    sent: what was sent to this machine; None if it is not a rented one.
    """

    settings: Settings
    space: SearchSpace
    overrides: tuple[str, ...]
    launcher: Launcher
    trial: Plan
    study: NamedStudy
    n_trials: int
    sent: RunSpec | None
    budget: Budget

    @property
    def folder(self) -> Path:
        return Path(self.study.folder)

    @property
    def monitor(self) -> str:
        return self.study.about.monitor

    @property
    def shares_features(self) -> bool:
        return self.trial.spec.workload.trains_heads

    @property
    def parallel(self) -> int:
        """How many trials run at once."""
        on_this_machine = self.shares_features and not self.launcher.capabilities.remote
        default = min(available_cpus(), _MOST_AT_ONCE) if on_this_machine else 1
        return min(self.settings.parallel or default, self.n_trials)

    def open(self, storage: str, **how: Any) -> Study:
        """Open the study in a database. how: further arguments of `Study`."""
        seed = int(self.trial.spec.config["seed"])
        pruner = build_pruner(self.settings.pruner)

        def sampler(before: int) -> Any:
            return build_sampler(self.settings.sampler, self.space, seed, before)

        return Study(self.study.about, storage, sampler, pruner, **how)


def search(cfg: DictConfig, typed: Sequence[str]) -> float | None:
    """Run, or resume, the search that a command asks for. Returns the best value of the objective.

    cfg: the whole config, Hydra's own included. typed: the command's overrides, without those of hydra.*.
    """
    asked = _read(cfg, typed)
    if one_job.is_wanted(asked.settings.one_job, asked.launcher, trains_heads=asked.shares_features):
        spec = one_job.describe(asked.trial.spec, asked.study.about, asked.folder, asked.n_trials, typed)
        plan = asked.launcher.plan(spec)
        if not cfg.dry_run:
            return _in_one_job(asked, plan)
        print(_dry(asked, f"{asked.n_trials}, in one job", str(plan)))
        return None
    asked.budget.check()
    if not cfg.dry_run:
        return _from_here(asked)
    _, trial = checked([*asked.overrides, *asked.budget.for_one()], asked.space)
    print(_dry(asked, f"{asked.n_trials}, {asked.parallel} at once", f"One of the trials:\n{trial}"))
    return None


def _read(cfg: DictConfig, typed: Sequence[str]) -> _Search:
    """Read a search from a command and check it. Raises ConfigError."""
    refuse_command(typed)
    settings = Settings.of(cfg)
    space, fixed = read(about_trials(typed), settings.space or {})
    always = ["hpo=none", "test=false"]
    if not any(root_key(text) == "logger" for text in fixed):
        always.append("logger=none")  # the study records the metrics of its many short runs
    sources = ConfigSources.of(cfg.hydra)
    shared = ("limits.max_usd", "limits.max_hours")  # of which each trial gets a part
    limits = [text for text in fixed if override_key(text) in shared]
    overrides = (*sources.words, *(text for text in fixed if text not in limits), *always)
    raise_findings(ConfigError, list(whole_findings(overrides, space)))
    launcher, trial = checked([*overrides, *limits], space)
    there = sent()
    if there is not None:
        check_as_sent(trial.spec.config, there)
    build_sampler(settings.sampler, space, 0, 0)  # raises its errors before anything is written
    build_pruner(settings.pruner)
    n_trials = settings.n_trials
    if is_grid(settings.sampler):
        n_trials = min(n_trials, math.prod(map(len, space.grid().values())))
    study = study_of(cfg, settings, space, trial, fixed, there)
    refuse_folder_of_another(Path(study.folder), study.about.name)
    budget = _budget(launcher, trial, n_trials)
    return _Search(settings, space, overrides, launcher, trial, study, n_trials, there, budget)


def _budget(launcher: Launcher, trial: Plan, n_trials: int) -> Budget:
    limits = Limits.of(trial.spec.config)
    if limits.max_usd is None and limits.max_hours is None:
        return Budget(limits, None, n_trials)
    unlimited = replace(trial.spec, config={**trial.spec.config, "limits": {}})
    return Budget(limits, launcher.plan(unlimited).costs, n_trials)


def refuse_command(typed: Sequence[str]) -> None:
    """Raise ConfigError for a command that cannot be a search's."""
    if ranks.here().several:
        raise ConfigError(
            "A search starts its own processes, but torchrun started this one.\nTry: python train.py -m ..."
        )
    resumed = [text for text in typed if root_key(text) == "resume"]
    if resumed and resumed[-1] not in ("resume=null", "resume="):
        raise ConfigError(f"resume= is for runs, got {resumed[-1]}.\nTry: the search's own command again resumes it")


def _in_one_job(asked: _Search, plan: Plan) -> float | None:
    """Send the whole search to one machine, unless its result is on this machine already."""
    result = None
    if (asked.folder / STUDY_FILE).exists() and not asked.settings.storage:
        result = one_job.result_on_this_machine(asked.open, asked.folder, asked.n_trials)
    if result is not None:
        print(result)
    else:
        result = one_job.run(asked.launcher, plan)
    return None if result is None else result.metrics.get(asked.monitor)


def _from_here(asked: _Search) -> float:
    """Start the trials from this process, whichever machine each of them trains on."""
    how: dict[str, Any] = {}
    is_new = asked.sent is None and not (asked.folder.is_dir() and any(asked.folder.iterdir()))
    if asked.sent is None:
        one_job.refuse_if_elsewhere(asked.folder)
    elif (live := sqlite_file(asked.study.storage)) is not None and not asked.settings.storage:
        kept = Snapshots(live, asked.folder / STUDY_FILE)
        kept.restore()
        how = {"alone": True, "changed": kept.save}
    study, remote = asked.open(asked.study.storage, **how), asked.launcher.capabilities.remote
    wait_s, pause_s = wait_s_of(asked.launcher, IN_A_SEARCH_H), pause_s_of(asked.launcher)
    (asked.folder / CANCEL_FILE).unlink(missing_ok=True)
    running = RunningSearch(
        study=study,
        space=asked.space,
        overrides=asked.overrides,
        folder=asked.folder,
        n_trials=asked.n_trials,
        parallel=asked.parallel,
        machines=Machines(asked.parallel, wait_s, pause_s, asked.launcher.instances),
        budget=asked.budget,
        monitor=asked.monitor,
        asks=study.prunes,
        elsewhere=remote,
        warms_up=asked.shares_features and not remote and asked.space.parameters.keys() <= _OF_THE_HEAD,
        home=asked.folder if asked.sent is None else Path(asked.sent.folder),
        has_leftovers=asked.sent is not None,
    )
    refused = False
    try:
        with closing(study):
            try:
                return running.run()
            except ConfigError:
                refused = is_new and not study.trials()  # what would stop every trial was found before the first one
                raise
    finally:
        if refused:
            shutil.rmtree(asked.folder, ignore_errors=True)


def whole_findings(overrides: Sequence[str], space: SearchSpace) -> Iterator[str]:
    """Yield which settings take whole numbers, but are searched with any number between two ends."""
    ranges = space.large_fractions()
    if not ranges:
        return  # composing the config once more takes a moment
    config = OmegaConf.create(dict(prepare([*overrides, "dry_run=false"])[1].spec.config))
    for key, number in ranges.items():
        name = key.lstrip("+~")
        value = OmegaConf.select(config, name)
        if name in WHOLE_OR_NULL or (isinstance(value, int) and not isinstance(value, bool)):
            ends = f"int(interval({math.ceil(number.low)},{math.floor(number.high)}))"
            typed = commands.shell(f"{key}={f'tag(log, {ends})' if number.log else ends}")
            yield f"{key} takes whole numbers, but any number between its ends could be drawn.\nTry: {typed}"


def checked(overrides: Sequence[str], space: SearchSpace) -> tuple[Launcher, Plan]:
    """Return the launcher and the plan of one trial. Raises what is wrong with every trial."""
    try:
        return prepare([*overrides, *space.overrides(space.first()), "dry_run=false"])
    except ConfigError as error:
        unknown = re.search(r"Could not override '\+?([^']+)'", str(error.__cause__))
        if unknown is None:
            raise
        raise ConfigError(f"{unknown[1]} is not a setting.\n{known.hint(unknown[1])}") from error


def _dry(asked: _Search, trials: str, plan: str) -> str:
    """Return the plan of a search as text, for `dry_run=true`."""
    lines = [
        f"Plan for the search {asked.study.about.name}",
        f"  trials    {trials}",
        f"  objective {asked.monitor}, {asked.study.about.direction}",
        f"  storage   {hidden(asked.study.storage)}",
        f"  folder    {asked.folder}",
        *(f"  {'limit' if n == 0 else '':<9} {line}" for n, line in enumerate(str(asked.budget).splitlines())),
        *asked.space.lines(),
        plan,
    ]
    return "\n".join(lines)
