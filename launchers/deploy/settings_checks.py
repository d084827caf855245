"""Check the settings of a deployment, as far as that is possible without a network."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from math import isfinite
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from launchers.aws import common_checks, iam
from launchers.cost import prices
from launchers.deploy import names, scaling_checks
from launchers.deploy.settings import AUTO, DeploySettings
from launchers.spec import RunSpec

_TYPE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9-]+")
_IMAGE = re.compile(
    r"\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/[\w./-]+(:[\w.-]+|@sha256:[0-9a-f]{64})"
)
_TOPIC = re.compile(r"arn:aws[\w-]*:sns:(?P<region>[a-z0-9-]+):\d{12}:(?P<name>[\w-]+(\.fifo)?)")
_LEAST_BAKE_S = 180  # two periods of the alarms, and a minute until their metrics are published
_MOST_TTL_H = 24 * 365
_ROLES = "Try: `python -m launchers iam --apply`, which creates them"


def findings(settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
    """Yield every problem found. Each finding says what is wrong, what was seen and what to try."""
    yield from settings.cloud.findings()
    yield from name_findings(spec)
    yield from common_checks.bucket_findings(settings.bucket, settings.prefix)
    yield from common_checks.network_findings(settings.subnets, settings.security_groups)
    yield from role_findings(_roles(settings))
    yield from _machine_findings(settings)
    yield from _image_findings(settings)
    yield from ttl_findings(settings)
    yield from _time_findings(settings)
    yield from common_checks.waiting_findings(settings.wait_for_capacity_h)
    yield from _alarm_findings(settings)
    yield from scaling_checks.findings(settings)


_KINDS: Mapping[Any, tuple[tuple[type, ...], str]] = {  # annotation -> what a value may be, and how people call it
    str: ((str,), "text"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    Sequence[str]: ((list, tuple), "a list"),
    NoneType: ((NoneType,), "null"),
}


def type_findings(settings: DeploySettings) -> Iterator[str]:
    """Yield the settings whose values are of another type than their annotations say, which other checks rely on."""
    yield from scaling_checks.type_findings(settings)
    hints = get_type_hints(DeploySettings)
    for field in fields(DeploySettings):
        value, hint = getattr(settings, field.name), hints[field.name]
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        if field.name in ("cloud", "scaling") or any(_is_of(value, kind) for kind in kinds):
            continue
        shown = field.default if isinstance(field.default, str) else json.dumps(field.default)
        yield (
            f"launcher.{field.name} must be {' or '.join(_KINDS[kind][1] for kind in kinds)}, got {value!r}.\n"
            f"Try: launcher.{field.name}={shown}"
        )


def _is_of(value: object, kind: Any) -> bool:
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, _KINDS[kind][0]) and not (isinstance(value, float) and not isfinite(value))


def name_findings(spec: RunSpec) -> Iterator[str]:
    if not names.is_name(spec.run_id):
        yield (f"name={spec.run_id!r} cannot be the name of a deployment: {names.RULE}.\nTry: name=dogs")


def _roles(settings: DeploySettings) -> dict[str, str | None]:
    """Return the roles that are needed, by setting."""
    roles = {"launcher.role": settings.role}
    if settings.image == AUTO:
        roles["launcher.build_role"] = settings.build_role
    if settings.ttl_hours is not None:
        roles["launcher.expiry_role"] = settings.expiry_role
    if settings.front is not None:
        roles["launcher.front_role"] = settings.front_role
    return roles


def role_findings(roles: Mapping[str, str | None]) -> Iterator[str]:
    """Yield what is wrong with roles. roles: by setting."""
    for key, role in roles.items():
        if role is None:
            yield f"{key} is not set.\n{_ROLES}"
        elif not iam.is_role(role):
            yield f"{key}={role!r} is neither a role name nor a role ARN.\n{_ROLES}"


def _machine_findings(settings: DeploySettings) -> Iterator[str]:
    for key, name in (("instance_type", settings.instance_type), ("fallback_type", settings.fallback_type)):
        if name is not None and not (_TYPE.fullmatch(name) and prices.hosts(name)):
            near = ", ".join(prices.closest_hosting(name)) or DeploySettings.instance_type
            yield f"launcher.{key}={name} is not a type that SageMaker's endpoints run on.\nTry: {near}"
    first, fallback = settings.instance_type, settings.fallback_type
    if fallback is not None and first.rpartition(".")[2] != fallback.rpartition(".")[2]:
        yield (
            f"launcher.fallback_type={fallback} is of another size than {first}, so an instance's load would depend "
            f"on which one AWS has.\nTry: launcher.fallback_type={fallback.rpartition('.')[0]}."
            f"{first.rpartition('.')[2]}, or launcher.fallback_type=null"
        )


def _image_findings(settings: DeploySettings) -> Iterator[str]:
    if settings.image == AUTO:
        return
    found = _IMAGE.fullmatch(settings.image)
    if found is None:
        yield (
            f"launcher.image={settings.image!r} is not the URI of an image in Amazon ECR with its tag or digest; "
            "endpoints take no others.\nTry: launcher.image=auto"
        )
    elif settings.cloud.region is not None and found["region"] != settings.cloud.region:
        yield (
            f"launcher.image is in {found['region']}, and the endpoint in {settings.cloud.region}: SageMaker pulls "
            "images of its own region.\nTry: launcher.image=auto"
        )


def ttl_findings(settings: DeploySettings) -> Iterator[str]:
    if settings.ttl_hours is not None and not 0 < settings.ttl_hours <= _MOST_TTL_H:
        yield (
            f"launcher.ttl_hours must be above 0 and at most {_MOST_TTL_H}, got {settings.ttl_hours:g}.\n"
            "Try: launcher.ttl_hours=8; null keeps the deployment until you end it"
        )


def _time_findings(settings: DeploySettings) -> Iterator[str]:
    if not 60 <= settings.start_s <= 3600:
        yield f"launcher.start_s must be from 60 to 3600 seconds, got {settings.start_s}.\nTry: launcher.start_s=300"
    if not _LEAST_BAKE_S <= settings.bake_s <= 3600:
        yield (
            f"launcher.bake_s must be between {_LEAST_BAKE_S} seconds, which an alarm needs to go off, and 3600, got "
            f"{settings.bake_s}.\nTry: launcher.bake_s=300"
        )


def _alarm_findings(settings: DeploySettings) -> Iterator[str]:
    if not 0 < settings.max_error_rate < 1:
        yield (
            f"launcher.max_error_rate must be between 0 and 1, got {settings.max_error_rate:g}.\n"
            "Try: launcher.max_error_rate=0.05"
        )
    if not 0 < settings.max_latency_ms <= 60_000:
        yield (
            f"launcher.max_latency_ms must be above 0 and at most 60000, SageMaker's own limit, got "
            f"{settings.max_latency_ms:g}.\nTry: launcher.max_latency_ms=2000"
        )
    yield from topic_findings(settings.alarm_topic, settings.cloud.region)
    yield from rps_findings(settings)


def rps_findings(settings: DeploySettings) -> Iterator[str]:
    if settings.rps < 0:
        yield f"launcher.rps must not be negative, got {settings.rps:g}.\nTry: launcher.rps=0.1"


def topic_findings(topic: str | None, region: str | None) -> Iterator[str]:
    """Yield what is wrong with the topic that alarms are sent to, if there is one."""
    if topic is None:
        return
    found, example = _TOPIC.fullmatch(topic), f"arn:aws:sns:{region or 'REGION'}:123456789012:alarms"
    if found is None:
        yield f"launcher.alarm_topic={topic!r} is not the ARN of an SNS topic.\nTry: launcher.alarm_topic={example}"
    elif found["name"].endswith(".fifo"):
        yield f"launcher.alarm_topic={topic} is a FIFO topic, which alarms cannot use.\nTry: a standard topic"
    elif region is not None and found["region"] != region:
        yield (
            f"launcher.alarm_topic is in {found['region']}, and the alarms are in {region}: CloudWatch sends to topics "
            f"of its own region.\nTry: launcher.alarm_topic={example}"
        )
