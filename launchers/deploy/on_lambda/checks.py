"""Check the settings of a function with the model inside, as far as that is possible without a network."""

from collections.abc import Iterator

from launchers.aws import common_checks
from launchers.deploy import front_checks, settings_checks
from launchers.deploy.on_lambda import sizing, target
from launchers.deploy.request import deployment
from launchers.deploy.scaling import Fixed
from launchers.deploy.settings import DeploySettings
from launchers.spec import RunSpec

LEAST_BAKE_S = 120  # a period of the alarm, and a minute until its metric is published


def findings(settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
    """Yield every problem found. Each finding says what is wrong, what was seen and what to try."""
    yield from settings.cloud.findings()
    yield from settings_checks.name_findings(spec)
    yield from common_checks.bucket_findings(settings.bucket, settings.prefix)
    roles = {"launcher.lambda_role": settings.lambda_role}
    if settings.ttl_hours is not None:
        roles["launcher.expiry_role"] = settings.expiry_role
    yield from settings_checks.role_findings(roles)
    yield from settings_checks.ttl_findings(settings)
    yield from _memory_findings(settings, spec)
    yield from _machine_findings(settings)
    yield from _not_read(settings)
    yield from _canary_findings(settings)
    yield from front_checks.reserved_findings(settings, spec)
    yield from settings_checks.topic_findings(settings.alarm_topic, settings.cloud.region)
    yield from settings_checks.rps_findings(settings)


def _memory_findings(settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
    model, (least, most) = deployment(spec).model, sizing.MEMORY_MB
    needed = sizing.needed_mb(model)
    if needed > most:
        yield (
            f"The model of {model.size / 1e6:,.0f} MB needs about {needed:,} MB of memory, and a function has at most "
            f"{most:,}.\nTry: launcher.variant=realtime"
        )
    elif settings.memory_mb is not None and not needed <= settings.memory_mb <= most:
        allowed = f"a function has {least} to {most:,}, and the model needs about {needed:,}"
        yield (
            f"launcher.memory_mb={settings.memory_mb}: {allowed}.\n"
            f"Try: launcher.memory_mb={max(needed, sizing.memory_mb(model, None))}, or null, which chooses it"
        )


def _machine_findings(settings: DeploySettings) -> Iterator[str]:
    if settings.architecture not in target.ARCHITECTURES:
        yield (
            f"launcher.architecture={settings.architecture!r} is none of Lambda's.\n"
            f"Try: {', '.join(f'launcher.architecture={name}' for name in target.ARCHITECTURES)}"
        )
    elif not settings.cloud.bills and settings.architecture != (here := target.here().architecture):
        yield (
            f"launcher.architecture={settings.architecture}: a rehearsed function runs on this machine, which is "
            f"{here}.\nTry: launcher.architecture={here}"
        )
    if settings.cloud.region in front_checks.WITHOUT_URLS:
        yield (
            f"Lambda has no function URLs in {settings.cloud.region}, by which the model is reached.\n"
            "Try: another aws.region, or launcher.variant=realtime"
        )


def _not_read(settings: DeploySettings) -> Iterator[str]:
    """Yield settings that mean something for an endpoint alone."""
    if settings.front is not None or settings.provisioned:
        yield (
            "launcher.front and launcher.provisioned are of an endpoint's front: a function with the model inside has "
            "a URL of its own.\nTry: leaving them out, or launcher.variant=realtime"
        )
    if settings.subnets or settings.security_groups:
        yield (
            "launcher.subnets and launcher.security_groups are an endpoint's: the function has no network of yours.\n"
            "Try: leaving them out, or launcher.variant=realtime"
        )
    if settings.alarm_topic is not None and not settings.canary:
        yield (
            f"launcher.alarm_topic={settings.alarm_topic} would be told nothing: a function has no alarm but that of a "
            "canary.\nTry: launcher.canary=true, or launcher.alarm_topic=null"
        )
    if settings.scaling is not None and not isinstance(settings.scaling, Fixed):
        yield (
            "launcher/scaling is an endpoint's: a function is executed as often as it is asked.\n"
            "Try: launcher/scaling=none, or launcher.variant=realtime"
        )


def _canary_findings(settings: DeploySettings) -> Iterator[str]:
    if settings.canary and not LEAST_BAKE_S <= settings.bake_s <= 3600:
        yield (
            f"launcher.bake_s must be between {LEAST_BAKE_S} seconds, which the canary's alarm needs to go off, and "
            f"3600, got {settings.bake_s}.\nTry: launcher.bake_s=300"
        )
