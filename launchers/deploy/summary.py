"""Summarize a deployment before it starts: what is served where, what changes, what it costs, when it ends."""

from collections.abc import Iterator
from datetime import datetime

from dogbreed import commands
from launchers import formatting
from launchers.cost import comparison, prices, serving
from launchers.deploy import names, request
from launchers.deploy.settings import DeploySettings
from launchers.payload.model import SentModel
from launchers.spec import RunSpec
from launchers.status import Handle


def rows(settings: DeploySettings, spec: RunSpec, handle: Handle) -> Iterator[tuple[str, str]]:
    """Yield the rows of the plan, as (name, text)."""
    endpoint = names.Names(spec.run_id).endpoint
    machines = request.wanted_facts(settings, spec)["machines"]
    yield "where", f"endpoint {endpoint}: {machines}\n{settings.cloud.describe()}"
    yield "cost", _cost(settings, spec)
    yield from _cheaper(settings, spec)
    yield "change", _change(settings, spec)
    yield "ends", end_text(settings, spec, changes=bool(request.requests(settings, spec)))
    yield "model", model_text(request.deployment(spec).model)
    yield "image", request.image_uri(settings, spec)
    yield "files", request.model_uri(settings, spec)
    yield "command", commands.launchers("invoke", spec.run_id, "PHOTO")
    yield "folder", spec.folder


def model_text(model: SentModel) -> str:
    accuracy = f", {model.metrics['test/acc']:.1%} of its test photos correct" if "test/acc" in model.metrics else ""
    return (
        f"{model.source}: {model.backbone}, {model.classes} classes, {formatting.size(model.size)}\n"
        f"version {model.version}{accuracy}"
    )


def _cost(settings: DeploySettings, spec: RunSpec) -> str:
    month = serving.usd_per_month(settings.instance_type, settings.instances)
    free = "" if settings.cloud.bills else "nothing here; on AWS "
    if month is None:
        return f"{free}unknown: launchers/cost/prices.yaml has no price for {settings.instance_type}"
    row = prices.hosting(settings.instance_type)
    assert row is not None
    hourly = row.usd * settings.instances
    until = f"{formatting.usd(hourly * settings.ttl_hours)} until it ends, " if settings.ttl_hours else ""
    lines = [f"{free}{until}{formatting.usd(month)} a month, used or not"]
    before = request.deployment(spec).before
    if before is not None and before.revision != request.revision(settings, spec):
        lines.append(f"during the update twice as many instances: {2 * settings.instances} of the account's quota")
    lines.append(f"(list price of {prices.REGION}, {row.as_of})")
    return "\n".join(lines)


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
        settings.instances,
    )
    if month.realtime is not None and month.function < month.realtime:
        yield (
            "cheaper",
            f"launcher.variant=lambda: about {formatting.usd(month.function)} a month "
            f"at {settings.rps:g} requests a second\n(launcher.rps), and nothing while nobody asks",
        )


def _change(settings: DeploySettings, spec: RunSpec) -> str:
    before = request.deployment(spec).before
    if before is None:
        return "a new deployment"
    if before.revision == request.revision(settings, spec):
        if not request.requests(settings, spec):
            return "none: this revision is in service"
        return f"its end alone, which is {at_text(before.expires_at)} now; this revision is in service"
    wanted = request.wanted_facts(settings, spec)
    differing = [
        f"{name}: {before.facts.get(name, '?')} -> {text}"
        for name, text in wanted.items()
        if before.facts.get(name) != text
    ]
    how = (
        "one instance first, the others after"
        if settings.instances > 1
        else "at once, since a single instance cannot be replaced in parts;"
    )
    return "\n".join(
        [
            f"an update: {how} {settings.bake_s / 60:g} min without an alarm",
            *(differing or ["another image or setting of the instances"]),
        ]
    )


def end_text(settings: DeploySettings, spec: RunSpec, *, changes: bool) -> str:
    """Say when a deployment ends. changes: whether the plan changes anything."""
    stop = commands.launchers("cancel", spec.run_id)
    before, at = request.deployment(spec).before, request.end_of(settings, spec)
    if at is None:
        return f"never by itself: {stop}"
    if before is not None and not changes:
        at = datetime.fromisoformat(before.expires_at)
    return f"{at_text(at.isoformat())}, by schedules in the account\nearlier: {stop}"


def at_text(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC" if text else "never"
