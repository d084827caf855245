"""Build the sampler and the pruner that `hpo` names."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from dogbreed.errors import ConfigError
from launchers.sweep.space import SearchSpace

if TYPE_CHECKING:
    import optuna


def is_grid(sampler: Mapping[str, Any]) -> bool:
    """Whether `hpo.sampler` names Optuna's grid sampler, which has a finite number of trials."""
    return str(sampler.get("_target_", "")).endswith(".GridSampler")


def build_sampler(node: Mapping[str, Any], space: SearchSpace, seed: int, before: int) -> "optuna.samplers.BaseSampler":
    """Build the sampler that `hpo.sampler` names. A seed of None is derived from the run's seed and `before`.

    before: number of trials before the next one. Raises ConfigError.
    """
    arguments = dict(node)
    if "seed" in arguments and arguments["seed"] is None:
        arguments["seed"] = (seed * 1_000_003 + before) % 2**32
    if is_grid(node):
        arguments["search_space"] = space.grid()
    sampler: optuna.samplers.BaseSampler = _built(arguments, "sampler")
    # a sampler that knows its last trial would stop Optuna's own loop, which is not used here: the study counts trials
    sampler.after_trial = lambda *_, **__: None  # type: ignore[method-assign]
    return sampler


def build_pruner(node: Mapping[str, Any] | None) -> "optuna.pruners.BasePruner":
    """Build the pruner that `hpo.pruner` names; for None, one that never prunes. Raises ConfigError."""
    import optuna

    if not node:
        return optuna.pruners.NopPruner()
    pruner: optuna.pruners.BasePruner = _built(node, "pruner")
    return pruner


def _built(node: Mapping[str, Any], kind: Literal["sampler", "pruner"]) -> Any:
    import optuna
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    base = optuna.samplers.BaseSampler if kind == "sampler" else optuna.pruners.BasePruner
    try:
        built = instantiate(dict(node), _convert_="all")
    except (InstantiationException, TypeError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
    else:
        if isinstance(built, base):
            return built
        reason = f"{node.get('_target_')} is not an Optuna {kind}"
    module = getattr(optuna, f"{kind}s")
    known = [name for name in module.__all__ if isinstance(getattr(module, name), type) and not name.startswith("Base")]
    raise ConfigError(
        f"hpo.{kind} cannot be built: {reason}\n"
        f"Try: hpo/{kind}=<one that --help lists>, or one of Optuna's, with its arguments in a file "
        f"conf/hpo/{kind}/NAME.yaml: {', '.join(known)}"
    )
