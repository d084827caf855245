"""Summarize a run before it starts: where it runs, which command, what is sent, what it costs."""

from collections.abc import Iterator, Mapping, Sequence

from dogbreed import commands
from launchers import formatting
from launchers.aws import sent
from launchers.cost import estimate, prices
from launchers.cost.prices import Instance
from launchers.ec2 import amis, fitting, fleet, permissions
from launchers.ec2.settings import Ec2Settings
from launchers.plan import Costs
from launchers.spec import RunOutput, RunSpec, SearchOutput
from launchers.status import Handle

_LITTLE = 0.1  # a saving of spot below which it is not worth the interruptions


def rows(
    settings: Ec2Settings, spec: RunSpec, handle: Handle, today: Mapping[tuple[str, str], float] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the rows of the plan, as (name, text). today: spot prices by type and zone, if asked for."""
    how = "on demand" if settings.on_demand else "spot"
    yield "where", f"{_place(settings)}: {' or '.join(settings.types)}, {how}"
    match spec.output:
        case SearchOutput(study, trials):
            yield "search", f"{trials} trials of the study {study}, in this one job"
        case RunOutput():
            trials = 0
    yield from _cost_rows(settings, spec, trials)
    if today is not None:
        yield "today", "\n".join(live_lines(settings, today))
    yield (
        "ends",
        (
            f"{settings.deadline_h:.4g} h after submission at the latest, by a scheduled action of its group;\n"
            f"before that when it is done, or after {fleet.max_attempts(spec)} interrupted machines"
        ),
    )
    yield "command", commands.shell(*sent.command(spec, resumes=spec.going_on is not None).argv)
    yield from _image_rows(settings, spec)
    yield from sent.rows(settings.layout, spec)
    if settings.secrets:
        names = "\n".join(f"{name} from\n{arn}" for name, arn in settings.secrets.items())
        yield "secrets", f"{names}\nfetched on the machine, for train.py alone"
    yield "files", settings.layout.run(spec.run_id).uri
    yield "folder", spec.folder
    resume = commands.in_project(commands.override("resume", str(handle)), *settings.cloud.overrides)
    yield "resume", "the same command again" if spec.output.same_command_resumes else resume
    yield from permissions.rows(settings, spec)


def _place(settings: Ec2Settings) -> str:
    return settings.cloud.describe() if not settings.cloud.bills else f"EC2 in {settings.cloud.region}"


def _cost_rows(settings: Ec2Settings, spec: RunSpec, trials: int) -> Iterator[tuple[str, str]]:
    """Yield how long the run takes, and what it costs: exact is the worst case, because the group has one machine."""
    known = [row for each in settings.types if (row := prices.ec2(each)) is not None]
    limit_s = 3600 * settings.deadline_h
    row = prices.ec2(settings.instance_type)
    seconds = None if row is None else _seconds(spec, row, trials)
    expected = "" if seconds is None else f"about {formatting.duration(seconds)} expected, "
    hours, limit = settings.deadline_h, fitting.limit_of(settings, spec)
    at_most = f"{hours:g} h" if float(60 * hours).is_integer() else formatting.duration(limit_s)
    held = f" ({limit})" if limit != "launcher.deadline_h" else ""
    yield "time", f"{expected}at most {at_most}{held}, waiting and interruptions included"
    if missing := sorted(set(settings.types) - {each.type for each in known}):
        yield "cost", f"unknown: launchers/cost/prices.yaml has no price for {', '.join(missing)}"
        return
    dearest = max(known, key=lambda each: each.usd)
    worst = dearest.usd * (limit_s + fitting.ENDING_S) / 3600 + fitting.beside_usd(settings, limit_s + fitting.ENDING_S)
    low, high = (1.0, 1.0) if settings.on_demand else prices.spot_range()
    if row is None or seconds is None:
        words = "the expected cost is unknown"
    else:
        ends = [
            share * row.usd * min(seconds, limit_s) / 3600 + fitting.beside_usd(settings, min(seconds, limit_s))
            for share in (low, high)
        ]
        first, last = map(formatting.usd, ends)
        words = f"about {first} expected" if first == last else f"{first} to {last} expected"
    free = "" if settings.cloud.bills else "nothing here; on AWS "
    lines = [f"{free}{words}, {formatting.usd(worst)} at worst"]
    for each in known:
        spot = (
            ""
            if settings.on_demand
            else f", {formatting.usd(low * each.usd)} to {formatting.usd(high * each.usd)} on spot"
        )
        lines.append(f"{each.type}: {formatting.usd(each.usd)} an hour on demand{spot}")
    lines += [
        f"(list prices of {prices.REGION}, {min(each.as_of for each in known)}; {estimate.KIND})",
        f"The worst case is {dearest.type} on demand until 10 min after the deadline,",
        f"with {settings.volume_gb} GB of disk{' and a public IPv4 address' if settings.public_ip else ''}.",
    ]
    yield "cost", "\n".join(lines)


def _seconds(spec: RunSpec, row: Instance, trials: int) -> float | None:
    from launchers.cost import times

    return times.search_s(spec.workload, row, trials) if trials else estimate.seconds_expected(spec.workload, row)


def costs(settings: Ec2Settings, spec: RunSpec) -> Costs | None:
    """Return what the run can cost, for whoever divides a limit among several."""
    row = prices.ec2(settings.instance_type)
    trials = spec.output.trials if isinstance(spec.output, SearchOutput) else 0
    return fitting.costs(settings, None if row is None else _seconds(spec, row, trials))


def _image_rows(settings: Ec2Settings, spec: RunSpec) -> Iterator[tuple[str, str]]:
    chosen = amis.chosen(settings.image, settings.instance_type, spec.created_at)
    if chosen is None:
        yield "image", settings.image
        return
    torch = f"installs PyTorch {chosen.torch} when it starts" if chosen.plain else f"with PyTorch {chosen.torch}"
    yield "image", f"{chosen.name}: {chosen.system}, {torch}"
    if text := amis.note(settings.image, settings.instance_type, spec.created_at):
        yield "", text


def live_lines(settings: Ec2Settings, found: Mapping[tuple[str, str], float]) -> Sequence[str]:
    """Describe today's spot prices. found: USD per hour, by type and zone."""
    lines = []
    for (kind, zone), usd in sorted(found.items(), key=lambda item: (item[1], item[0])):
        row = prices.ec2(kind)
        saving = None if row is None else 1 - usd / row.usd
        words = "" if saving is None else f", {saving:.0%} below on demand"
        if saving is not None and saving < _LITTLE:
            words += ": hardly worth the interruptions. Try: launcher.on_demand=true, or another type"
        lines.append(f"{kind} in {zone}: {formatting.usd(usd)} an hour{words}")
    return lines or [f"AWS lists no spot price for {', '.join(settings.types)}"]
