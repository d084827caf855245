"""Which study a command belongs to: its name, folder and storage."""

import hashlib
import json
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, read_write

from dogbreed.errors import ConfigError
from launchers.base import LAUNCHED_FILE, STUDY_FILE, Plan, RunSpec
from launchers.overrides import ABOUT_THIS_COMMAND, root_key
from launchers.sweep.settings import Settings
from launchers.sweep.space import SearchSpace, read
from launchers.sweep.storage import study_names

_NOT_OF_THE_STUDY = ABOUT_THIS_COMMAND | {"launcher", "aws", "hpo", "hydra", "test", "logger", "save", "ranks"}


@dataclass(frozen=True)
class StudyAbout:
    """What a study is of: it is only gone on with where all of it is the same.

    settings: the overrides that are the same in all trials, for people. digest: of the whole config.
    """

    name: str
    space: SearchSpace
    monitor: str
    mode: str
    settings: str
    digest: str

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        return "maximize" if self.mode == "max" else "minimize"


@dataclass(frozen=True)
class NamedStudy:
    """A study before it is opened."""

    about: StudyAbout
    folder: str
    storage: str


def study_of(
    cfg: DictConfig, settings: Settings, space: SearchSpace, plan: Plan, fixed: Sequence[str], there: RunSpec | None
) -> NamedStudy:
    """Name, folder and storage of the study: the newest of this name, or with `fresh` one after it.

    there: what was sent to this machine. Then the study is the one that it is at home, where the photos lie elsewhere,
    and its database is used where nothing is saved while it is being written.
    """
    config = {key: value for key, value in plan.spec.config.items() if key not in _NOT_OF_THE_STUDY}
    if there is not None:
        config["data"] = {**config["data"], "root": there.config["data"]["root"]}
        _, fixed = read(about_trials(there.overrides), settings.space or {})
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
        shlex.join(text for text in fixed if root_key(text) not in ("launcher", "aws")) or "the defaults",
        digest,
    )
    database = (place if there is None else Path(tempfile.mkdtemp(prefix="dogbreed-study-"))) / STUDY_FILE
    return NamedStudy(about, str(place), settings.storage or f"sqlite:///{database}")


def about_trials(typed: Sequence[str]) -> list[str]:
    return [text for text in typed if root_key(text) not in ABOUT_THIS_COMMAND | {"hpo"}]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What makes another study, in words; settings typed in another order or about the machine do not."""
    for what in ("direction", "objective"):
        if before.get(what) != now[what]:
            yield f"{what}: {before.get(what)} there, {now[what]} now"
    spaces = before.get("space") or {}, now["space"]
    for key in sorted(spaces[0].keys() | spaces[1].keys()):
        there, here = (_ranges(space.get(key)) for space in spaces)
        if there != here:
            yield f"search space, {key}: {there} there, {here} now"
    if before.get("digest") != now["digest"] and spaces[0] == spaces[1]:
        yield f"settings: {before.get('settings')} there, {now['settings']} now"


def _ranges(parameter: Mapping[str, Any] | None) -> str:
    if parameter is None:
        return "not searched"
    return ", ".join(f"{name} {value}" for name, value in parameter.items() if value not in (None, False))
