"""From a command to a study: what is to be searched, under which name, and with what."""

import hashlib
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, read_write

from dogbreed.errors import ConfigError, raise_findings
from dogbreed.hardware import available_cpus
from launchers import prepare
from launchers.base import Launcher, Plan
from launchers.local import ABOUT_THIS_COMMAND, LocalLauncher, override
from launchers.sweep.running import RunningSearch
from launchers.sweep.space import SearchSpace, read
from launchers.sweep.study import (
    Study,
    StudyAbout,
    build_pruner,
    build_sampler,
    hidden,
    is_grid,
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


def search(cfg: DictConfig, typed: Sequence[str]) -> float | None:
    """Run, or go on with, the search that a command asks for. Returns the best value of the objective.

    cfg: the whole config with Hydra's own. typed: the command's overrides, without those of hydra.*.
    """
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
    about_trials = [text for text in typed if _root(text) not in ABOUT_THIS_COMMAND | {"hpo"}]
    space, fixed = read(about_trials, settings.space or {})
    always = ["hpo=none", "test=false"]
    if not any(_root(text) == "logger" for text in fixed):
        always.append("logger=none")  # numbers of many short runs are in the study
    overrides = [*_searchpath(cfg), *fixed, *always]
    launcher, plan = _checked(overrides, space)
    study = _study_of(cfg, settings, space, plan, fixed)
    folder = Path(study.folder)
    parallel = settings.parallel or (min(available_cpus(), _MOST_AT_ONCE) if _trains_heads(plan, launcher) else 1)
    if cfg.dry_run:
        print(_dry(study, settings, folder, parallel, space, plan))
        return None
    sampler = settings.sampler
    build_sampler(sampler, space, 0, 0)  # what is wrong with it, before anything is made
    seed = int(plan.spec.config["seed"])
    opened = Study(
        study.about,
        study.storage,
        lambda before: build_sampler(sampler, space, seed, before),
        build_pruner(settings.pruner),
    )
    n_trials = settings.n_trials
    if is_grid(sampler):
        n_trials = min(n_trials, math.prod(map(len, space.grid().values())))
    running = RunningSearch(
        study=opened,
        space=space,
        overrides=overrides,
        folder=folder,
        n_trials=n_trials,
        parallel=min(parallel, n_trials),
        monitor=str(plan.spec.config["monitor"]),
        asks=opened.prunes,
        elsewhere=not isinstance(launcher, LocalLauncher),
        warms_up=_trains_heads(plan, launcher) and space.parameters.keys() <= _OF_THE_HEAD,
    )
    try:
        return running.run()
    finally:
        opened.close()


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


def _study_of(cfg: DictConfig, settings: Settings, space: SearchSpace, plan: Plan, fixed: Sequence[str]) -> _Named:
    """Name, folder and storage of the study: the newest of this name, or with `fresh` one after it."""
    config = {key: value for key, value in plan.spec.config.items() if key not in _NOT_OF_THE_STUDY}
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
        return cfg.hpo.study in names if settings.storage else (place / "study.db").exists()

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
        shlex.join(fixed) or "the defaults",
        digest,
    )
    return _Named(about, str(place), settings.storage or f"sqlite:///{place / 'study.db'}")


def _trains_heads(plan: Plan, launcher: Launcher) -> bool:
    """Whether trials are short and on features that all of them share."""
    config = plan.spec.config
    off = (config.get("features") or {}).get("mode") in ("off", False)
    return isinstance(launcher, LocalLauncher) and config["model"]["trainable"] == "head" and not off


def _searchpath(cfg: DictConfig) -> list[str]:
    """Folders of further YAML files that the command named (--config-dir): trials compose from them, too."""
    sources = cfg.hydra.runtime.config_sources
    ours = ("command-line", "hydra.searchpath in command-line")
    places = [override("p", f"file://{source.path}")[2:] for source in sources if source.provider in ours]
    return [f"hydra.searchpath=[{','.join(places)}]"] if places else []


def _root(text: str) -> str:
    return re.split(r"[.=@/]", text.lstrip("+~"), maxsplit=1)[0]


def _dry(study: _Named, settings: Settings, folder: Path, parallel: int, space: SearchSpace, plan: Plan) -> str:
    lines = [
        f"Plan for the search {study.about.name}",
        f"  trials    {settings.n_trials}, {parallel} at once",
        f"  objective {study.about.monitor}, {study.about.direction}",
        f"  storage   {hidden(study.storage)}",
        f"  folder    {folder}",
        *(f"  {key}  {parameter}" for key, parameter in space.parameters.items()),
        f"A trial, such as the first\n{plan}",
    ]
    return "\n".join(lines)
