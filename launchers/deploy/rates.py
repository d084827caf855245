"""What a deployment costs by the hour: its instances, and its function, which is paid by the request. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from launchers.cost import prices, serving
from launchers.cost.comparison import Sized
from launchers.deploy import front
from launchers.deploy.on_lambda import sizing
from launchers.deploy.request import deployment, types_of
from launchers.deploy.settings import DeploySettings
from launchers.spec import Deployed, RunSpec

_INSTANCES = re.compile(r"(\d+) to (\d+) instances")  # as launchers/deploy/scaling.py says it
_MACHINES = re.compile(r"(\d+) x (.+)")  # and request.facts
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Rate:
    """Dollars an hour by list price. least: if nobody asks. most: whatever happens.

    least is None without a price, and most also if nothing limits the requests that a function takes at once.
    """

    least: float | None
    most: float | None

    def plus(self, other: "Rate") -> "Rate":
        """Return what both cost."""
        return Rate(_sum(self.least, other.least), _sum(self.most, other.most))

    def or_(self, other: "Rate") -> "Rate":
        """Return what one of them costs, whichever it is."""
        least = None if self.least is None or other.least is None else min(self.least, other.least)
        most = None if self.most is None or other.most is None else max(self.most, other.most)
        return Rate(least, most)


def of(settings: DeploySettings, spec: RunSpec) -> Rate:
    """Return what a deployment with these settings costs."""
    function = _of_function(function_of(settings, spec), settings.reserved, settings.provisioned)
    return function if settings.variant == "lambda" else of_instances(settings).plus(function)


def of_instances(settings: DeploySettings) -> Rate:
    """Return what an endpoint's instances cost; of several types that they may have, the dearest counts."""
    return _of_types(types_of(settings), settings.count, settings.most)


def function_of(settings: DeploySettings, spec: RunSpec) -> Sized | None:
    """Return the function with the model inside, or in front of an endpoint; None if there is none."""
    if settings.variant == "lambda":
        model = deployment(spec).model
        memory, disk = sizing.memory_mb(model, settings.memory_mb), sizing.disk_mb(model)
        return Sized(memory, settings.architecture, disk)
    return _front() if settings.front is not None else None


def in_service(found: Deployed) -> Rate:
    """Return what a deployment costs as it was found."""
    if found.variant == "lambda":
        memory, at_once = (_NUMBER.search(found.facts.get(key, "")) for key in ("memory", "at once"))
        architecture = found.facts.get("machine", "").rpartition(" ")[2]
        size = Sized(int(memory[0]), architecture) if memory else None
        return Rate(None, None) if size is None else _of_function(size, int(at_once[0]) if at_once else None, 0)
    machines, scaled = _MACHINES.fullmatch(found.facts.get("machines", "")), _INSTANCES.search(found.scaling)
    if machines is None:
        return Rate(None, None)
    least, most = map(int, scaled.groups()) if scaled else [int(machines[1])] * 2
    instances = _of_types(machines[2].split(", else "), least, most)
    return instances.plus(_of_function(_front() if found.front else None, found.reserved, found.warm))


def _front() -> Sized:
    return Sized(prices.lambda_prices().front_mb, front.ARCHITECTURE)


def _of_types(types: Sequence[str], least: int, most: int) -> Rate:
    rows = [prices.hosting(kind) for kind in types]
    known = [row.usd for row in rows if row is not None]
    if len(known) < len(rows):
        return Rate(None, None)
    return Rate(min(known) * least, max(known) * most)


def _of_function(size: Sized | None, reserved: int | None, provisioned: int) -> Rate:
    if size is None:
        return Rate(0.0, 0.0)
    warm = provisioned * size.warm_usd_per_month / serving.MONTH_S * 3600
    at_once = None if reserved is None else max(reserved, provisioned)  # the checks refuse fewer
    return Rate(warm, size.worst_usd_per_hour(at_once, provisioned))


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
