"""Searches by SageMaker's tuner, as commands ask for them."""

from collections.abc import Sequence
from dataclasses import replace

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

import launchers.resolvers  # noqa: F401 (registers ${new_run_id:})
from launchers.plan import Plan
from launchers.sweep import search, tuner
from launchers.sweep.space import SearchSpace
from tests.support.configs import CONF
from tests.support.plans import CODE, REAL

SPOT = ["hpo=sagemaker_tuner", "launcher=sagemaker_spot", *REAL]
CHOICES = ["hpo.space=null", "model.lr=choice(1e-3,1e-2,1e-1)", "model.optimizer=choice(adamw,sgd)"]
_ENDS = ["hpo.target=0.5", "hpo.patience=10", "hpo.converges=true", "hpo.max_run_s=7200"]
_NUMBERS = ["hpo.space=null", "model.lr=tag(log,interval(1e-4,1e-1))", "data.batch_size=tag(log,int(interval(8,64)))"]
_LOSS = ["monitor=val/loss", "mode=min"]
STRATEGIES = {
    "bayesian": [*SPOT, "experiment=finetune", "hpo.n_trials=20", "hpo.parallel=4"],
    "random": [*SPOT, "experiment=quickstart", "hpo.strategy=Random", "hpo.early_stopping=false"],
    "hyperband": [*SPOT, "experiment=finetune", "hpo.strategy=Hyperband", "hpo.early_stopping=false"],
    "grid": [*SPOT, "experiment=finetune", "hpo.strategy=Grid", *CHOICES],
}

STRATEGIES["random"] += [*_LOSS, *_ENDS, *_NUMBERS]


def asked(*words: str) -> "tuner._Search":
    """Read a search as the sweeper does."""
    return tuner._read(_composed(words), list(words))


def asked_of_optuna(*words: str) -> tuple[SearchSpace, tuple[str, ...]]:
    """Return the space of a search with Optuna, and the overrides of every trial."""
    found = search._read(_composed(words), list(words))
    return found.space, found.overrides


def _composed(words: Sequence[str]) -> DictConfig:
    parsed = OverridesParser.create().parse_overrides(list(words))
    fixed = [str(each.input_line) for each in parsed if not each.is_sweep_override()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", fixed, return_hydra_config=True)


def planned(words: Sequence[str]) -> Plan:
    """Return the plan of a search, with what differs each time made the same."""
    found = asked(*words)
    spec = found.plan.spec
    same = replace(
        spec,
        run_id="mine-abcdef",
        folder="/sweeps/mine",
        created_at="2026-11-24T12:00:00+00:00",
        commit="f" * 40,
        dirty=False,
        code=CODE,
    )
    return found.tuner.plan(same)
