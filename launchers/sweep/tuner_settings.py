"""The settings of a search by SageMaker's tuner: the config node `hpo` of hpo=sagemaker_tuner."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

from omegaconf import DictConfig, OmegaConf

from dogbreed.errors import ConfigError, raise_findings
from launchers.sweep.settings import number_finding, study_findings

_ONLY_OPTUNA = ("sampler", "pruner", "storage", "one_job")


@dataclass(frozen=True)
class TunerSettings:
    """The settings of a search by SageMaker's tuner. conf/hpo/sagemaker_tuner.yaml explains each of them."""

    storage: ClassVar[str | None] = None  # its study is always a file in the search's folder

    study: str | None
    n_trials: int
    parallel: int
    strategy: str
    early_stopping: bool
    min_epochs: int
    max_run_s: int | None
    target: float | None
    patience: int | None
    converges: bool
    warm_start: Sequence[str]
    fresh: bool
    space: Mapping[str, Any] | None

    @classmethod
    def chosen(cls, cfg: DictConfig) -> bool:
        """Return whether a config asks for SageMaker's tuner."""
        return "hpo" in cfg and "strategy" in cfg.hpo

    @classmethod
    def of(cls, cfg: DictConfig) -> Self:
        """Read the settings from the whole config. Raises ConfigError, listing all findings."""
        node = cast(dict[str, Any], OmegaConf.to_container(cfg.hpo, resolve=True))
        if optunas := sorted(node.keys() & set(_ONLY_OPTUNA)):
            raise ConfigError(
                f"hpo.{optunas[0]} is a setting of hpo=optuna; SageMaker's tuner has none.\nTry: leave it out"
            )
        if unknown := sorted(node.keys() - cls.__dataclass_fields__.keys()):
            raise ConfigError(
                f"Unknown settings under hpo: {', '.join(unknown)}.\nTry: {', '.join(cls.__dataclass_fields__)}"
            )
        settings = cls(**node)
        raise_findings(ConfigError, list(settings.findings()))
        return settings

    def findings(self) -> Iterator[str]:
        yield from number_finding("n_trials", self.n_trials, "20")
        yield from number_finding("parallel", self.parallel, "2")
        yield from number_finding("min_epochs", self.min_epochs, "1")
        for name in ("max_run_s", "patience"):
            if (value := getattr(self, name)) is not None:
                yield from number_finding(name, value, "null")
        yield from study_findings(self.study)
        for name in ("early_stopping", "converges", "fresh"):
            if not isinstance(value := getattr(self, name), bool):
                yield f"hpo.{name} must be true or false, got {value}.\nTry: hpo.{name}=false"
        if not (self.target is None or (_is_number(self.target) and math.isfinite(self.target))):
            yield f"hpo.target must be a number, got {self.target}.\nTry: hpo.target=0.9, or null"
        if isinstance(self.warm_start, str) or not all(isinstance(each, str) for each in self.warm_start or []):
            yield (
                f"hpo.warm_start must be a list of folders or handles, got {self.warm_start}.\n"
                "Try: 'hpo.warm_start=[sweeps/EARLIER]'"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
