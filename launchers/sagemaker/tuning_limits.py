"""Fit a search by SageMaker's tuner to its machines and to `limits`, which its tuning job holds by its time."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from launchers.cost import estimate, limits, prices
from launchers.cost.choice import Choice
from launchers.cost.limits import Limits, Overhead
from launchers.sagemaker import fitting
from launchers.sagemaker.settings import JobSettings
from launchers.sagemaker.tuning import RUN_S
from launchers.spec import RunOutput, RunSpec, SearchOutput
from launchers.status import Cause, LaunchError

_LEAST_S, _MOST_S = RUN_S
_OVERHEAD = Overhead(_LEAST_S, fitting.STOPPING_S + fitting.UPLOADING_S)  # of each trial that its end stops


@dataclass(frozen=True)
class FittedSearch:
    """The settings of the trials as they are sent. choice: of the type, for `auto`. whole_s: that the tuning job may
    take; None for as long as its trials. limit: that shortened it, as typed.
    """

    settings: JobSettings
    choice: Choice | None
    whole_s: int | None
    limit: str

    def shortened(self, spec: RunSpec) -> RunSpec:
        """Return the spec with the time that the tuning job is given."""
        assert spec.tuning is not None
        return replace(spec, tuning=replace(spec.tuning, max_run_s=self.whole_s))

    def one(self, spec: RunSpec) -> estimate.Cost | None:
        """Estimate what a trial costs; None without a price."""
        return fitting.Fitted(self.settings).estimate(trial_of(spec))

    def worst_usd(self, spec: RunSpec, usd_per_hour: float) -> float:
        """Return what the search costs at most. usd_per_hour: of the machines of one trial."""
        trials, at_once = _numbers(spec)
        seconds = trials * (self.settings.max_run_s + _OVERHEAD.ending_s)
        if self.whole_s is not None:
            seconds = min(seconds, at_once * (self.whole_s + _OVERHEAD.ending_s))
        return seconds / 3600 * usd_per_hour


def trial_of(spec: RunSpec) -> RunSpec:
    """Return the spec of one trial, as any other run's: limits are those of the search."""
    return replace(spec, output=RunOutput(), tuning=None, config={**spec.config, "limits": {}})


def findings(settings: JobSettings, spec: RunSpec) -> Iterator[str]:
    """Yield why the search does not fit into its limits, and what tuning jobs do not have."""
    if settings.keep_alive_s:
        yield "Tuning jobs keep no machines.\nTry: launcher.keep_alive_s=null"
    wrong = list(limits.findings(spec.config))
    yield from wrong
    if wrong or settings.instances < 1 or list(fitting.findings(settings, trial_of(spec))):
        return
    machines = fitting.fit(settings, trial_of(spec)).settings
    _, at_once = _numbers(spec)
    yield from limits.fit_findings(
        Limits.of(spec.config),
        f"{at_once} trials at once on {machines.instance_type}",
        _rate(machines, at_once),
        _OVERHEAD,
    )


def fit(settings: JobSettings, spec: RunSpec) -> FittedSearch:
    """Return the settings as they are sent. `findings` must have found nothing."""
    assert spec.tuning is not None
    fitted = fitting.fit(settings, trial_of(spec))
    _, at_once = _numbers(spec)
    bound = Limits.of(spec.config).bound(_rate(fitted.settings, at_once), _OVERHEAD)
    whole_s, limit = spec.tuning.max_run_s, ""
    longest_s = min(_all_trials_s(fitted.settings, spec), math.inf if whole_s is None else whole_s)
    if bound is not None and bound.seconds < longest_s:
        whole_s, limit = min(bound.seconds, _MOST_S), bound.limit if bound.seconds <= _MOST_S else ""
    return FittedSearch(fitted.settings, fitted.choice, whole_s, limit)


def less_spent(
    request: Mapping[str, Any], resources: Mapping[str, Any], config: Mapping[str, Any], spent_usd: float
) -> dict[str, Any]:
    """Return the time of a further tuning job, so that it and the earlier ones stay within limits.max_usd.

    request: of the job. resources: its ResourceLimits. Raises LaunchError if what is left buys nothing.
    """
    asked = Limits.of(config)
    if asked.max_usd is None or not spent_usd:
        return {}
    machines = request["TrainingJobDefinition"]["HyperParameterTuningResourceConfig"]
    kind, at_once = str(machines["InstanceType"]), int(resources["MaxParallelTrainingJobs"])
    rate = limits.usd_of(prices.instance(kind), int(machines["InstanceCount"]) * at_once)
    if found := list(
        limits.fit_findings(asked, f"{at_once} trials at once on {kind}", rate, _OVERHEAD, spent_usd=spent_usd)
    ):
        raise LaunchError("\n".join(found), Cause.BUDGET)
    bound = replace(asked, max_hours=None).less(spent_usd).bound(rate, _OVERHEAD)
    given_s = resources.get("MaxRuntimeInSeconds", _MOST_S)
    return {} if bound is None or bound.seconds >= given_s else {"MaxRuntimeInSeconds": bound.seconds}


def _numbers(spec: RunSpec) -> tuple[int, int]:
    """Return how many trials a search has, and how many run at once."""
    assert isinstance(spec.output, SearchOutput)
    assert spec.tuning is not None
    return spec.output.trials, min(spec.tuning.parallel, spec.output.trials)


def _all_trials_s(settings: JobSettings, spec: RunSpec) -> int:
    trials, at_once = _numbers(spec)
    return math.ceil(trials / at_once) * (settings.max_run_s + round(_OVERHEAD.ending_s))


def _rate(settings: JobSettings, at_once: int) -> float | None:
    """Return what all machines cost together by the hour."""
    return limits.usd_of(prices.instance(settings.instance_type), settings.instances * at_once)
