"""The settings of a search: the config node `hpo`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from omegaconf import DictConfig, OmegaConf

from dogbreed.errors import ConfigError, raise_findings


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

    @classmethod
    def of(cls, cfg: DictConfig) -> Self:
        """Read the settings from the whole config. Raises ConfigError for all that is wrong with them."""
        if "hpo" not in cfg or "sampler" not in cfg.hpo:
            raise ConfigError(
                "The sweeper dogbreed searches with what is under hpo.\nTry: python train.py -m hpo=optuna"
            )
        node = cast(dict[str, Any], OmegaConf.to_container(cfg.hpo, resolve=True))
        if unknown := sorted(node.keys() - cls.__dataclass_fields__.keys()):
            raise ConfigError(f"Unknown under hpo: {', '.join(unknown)}.\nTry: {', '.join(cls.__dataclass_fields__)}")
        settings = cls(**node)
        raise_findings(ConfigError, list(settings.findings()))
        return settings

    def findings(self) -> Iterator[str]:
        for name, least in (("n_trials", 1), ("parallel", 1)):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= least) and not (name == "parallel" and value is None):
                yield f"hpo.{name}={value} cannot be.\nTry: a whole number, at least {least}"
        if self.study is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,40}", str(self.study)):
            yield f"hpo.study={self.study!r} cannot name folders.\nTry: letters, digits and hyphens, at most 41"
        if self.one_job not in (None, True, False):
            yield f"hpo.one_job={self.one_job} cannot be.\nTry: true, false, or null for what suits the trials"
