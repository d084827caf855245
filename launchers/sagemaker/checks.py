"""What is wrong with the settings of a job, as far as can be told without a network."""

import json
import re
from collections.abc import Iterator

from launchers.aws import iam
from launchers.base import RunSpec, SearchOutput
from launchers.cost import prices
from launchers.payload.code import secrets_in
from launchers.sagemaker import images
from launchers.sagemaker.instances import has_own_disks
from launchers.sagemaker.settings import JobSettings

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_TYPE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9-]+")
_MOST_RUN_S = 28 * 86400  # SageMaker's own limit


def findings(settings: JobSettings, spec: RunSpec) -> Iterator[str]:
    """Yield all that is wrong. Each finding says what it is, what was seen and what to try."""
    yield from settings.cloud.findings()
    yield from _place_findings(settings)
    yield from _machine_findings(settings, spec)
    yield from _time_findings(settings, spec)
    yield from images.findings(settings.image, settings.cloud.region, settings.instance_type, spec.created_at)
    yield from _data_findings(settings, spec)
    if bool(settings.subnets) != bool(settings.security_groups):
        yield "A VPC needs both.\nTry: launcher.subnets=[subnet-...] launcher.security_groups=[sg-...]"
    yield from _sent_findings(spec)


def _place_findings(settings: JobSettings) -> Iterator[str]:
    """Of the bucket and the role."""
    if settings.bucket is None:
        yield "It is not said into which bucket.\nTry: launcher.bucket=<yours>; or rehearse first: aws=rehearsal"
    elif not _BUCKET.fullmatch(settings.bucket):
        yield f"launcher.bucket={settings.bucket!r} cannot name a bucket.\nTry: its name alone, without s3://"
    if settings.role is None:
        yield "It is not said as which role the job runs.\nTry: aws.role=<name or ARN of an execution role>"
    elif not iam.is_role(settings.role):
        yield f"launcher.role={settings.role!r} is neither a role's name nor its ARN.\nTry: aws iam list-roles"
    if not re.fullmatch(r"[\w./-]{1,200}", settings.prefix) or settings.prefix.strip("/") != settings.prefix:
        yield f"launcher.prefix={settings.prefix!r} cannot begin a key.\nTry: such as dogbreed, or team/dogbreed"


def _machine_findings(settings: JobSettings, spec: RunSpec) -> Iterator[str]:
    if not (_TYPE.fullmatch(settings.instance_type) and prices.exists(settings.instance_type)):
        near = ", ".join(prices.closest(settings.instance_type)) or "ml.g4dn.xlarge"
        yield f"launcher.instance_type={settings.instance_type} is unknown.\nTry: {near}"
    if settings.instances < 1:
        yield f"launcher.instances={settings.instances} cannot be.\nTry: 1 or more"
    match spec.output:
        case SearchOutput() if settings.instances > 1:
            yield "A search in one job has one machine.\nTry: launcher.instances=1, or hpo.one_job=false"
    if settings.volume_gb != JobSettings.volume_gb and has_own_disks(settings.instance_type):
        yield (
            f"launcher.volume_gb={settings.volume_gb} has no effect: {settings.instance_type} has disks of its own, "
            "of a fixed size.\nTry: without it, or an instance type with larger disks"
        )
    if not 1 <= settings.volume_gb <= 16384:
        yield f"launcher.volume_gb={settings.volume_gb} cannot be.\nTry: 1 to 16384"


def _time_findings(settings: JobSettings, spec: RunSpec) -> Iterator[str]:
    """Of how long the job may take, and of what an interruption would cost."""
    run_s, wait_s = settings.max_run_s, settings.max_wait_s
    if not 1 <= run_s <= _MOST_RUN_S:
        yield f"launcher.max_run_s={run_s} cannot be.\nTry: 1 to {_MOST_RUN_S} seconds, such as 14400"
    if settings.spot:
        if wait_s is None or wait_s < run_s:
            yield (
                f"launcher.max_wait_s={wait_s} is less than max_run_s={run_s}, but includes it.\n"
                f"Try: launcher.max_wait_s={2 * run_s}"
            )
        save = spec.config.get("save") or {}
        if not save.get("every_n_steps") and not (0 < (save.get("every_s") or 0) <= run_s):
            yield "Spot machines are taken away, and this run would save nothing.\nTry: save.every_s=60"
    elif wait_s is not None:
        yield "launcher.max_wait_s is for spot alone.\nTry: without it, or launcher=sagemaker_spot"


def _data_findings(settings: JobSettings, spec: RunSpec) -> Iterator[str]:
    """Of the photos and weights, which must reach the machine."""
    data, model = spec.config["data"], spec.config["model"]
    if spec.photos is not None:
        yield from spec.photos.findings
    weights = str(model.get("weights") or "")
    if weights.startswith(("/", "./", "../", "~")):
        yield f"model.weights={weights} lies on this machine, and is not sent.\nTry: an address, or https://..."
    if settings.network_isolation and settings.image == images.AUTO:
        yield (
            "Without a network nothing can be installed, and AWS's image lacks "
            f"{', '.join(images.LACKING)}.\nTry: launcher.image=<the URI of one that holds them>"
        )
    source = str((data.get("source") or {}).get("_target_", ""))
    if settings.network_isolation and source.endswith("DogImages"):
        yield "Without a network the photos cannot be downloaded.\nTry: data=folder data.root=s3://BUCKET/photos"


def _sent_findings(spec: RunSpec) -> Iterator[str]:
    """Of what must not be sent, and what has to be."""
    if kinds := sorted({kind for _, kind in secrets_in(json.dumps([spec.config, spec.overrides]).encode())}):
        yield f"The settings hold what looks like {', '.join(kinds)}.\nTry: without it; settings are kept"
    if spec.code is None:
        yield "There is no code to send.\nTry: launchers.prepare(...), which looks at it"
    else:
        yield from spec.code.findings
