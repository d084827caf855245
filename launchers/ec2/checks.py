"""Check the settings of a run on EC2, as far as that is possible without a network."""

import re
from collections.abc import Iterator
from dataclasses import replace

from launchers.aws import common_checks, iam, secret_arns
from launchers.ec2 import amis, fitting, fleet, names
from launchers.ec2.settings import Ec2Settings
from launchers.ec2.user_data import too_large
from launchers.spec import RunSpec

_TYPE = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+")
_WITHOUT_TORCH = re.compile(r"(inf|trn|dl|vt|f|mac)\d")  # accelerators that torch does not train on by itself
_MOST_H = 720.0
_SPOT_LEAST_SAVE_S = 3600.0


def findings(settings: Ec2Settings, spec: RunSpec) -> Iterator[str]:
    """Yield every problem found. Each finding says what is wrong, what was seen and what to try."""
    yield from settings.cloud.findings()
    yield from common_checks.bucket_findings(settings.bucket, settings.prefix)
    if not iam.is_role(settings.machine_role):
        role = settings.machine_role
        yield f"launcher.machine_role={role!r} is neither a role name nor a role ARN.\nTry: leaving it out"
    yield from _name_findings(spec)
    yield from _machine_findings(settings, spec)
    yield from _time_findings(settings, spec)
    yield from fitting.findings(settings, spec)
    yield from _data_findings(settings, spec)
    yield from common_checks.sent_findings(spec, settings.allow_secrets)
    yield from _user_data_findings(settings, spec)


def _name_findings(spec: RunSpec) -> Iterator[str]:
    if (other := names.run_of(names.group_name(spec.run_id, 1))) != spec.run_id:
        hint = f"run_id={spec.run_id.replace('--', '-')}"
        if spec.output.same_command_resumes:
            hint = "hpo.study=<a name that does not end in ->"
        yield (
            f"{spec.run_id} cannot be the id of a run on EC2: a further submission of run {other} has that name.\n"
            f"Try: {hint}"
        )


def _machine_findings(settings: Ec2Settings, spec: RunSpec) -> Iterator[str]:
    if settings.instances != 1:
        yield (
            f"launcher=ec2_spot runs on one machine, got launcher.instances={settings.instances}.\n"
            "Try: launcher=sagemaker_multi, which trains one model on several"
        )
    wrong = [each for each in settings.types if not _TYPE.fullmatch(each) or each.startswith("ml.")]
    for each in wrong:
        key = "launcher.instance_type" if each == settings.instance_type else "launcher.other_types"
        own = each.removeprefix("ml.")
        near = own if _TYPE.fullmatch(own) else "m5.large"
        yield f"{key}: {each} is not a type of EC2.\nTry: {near}"
    if without := [each for each in settings.types if _WITHOUT_TORCH.match(each)]:
        yield f"PyTorch does not train on the accelerator of {without[0]}.\nTry: launcher.instance_type=g4dn.xlarge"
    if not wrong:
        yield from amis.findings(settings.image, settings.types, spec.created_at)
    if not 8 <= settings.volume_gb <= 16384:
        yield f"launcher.volume_gb must be between 8 and 16384, got {settings.volume_gb}.\nTry: launcher.volume_gb=100"
    if settings.security_groups and not settings.subnets:
        yield (
            "launcher.security_groups belong to a VPC, and launcher.subnets names none of it.\n"
            "Try: launcher.subnets=[subnet-...], or leaving both out"
        )


def _time_findings(settings: Ec2Settings, spec: RunSpec) -> Iterator[str]:
    hours = settings.deadline_h
    if isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours <= _MOST_H:
        past = " That deadline is in the past." if isinstance(hours, int | float) and hours <= 0 else ""
        yield (
            f"launcher.deadline_h must be a number of hours from now, above 0 and at most {_MOST_H:g}, got {hours!r}."
            f"{past}\nTry: launcher.deadline_h=8"
        )
    elif not settings.on_demand:
        save = spec.config.get("save") or {}
        if not save.get("every_n_steps") and not 0 < (save.get("every_s") or 0) <= min(
            _SPOT_LEAST_SAVE_S, 3600 * hours
        ):
            yield (
                "Spot machines can be taken away, and this run would save no checkpoint within an hour.\n"
                "Try: save.every_s=60"
            )


def _data_findings(settings: Ec2Settings, spec: RunSpec) -> Iterator[str]:
    """Check the photos, which must reach the machine, and keys that it needs."""
    if spec.photos is not None:
        yield from spec.photos.findings
    yield from common_checks.logger_findings(spec, settings.secrets)
    yield from secret_arns.findings(settings.secrets, settings.cloud.region)


def _user_data_findings(settings: Ec2Settings, spec: RunSpec) -> Iterator[str]:
    if settings.bucket is None or settings.cloud.region is None or spec.code is None:
        return  # found above
    planned = replace(fleet.in_plan(settings, spec), deadline=10**9)
    if finding := too_large(fleet.script(settings, spec, planned)):
        yield finding
