"""Summarize a function with the model inside before it is deployed, and compare its price with an endpoint's."""

from collections.abc import Iterator

from dogbreed import commands
from launchers import formatting
from launchers.cost import comparison, prices, serving
from launchers.deploy import names
from launchers.deploy.on_lambda import request, sizing
from launchers.deploy.request import deployment
from launchers.deploy.settings import DeploySettings
from launchers.deploy.summary import at_text, end_text, model_text
from launchers.spec import RunSpec
from launchers.status import Handle

_TIMES = 10  # launcher.rps, to see what a success would cost


def rows(settings: DeploySettings, spec: RunSpec, handle: Handle) -> Iterator[tuple[str, str]]:
    """Yield the rows of the plan, as (name, text)."""
    facts = request.wanted_facts(settings, spec)
    cloud = f"Lambda in {settings.cloud.region}" if settings.cloud.bills else settings.cloud.describe()
    yield "where", f"function {names.Names(spec.run_id).endpoint}: {facts['memory']}, {facts['machine']}\n{cloud}"
    yield "cost", _cost(settings, spec)
    yield "compare", _comparison(settings, spec)
    yield "change", _change(settings, spec)
    yield "ends", end_text(settings, spec, changes=_ends_anew(settings, spec))
    yield "model", f"{model_text(deployment(spec).model)}\n{_place(spec)}"
    yield "start", _start(spec)
    yield "package", f"s3://{settings.bucket}/{request.package_key(settings, spec)}"
    yield "command", commands.launchers("invoke", spec.run_id, "PHOTO")
    yield "folder", spec.folder


def _size(settings: DeploySettings, spec: RunSpec) -> comparison.Sized:
    return comparison.Sized(sizing.memory_mb(deployment(spec).model, settings.memory_mb), settings.architecture)


def _service_s(spec: RunSpec) -> float | None:
    model = deployment(spec).model
    return serving.seconds_on_vcpu(model.backbone, model.classes, model.image_px)


def _cost(settings: DeploySettings, spec: RunSpec) -> str:
    size, service_s = _size(settings, spec), _service_s(spec)
    free = "" if settings.cloud.bills else "nothing here; on AWS "
    lines = [f"{free}nothing while nobody asks"]
    if service_s is not None:
        month = comparison.compare(settings.rps, service_s, size, settings.instance_type, settings.instances)
        lines[0] = f"{free}about {formatting.usd(month.function)} a month at {settings.rps:g} requests a second"
        lines.append(f"(launcher.rps), with {size.seconds(service_s) * 1000:.0f} ms each; nothing while nobody asks")
    slot = size.slot_usd_per_hour
    if settings.reserved is None:
        lines.append(f"at most {formatting.usd(slot)} an hour for each request at once (launcher.reserved)")
    else:
        lines.append(
            f"at most {formatting.usd(slot * settings.reserved)} an hour, of {settings.reserved} requests at once"
        )
    lines.append(
        f"not used: {formatting.usd(size.warm_usd_per_month)} a month would keep one process warm (provisioned\n"
        f"concurrency), {formatting.usd(size.snapshot_usd_per_month)} a snapshot to start from (SnapStart)"
    )
    lines.append(f"(list price of {prices.REGION}, {prices.lambda_prices().as_of})")
    return "\n".join(lines)


def _comparison(settings: DeploySettings, spec: RunSpec) -> str:
    """Return a table: a month of no requests, of those expected, and of ten times as many, in dollars by variant."""
    service_s, size = _service_s(spec), _size(settings, spec)
    if service_s is None:
        return f"unknown: how long a {deployment(spec).model.backbone} takes is not in dogbreed/workload.py"
    lines = [f"{'requests/s':>10}  {'realtime':>9}  {'lambda':>9}  free tier takes off"]
    for rps in sorted({0.0, settings.rps, _TIMES * settings.rps}):
        month = comparison.compare(rps, service_s, size, settings.instance_type, settings.instances)
        realtime = "?" if month.realtime is None else f"${month.realtime:,.2f}"
        lines.append(f"{rps:>10g}  {realtime:>9}  {f'${month.function:,.2f}':>9}  ${month.free:,.2f}")
    lines.append(f"in dollars a month; realtime: {settings.instances} x {settings.instance_type}")
    return "\n".join(lines)


def _ends_anew(settings: DeploySettings, spec: RunSpec) -> bool:
    """Return whether the plan changes when the deployment ends."""
    before = deployment(spec).before
    same = before is not None and before.revision == request.revision(settings, spec)
    return not same or before is None or before.ttl_hours != settings.ttl_hours


def _change(settings: DeploySettings, spec: RunSpec) -> str:
    before = deployment(spec).before
    if before is None:
        return "a new deployment"
    if before.revision == request.revision(settings, spec):
        if not request.requests(settings, spec):
            return "none: this revision is in service"
        wanted, at_once = request.wanted_facts(settings, spec)["at once"], before.facts.get("at once", "?")
        limits = [f"at once: {at_once} -> {wanted}"] if at_once != wanted else []
        if before.facts.get("canary") or before.alarms:
            limits.append("the canary ends that a command has left which did not come to its end")
        if before.ttl_hours == settings.ttl_hours:
            return "\n".join([*limits, "this revision is in service"])
        end = f"its end{'' if limits else ' alone'}, which is {at_text(before.expires_at)} now"
        return "\n".join([*limits, f"{end}; this revision is in service"])
    first = (
        f"{request.CANARY:.0%} of the requests for {settings.bake_s / 60:g} min, unless an alarm goes off"
        if settings.canary
        else "all requests at once, after a test"
    )
    differing = [
        f"{name}: {before.facts.get(name, '?')} -> {text}"
        for name, text in request.wanted_facts(settings, spec).items()
        if before.facts.get(name) != text
    ]
    return "\n".join([f"an update: {first}", *(differing or ["another version of the server or its packages"])])


def _place(spec: RunSpec) -> str:
    if sizing.is_inside(deployment(spec).model):
        return "inside the package"
    return "in S3, from where each process loads it, and compares its SHA-256"


def _start(spec: RunSpec) -> str:
    start_s = sizing.start_s(deployment(spec).model)
    text = f"about {start_s:.0f} s for the first request of a process, an estimate"
    if start_s <= sizing.INIT_S:
        return text
    return (
        f"{text}: more than the {sizing.INIT_S:.0f} s\nof Lambda's initialisation, so that Lambda starts it twice, in "
        f"about {sizing.INIT_S + start_s:.0f} s\nTry: a smaller network (--int8), or launcher.variant=realtime"
    )
