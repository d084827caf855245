"""Check the settings of a deployment's scaling, as far as that is possible without a network."""

import math
from collections.abc import Iterator
from dataclasses import fields

from launchers.aws.scaling import MOST_WAIT_S
from launchers.cost import prices, serving
from launchers.deploy.scaling import Concurrency, Fixed, Invocations, Report
from launchers.deploy.settings import DeploySettings

_LEAST_SHARE = 0.5
_Scaled = Concurrency | Report | Invocations


def type_findings(settings: DeploySettings) -> Iterator[str]:
    """Yield what is of another type than it must be, on which all else relies."""
    chosen = settings.scaling_chosen
    if isinstance(chosen, _Scaled):
        yield from _number_findings(chosen)
    elif not isinstance(chosen, Fixed):
        yield f"launcher.scaling={chosen!r} is not a way to scale.\nTry: launcher/scaling=concurrency"


def findings(settings: DeploySettings) -> Iterator[str]:
    """Yield every problem found. Each finding says what is wrong, what was seen and what to try."""
    chosen = settings.scaling_chosen
    if settings.instances < 1:
        yield f"launcher.instances must be at least 1, got {settings.instances}.\nTry: launcher.instances=1"
    if isinstance(chosen, Fixed):
        return
    yield from _limit_findings(chosen, settings)
    yield from _wait_findings(chosen)
    if settings.instance_type.startswith("ml.t"):
        yield (
            f"launcher.instance_type={settings.instance_type} cannot scale: AWS supports that for no burstable type.\n"
            "Try: launcher.instance_type=ml.c7i.large, or launcher/scaling=none"
        )
    if prices.hosts(settings.instance_type):
        vcpus = serving.vcpus(settings.instance_type)
        if isinstance(chosen, Report):
            yield from _report_findings(chosen, settings.instance_type, vcpus)
        elif isinstance(chosen, Concurrency):
            yield from _target_findings(chosen, settings.instance_type, vcpus)
    if isinstance(chosen, Invocations):
        yield from _invocations_findings(chosen)


def _number_findings(chosen: _Scaled) -> Iterator[str]:
    for each in fields(chosen):
        value, whole = getattr(chosen, each.name), each.name in ("min", "max")
        if value is None and each.default is None:
            continue
        known = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not (known and math.isfinite(value)):
            example = each.default if each.default is not None else 20
            yield (
                f"launcher.scaling.{each.name} must be a {'whole ' if whole else ''}number, got {value!r}.\n"
                f"Try: launcher.scaling.{each.name}={example:g}"
            )


def _limit_findings(chosen: _Scaled, settings: DeploySettings) -> Iterator[str]:
    if chosen.min < 1:
        yield (
            f"launcher.scaling.min must be at least 1, got {chosen.min}: an endpoint of this kind cannot be empty.\n"
            "Try: launcher.scaling.min=1"
        )
    if chosen.max < chosen.min:
        yield (
            f"launcher.scaling.max={chosen.max} is below launcher.scaling.min={chosen.min}.\n"
            f"Try: launcher.scaling.max={max(chosen.min, 1)}"
        )
    elif settings.instances > 1:
        yield (
            f"launcher.instances={settings.instances} would not stay: launcher/scaling={chosen.kind} keeps "
            f"{chosen.min} to {chosen.max} instances.\n"
            f"Try: launcher/scaling=none for a fixed number, or launcher.scaling.min={settings.instances}"
        )
    if not settings.wait:
        yield (
            f"launcher.wait=false and launcher/scaling={chosen.kind} exclude each other: AWS lets an endpoint scale "
            "only once it is in service, and nothing would be waiting for that.\nTry: launcher.wait=true"
        )


def _wait_findings(chosen: _Scaled) -> Iterator[str]:
    for key in ("out_s", "in_s"):
        seconds = getattr(chosen, key)
        if not 0 <= seconds <= MOST_WAIT_S:
            yield (
                f"launcher.scaling.{key} must be from 0 to {MOST_WAIT_S} seconds, got {seconds:g}.\n"
                f"Try: launcher.scaling.{key}={getattr(type(chosen)(), key):g}"
            )


def _report_findings(chosen: Report, kind: str, vcpus: int) -> Iterator[str]:
    busy = serving.busy_vcpus(vcpus)
    full, default = 100 * busy, f"launcher.scaling.cpu_percent={70 * busy}"
    all_of = "all" if busy == vcpus else f"the {busy} that an instance uses at most, with one request on each"
    if chosen.cpu_percent >= full:
        yield (
            f"launcher.scaling.cpu_percent={chosen.cpu_percent:g} is never exceeded: {kind} has {vcpus} "
            f"vCPU{'s' if vcpus > 1 else ''}, with 100 percent each.\nTry: {default}, which is 70 % of {all_of}"
        )
    elif chosen.cpu_percent < _LEAST_SHARE * full:
        share = chosen.cpu_percent / (100 * vcpus)
        yield (
            f"launcher.scaling.cpu_percent={chosen.cpu_percent:g} is {share:.0%} of the {vcpus} "
            f"vCPUs of {kind}, with 100 percent each, so instances would be added that have little to do.\n"
            f"Try: {default}, which is 70 % of {all_of}, and launcher.scaling.calm_percent={35 * busy}"
        )
    if not 0 < chosen.calm_percent < chosen.cpu_percent:
        yield (
            f"launcher.scaling.calm_percent={chosen.calm_percent:g} must be above 0 and below cpu_percent="
            f"{chosen.cpu_percent:g}.\nTry: launcher.scaling.calm_percent={chosen.cpu_percent / 2:g}"
        )


def _target_findings(chosen: Concurrency, kind: str, vcpus: int) -> Iterator[str]:
    target, most, fitting = vcpus if chosen.target is None else chosen.target, serving.AT_ONCE, serving.target(vcpus)
    if not 0 < target < most:
        usual = f", which {kind} has as vCPUs" if chosen.target is None else ""
        why = f"one for each vCPU of {kind}" if fitting == vcpus else "half of them"
        yield (
            f"launcher.scaling.target must be above 0 and below {most}, the requests that an instance takes at once, "
            f"got {target:g}{usual}.\nTry: launcher.scaling.target={fitting}, {why}"
        )


def _invocations_findings(chosen: Invocations) -> Iterator[str]:
    if chosen.max_rps is None:
        yield (
            "launcher.scaling.max_rps is not set: the requests per second that one instance answers fast enough, which "
            "only a measurement tells.\nTry: launcher.scaling.max_rps=20, or launcher/scaling=concurrency"
        )
    elif chosen.max_rps <= 0:
        yield f"launcher.scaling.max_rps must be above 0, got {chosen.max_rps:g}.\nTry: launcher.scaling.max_rps=20"
    if not 0 < chosen.safety <= 1:
        yield (
            f"launcher.scaling.safety must be above 0 and at most 1, got {chosen.safety:g}.\n"
            "Try: launcher.scaling.safety=0.5"
        )
