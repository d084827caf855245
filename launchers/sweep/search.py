"""From a command to a study: what is to be searched, under which name, and with what."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from dogbreed.distributed import ranks
from dogbreed.errors import ConfigError, raise_findings
from dogbreed.hardware import available_cpus
from launchers.api import prepare
from launchers.base import STUDY_FILE, Launcher, Plan
from launchers.describe import check_as_sent, sent
from launchers.overrides import override, root_key
from launchers.sweep import one_job
from launchers.sweep.identity import NamedStudy, about_trials, study_of
from launchers.sweep.running import RunningSearch
from launchers.sweep.samplers import build_pruner, build_sampler, is_grid
from launchers.sweep.settings import Settings, trains_heads
from launchers.sweep.snapshots import Snapshots
from launchers.sweep.space import SearchSpace, read
from launchers.sweep.storage import hidden, sqlite_file
from launchers.sweep.study import Study

_MOST_AT_ONCE = 8  # where nothing is said: each process takes half a gigabyte
# what may be searched without another feature for any photo
_OF_THE_HEAD = frozenset(
    {"model.lr", "model.weight_decay", "model.label_smoothing", "model.optimizer", "model.dropout", "model.warmup"}
    | {"model.ema_decay", "data.batch_size", "seed"}
)


def search(cfg: DictConfig, typed: Sequence[str]) -> float | None:
    """Run, or go on with, the search that a command asks for. Returns the best value of the objective.

    cfg: the whole config with Hydra's own. typed: the command's overrides, without those of hydra.*.
    """
    if ranks.here().several:
        raise ConfigError("A search starts its own processes.\nTry: python train.py -m ..., without torchrun")
    if "hpo" not in cfg or "sampler" not in cfg.hpo:
        raise ConfigError("The sweeper dogbreed searches with what is under hpo.\nTry: python train.py -m hpo=optuna")
    node = cast(dict[str, Any], OmegaConf.to_container(cfg.hpo, resolve=True))
    if unknown := sorted(node.keys() - Settings.__dataclass_fields__.keys()):
        raise ConfigError(f"Unknown under hpo: {', '.join(unknown)}.\nTry: {', '.join(Settings.__dataclass_fields__)}")
    settings = Settings(**node)
    raise_findings(ConfigError, list(settings.findings()))
    asked = [text for text in typed if root_key(text) == "resume"]
    if asked and asked[-1] not in ("resume=null", "resume="):
        raise ConfigError("A search goes on by the same command again.\nTry: leaving out resume=")
    space, fixed = read(about_trials(typed), settings.space or {})
    always = ["hpo=none", "test=false"]
    if not any(root_key(text) == "logger" for text in fixed):
        always.append("logger=none")  # numbers of many short runs are in the study
    overrides = [*_searchpath(cfg), *fixed, *always]
    launcher, plan = _checked(overrides, space)
    there = sent()
    if there is not None:
        check_as_sent(plan.spec.config, there)
    study = study_of(cfg, settings, space, plan, fixed, there)
    folder = Path(study.folder)
    shared, here = trains_heads(plan), not launcher.capabilities.remote
    parallel = settings.parallel or (min(available_cpus(), _MOST_AT_ONCE) if shared and here else 1)
    sampler = settings.sampler
    build_sampler(sampler, space, 0, 0)  # what is wrong with it, before anything is made
    pruner = build_pruner(settings.pruner)
    n_trials = settings.n_trials
    if is_grid(sampler):
        n_trials = min(n_trials, math.prod(map(len, space.grid().values())))
    seed = int(plan.spec.config["seed"])

    def opened(storage: str, **how: Any) -> Study:
        return Study(study.about, storage, lambda before: build_sampler(sampler, space, seed, before), pruner, **how)

    if one_job.is_wanted(settings.one_job, launcher, trains_heads=shared):
        sent_as_one = launcher.plan(one_job.describe(plan.spec, study.about.name, folder, n_trials, typed))
        if cfg.dry_run:
            print(_dry(study, f"{n_trials}, in one job", folder, space, str(sent_as_one)))
            return None
        result = None
        if (folder / STUDY_FILE).exists() and not settings.storage:
            result = one_job.at_home(opened, folder, n_trials)
        if result is not None:
            print(result)
        else:
            result = one_job.run(launcher, sent_as_one)
        return None if result is None else result.metrics.get(str(plan.spec.config["monitor"]))
    if cfg.dry_run:
        print(_dry(study, f"{n_trials}, {parallel} at once", folder, space, f"A trial, such as the first\n{plan}"))
        return None
    how: dict[str, Any] = {}
    if there is None:
        one_job.refuse_if_elsewhere(folder)
    elif (live := sqlite_file(study.storage)) is not None and not settings.storage:
        kept = Snapshots(live, folder / STUDY_FILE)
        kept.restore()
        how = {"alone": True, "changed": kept.save}
    ours = opened(study.storage, **how)
    running = RunningSearch(
        study=ours,
        space=space,
        overrides=overrides,
        folder=folder,
        n_trials=n_trials,
        parallel=min(parallel, n_trials),
        monitor=str(plan.spec.config["monitor"]),
        asks=ours.prunes,
        elsewhere=not here,
        warms_up=shared and here and space.parameters.keys() <= _OF_THE_HEAD,
        home=folder if there is None else Path(there.folder),
        among_remains=there is not None,
    )
    with closing(ours):
        return running.run()


def _checked(overrides: Sequence[str], space: SearchSpace) -> tuple[Launcher, Plan]:
    """The launcher, and the plan of some trial: what is wrong with all of them is wrong with this one."""
    try:
        return prepare([*overrides, *space.overrides(space.first()), "dry_run=false"])
    except ConfigCompositionException as error:
        unknown = re.search(r"Could not override '\+?([^']+)'", str(error))
        if unknown is None:
            raise
        close = get_close_matches(unknown[1], _keys(prepare([])[1].spec.config), 3, 0.6)
        hint = f"\nTry: {' or '.join(close)}" if close else ""
        raise ConfigError(f"{str(error).strip()}{hint}") from error


def _keys(config: Mapping[str, Any], at: str = "") -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{at}{key}.")
        else:
            yield f"{at}{key}"


def _searchpath(cfg: DictConfig) -> list[str]:
    """Folders of further YAML files that the command named (--config-dir): trials compose from them, too."""
    sources = cfg.hydra.runtime.config_sources
    ours = ("command-line", "hydra.searchpath in command-line")
    places = [override("p", f"file://{source.path}")[2:] for source in sources if source.provider in ours]
    return [f"hydra.searchpath=[{','.join(places)}]"] if places else []


def _dry(study: NamedStudy, trials: str, folder: Path, space: SearchSpace, plan: str) -> str:
    lines = [
        f"Plan for the search {study.about.name}",
        f"  trials    {trials}",
        f"  objective {study.about.monitor}, {study.about.direction}",
        f"  storage   {hidden(study.storage)}",
        f"  folder    {folder}",
        *(f"  {key}  {parameter}" for key, parameter in space.parameters.items()),
        plan,
    ]
    return "\n".join(lines)
