"""Check the settings of a front, as far as that is possible without a network."""

from collections.abc import Iterator

from launchers.deploy.request import deployment
from launchers.deploy.settings import DeploySettings
from launchers.spec import RunSpec

# As listed by https://docs.aws.amazon.com/lambda/latest/dg/lambda-urls.html, read on 2026-11-29; not tried. Any other
# region is asked: one without URLs refuses CreateFunctionUrlConfig, and what was made is removed.
WITHOUT_URLS = {
    "ap-east-2", "ap-south-2", "ap-southeast-4", "ap-southeast-5", "ap-southeast-6", "ap-southeast-7", "ca-west-1",
    "eu-central-2", "eu-south-2", "il-central-1", "me-central-1",
}  # fmt: skip


def findings(settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
    """Yield every problem found. Each finding says what is wrong, what was seen and what to try."""
    if settings.front is None:
        for name, value in (("reserved", settings.reserved), ("provisioned", settings.provisioned or None)):
            if value is not None:
                yield (
                    f"launcher.{name}={value} is of a Lambda function, and an endpoint alone has none.\n"
                    "Try: launcher.front=lambda, which puts one in front of it"
                )
        return
    if settings.front != "lambda":
        yield f"launcher.front={settings.front!r} cannot be put in front of an endpoint.\nTry: launcher.front=lambda"
    if settings.cloud.region in WITHOUT_URLS:
        yield (
            f"Lambda has no function URLs in {settings.cloud.region}, by which a front is reached.\n"
            "Try: another aws.region, or launcher.front=null"
        )
    yield from reserved_findings(settings, spec)
    most = settings.reserved
    if settings.provisioned < 0:
        yield f"launcher.provisioned must not be negative, got {settings.provisioned}.\nTry: launcher.provisioned=0"
    elif most is not None and settings.provisioned > most >= 1:
        yield (
            f"launcher.provisioned={settings.provisioned} processes would be kept warm, and launcher.reserved={most} "
            f"lets at most {most} run at once.\nTry: launcher.provisioned={most}, or "
            f"launcher.reserved={settings.provisioned}"
        )


def reserved_findings(settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
    """Yield what is wrong with the concurrency that a function is to reserve."""
    wanted, free = settings.reserved, deployment(spec).reservable
    if wanted is None:
        return
    if wanted < 1:
        yield (
            f"launcher.reserved must be at least 1, got {wanted}: with none nobody is answered.\n"
            "Try: launcher.reserved=3"
        )
    elif free is not None and wanted > free:
        rest = "none may be reserved" if free == 0 else f"at most {free} more may be reserved"
        less = "" if free == 0 else f"launcher.reserved={free}, "
        yield (
            f"launcher.reserved={wanted} is above the account's quota of concurrent executions: {rest}, since 100 must "
            f"stay unreserved, and new accounts have 10 in all.\nTry: {less}launcher.reserved=null, which reserves "
            "none; or raise the quota: https://console.aws.amazon.com/servicequotas/home/services/lambda/quotas"
        )
