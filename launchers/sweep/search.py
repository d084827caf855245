"""From a command to a study: what is to be searched, under which name, and with what."""

import hashlib
import json
import math
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, read_write

from dogbreed.distributed import ranks
from dogbreed.errors import ConfigError, raise_findings
from dogbreed.hardware import available_cpus
from launchers import prepare
from launchers.base import LAUNCHED_FILE, Launcher, Plan, RunSpec, sent
from launchers.describe import check_as_sent
from launchers.local import ABOUT_THIS_COMMAND, LocalLauncher, override
from launchers.sagemaker import SageMakerLauncher
from launchers.sweep import one_job
from launchers.sweep.ending import STUDY_FILE
from launchers.sweep.running import RunningSearch
from launchers.sweep.snapshots import Snapshots
from launchers.sweep.space import SearchSpace, read
from launchers.sweep.study import (
    Study,
    StudyAbout,
    build_pruner,
    build_sampler,
    hidden,
    is_grid,
    sqlite_file,
    study_names,
)

_MOST_AT_ONCE = 8  # where nothing is said: each process takes half a gigabyte
_NOT_OF_THE_STUDY = ABOUT_THIS_COMMAND | {"launcher", "aws", "hpo", "hydra", "test", "logger", "save", "ranks"}
# what may be searched without another feature for any photo
_OF_THE_HEAD = frozenset(
    {"model.lr", "model.weight_decay", "model.label_smoothing", "model.optimizer", "model.dropout", "model.warmup"}
    | {"model.ema_decay", "data.batch_size", "seed"}
)


@dataclass(frozen=True)
class Settings:
    """The config node `hpo`."""

    study: str | None
    n_trials: int
    parallel: int | None
    storage: str | None
    fresh: bool
    one_job: bool | None
    space: Mapping[str, Any] | None
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any] | None

    def findings(self) -> Iterator[str]:
        for name, least in (("n_trials", 1), ("parallel", 1)):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= least) and not (name == "parallel" and value is None):
                yield f"hpo.{name}={value} cannot be.\nTry: a whole number, at least {least}"
        if self.study is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,40}", str(self.study)):
            yield f"hpo.study={self.study!r} cannot name folders.\nTry: letters, digits and hyphens, at most 41"
        if self.one_job not in (None, True, False):
            yield f"hpo.one_job={self.one_job} cannot be.\nTry: true, false, or null for what suits the trials"


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
    asked = [text for text in typed if _root(text) == "resume"]
    if asked and asked[-1] not in ("resume=null", "resume="):
        raise ConfigError("A search goes on by the same command again.\nTry: leaving out resume=")
    space, fixed = read(_about_trials(typed), settings.space or {})
    always = ["hpo=none", "test=false"]
    if not any(_root(text) == "logger" for text in fixed):
        always.append("logger=none")  # numbers of many short runs are in the study
    overrides = [*_searchpath(cfg), *fixed, *always]
    launcher, plan = _checked(overrides, space)
    there = sent()
    if there is not None:
        check_as_sent(plan.spec.config, there)
    study = _study_of(cfg, settings, space, plan, fixed, there)
    folder = Path(study.folder)
    shared, here = _trains_heads(plan), isinstance(launcher, LocalLauncher)
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

    if one_job.is_wanted(settings.one_job, plan.spec.config, trains_heads=shared):
        assert isinstance(launcher, SageMakerLauncher)
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
        return None if result is None else result.metrics[str(plan.spec.config["monitor"])]
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


@dataclass(frozen=True)
class _Named:
    """A study before it is opened."""

    about: StudyAbout
    folder: str
    storage: str


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


def _study_of(
    cfg: DictConfig, settings: Settings, space: SearchSpace, plan: Plan, fixed: Sequence[str], there: RunSpec | None
) -> _Named:
    """Name, folder and storage of the study: the newest of this name, or with `fresh` one after it.

    there: what was sent to this machine. Then the study is the one that it is at home, where the photos lie elsewhere,
    and its database is used where nothing is saved while it is being written.
    """
    config = {key: value for key, value in plan.spec.config.items() if key not in _NOT_OF_THE_STUDY}
    if there is not None:
        config["data"] = {**config["data"], "root": there.config["data"]["root"]}
        _, fixed = read(_about_trials(there.overrides), settings.space or {})
    if config["data"].get("source"):  # where it lies is the machine's business
        config["data"] = {key: value for key, value in config["data"].items() if key != "root"}
    digest = hashlib.blake2b(
        (json.dumps(config, sort_keys=True) + space.as_json()).encode(), digest_size=16
    ).hexdigest()
    name = settings.study
    if name is None:
        choices = cfg.hydra.runtime.choices
        label = re.sub(r"[^A-Za-z0-9]+", "-", str(choices.get("experiment") or choices.get("data"))).strip("-")
        name = f"{label[:24] or 'study'}-{digest[:8]}"

    def folder(number: int) -> Path:
        with read_write(cfg):
            cfg.hpo.study = name if number == 1 else f"{name}-{number}"
        return Path(cfg.hydra.sweep.dir).absolute()

    names = study_names(settings.storage) if settings.storage and not cfg.dry_run else set()

    def exists(number: int) -> bool:
        place = folder(number)
        known = (STUDY_FILE, LAUNCHED_FILE)
        return cfg.hpo.study in names if settings.storage else any((place / name).exists() for name in known)

    number = 1
    if folder(2) == folder(1):  # hydra.sweep.dir without the study's name in it
        if settings.fresh:
            raise ConfigError("hpo.fresh=true needs a folder of its own.\nTry: another hydra.sweep.dir")
    else:
        while exists(number + 1) or (settings.fresh and exists(number)):
            number += 1
    place = folder(number)
    about = StudyAbout(
        str(cfg.hpo.study),
        space,
        str(plan.spec.config["monitor"]),
        str(plan.spec.config["mode"]),
        shlex.join(text for text in fixed if _root(text) not in ("launcher", "aws")) or "the defaults",
        digest,
    )
    database = (place if there is None else Path(tempfile.mkdtemp(prefix="dogbreed-study-"))) / STUDY_FILE
    return _Named(about, str(place), settings.storage or f"sqlite:///{database}")


def _trains_heads(plan: Plan) -> bool:
    """Whether trials are short and on features that all of them share."""
    config = plan.spec.config
    off = (config.get("features") or {}).get("mode") in ("off", False)
    return config["model"]["trainable"] == "head" and not off


def _searchpath(cfg: DictConfig) -> list[str]:
    """Folders of further YAML files that the command named (--config-dir): trials compose from them, too."""
    sources = cfg.hydra.runtime.config_sources
    ours = ("command-line", "hydra.searchpath in command-line")
    places = [override("p", f"file://{source.path}")[2:] for source in sources if source.provider in ours]
    return [f"hydra.searchpath=[{','.join(places)}]"] if places else []


def _about_trials(typed: Sequence[str]) -> list[str]:
    return [text for text in typed if _root(text) not in ABOUT_THIS_COMMAND | {"hpo"}]


def _root(text: str) -> str:
    return re.split(r"[.=@/]", text.lstrip("+~"), maxsplit=1)[0]


def _dry(study: _Named, trials: str, folder: Path, space: SearchSpace, plan: str) -> str:
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
