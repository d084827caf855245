"""The settings of a search: the config node `hpo`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

from omegaconf import DictConfig, OmegaConf

from dogbreed.errors import ConfigError, raise_findings


class StudySettings(Protocol):
    """What decides which study a search belongs to, whoever runs its trials."""

    @property
    def study(self) -> str | None: ...

    @property
    def storage(self) -> str | None: ...

    @property
    def fresh(self) -> bool: ...

    @property
    def space(self) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True)
class Settings:
    """The settings of a search, as the config node `hpo` holds them."""

    study: str | None
    n_trials: int
    parallel: int | None
    storage: str | None
    fresh: bool
    one_job: bool | None
    space: Mapping[str, Any] | None
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any] | None

    @classmethod
    def of(cls, cfg: DictConfig) -> Self:
        """Read the settings from the whole config. Raises ConfigError, listing all findings."""
        if "hpo" not in cfg or "sampler" not in cfg.hpo:
            raise ConfigError(
                "The sweeper dogbreed needs settings under hpo, but there are none.\nTry: python train.py -m hpo=optuna"
            )
        node = cast(dict[str, Any], OmegaConf.to_container(cfg.hpo, resolve=True))
        if unknown := sorted(node.keys() - cls.__dataclass_fields__.keys()):
            raise ConfigError(
                f"Unknown settings under hpo: {', '.join(unknown)}.\nTry: {', '.join(cls.__dataclass_fields__)}"
            )
        settings = cls(**node)
        raise_findings(ConfigError, list(settings.findings()))
        return settings

    def findings(self) -> Iterator[str]:
        yield from number_finding("n_trials", self.n_trials, "30")
        if self.parallel is not None:
            yield from number_finding("parallel", self.parallel, "null")
        yield from study_findings(self.study)
        if self.one_job not in (None, True, False):
            yield f"hpo.one_job must be true, false or null, got {self.one_job}.\nTry: hpo.one_job=null, the default"


def number_finding(name: str, value: Any, default: str) -> Iterator[str]:
    """Yield what is wrong with a setting that is a count."""
    if not (isinstance(value, int) and value >= 1):
        yield f"hpo.{name} must be a whole number of at least 1, got {value}.\nTry: hpo.{name}={default}"


def study_findings(study: str | None) -> Iterator[str]:
    """Yield what is wrong with the name of a study."""
    if study is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,40}", str(study)):
        yield (
            f"hpo.study={study!r} is not a valid study name: it becomes a folder name.\n"
            "Try: at most 41 letters, digits and hyphens"
        )
