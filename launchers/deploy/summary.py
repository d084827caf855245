"""Summarize a deployment before it starts: what is served where, what changes, what it costs, when it ends."""

import textwrap
from collections.abc import Iterable, Iterator
from datetime import datetime

from dogbreed import commands
from launchers import formatting
from launchers.aws.scaling_words import explain
from launchers.cost import comparison, prices, serving
from launchers.deploy import front_summary, names, request, watching
from launchers.deploy.scaling import METRICS
from launchers.deploy.settings import DeploySettings
from launchers.payload.model import SentModel
from launchers.spec import RunSpec
from launchers.status import Handle

_WIDTH = 70  # of a row's text


def rows(settings: DeploySettings, spec: RunSpec, handle: Handle) -> Iterator[tuple[str, str]]:
    """Yield the rows of the plan, as (name, text)."""
    endpoint = names.Names(spec.run_id).endpoint
    machines, scaled = request.wanted_facts(settings, spec)["machines"], settings.scaled
    if scaled:
        machines = f"{scaled.least} to {scaled.most} x {machines.partition(' x ')[2]}"
    yield "where", f"endpoint {endpoint}: {machines}\n{settings.cloud.describe()}"
    yield "cost", _cost(settings, spec)
    yield from _cheaper(settings, spec)
    if scaled and scaled.policy:
        vcpus = serving.vcpus(settings.instance_type)
        said = explain(scaled.policy, METRICS[scaled.kind], scaled.least, scaled.most, vcpus)
        yield "scaling", wrapped(said)
    yield "alarms", wrapped(watching.sentences(settings, endpoint if settings.front else None))
    yield from front_summary.rows(settings, spec)
    yield "change", _change(settings, spec)
    yield "ends", end_text(settings, spec, changes=_ends(settings, spec))
    yield "model", model_text(request.deployment(spec).model)
    yield "image", request.image_uri(settings, spec)
    yield "files", request.model_uri(settings, spec)
    yield "command", commands.launchers("invoke", spec.run_id, "PHOTO")
    yield "folder", spec.folder


def wrapped(lines: Iterable[str]) -> str:
    """Return the text of a row, its lines broken between words to fit a terminal."""
    broken = (textwrap.wrap(line, _WIDTH, break_long_words=False, break_on_hyphens=False) for line in lines)
    return "\n".join(part for parts in broken for part in parts)


def model_text(model: SentModel) -> str:
    accuracy = f", {model.metrics['test/acc']:.1%} of its test photos correct" if "test/acc" in model.metrics else ""
    return (
        f"{model.source}: {model.backbone}, {model.classes} classes, {formatting.size(model.size)}\n"
        f"version {model.version}{accuracy}"
    )


def _cost(settings: DeploySettings, spec: RunSpec) -> str:
    scaled, count = settings.scaled, settings.count
    least, most = (scaled.least, scaled.most) if scaled else (count, count)
    month = serving.usd_per_month(settings.instance_type, least)
    free = "" if settings.cloud.bills else "nothing here; on AWS "
    if month is None:
        return f"{free}unknown: launchers/cost/prices.yaml has no price for {settings.instance_type}"
    row = prices.hosting(settings.instance_type)
    assert row is not None
    until = f"{_usd(row.usd * settings.ttl_hours, least, most)} until it ends, " if settings.ttl_hours else ""
    used = "by the load" if most > least else "used or not"
    lines = [f"{free}{until}{_usd(month / least, least, most)} a month, {used}"]
    before = request.deployment(spec).before
    if before is not None and before.revision != request.revision(settings, spec):
        if request.runs_twice(settings, before):
            lines.append(f"during the update twice as many instances: {2 * most} of the account's quota")
        else:
            lines.append("during the update those of before as well, which are of another type")
    lines.append(f"(list price of {prices.REGION}, {row.as_of})")
    return "\n".join(lines)


def _usd(of_one: float, least: int, most: int) -> str:
    return formatting.usd(of_one * least) + (f" to {formatting.usd(of_one * most)}" if most > least else "")


def _cheaper(settings: DeploySettings, spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Yield a row if the expected requests cost less in a function with the model inside."""
    model = request.deployment(spec).model
    service_s = serving.seconds_on_vcpu(model.backbone, model.classes, model.image_px)
    if service_s is None:
        return
    month = comparison.compare(
        settings.rps,
        service_s,
        comparison.Sized(prices.lambda_prices().vcpu_mb),
        settings.instance_type,
        settings.count,
    )
    if month.realtime is not None and month.function < month.realtime:
        yield (
            "cheaper",
            f"launcher.variant=lambda: about {formatting.usd(month.function)} a month "
            f"at {settings.rps:g} requests a second\n(launcher.rps), and nothing while nobody asks",
        )


def _without_update(settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
    """Yield what changes although the revision stays."""
    before = request.deployment(spec).before
    assert before is not None
    others = [
        *_scaling(settings, spec),
        *filter(None, [front_summary.change(settings, spec)]),
        *_alarms(settings, spec),
    ]
    if before.ttl_hours != settings.ttl_hours:
        alone = "" if others else " alone"
        yield f"its end{alone}, which is {at_text(before.expires_at)} now"
    yield from others


def _scaling(settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
    """Yield how the scaling changes, if it does."""
    before = request.deployment(spec).before
    present, wanted = before.scaling if before else "", str(settings.scaled or "")
    if present != wanted:
        fixed = f"none, {settings.count} instance{'s' if settings.count > 1 else ''}"
        yield f"scaling: {present or 'none'} -> {wanted or fixed}"


def _alarms(settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
    """Yield how the alarms change, if they do."""
    before = request.deployment(spec).before
    if before is not None:
        yield from watching.changes(names.Names(spec.run_id), before.alarms, request.wanted_alarms(settings, spec))


def _change(settings: DeploySettings, spec: RunSpec) -> str:
    before = request.deployment(spec).before
    if before is None:
        return "a new deployment"
    if before.revision == request.revision(settings, spec):
        if not request.requests(settings, spec):
            return "none: this revision is in service"
        changed = list(_without_update(settings, spec))
        return wrapped([*changed[:-1], f"{changed[-1]}; this revision is in service"])
    wanted = request.wanted_facts(settings, spec)
    differing = [
        f"{name}: {before.facts.get(name, '?')} -> {text}"
        for name, text in wanted.items()
        if before.facts.get(name) != text
    ]
    differing += [*_scaling(settings, spec), *_alarms(settings, spec)]
    how = (
        "one instance first, the others after"
        if settings.count > 1
        else "at once, since a single instance cannot be replaced in parts;"
    )
    return wrapped(
        [
            f"an update: {how} {settings.bake_s / 60:g} min without an alarm",
            *(differing or ["another image or setting of the instances"]),
            *filter(None, [front_summary.change(settings, spec)]),
        ]
    )


def _ends(settings: DeploySettings, spec: RunSpec) -> bool:
    """Return whether the plan sets the end anew."""
    before = request.deployment(spec).before
    same = before is not None and before.revision == request.revision(settings, spec)
    return before is None or not same or before.ttl_hours != settings.ttl_hours


def end_text(settings: DeploySettings, spec: RunSpec, *, changes: bool) -> str:
    """Say when a deployment ends. changes: whether the plan changes that."""
    stop = commands.launchers("cancel", spec.run_id)
    before, at = request.deployment(spec).before, request.end_of(settings, spec)
    if at is None:
        return f"never by itself: {stop}"
    if before is not None and not changes:
        at = datetime.fromisoformat(before.expires_at)
    return f"{at_text(at.isoformat())}, by schedules in the account\nearlier: {stop}"


def at_text(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC" if text else "never"
