"""Fit the deadline of a run on EC2 to `limits`: its group has one machine, so its worst case is a price and a time."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from launchers.cost import limits, prices
from launchers.cost.limits import Limits, Overhead
from launchers.cost.prices import Instance
from launchers.ec2.settings import Ec2Settings
from launchers.plan import Costs
from launchers.spec import RunSpec
from launchers.status import Cause, LaunchError

ENDING_S = 600.0  # between the deadline and the end of the machine, at most
# from the start of a machine to the first step: it boots, and fetches code and photos. Without limits it takes as long
STARTING_S = 180.0
OVERHEAD = Overhead(STARTING_S, ENDING_S)
_HOURS_A_MONTH = 730
# of a gp3 volume per GB and month, and of a public IPv4 address per hour, in us-east-1 as of 2026-11-28:
# https://aws.amazon.com/ebs/pricing/ and https://aws.amazon.com/vpc/pricing/
_VOLUME_USD, _ADDRESS_USD = 0.08, 0.005

Settings = TypeVar("Settings", bound=Ec2Settings)


def findings(settings: Ec2Settings, spec: RunSpec) -> Iterator[str]:
    """Yield why the run cannot be fitted."""
    wrong = list(limits.findings(spec.config))
    yield from wrong
    if not wrong:
        yield from limits.fit_findings(Limits.of(spec.config), _machines(settings), usd_per_hour(settings), OVERHEAD)


def fit(settings: Settings, spec: RunSpec, *, spent_usd: float = 0.0) -> Settings:
    """Return the settings with the deadline that the limits allow.

    spent_usd: by earlier submissions of the run. Raises LaunchError if what is left buys nothing.
    """
    asked, rate = Limits.of(spec.config), usd_per_hour(settings)
    found = list(limits.fit_findings(asked, _machines(settings), rate, OVERHEAD, spent_usd=spent_usd))
    if spent_usd and found:
        raise LaunchError("\n".join(found), Cause.BUDGET)
    bound = asked.less(spent_usd).bound(rate, OVERHEAD)
    if bound is None or bound.seconds >= 3600 * settings.deadline_h:
        return settings
    return replace(settings, deadline_h=bound.seconds / 3600)


def limit_of(settings: Ec2Settings, spec: RunSpec, left_h: float | None = None) -> str:
    """Return the setting that the deadline comes from, as people type it.

    left_h: the deadline that is left by what the run has spent; None if it is that of the settings.
    """
    asked, rate = Limits.of(spec.config), usd_per_hour(settings)
    if left_h is not None and left_h < settings.deadline_h:
        asked = replace(asked, max_hours=None)
    bound = asked.bound(rate, OVERHEAD)
    if left_h is not None and left_h < settings.deadline_h and bound is not None:
        return bound.limit
    own = bound is None or bound.seconds > 3600 * settings.deadline_h + 1
    return "launcher.deadline_h" if own or bound is None else bound.limit


def costs(settings: Ec2Settings, expected_s: float | None) -> Costs | None:
    """Return what the run can cost; None without a price. expected_s: how long it is expected to take."""
    rate = usd_per_hour(settings)
    if rate is None:
        return None
    expected = None if expected_s is None else (expected_s + ENDING_S) / 3600 * rate
    worst = (settings.deadline_h + ENDING_S / 3600) * rate
    return Costs(worst, OVERHEAD.least_s / 3600 * rate, OVERHEAD.least_s / 3600, expected)


def dearest(settings: Ec2Settings) -> Instance | None:
    """Return the type that costs most on demand; None if the price of any is not known."""
    rows = [prices.ec2(each) for each in settings.types]
    known = [row for row in rows if row is not None]
    return max(known, key=lambda row: row.usd) if len(known) == len(rows) else None


def usd_per_hour(settings: Ec2Settings) -> float | None:
    """Return what the run costs by the hour at most, disk and address included; None without a price."""
    row = dearest(settings)
    return None if row is None else row.usd + beside_usd(settings, 3600)


def beside_usd(settings: Ec2Settings, seconds: float) -> float:
    """Return what disk and address cost in that time."""
    address = _ADDRESS_USD if settings.public_ip else 0.0
    return (settings.volume_gb * _VOLUME_USD / _HOURS_A_MONTH + address) * seconds / 3600


def _machines(settings: Ec2Settings) -> str:
    """Name the types that the run may get; if some have no price, only those."""
    unpriced = [each for each in settings.types if prices.ec2(each) is None]
    return " or ".join(unpriced or settings.types)
