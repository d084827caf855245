"""Build the requests that create or update a function with the model inside. Pure: settings and RunSpec say it all."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from dogbreed.serving import event
from launchers.aws import iam, tags
from launchers.aws.layout import Layout
from launchers.deploy import expiry, function, names
from launchers.deploy.function import ALIAS, VERSION
from launchers.deploy.on_lambda import sizing, target
from launchers.deploy.on_lambda.target import Target
from launchers.deploy.request import deployment, end_of
from launchers.deploy.settings import DeploySettings
from launchers.payload.model import MODEL_FILE
from launchers.payload.package import HANDLER
from launchers.plan import Request
from launchers.spec import Deployed, RunSpec

CANARY = 0.1  # of the requests
_VARIABLES = {"MALLOC_ARENA_MAX": "2", "ORT_DISABLE_TELEMETRY": "1"}  # as in the endpoint's image, which says why
_DESCRIBED = re.compile(r"revision ([0-9a-f]+), model (\S*)")
_ROLE_IN_PLAN = iam.arn_in_plan("").rstrip(">")


def target_of(settings: DeploySettings) -> Target:
    return target.of(settings.cloud, settings.architecture)


def package_digest(settings: DeploySettings, spec: RunSpec) -> str:
    """Return what identifies the package: a digest of all that goes into it."""
    model, where = deployment(spec).model, target_of(settings)
    inside = model.digest if sizing.is_inside(model) else ""
    parts = (deployment(spec).package_digest, where.python, where.architecture, inside)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def package_key(settings: DeploySettings, spec: RunSpec) -> str:
    return f"{_layout(settings).models(spec.run_id)}{package_digest(settings, spec)}/function.zip"


def model_key(settings: DeploySettings, spec: RunSpec) -> str:
    return _layout(settings).model(spec.run_id, deployment(spec).model.digest[:16])


def revision(settings: DeploySettings, spec: RunSpec) -> str:
    """Return what identifies this revision: a digest of everything that runs, but of no name, tag or time.

    How many requests it takes at once is no part of it: Lambda publishes no version for that alone.
    """
    about = [_code(settings, spec), _configuration(settings, spec)]
    return names.shortened(hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest())


def described(description: str) -> tuple[str, str]:
    """Return the revision and the model's version of a published version's description; empty if it is none of ours."""
    found = _DESCRIBED.fullmatch(description)
    return (found[1], found[2]) if found else ("", "")


def facts(configuration: Mapping[str, Any], reserved: int | None) -> dict[str, str]:
    """Return what people compare between revisions. configuration: as requested, or as Lambda describes a version."""
    _, model = described(str(configuration.get("Description", "")))
    variables = (configuration.get("Environment") or {}).get("Variables", {})
    (architecture,) = configuration.get("Architectures") or ("x86_64",)
    return {
        "model": f"{model}, in {'S3' if event.MODEL_URI in variables else 'the package'}",
        "memory": f"{configuration.get('MemorySize', '?')} MB",
        "machine": f"{configuration.get('Runtime', '?')} on {architecture}",
        "role": str(configuration.get("Role", "")).rpartition("/")[2].removeprefix(_ROLE_IN_PLAN).rstrip(">"),
        "at once": "as many requests as the account allows" if reserved is None else f"at most {reserved} requests",
    }


def wanted_facts(settings: DeploySettings, spec: RunSpec) -> dict[str, str]:
    """Return the facts of the revision that the spec asks for."""
    configuration = {**_configuration(settings, spec), "Description": _description(settings, spec)}
    return facts({**configuration, "Architectures": [settings.architecture]}, settings.reserved)


def requests(settings: DeploySettings, spec: RunSpec) -> tuple[Request, ...]:
    """Return the calls that make the deployment what the spec asks for, in order; none if it is that already.

    What deletes a part when its time is over is created before the part itself, and is taken away last. Requests get
    to a version through the alias alone, which changes after the version has been tested; how many of them are taken
    at once changes after that, since it counts for all versions.
    """
    before, wanted = deployment(spec).before, revision(settings, spec)
    in_service = before is not None and before.revision == wanted
    others = [*_relimit(settings, spec), *_without_canary(before, names.Names(spec.run_id))]
    if before is not None and in_service and before.ttl_hours == settings.ttl_hours:
        return tuple(others)
    schedules, ends = _schedules(settings, spec), settings.ttl_hours is not None
    if in_service:
        return (*(schedules if ends else ()), *others, *(() if ends else schedules))
    make = _create(settings, spec) if before is None else _update(settings, spec)
    return (*_uploads(settings, spec), *(schedules if ends else ()), *make, *(() if ends else schedules))


def _relimit(settings: DeploySettings, spec: RunSpec) -> list[Request]:
    """Return what lets it take another number of requests at once than now, if it is to do that."""
    before = deployment(spec).before
    if before is None or before.facts.get("at once") == facts({}, settings.reserved)["at once"]:
        return []
    return function.reserve(_function(settings, spec), limited=_limited(before))


def _limited(before: Deployed | None) -> bool:
    """Return whether the number of requests at once is limited now."""
    return before is not None and before.facts.get("at once") != facts({}, None)["at once"]


def _without_canary(before: Deployed | None, common: names.Names) -> list[Request]:
    """Return what ends a canary that a killed command has left, as one that has failed ends."""
    found: list[Request] = []
    if before is not None and (version := before.facts.get("canary")):
        function_name = {"FunctionName": common.endpoint}
        found.append(Request("lambda", "UpdateAlias", function.moved(common.endpoint, before.facts["version"])))
        found.append(Request("lambda", "DeleteFunction", {**function_name, "Qualifier": version}))
    if before is not None and before.alarms:
        found.append(Request("cloudwatch", "DeleteAlarms", {"AlarmNames": sorted(before.alarms)}))
    return found


def _uploads(settings: DeploySettings, spec: RunSpec) -> list[Request]:
    model, common = deployment(spec).model, {"Bucket": settings.bucket, **settings.encryption}
    package = {**common, "Key": package_key(settings, spec), "Body": "<function.zip>"}
    found = [Request("s3", "PutObject", package)]
    if not sizing.is_inside(model):
        body = f"<{MODEL_FILE}, {model.size:,} bytes>"
        found.append(Request("s3", "PutObject", {**common, "Key": model_key(settings, spec), "Body": body}))
    return found


def _create(settings: DeploySettings, spec: RunSpec) -> list[Request]:
    return function.create(_function(settings, spec))


def _update(settings: DeploySettings, spec: RunSpec) -> list[Request]:
    made, before = _function(settings, spec), deployment(spec).before
    assert before is not None
    found = [*_without_canary(before, names.Names(spec.run_id)), *function.change(made)]
    move = [Request("lambda", "UpdateAlias", function.moved(made.name)), *_relimit(settings, spec)]
    if not settings.canary:
        return [*found, *move]
    alarm = _alarm(settings, spec)
    canary = function.moved(made.name, before.facts.get("version", ""), {VERSION: CANARY})
    return [
        *found,
        Request("cloudwatch", "PutMetricAlarm", alarm),
        Request("lambda", "UpdateAlias", canary),
        *move,
        Request("cloudwatch", "DeleteAlarms", {"AlarmNames": [alarm["AlarmName"]]}),
    ]


def _function(settings: DeploySettings, spec: RunSpec) -> function.Function:
    common = names.Names(spec.run_id)
    return function.Function(
        common.endpoint,
        common.function_log_group,
        _configuration(settings, spec),
        _code(settings, spec),
        _description(settings, spec),
        tags.of_deployment(spec, settings.owner, end_of(settings, spec)),
        settings.architecture,
        settings.reserved,
    )


# --- the parts ---


def _layout(settings: DeploySettings) -> Layout:
    assert settings.bucket is not None, "the checks refuse settings without a bucket"
    return Layout(settings.bucket, settings.prefix)


def _code(settings: DeploySettings, spec: RunSpec) -> dict[str, Any]:
    return {"S3Bucket": settings.bucket, "S3Key": package_key(settings, spec)}


def _configuration(settings: DeploySettings, spec: RunSpec) -> dict[str, Any]:
    assert settings.lambda_role is not None, "the checks refuse settings without a role"
    model, variables = deployment(spec).model, dict(_VARIABLES)
    if not sizing.is_inside(model):
        uri = _layout(settings).uri(model_key(settings, spec))
        variables |= {event.MODEL_URI: uri, event.MODEL_SHA256: model.digest}
    return {
        "Runtime": target_of(settings).runtime,
        "Role": iam.arn_in_plan(settings.lambda_role),
        "Handler": HANDLER,
        "Timeout": sizing.TIMEOUT_S,
        "MemorySize": sizing.memory_mb(model, settings.memory_mb),
        "EphemeralStorage": {"Size": sizing.disk_mb(model)},
        "Environment": {"Variables": variables},
        **({"KMSKeyArn": settings.kms_key} if (settings.kms_key or "").startswith("arn:") else {}),
    }


def _description(settings: DeploySettings, spec: RunSpec) -> str:
    return f"revision {revision(settings, spec)}, model {deployment(spec).model.version}"


def _alarm(settings: DeploySettings, spec: RunSpec) -> dict[str, Any]:
    """Return the alarm on the new version: calls that failed or were too slow, as far as Lambda counts them.

    https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
    """
    common = names.Names(spec.run_id)
    dimensions = {
        "FunctionName": common.endpoint,
        "Resource": f"{common.endpoint}:{ALIAS}",
        "ExecutedVersion": VERSION,
    }
    return {
        "AlarmName": common.alarms["errors"],
        "Namespace": "AWS/Lambda",
        "MetricName": "Errors",
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 0.0,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        **({"AlarmActions": [settings.alarm_topic]} if settings.alarm_topic else {}),
        "Tags": tags.to_aws(tags.of_deployment(spec, settings.owner, end_of(settings, spec))),
    }


def _schedules(settings: DeploySettings, spec: RunSpec) -> list[Request]:
    """Return what deletes the deployment when its time is over; what takes that away, if it is to stay."""
    before, common, at = deployment(spec).before, names.Names(spec.run_id), end_of(settings, spec)
    if at is None:
        kept = common.function_schedules.values() if before is not None and before.expires_at else ()
        return [Request("scheduler", "DeleteSchedule", {"Name": name}) for name in kept]
    assert settings.expiry_role is not None, "the checks refuse settings without a role"
    assert settings.ttl_hours is not None
    made = expiry.of_function(common, at, settings.ttl_hours, iam.arn_in_plan(settings.expiry_role))
    operation = "UpdateSchedule" if before is not None and before.expires_at else "CreateSchedule"
    return [Request("scheduler", operation, each) for each in made]
