"""Check the settings of a job, as far as that is possible without a network."""

import re
from collections.abc import Iterator

from launchers.aws import common_checks, iam, secret_arns
from launchers.cost import prices
from launchers.cost.choice import AUTO
from launchers.sagemaker import fitting, images
from launchers.sagemaker.instances import has_own_disks
from launchers.sagemaker.settings import JobSettings
from launchers.spec import RunSpec, SearchOutput

_TYPE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9-]+")
_MOST_RUN_S = 28 * 86400  # SageMaker's own limit
_MOST_KEPT_S = 3600  # https://docs.aws.amazon.com/sagemaker/latest/dg/train-warm-pools.html


def findings(settings: JobSettings, spec: RunSpec) -> Iterator[str]:
    """Yield every problem found. Each finding says what is wrong, what was seen and what to try."""
    yield from settings.cloud.findings()
    yield from _place_findings(settings)
    yield from _machine_findings(settings, spec)
    yield from _time_findings(settings, spec)
    yield from fitting.findings(settings, spec)
    yield from images.findings(settings.image, settings.cloud.region, settings.instance_type, spec.created_at)
    yield from _data_findings(settings, spec)
    yield from common_checks.network_findings(settings.subnets, settings.security_groups)
    yield from common_checks.sent_findings(spec, settings.allow_secrets)


def _place_findings(settings: JobSettings) -> Iterator[str]:
    """Check the bucket and the role."""
    yield from common_checks.bucket_findings(settings.bucket, settings.prefix)
    if settings.role is None:
        yield "No execution role is configured for the job.\nTry: aws.role=<name or ARN of an execution role>"
    elif not iam.is_role(settings.role):
        yield f"launcher.role={settings.role!r} is neither a role name nor a role ARN.\nTry: aws iam list-roles"


def _machine_findings(settings: JobSettings, spec: RunSpec) -> Iterator[str]:
    known = _TYPE.fullmatch(settings.instance_type) and prices.exists(settings.instance_type)
    if not known and settings.instance_type != AUTO:
        near = ", ".join(prices.closest(settings.instance_type)) or "ml.g4dn.xlarge"
        yield f"launcher.instance_type={settings.instance_type} is unknown.\nTry: {near}"
    if settings.instances < 1:
        yield f"launcher.instances must be at least 1, got {settings.instances}.\nTry: launcher.instances=1"
    match spec.output:
        case SearchOutput() if settings.instances > 1:
            yield (
                f"A search in one job runs on one machine, got launcher.instances={settings.instances}.\n"
                "Try: launcher.instances=1, or hpo.one_job=false"
            )
    if settings.volume_gb != JobSettings.volume_gb and has_own_disks(settings.instance_type):
        yield (
            f"launcher.volume_gb={settings.volume_gb} has no effect: {settings.instance_type} has its own disks "
            "of a fixed size.\nTry: leaving it out, or an instance type with larger disks"
        )
    if not 1 <= settings.volume_gb <= 16384:
        yield f"launcher.volume_gb must be between 1 and 16384, got {settings.volume_gb}.\nTry: launcher.volume_gb=50"


def _time_findings(settings: JobSettings, spec: RunSpec) -> Iterator[str]:
    """Check how long the job may take, and what an interruption would cost."""
    run_s, wait_s = settings.max_run_s, settings.max_wait_s
    if not 1 <= run_s <= _MOST_RUN_S:
        yield (
            f"launcher.max_run_s must be between 1 and {_MOST_RUN_S} seconds, got {run_s}.\n"
            "Try: launcher.max_run_s=14400"
        )
    yield from common_checks.waiting_findings(settings.wait_for_capacity_h)
    if settings.spot:
        if wait_s is None or wait_s < run_s:
            seen = "null" if wait_s is None else wait_s
            yield (
                f"launcher.max_wait_s={seen} must be at least launcher.max_run_s={run_s}, which it includes.\n"
                f"Try: launcher.max_wait_s={2 * run_s}"
            )
        save = spec.config.get("save") or {}
        if not save.get("every_n_steps") and not (0 < (save.get("every_s") or 0) <= run_s):
            yield "Spot instances can be interrupted, and this run would save no checkpoint.\nTry: save.every_s=60"
    elif wait_s is not None:
        yield "launcher.max_wait_s is only valid for spot jobs.\nTry: leaving it out, or launcher=sagemaker_spot"
    yield from _keep_alive_findings(settings)


def _keep_alive_findings(settings: JobSettings) -> Iterator[str]:
    kept = settings.keep_alive_s
    if kept is None:
        return
    if not (isinstance(kept, int) and 1 <= kept <= _MOST_KEPT_S):
        yield (
            f"launcher.keep_alive_s must be between 1 and {_MOST_KEPT_S} seconds, or null, got {kept}.\n"
            "Try: launcher.keep_alive_s=600"
        )
    if settings.spot:
        yield (
            "launcher.keep_alive_s keeps machines on demand, and SageMaker refuses it for spot jobs.\n"
            "Try: launcher=sagemaker_gpu, or launcher.keep_alive_s=null"
        )


def _data_findings(settings: JobSettings, spec: RunSpec) -> Iterator[str]:
    """Check the photos, which must reach the machine."""
    data = spec.config["data"]
    if spec.photos is not None:
        yield from spec.photos.findings
    if settings.network_isolation and settings.image == images.AUTO:
        yield (
            "Packages cannot be installed without a network, and AWS's image lacks "
            f"{', '.join(images.LACKING)}.\nTry: launcher.image=<the URI of one that has them>"
        )
    if settings.image == images.AUTO:  # one of one's own may hold the key
        yield from common_checks.logger_findings(spec, settings.secrets)
    yield from secret_arns.findings(settings.secrets, settings.cloud.region)
    if settings.secrets and settings.network_isolation:
        yield "Without a network launcher.secrets cannot be fetched.\nTry: launcher.network_isolation=false"
    source = str((data.get("source") or {}).get("_target_", ""))
    if settings.network_isolation and source.endswith("DogImages"):
        yield "Without a network the photos cannot be downloaded.\nTry: data=folder data.root=s3://BUCKET/photos"
