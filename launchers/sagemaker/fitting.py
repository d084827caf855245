"""Fit the settings of a job to its run: the instance type of `auto`, and the times that `limits` allow."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from launchers.cost import choice, estimate, limits, needs, prices
from launchers.cost.choice import AUTO, Choice
from launchers.cost.limits import Limits, Overhead
from launchers.cost.needs import Needs
from launchers.plan import Costs
from launchers.sagemaker.settings import JobSettings
from launchers.spec import RunSpec, SearchOutput
from launchers.status import Cause, LaunchError

# billed before the first step: SageMaker bills from the download of the data on
# (https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeTrainingJob.html, TrainingStartTime)
STARTING_S = 60
STOPPING_S = 120  # between SIGTERM and the end of a job; SageMaker's own
UPLOADING_S = 60  # for the artifacts and checkpoints of a job that was told to end, which is billed
_NEEDS = {"memory_gb": 8}  # of auto by default: torch, a batch, and the processes that decode photos


@dataclass(frozen=True)
class Fitted:
    """The settings of a job as they are sent. choice: of the type, for `auto`. limit: that shortened it, as typed."""

    settings: JobSettings
    choice: Choice | None = None
    limit: str = ""

    @property
    def overhead(self) -> Overhead:
        return overhead(self.settings)

    def estimate(self, spec: RunSpec) -> estimate.Cost | None:
        """Estimate what the job costs; None without a price."""
        row = prices.instance(self.settings.instance_type)
        if row is None:
            return None
        return estimate.estimate(
            spec.workload,
            row,
            instances=self.settings.instances,
            spot=self.settings.spot,
            max_run_s=self.settings.max_run_s,
            trials=_trials(spec),
            overhead=self.overhead,
        )

    def costs(self, spec: RunSpec) -> Costs | None:
        """Return what the job can cost, for whoever divides a limit among several."""
        cost, all_s = self.estimate(spec), self.overhead
        if cost is None:
            return None
        expected = None
        if cost.expected is not None:
            expected = cost.expected[1] + (all_s.ending_s + all_s.kept_s) / 3600 * cost.usd_per_hour
        least_h = (all_s.start_s + all_s.ending_s) / 3600
        least_usd, kept_usd = (seconds / 3600 * cost.usd_per_hour for seconds in (all_s.least_s, all_s.kept_s))
        return Costs(cost.worst, least_usd, least_h, expected, kept_usd)


def overhead(settings: JobSettings) -> Overhead:
    return Overhead(STARTING_S, STOPPING_S + UPLOADING_S, settings.keep_alive_s or 0)


def findings(settings: JobSettings, spec: RunSpec) -> Iterator[str]:
    """Yield why the job cannot be fitted."""
    yield from _needs_findings(settings)
    wrong = list(limits.findings(spec.config))
    yield from wrong
    if wrong or (chosen := _with_type(settings, spec)) is None or settings.instances < 1:
        return
    kind = chosen.settings.instance_type
    if not prices.exists(kind):
        return  # reported as an unknown type
    machines = f"{settings.instances} x {kind}" if settings.instances > 1 else kind
    yield from limits.fit_findings(
        Limits.of(spec.config), machines, limits.usd_of(prices.instance(kind), settings.instances), chosen.overhead
    )


def _needs_findings(settings: JobSettings) -> Iterator[str]:
    if settings.instance_type == AUTO:
        yield from needs.findings(settings.needs, "launcher.needs")
    elif settings.needs is not None:
        yield (
            f"launcher.needs is only read with launcher.instance_type=auto, got {settings.instance_type}.\n"
            "Try: launcher.instance_type=auto, or leave out launcher.needs"
        )


def fit(settings: JobSettings, spec: RunSpec) -> Fitted:
    """Return the settings as they are sent. `findings` must have found nothing."""
    chosen = _with_type(settings, spec)
    assert chosen is not None
    settings = chosen.settings
    rate = limits.usd_of(prices.instance(settings.instance_type), settings.instances)
    asked = Limits.of(spec.config)
    bound = asked.bound(rate, chosen.overhead)
    run_s, limit = settings.max_run_s, ""
    if bound is not None and bound.seconds < run_s:
        run_s, limit = bound.seconds, bound.limit
    wait_s = settings.max_wait_s
    if wait_s is not None:
        wait_s = _wait_s(wait_s - settings.max_run_s + run_s, run_s, asked)
    return replace(chosen, settings=replace(settings, max_run_s=run_s, max_wait_s=wait_s), limit=limit)


def _wait_s(wait_s: int, run_s: int, asked: Limits) -> int:
    """Return the time that a spot job may take with waiting. It waits as long as without limits, up to max_hours."""
    if asked.max_hours is not None:
        wait_s = min(wait_s, math.floor(3600 * asked.max_hours - STOPPING_S - UPLOADING_S))
    return max(wait_s, run_s)


def _with_type(settings: JobSettings, spec: RunSpec) -> Fitted | None:
    """Return the settings with an instance type; None if none meets the needs."""
    if settings.instance_type != AUTO:
        return Fitted(settings)
    wanted = _needs(settings)
    if not wanted.types():
        return None
    chosen = choice.choose(spec.workload, wanted, instances=settings.instances, trials=_trials(spec))
    return Fitted(replace(settings, instance_type=chosen.row.type), chosen)


def _trials(spec: RunSpec) -> int:
    """Return the number of trials of a search in one job; 0 for a run."""
    match spec.output:
        case SearchOutput(trials=trials):
            return trials
    return 0


def types(settings: JobSettings) -> list[str]:
    """Return the types that jobs of these settings may run on."""
    if settings.instance_type != AUTO:
        return [settings.instance_type]
    return sorted(row.type for row in _needs(settings).types())


def _needs(settings: JobSettings) -> Needs:
    asked = settings.needs if settings.needs is not None else _NEEDS
    return Needs.of(asked if isinstance(asked, Mapping) else {})


def less_spent(create: Mapping[str, Any], asked: Limits, spent_usd: float) -> dict[str, Any]:
    """Return a CreateTrainingJob request whose job and the run's earlier ones together stay within limits.max_usd.

    Raises LaunchError if what is left buys nothing.
    """
    resources, times = create["ResourceConfig"], create["StoppingCondition"]
    kind, instances = str(resources["InstanceType"]), int(resources["InstanceCount"])
    rate = limits.usd_of(prices.instance(kind), instances)
    costs = Overhead(STARTING_S, STOPPING_S + UPLOADING_S, int(resources.get("KeepAlivePeriodInSeconds", 0)))
    machines = f"{instances} x {kind}" if instances > 1 else kind
    if found := list(limits.fit_findings(asked, machines, rate, costs, spent_usd=spent_usd)):
        raise LaunchError("\n".join(found), Cause.BUDGET)
    bound = replace(asked, max_hours=None).less(spent_usd).bound(rate, costs)
    run_s = int(times["MaxRuntimeInSeconds"])
    if bound is None or bound.seconds >= run_s:
        return dict(create)
    shorter = {"MaxRuntimeInSeconds": bound.seconds}
    if "MaxWaitTimeInSeconds" in times:
        shorter["MaxWaitTimeInSeconds"] = int(times["MaxWaitTimeInSeconds"]) - run_s + bound.seconds
    return {**create, "StoppingCondition": {**times, **shorter}}
