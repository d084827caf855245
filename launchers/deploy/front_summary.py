"""Say what a plan's front does, what it costs, and how it changes."""

from collections.abc import Iterator

from dogbreed import commands
from launchers import formatting
from launchers.cost import comparison, prices, serving
from launchers.deploy import front, names
from launchers.deploy.request import deployment
from launchers.deploy.settings import DeploySettings
from launchers.spec import RunSpec

_PASSING_S = 0.03  # of a request besides the endpoint's own time: an estimate


def rows(settings: DeploySettings, spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Yield the row of a front, if there is to be one."""
    if settings.front is None:
        return
    rates = prices.lambda_prices()
    size, model = comparison.Sized(rates.front_mb, front.ARCHITECTURE), deployment(spec).model
    lines = [
        f"function {names.Names(spec.run_id).endpoint}: {front.words(settings.reserved, settings.provisioned)}",
        f"its URL takes requests that are signed: {commands.launchers('open', spec.run_id)}",
    ]
    service_s = serving.seconds_on_vcpu(model.backbone, model.classes, model.image_px)
    if service_s is not None:
        call_s = service_s + _PASSING_S
        million = rates.usd_per_million + 1e6 * call_s * size.gb * size.usd_per_gb_s
        lines.append(f"about {formatting.usd(million)} for a million requests of {1000 * call_s:.0f} ms")
    if settings.provisioned:
        warm = settings.provisioned * size.warm_usd_per_month
        lines.append(f"{formatting.usd(warm)} a month to keep {settings.provisioned} warm, used or not")
    yield "front", "\n".join(lines)


def change(settings: DeploySettings, spec: RunSpec) -> str:
    """Say how the front changes; empty if it does not."""
    before, wanted = deployment(spec).before, front.revision(settings, spec)
    if before is None or not any(front.requests(settings, spec, before, None)):
        return ""
    present = before.facts.get("front", "?") if before.front else "none"
    new = front.words(settings.reserved, settings.provisioned) if wanted else "none"
    return f"front: {present} -> {new}" + (" (its code)" if new == present else "")
