"""Shorten the life of a deployment to `limits`: the schedules that end it are AWS's, so its worst case holds."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from launchers import formatting
from launchers.cost import limits, prices
from launchers.cost.limits import Limits, Overhead
from launchers.deploy.settings import DeploySettings
from launchers.plan import Costs
from launchers.spec import RunSpec

_LATE_S = 300.0  # after its time, until a deployment's instances are gone
_PROVISIONING_S = 1800.0  # until SageMaker has an instance, at most

Settings = TypeVar("Settings", bound=DeploySettings)


def findings(settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
    """Yield why the deployment cannot be fitted into its limits."""
    wrong, asked = list(limits.findings(spec.config)), Limits.of(spec.config)
    yield from wrong
    if wrong:
        return
    settings = _ending(settings)
    if settings.variant == "realtime":
        machines = f"{settings.most} x {settings.instance_type}"
        yield from limits.fit_findings(asked, machines, usd_per_hour(settings), _overhead(settings, spec))
    elif asked.max_usd is not None:
        yield (
            f"limits.max_usd={asked.max_usd:g} cannot be held for launcher.variant={settings.variant}, which is paid "
            "by the call.\nTry: launcher.variant=realtime, or limits.max_hours=8"
        )


def fit(settings: Settings, spec: RunSpec) -> Settings:
    """Return the settings with the time to live that the limits allow."""
    rate, hours = usd_per_hour(_ending(settings)), settings.ttl_hours
    bound = Limits.of(spec.config).bound(rate, _overhead(settings, spec))
    if bound is None or bound.seconds <= 0 or (hours is not None and bound.seconds >= 3600 * hours):
        return settings
    return replace(settings, ttl_hours=bound.seconds / 3600)


def _ending(settings: Settings) -> Settings:
    """Return the settings as of a deployment that ends by itself, which the limit makes it: it scales otherwise."""
    return settings if settings.ttl_hours is not None else replace(settings, ttl_hours=1.0)


def rows(settings: DeploySettings, spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Yield how limits.max_usd is held. settings: as fitted."""
    limit, cost, rate = Limits.of(spec.config).max_usd, costs(settings, spec), usd_per_hour(settings)
    if limit is None or cost is None or rate is None or settings.ttl_hours is None:
        return
    lives = formatting.duration(3600 * settings.ttl_hours)
    ending = formatting.duration(_overhead(settings, spec).ending_s)
    yield (
        "limit",
        (
            f"{formatting.usd(limit)}, held by the schedules that end it:\n"
            f"({lives} + {ending} to end) x {formatting.usd(rate)} an hour = {formatting.usd(cost.worst_usd)};\n"
            "an update counts anew"
        ),
    )


def costs(settings: DeploySettings, spec: RunSpec) -> Costs | None:
    """Return what the deployment can cost; None without a price, or without an end."""
    rate, overhead = usd_per_hour(settings), _overhead(settings, spec)
    if rate is None or settings.ttl_hours is None:
        return None
    worst = rate * (settings.ttl_hours + overhead.ending_s / 3600)
    return Costs(worst, overhead.least_s / 3600 * rate, overhead.least_s / 3600, worst)


def usd_per_hour(settings: DeploySettings) -> float | None:
    """Return what the instances cost by the hour at most; None without a price, and for a function."""
    if settings.variant != "realtime":
        return None
    kinds = [settings.instance_type, *([settings.fallback_type] if settings.fallback_type else [])]
    rows = [prices.hosting(kind) for kind in kinds]
    known = [row.usd for row in rows if row is not None]
    return max(known) * settings.most if len(known) == len(rows) else None


def _overhead(settings: DeploySettings, spec: RunSpec) -> Overhead:
    """Return what is paid besides: the time until it answers, and twice the instances while an update replaces them."""
    deployment = spec.deployment
    updates = deployment is not None and deployment.before is not None
    twice_s = _PROVISIONING_S + settings.start_s + settings.bake_s if updates else 0.0
    return Overhead(float(settings.start_s), _LATE_S + twice_s)
