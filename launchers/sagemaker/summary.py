"""Summarize a job before it starts: where it runs, which command, what is sent, what it costs."""

from collections.abc import Iterator

from dogbreed import commands
from launchers import formatting
from launchers.aws import sent
from launchers.cost import estimate, instances, prices
from launchers.sagemaker import images, permissions
from launchers.sagemaker.settings import JobSettings
from launchers.spec import RunOutput, RunSpec, SearchOutput
from launchers.status import Handle

# https://docs.aws.amazon.com/sagemaker/latest/dg/train-encrypt.html
_VPC_OF_SEVERAL = (
    "the security group must let its own members reach each other:\n"
    "TCP on all ports, and for the encryption UDP 500 and protocol 50 (ESP)"
)


def rows(settings: JobSettings, spec: RunSpec, handle: Handle) -> Iterator[tuple[str, str]]:
    """Yield the rows of the plan, as (name, text)."""
    yield from _machine_rows(settings, spec)
    yield "command", commands.shell(*sent.command(spec, resumes=spec.going_on is not None).argv)
    yield from _image_rows(settings, spec)
    if settings.subnets and settings.instances > 1:
        yield "network", _VPC_OF_SEVERAL
    yield from sent.rows(settings.layout, spec)
    if settings.secrets:
        names = "\n".join(f"{name} from\n{arn}" for name, arn in settings.secrets.items())
        yield "secrets", f"{names}\nfetched on the machine, for train.py alone"
    yield "files", settings.layout.run(spec.run_id).uri
    yield "folder", spec.folder
    resume = commands.in_project(commands.override("resume", str(handle)), *settings.cloud.overrides)
    yield "resume", "the same command again" if spec.output.same_command_resumes else resume
    yield from permissions.rows(settings, spec)


def _machine_rows(settings: JobSettings, spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Yield where the job runs, for how long, and what that costs."""
    several = settings.instances > 1
    machines = f"{settings.instances} x {settings.instance_type}" if several else settings.instance_type
    how = "spot" if settings.spot else "on demand"
    yield "where", f"{settings.cloud.describe()}: {machines}, {how}"
    match spec.output:
        case SearchOutput(study, trials):
            yield "search", f"{trials} trials of the study {study}, in this one job"
        case RunOutput():
            trials = 0
    workload = spec.workload
    cost = estimate.estimate(
        workload,
        settings.instance_type,
        instances=settings.instances,
        spot=settings.spot,
        max_run_s=settings.max_run_s,
        trials=trials,
    )
    expected = f"about {_minutes(cost.seconds)} expected, " if trials and cost and cost.seconds else ""
    wait = f", {_hours(settings.max_wait_s)} with waiting" if settings.spot and settings.max_wait_s else ""
    yield "time", f"{expected}at most {_hours(settings.max_run_s)}{wait}"
    yield "cost", _cost(settings, cost)
    if text := instances.compare_speed(workload, prices.instance(settings.instance_type), settings.instances):
        yield "speed-up", text


def _cost(settings: JobSettings, cost: estimate.Cost | None) -> str:
    if cost is None:
        return f"unknown: launchers/cost/prices.yaml has no price for {settings.instance_type}"
    expected = (
        "the expected cost is unknown" if cost.expected is None else f"about {formatting.usd(cost.expected)} expected"
    )
    low, high = prices.spot_range()
    spot = f", usually {low:.0%} to {high:.0%} of that on spot" if settings.spot else ""
    free = "" if settings.cloud.bills else "nothing here; on AWS "
    return (
        f"{free}{expected}, {formatting.usd(cost.worst)} at worst\n"
        f"{formatting.usd(cost.usd_per_hour)} an hour on demand{spot}\n"
        f"(list price of {prices.REGION}, {cost.as_of})"
    )


def _image_rows(settings: JobSettings, spec: RunSpec) -> Iterator[tuple[str, str]]:
    yield "image", settings.image_uri(spec.created_at)
    if note := images.note(settings.image, settings.cloud.region, spec.created_at):
        yield "", note
    if settings.network_isolation:
        needs = ", ".join(["what pyproject.toml requires", *sent.extras(spec, settings.secrets)])
        yield "network", f"none: nothing is installed on start, so the image must contain {needs}"


def _hours(seconds: int) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
