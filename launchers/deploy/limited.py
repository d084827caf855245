"""Shorten the life of a deployment to `limits`: the schedules that end it are AWS's, so its worst case holds.

An update takes off what the deployment has cost since it was created.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from launchers import formatting
from launchers.cost import limits
from launchers.cost.limits import Limits, Overhead
from launchers.deploy import rates, request
from launchers.deploy.on_lambda import request as function_request
from launchers.deploy.settings import DeploySettings
from launchers.plan import Costs
from launchers.spec import Deployed, RunSpec

_LATE_S = 300.0  # after its time, until all of a deployment is gone
_PROVISIONING_S = 1800.0  # until SageMaker has an instance, at most
_FUNCTION_S = 60.0  # until a function answers, at most
# An end that a raised limit moves by less than this stays: the time between a plan and the first instance is no cost
_SAME_S = 1800.0

Settings = TypeVar("Settings", bound=DeploySettings)


def findings(settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
    """Yield why the deployment cannot be fitted into its limits."""
    wrong, asked = list(limits.findings(spec.config)), Limits.of(spec.config)
    yield from wrong
    if wrong:
        return
    settings = _ending(settings)
    function = rates.function_of(settings, spec)
    if asked.max_usd is not None and function is not None and settings.reserved is None:
        yield (
            f"limits.max_usd={asked.max_usd:.12g} cannot be held: the function takes as many requests at once as the "
            "account allows, and each of them is paid.\nTry: launcher.reserved=3, or limits.max_hours=8"
        )
        return
    if settings.reserved is not None and settings.reserved < 1:
        return  # reported by the checks
    if asked.max_usd is not None and _before(spec) is not None and spent_usd(spec) is None:
        yield (
            f"limits.max_usd={asked.max_usd:.12g} cannot be held: what {spec.run_id} has cost since its creation is "
            "not known.\nTry: limits.max_hours=8, or another name="
        )
        return
    yield from limits.fit_findings(
        asked,
        _parts(settings, spec),
        rates.of(settings, spec).most,
        _overhead(settings, spec),
        spent_usd=spent_usd(spec) or 0.0,
        spender=f"{spec.run_id} has",
    )


def fit(settings: Settings, spec: RunSpec) -> Settings:
    """Return the settings with the time to live that the limits allow.

    The end of what is in service already stays where it is, if the limits allow that and little more.
    """
    asked, hours = Limits.of(spec.config), settings.ttl_hours
    if asked.max_usd is None and asked.max_hours is None:
        return settings
    bound = asked.less(spent_usd(spec) or 0.0).bound(usd_per_hour(settings, spec), _overhead(settings, spec))
    if bound is None or bound.seconds <= 0:  # it is refused, as a deployment that ends
        return _ending(settings)
    if hours is not None and bound.seconds >= 3600 * hours:
        return settings
    before = _before(spec)
    if before is not None and before.ttl_hours and not replaces(settings, spec):
        earlier = hours is None or before.ttl_hours <= hours
        if earlier and 0 <= bound.seconds - _left_s(before, spec) < _SAME_S:
            return replace(settings, ttl_hours=before.ttl_hours)
    return replace(settings, ttl_hours=bound.seconds / 3600)


def _ending(settings: Settings) -> Settings:
    """Return the settings as of a deployment that ends by itself, which the limit makes it: it scales otherwise."""
    return settings if settings.ttl_hours is not None else replace(settings, ttl_hours=1.0)


def rows(settings: DeploySettings, spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Yield how limits.max_usd is held. settings: as fitted."""
    limit, cost, rate = Limits.of(spec.config).max_usd, costs(settings, spec), rates.of(settings, spec).most
    if limit is None or cost is None or rate is None:
        return
    spent, overhead = spent_usd(spec), _overhead(settings, spec)
    lives, ending = (formatting.duration(seconds) for seconds in (lives_s(settings, spec), overhead.ending_s))
    so_far = f"{formatting.usd(spent)} so far + " if spent else ""
    yield (
        "limit",
        (
            f"{formatting.usd(limit)}, held by the schedules that end it:\n"
            f"{so_far}({lives} + {ending} to end) x {formatting.usd(rate)} an hour\n= {formatting.usd(cost.worst_usd)}"
            f" at worst, {_most(settings, spec)};\n"
            "an update takes off what it has cost by then; a rollback is not limited"
        ),
    )


def costs(settings: DeploySettings, spec: RunSpec) -> Costs | None:
    """Return what the deployment can cost since its creation; None if nothing limits it, or a price is not known."""
    rate, overhead, spent = usd_per_hour(settings, spec), _overhead(settings, spec), spent_usd(spec) or 0.0
    if rate is None or settings.ttl_hours is None:
        return None
    worst = spent + rate * (lives_s(settings, spec) + overhead.ending_s) / 3600
    return Costs(worst, spent + overhead.least_s / 3600 * rate, overhead.least_s / 3600, worst)


def usd_per_hour(settings: DeploySettings, spec: RunSpec) -> float | None:
    """Return what the deployment costs by the hour at most, as one that ends by itself; None if that is not known."""
    return rates.of(_ending(settings), spec).most


def overlap_s(settings: DeploySettings, spec: RunSpec) -> float:
    """Return how long the instances of before and those of an update run beside each other, at most."""
    if settings.variant != "realtime" or not replaces(settings, spec):
        return 0.0
    return _PROVISIONING_S + settings.start_s + request.watched_s(settings, settings.count)


def spent_usd(spec: RunSpec) -> float | None:
    """Return what the deployment has cost since its creation; None if that is not known, 0 for a new one."""
    if spec.deployment is None or spec.deployment.before is None:
        return 0.0
    return spec.deployment.spent_usd


def _before(spec: RunSpec) -> Deployed | None:
    return None if spec.deployment is None else spec.deployment.before


def replaces(settings: DeploySettings, spec: RunSpec) -> bool:
    """Return whether another revision comes into service, in place of one that is there."""
    before = _before(spec)
    if before is None or settings.bucket is None:
        return False
    ending = _ending(settings)
    if settings.variant == "lambda":
        return settings.lambda_role is None or before.revision != function_request.revision(ending, spec)
    return settings.role is None or before.revision != request.revision(ending, spec)


def _left_s(before: Deployed, spec: RunSpec) -> float:
    """Return how long what is in service is still there by its schedules; more than ever if they do not end it."""
    if not before.expires_at:
        return float("inf")
    return (datetime.fromisoformat(before.expires_at) - datetime.fromisoformat(spec.created_at)).total_seconds()


def lives_s(settings: DeploySettings, spec: RunSpec) -> float:
    """Return how long the deployment lives from now on. settings: as fitted, with a time to live."""
    before, ttl_hours = _before(spec), settings.ttl_hours or 0.0
    if before is not None and before.ttl_hours == ttl_hours and not replaces(settings, spec):
        return max(0.0, _left_s(before, spec))
    return 3600 * ttl_hours


def _overhead(settings: DeploySettings, spec: RunSpec) -> Overhead:
    """Return what is paid besides: the time until it answers, and the instances of before while others replace them."""
    if settings.variant != "realtime":
        return Overhead(_FUNCTION_S, _LATE_S, ending="ending")
    twice_s, before = overlap_s(settings, spec), _before(spec)
    if not twice_s or before is None:
        return Overhead(float(settings.start_s), _LATE_S, ending="ending")
    present, wanted = rates.in_service(before).most, usd_per_hour(settings, spec)
    # in hours of the new instances, which the limit is divided by; as dear as these where no price is known
    share = present / wanted if present is not None and wanted else 1.0
    return Overhead(float(settings.start_s), _LATE_S + share * twice_s, ending="those before, and to ending")


def _parts(settings: DeploySettings, spec: RunSpec) -> str:
    """Say what costs by the hour."""
    if settings.variant == "lambda":
        return f"a function of {settings.reserved} requests at once"
    machines = f"{settings.most} x {settings.instance_type}"
    return machines if settings.front is None else f"{machines} and {settings.reserved} requests at once in front of it"


def _most(settings: DeploySettings, spec: RunSpec) -> str:
    """Say what makes an hour cost most."""
    function = rates.function_of(settings, spec)
    if function is None:
        return f"{settings.most} x {settings.instance_type}"
    requests = function.worst_usd_per_hour(settings.reserved, settings.provisioned)
    never_rests = f"{settings.reserved} requests at once all the time"
    if settings.variant == "lambda" or requests is None:
        return never_rests
    return f"{never_rests} ({formatting.usd(requests)} an hour)"
