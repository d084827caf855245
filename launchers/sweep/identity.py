"""Determine which study a command belongs to: its name, folder and storage."""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, read_write

from dogbreed import commands
from dogbreed.errors import ConfigError
from launchers.overrides import ABOUT_THIS_COMMAND, root_key
from launchers.plan import Plan
from launchers.spec import LAUNCHED_FILE, STUDY_FILE, RunSpec
from launchers.sweep.settings import StudySettings
from launchers.sweep.space import SearchSpace, read
from launchers.sweep.storage import study_names

_ELSEWHERE = {"launcher", "aws", "hpo", "hydra", "limits"}
_NOT_OF_THE_STUDY = ABOUT_THIS_COMMAND | _ELSEWHERE | {"test", "logger", "save", "ranks"}


@dataclass(frozen=True)
class StudyAbout:
    """What a study searches. A study is only resumed if all of this is the same.

    settings: the overrides that all trials share, for people. digest: of the whole config and the search space.
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
    cfg: DictConfig,
    settings: StudySettings,
    space: SearchSpace,
    plan: Plan,
    fixed: Sequence[str],
    there: RunSpec | None,
) -> NamedStudy:
    """Return the study's name, folder and storage: the newest study of this name, or with `fresh` a new one.

    there: what was sent to this machine; None if it is not a rented one. The study is then the same as on the
    submitter's machine, although the photos have another path here, and its live database is in a folder that is not
    saved while it is being written. Raises ConfigError if `fresh` has no folder of its own.
    """
    config = {key: value for key, value in plan.spec.config.items() if key not in _NOT_OF_THE_STUDY}
    flags = plan.spec.sources.flags
    if there is not None:
        config["data"] = {**config["data"], "root": there.config["data"]["root"]}
        _, fixed = read(about_trials(there.overrides), settings.space or {})
    if config["data"].get("source"):  # the same photos may have another path on each machine
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
            raise ConfigError(
                f"hpo.fresh=true needs a new folder, but hydra.sweep.dir={folder(1)} is the same for every study.\n"
                "Try: hydra.sweep.dir=<a new folder>"
            )
    else:
        while exists(number + 1) or (settings.fresh and exists(number)):
            number += 1
    place = folder(number)
    about = StudyAbout(
        str(cfg.hpo.study),
        space,
        str(plan.spec.config["monitor"]),
        str(plan.spec.config["mode"]),
        commands.shell(*flags, *(text for text in fixed if root_key(text) not in ("launcher", "aws", "limits")))
        or "the defaults",
        digest,
    )
    database = (place if there is None else Path(tempfile.mkdtemp(prefix="dogbreed-study-"))) / STUDY_FILE
    return NamedStudy(about, str(place), settings.storage or f"sqlite:///{database}")


def about_trials(typed: Sequence[str]) -> list[str]:
    return [text for text in typed if root_key(text) not in ABOUT_THIS_COMMAND | {"hpo"}]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield the differences that make it another study, in words; the order of settings and the machine do not."""
    for what in ("direction", "objective"):
        if before.get(what) != now[what]:
            yield f"{what}: was {before.get(what)}, now {now[what]}"
    spaces = before.get("space") or {}, now["space"]
    for key in sorted(spaces[0].keys() | spaces[1].keys()):
        there, here = (_ranges(space.get(key)) for space in spaces)
        if there != here:
            yield f"search space, {key}: was {there}, now {here}"
    if before.get("digest") != now["digest"] and spaces[0] == spaces[1]:
        yield f"settings: were {before.get('settings')}, now {now['settings']}"


def _ranges(parameter: Mapping[str, Any] | None) -> str:
    if parameter is None:
        return "not searched"
    return ", ".join(f"{name} {value}" for name, value in parameter.items() if value not in (None, False))
