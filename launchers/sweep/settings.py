"""The settings of a search: the config node `hpo`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from omegaconf import DictConfig, OmegaConf

from dogbreed.errors import ConfigError, raise_findings


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
        for name, default in (("n_trials", "30"), ("parallel", "null")):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1) and not (name == "parallel" and value is None):
                yield f"hpo.{name} must be a whole number of at least 1, got {value}.\nTry: hpo.{name}={default}"
        if self.study is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,40}", str(self.study)):
            yield (
                f"hpo.study={self.study!r} is not a valid study name: it becomes a folder name.\n"
                "Try: at most 41 letters, digits and hyphens"
            )
        if self.one_job not in (None, True, False):
            yield f"hpo.one_job must be true, false or null, got {self.one_job}.\nTry: hpo.one_job=null, the default"
