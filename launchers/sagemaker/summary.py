"""Summarize a job before it starts: where it runs, which command, what is sent, what it costs."""

from collections.abc import Iterator

from dogbreed import commands
from launchers import formatting
from launchers.aws import sent
from launchers.cost import estimate, instances, prices
from launchers.cost.limits import Limits
from launchers.sagemaker import images, permissions
from launchers.sagemaker.fitting import Fitted
from launchers.sagemaker.settings import JobSettings
from launchers.spec import RunOutput, RunSpec, SearchOutput
from launchers.status import Handle

# https://docs.aws.amazon.com/sagemaker/latest/dg/train-encrypt.html
_VPC_OF_SEVERAL = (
    "the security group must let its own members reach each other:\n"
    "TCP on all ports, and for the encryption UDP 500 and protocol 50 (ESP)"
)


def rows(fitted: Fitted, spec: RunSpec, handle: Handle) -> Iterator[tuple[str, str]]:
    """Yield the rows of the plan, as (name, text)."""
    settings = fitted.settings
    yield from _machine_rows(fitted, spec)
    yield "command", commands.shell(*sent.command(spec, resumes=spec.going_on is not None).argv)
    yield from image_rows(settings, spec)
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


def _machine_rows(fitted: Fitted, spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Yield where the job runs, for how long, and what that costs."""
    settings = fitted.settings
    several = settings.instances > 1
    machines = f"{settings.instances} x {settings.instance_type}" if several else settings.instance_type
    how = "spot" if settings.spot else "on demand"
    yield "where", f"{settings.cloud.describe()}: {machines}, {how}"
    match spec.output:
        case SearchOutput(study, trials):
            yield "search", f"{trials} trials of the study {study}, in this one job"
    if fitted.choice is not None:
        yield "machine", str(fitted.choice)
    cost = fitted.estimate(spec)
    yield "time", _time(fitted, cost, isinstance(spec.output, SearchOutput))
    yield "cost", _cost(settings, cost)
    if (text := _limit(fitted, spec, cost)) is not None:
        yield "limit", text
    if settings.keep_alive_s and cost is not None:
        yield "kept", _kept(settings, cost)
    row = prices.instance(settings.instance_type)
    if text := instances.compare_speed(spec.workload, row, settings.instances):
        yield "speed-up", text


def _time(fitted: Fitted, cost: estimate.Cost | None, whole_search: bool) -> str:
    settings = fitted.settings
    expected = f"about {minutes(cost.seconds)} expected, " if whole_search and cost and cost.seconds else ""
    wait = f", {hours(settings.max_wait_s)} with waiting" if settings.spot and settings.max_wait_s else ""
    why = f" ({fitted.limit})" if fitted.limit else ""
    lines = [f"{expected}at most {hours(settings.max_run_s)}{wait}{why}"]
    if fitted.limit and cost is not None and cost.seconds is not None and cost.seconds > settings.max_run_s:
        lines.append(
            f"about {minutes(cost.seconds)} are expected, so the limit will probably end it before;\n"
            "its checkpoint is saved, and a larger limit resumes it"
        )
    return "\n".join(lines)


def _cost(settings: JobSettings, cost: estimate.Cost | None) -> str:
    if cost is None:
        return f"unknown: launchers/cost/prices.yaml has no price for {settings.instance_type}"
    low, high = prices.spot_range()
    spot = f", {low:.0%} to {high:.0%} of that on spot" if settings.spot else ""
    free = "" if settings.cloud.bills else "nothing here; on AWS "
    row = prices.instance(settings.instance_type)
    withdrawn = ";\nAWS no longer offers this type" if row and row.withdrawn else ""
    return (
        f"{free}{cost.expected_words}, {formatting.usd(cost.worst)} at worst\n"
        f"{formatting.usd(cost.usd_per_hour)} an hour on demand{spot}\n"
        f"(list price of {prices.REGION}, {cost.as_of}; {estimate.KIND}{withdrawn})"
    )


def _limit(fitted: Fitted, spec: RunSpec, cost: estimate.Cost | None) -> str | None:
    """Return how limits.max_usd is held; None without it."""
    limit = Limits.of(spec.config).max_usd
    if limit is None or cost is None:
        return None
    costs = fitted.overhead
    kept = f" + {costs.kept_s:g} s kept" if costs.kept_s else ""
    what = "run" if isinstance(spec.output, RunOutput) else "search"
    return (
        f"{formatting.usd(limit)} for all jobs of this {what}, held by SageMaker:\n"
        f"({fitted.settings.max_run_s} s + {costs.ending_s:g} s to save and end{kept}) x "
        f"{formatting.usd(cost.usd_per_hour)} an hour = {formatting.usd(cost.worst)};\n"
        "what earlier jobs have cost is taken off when it is submitted"
    )


def _kept(settings: JobSettings, cost: estimate.Cost) -> str:
    seconds = settings.keep_alive_s or 0
    usd = seconds / 3600 * cost.usd_per_hour
    return (
        f"{hours(seconds)} for the next job, which then starts in seconds: up to {formatting.usd(usd)},\n"
        "in the worst case above; then SageMaker ends it, or `cancel` does, earlier.\n"
        f"The quota `{settings.instance_type} for training warm pool usage` is 0 by default,\n"
        "and then nothing is kept"
    )


def image_rows(settings: JobSettings, spec: RunSpec) -> Iterator[tuple[str, str]]:
    yield "image", settings.image_uri(spec.created_at)
    if note := images.note(settings.image, settings.cloud.region, spec.created_at):
        yield "", note
    if settings.network_isolation:
        needs = ", ".join(["what pyproject.toml requires", *sent.extras(spec, settings.secrets)])
        yield "network", f"none: nothing is installed on start, so the image must contain {needs}"


def hours(seconds: int) -> str:
    if seconds % 60:  # of a limit, and not typed
        return formatting.duration(seconds)
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"


def minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
