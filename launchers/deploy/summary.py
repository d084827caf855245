"""Summarize a deployment before it starts: what is served where, what changes, what it costs, when it ends."""

from collections.abc import Iterator
from datetime import datetime

from dogbreed import commands
from dogbreed.workload import work
from launchers import formatting
from launchers.cost import prices, serving
from launchers.deploy import names, request
from launchers.deploy.settings import DeploySettings
from launchers.spec import RunSpec
from launchers.status import Handle


def rows(settings: DeploySettings, spec: RunSpec, handle: Handle) -> Iterator[tuple[str, str]]:
    """Yield the rows of the plan, as (name, text)."""
    model, endpoint = request.deployment(spec).model, names.Names(spec.run_id).endpoint
    machines = request.wanted_facts(settings, spec)["machines"]
    yield "where", f"endpoint {endpoint}: {machines}\n{settings.cloud.describe()}"
    yield "cost", _cost(settings, spec)
    yield "change", _change(settings, spec)
    yield "ends", _end(settings, spec)
    accuracy = f", {model.metrics['test/acc']:.1%} of its test photos correct" if "test/acc" in model.metrics else ""
    yield (
        "model",
        f"{model.source}: {model.backbone}, {model.classes} classes, {formatting.size(model.size)}\n"
        f"version {model.version}{accuracy}",
    )
    yield "image", request.image_uri(settings, spec)
    yield "files", request.model_uri(settings, spec)
    yield "command", commands.launchers("invoke", spec.run_id, "PHOTO")
    yield "folder", spec.folder


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
    if (service_s := _seconds(spec)) is not None:
        function = serving.function_usd_per_month(settings.rps, service_s)
        lines.append(
            f"with the model inside a Lambda function instead: about {formatting.usd(function)}\n"
            f"a month at {settings.rps:g} requests a second (launcher.rps)"
        )
    before = request.deployment(spec).before
    if before is not None and before.revision != request.revision(settings, spec):
        lines.append(f"during the update twice as many instances: {2 * settings.instances} of the account's quota")
    lines.append(f"(list price of {prices.REGION}, {row.as_of})")
    return "\n".join(lines)


_VCPU_GFLOPS = 60.0  # ONNX Runtime on one vCPU: an estimate that gives ResNet50 0.14 s; others report 0.1 to 0.2 s


def _seconds(spec: RunSpec) -> float | None:
    """Return an estimate of the seconds that one vCPU takes for a photo; None for a backbone of unknown work."""
    model = request.deployment(spec).model
    found = work(model.backbone, "head", model.classes, image_px=model.image_px)
    return None if found is None else found.frozen_gflop / _VCPU_GFLOPS


def _change(settings: DeploySettings, spec: RunSpec) -> str:
    before = request.deployment(spec).before
    if before is None:
        return "a new deployment"
    if before.revision == request.revision(settings, spec):
        if not request.requests(settings, spec):
            return "none: this revision is in service"
        return f"its end alone, which is {_at(before.expires_at)} now; this revision is in service"
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


def _end(settings: DeploySettings, spec: RunSpec) -> str:
    stop = commands.launchers("cancel", spec.run_id)
    before, at = request.deployment(spec).before, request.end_of(settings, spec)
    if at is None:
        return f"never by itself: {stop}"
    if before is not None and not request.requests(settings, spec):
        at = datetime.fromisoformat(before.expires_at)
    return f"{_at(at.isoformat())}, by schedules in the account\nearlier: {stop}"


def _at(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC" if text else "never"
