"""Build the requests that create or update a deployment. All of it follows from the settings and the RunSpec."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from launchers.aws import iam, tags
from launchers.aws.layout import Layout
from launchers.deploy import autoscaling, expiry, front, names, watching
from launchers.deploy.scaling import kind_of
from launchers.deploy.settings import AUTO, DeploySettings
from launchers.payload.model import MODEL_FILE
from launchers.plan import Request
from launchers.spec import Deployed, Deployment, RunSpec

ACCOUNT = "<account>"  # in the URI of our image: only the account knows its number
REPOSITORY = "dogbreed-serve"
_ACCOUNTS = re.compile(r"^\d{12}(?=\.dkr\.ecr\.)")
_ROLE_IN_PLAN = iam.arn_in_plan("").rstrip(">")
_MOST_RUN_S = 28_800  # of an update, SageMaker's own limit
RESIZES = "UpdateEndpointWeightsAndCapacities"  # gives an endpoint another number of instances


def deployment(spec: RunSpec) -> Deployment:
    assert spec.deployment is not None, "describe makes no other spec for this launcher"
    return spec.deployment


def revision(settings: DeploySettings, spec: RunSpec) -> str:
    """Return what identifies this revision: a digest of everything that runs, but of no name, tag or time."""
    about = [
        _model(settings, spec, name="", tagged=False),
        _config(settings, spec, name="", model="", tagged=False),
    ]
    return names.shortened(hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest())


def requests(settings: DeploySettings, spec: RunSpec) -> tuple[Request, ...]:
    """Return the calls that make the deployment what the spec asks for, in order; none if it is that already.

    What is no part of a revision changes alone: its end, its scaling, its alarms and the function in front of it.

    What deletes a part when its time is over is created before the part itself, and is taken away last.
    """
    before, wanted = deployment(spec).before, revision(settings, spec)
    in_service = before is not None and before.revision == wanted
    common, own = names.Names(spec.run_id), names.RevisionNames(spec.run_id, wanted)
    schedules, (first, last) = _schedules(settings, spec, own), _scaling(settings, spec)
    fronts, without = front.requests(settings, spec, before, ends_at(settings, spec))
    alarms, unwatched = _alarms(settings, spec, common), _alarms_over(settings, spec, common)
    ends = end_of(settings, spec) is not None
    if before is not None and in_service:
        other = [each for each in alarms if before.alarms.get(_name(each)) != watching.in_words(each.parameters)]
        resized = _capacity(settings, common) if before.scaling and settings.scaled is None else []
        changes = (*other, *fronts, *without, *first, *last, *unwatched, *resized)
        if before.ttl_hours == settings.ttl_hours:
            begins, over = _schedule_of_scaling(settings, before, common, last)
            return (*begins, *_schedules_at_its_end(settings, spec, before, common), *changes, *over)
        return (*(schedules if ends else ()), *changes, *(() if ends else schedules))
    idle = common.watching["idle"]
    last = [*(each for each in alarms if _name(each) == idle), *last]
    found = [
        Request("s3", "PutObject", _upload(settings, spec)),
        *(schedules if ends else ()),
        Request("sagemaker", "CreateModel", _model(settings, spec, name=own.config)),
        Request("sagemaker", "CreateEndpointConfig", _config(settings, spec, name=own.config, model=own.config)),
        *(each for each in alarms if _name(each) != idle),
        *fronts,
        *first,
    ]
    if before is None:
        create = {"EndpointName": common.endpoint, "EndpointConfigName": own.config, "Tags": _tags(settings, spec)}
        return (*found, Request("sagemaker", "CreateEndpoint", create), *last)
    # what has been scaled keeps its number, unless another one is the least from now on
    kept = settings.scaled is not None and before.facts.get("machines", "").startswith(f"{settings.count} x ")
    changed = update(settings, common, own.config, settings.count, keep=kept)
    after = (*without, *last, *unwatched, *(() if ends else schedules))
    return (*found, Request("sagemaker", "UpdateEndpoint", changed), *after)


def _scaling(settings: DeploySettings, spec: RunSpec) -> tuple[list[Request], list[Request]]:
    """Return what ends the present scaling, and what begins the one that is asked for once the endpoint is in service.

    It must end before the instance type changes, and is then begun anew.
    """
    before, scaled, common = deployment(spec).before, settings.scaled, names.Names(spec.run_id)
    present = before.scaling if before is not None else ""
    retyped = before is not None and not before.facts.get("machines", "").endswith(
        f" x {', else '.join(types_of(settings))}"
    )
    if str(scaled or "") == present and not (retyped and present):
        return [], []
    ends = bool(present) and (retyped or scaled is None or kind_of(present) != scaled.kind)
    first = autoscaling.deregister(kind_of(present), common) if ends else []
    if scaled is None:
        return first, []
    return first, autoscaling.register(scaled, common, [] if present and not ends else _tags(settings, spec))


def _capacity(settings: DeploySettings, common: names.Names) -> list[Request]:
    """Return what brings an endpoint that scales no more back to its number, from the one that the load has made."""
    wanted = {"VariantName": names.VARIANT, "DesiredInstanceCount": settings.count}
    given = {"EndpointName": common.endpoint, "DesiredWeightsAndCapacities": [wanted]}
    return [Request("sagemaker", RESIZES, given)]


def _schedule_of_scaling(
    settings: DeploySettings, before: Deployed, common: names.Names, begins: Sequence[Request]
) -> tuple[list[Request], list[Request]]:
    """Return what ends a scaling together with the deployment that it is added to, or takes that away."""
    name = common.schedules["scaling"]
    if not (before.expires_at and settings.expiry_role):
        return [], []
    if settings.scaled is None:
        return [], [Request("scheduler", "DeleteSchedule", {"Name": name})] if before.scaling else []
    at, role = datetime.fromisoformat(before.expires_at), iam.arn_in_plan(settings.expiry_role)
    return [Request("scheduler", "CreateSchedule", expiry.of_scaling(common, at, role))] if begins else [], []


def _schedules_at_its_end(
    settings: DeploySettings, spec: RunSpec, before: Deployed, common: names.Names
) -> list[Request]:
    """Return what ends a front that is added together with the deployment, and its alarms as they are from now on.

    The schedule of alarms names those that there are from then on, all of them and no others.
    """
    if not (before.expires_at and settings.expiry_role and settings.ttl_hours):
        return []
    ends, role = datetime.fromisoformat(before.expires_at), iam.arn_in_plan(settings.expiry_role)
    made = [] if before.front else front.schedules(settings, common, ends)
    found = [Request("scheduler", "CreateSchedule", each) for each in made]
    alarms, of_steps = _watched(settings, spec, common), _of_steps(kind_of(before.scaling), common)
    if {*before.alarms, *of_steps} != {*alarms}:
        changed = expiry.of_alarms(common, ends, role, alarms)
        found.append(Request("scheduler", "UpdateSchedule", changed))
    return found


def _watched(settings: DeploySettings, spec: RunSpec, common: names.Names) -> list[str]:
    """Return the names of all alarms, which end with the deployment."""
    return [*map(_name, _alarms(settings, spec, common)), *_of_steps(settings.scaling_chosen.kind, common)]


def _of_steps(kind: str, common: names.Names) -> Iterable[str]:
    """Return the names of the alarms that a kind of scaling has."""
    return common.steps.values() if kind == "report" else ()


def _name(alarm: Request) -> str:
    return str(alarm.parameters["AlarmName"])


def model_uri(settings: DeploySettings, spec: RunSpec) -> str:
    return _layout(settings).uri(_key(settings, spec))


def image_uri(settings: DeploySettings, spec: RunSpec) -> str:
    """Return the URI of the endpoint's image; with `auto`, of ours, whose tag is the digest of what goes into it."""
    if settings.image != AUTO:
        return settings.image
    region = settings.cloud.region or ""
    suffix = ".cn" if region.startswith("cn-") else ""
    return f"{ACCOUNT}.dkr.ecr.{region}.amazonaws.com{suffix}/{REPOSITORY}:{deployment(spec).image_digest[:16]}"


def facts(model: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Return what people compare between revisions. model, config: as requested, or as AWS describes them."""
    container, variant = model.get("PrimaryContainer") or {}, (config.get("ProductionVariants") or [{}])[0]
    pools = types_in(variant)
    network = (model.get("VpcConfig") or {}).get("Subnets", [])
    return {
        "model": str(container.get("ModelDataUrl", "")),
        "image": _ACCOUNTS.sub(ACCOUNT, str(container.get("Image", ""))),
        "machines": f"{variant.get('InitialInstanceCount', '?')} x {', else '.join(pools)}",
        "role": str(model.get("ExecutionRoleArn", "")).rpartition("/")[2].removeprefix(_ROLE_IN_PLAN).rstrip(">"),
        "network": ("isolated" if model.get("EnableNetworkIsolation") else "open")
        + (f", in {', '.join(sorted(network))}" if network else ""),
        "key": str(config.get("KmsKeyId") or "the default key"),
    }


def types_in(variant: Mapping[str, Any]) -> list[str]:
    """Return the instance types of an endpoint configuration's variant."""
    return [pool["InstanceType"] for pool in variant.get("InstancePools", [])] or [variant.get("InstanceType", "?")]


def wanted_facts(settings: DeploySettings, spec: RunSpec) -> dict[str, str]:
    """Return the facts of the revision that the spec asks for."""
    return facts(
        _model(settings, spec, name="", tagged=False), _config(settings, spec, name="", model="", tagged=False)
    )


def update(
    settings: DeploySettings, common: names.Names, config: str, instances: int, *, keep: bool = False
) -> dict[str, Any]:
    """Return the UpdateEndpoint request that brings another configuration into service.

    instances: of the configuration. keep: whether there are as many instances then as now, which are at least as many.

    A canary is at most half of the instances, so one instance is replaced at once. Either way both fleets run while
    the new one is watched, and an alarm brings back the old one:
    https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-blue-green.html
    """
    routing: dict[str, Any] = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": settings.bake_s}
    if instances > 1:
        routing |= {"Type": "CANARY", "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1}}
    longest = min(_MOST_RUN_S, max(600, watched_s(settings, instances) + settings.start_s + 900))
    return {
        "EndpointName": common.endpoint,
        "EndpointConfigName": config,
        "RetainAllVariantProperties": True,
        **({} if keep else {"ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DesiredInstanceCount"}]}),
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": routing,
                "TerminationWaitInSeconds": settings.bake_s,
                "MaximumExecutionTimeoutInSeconds": longest,
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in common.alarms.values()]},
        },
    }


def watched_s(settings: DeploySettings, instances: int) -> int:
    """Return how long an update to so many instances waits for alarms: after each step, and before the old ones end."""
    return (3 if instances > 1 else 2) * settings.bake_s


def runs_twice(settings: DeploySettings, before: Deployed | None) -> bool:
    """Return whether an update runs old and new instances of the same type, whose quota must then allow both."""
    return before is not None and settings.instance_type in before.facts.get("machines", "").partition(" x ")[2].split(
        ", else "
    )


# --- the parts ---


def _key(settings: DeploySettings, spec: RunSpec) -> str:
    return _layout(settings).model(spec.run_id, deployment(spec).model.digest[:16])


def _layout(settings: DeploySettings) -> Layout:
    assert settings.bucket is not None, "the checks refuse settings without a bucket"
    return Layout(settings.bucket, settings.prefix)


def _upload(settings: DeploySettings, spec: RunSpec) -> dict[str, Any]:
    size = deployment(spec).model.size
    return {
        "Bucket": settings.bucket,
        **settings.encryption,
        "Key": _key(settings, spec),
        "Body": f"<{MODEL_FILE}, {size:,} bytes>",
    }


def _model(settings: DeploySettings, spec: RunSpec, *, name: str, tagged: bool = True) -> dict[str, Any]:
    assert settings.role is not None, "the checks refuse settings without a role"
    network = {"Subnets": list(settings.subnets), "SecurityGroupIds": list(settings.security_groups)}
    return {
        "ModelName": name,
        "PrimaryContainer": {"Image": image_uri(settings, spec), "ModelDataUrl": model_uri(settings, spec)},
        "ExecutionRoleArn": iam.arn_in_plan(settings.role),
        # no network and no credentials in the container: a picture can make it reach nothing
        "EnableNetworkIsolation": True,
        **({"VpcConfig": network} if settings.subnets else {}),
        **({"Tags": _tags(settings, spec)} if tagged else {}),
    }


def _config(settings: DeploySettings, spec: RunSpec, *, name: str, model: str, tagged: bool = True) -> dict[str, Any]:
    return {
        "EndpointConfigName": name,
        "ProductionVariants": [
            {
                "VariantName": names.VARIANT,
                "ModelName": model,
                "InitialInstanceCount": settings.count,
                "InitialVariantWeight": 1.0,
                **_machines(settings),
                "ContainerStartupHealthCheckTimeoutInSeconds": settings.start_s,
                "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
            }
        ],
        "MetricsConfig": {"EnableEnhancedMetrics": True, "MetricPublishFrequencyInSeconds": 10},
        **({"KmsKeyId": settings.kms_key} if settings.kms_key else {}),
        **({"Tags": _tags(settings, spec)} if tagged else {}),
    }


def _machines(settings: DeploySettings) -> dict[str, Any]:
    """Return the instance type; with a fallback, both as pools, of which SageMaker takes the first that it has."""
    types = types_of(settings)
    if len(types) == 1:
        return {"InstanceType": types[0]}
    return {"InstancePools": [{"InstanceType": name, "Priority": place} for place, name in enumerate(types, 1)]}


def types_of(settings: DeploySettings) -> Sequence[str]:
    fallback = settings.fallback_type
    return [settings.instance_type, *([fallback] if fallback and fallback != settings.instance_type else [])]


def _alarms(settings: DeploySettings, spec: RunSpec, common: names.Names) -> list[Request]:
    made = watching.alarms(settings, common, _tags(settings, spec), common.endpoint if settings.front else None)
    return [Request("cloudwatch", "PutMetricAlarm", each) for each in made]


def _alarms_over(settings: DeploySettings, spec: RunSpec, common: names.Names) -> list[Request]:
    """Return what deletes the alarms that are not asked for any more."""
    before, wanted = deployment(spec).before, set(map(_name, _alarms(settings, spec, common)))
    over = sorted(before.alarms.keys() - wanted) if before is not None else []
    return [Request("cloudwatch", "DeleteAlarms", {"AlarmNames": over})] if over else []


def wanted_alarms(settings: DeploySettings, spec: RunSpec) -> dict[str, str]:
    """Return the alarms that the spec asks for, by name, each in the words of `watching.in_words`."""
    made = _alarms(settings, spec, names.Names(spec.run_id))
    return {_name(each): watching.in_words(each.parameters) for each in made}


def _schedules(settings: DeploySettings, spec: RunSpec, own: names.RevisionNames) -> list[Request]:
    """Return what deletes the deployment when its time is over; what takes that away, if it is to stay."""
    before, common = deployment(spec).before, names.Names(spec.run_id)
    at = end_of(settings, spec)
    if at is None:
        kept = [*common.schedules.values()] if before is not None and before.expires_at else []
        if kept and before is not None and before.front and settings.front:
            kept += common.function_schedules.values()
        return [Request("scheduler", "DeleteSchedule", {"Name": name}) for name in kept]
    assert settings.expiry_role is not None, "the checks refuse settings without a role"
    assert settings.ttl_hours is not None
    role = iam.arn_in_plan(settings.expiry_role)
    shared = "UpdateSchedule" if before is not None and before.expires_at else "CreateSchedule"
    of_front = "UpdateSchedule" if before is not None and before.expires_at and before.front else "CreateSchedule"
    scaled = settings.scaled is not None
    alarms = _watched(settings, spec, common)
    ends = [common.schedules["scaling"]] if before is not None and before.scaling and not scaled else []
    return [
        *(Request("scheduler", of_front, each) for each in front.schedules(settings, common, at)),
        *(Request("scheduler", "DeleteSchedule", {"Name": name}) for name in ends),
        *(
            Request("scheduler", shared, each)
            for each in expiry.of_deployment(common, at, settings.ttl_hours, role, alarms, scaled=scaled)
        ),
        *(Request("scheduler", "CreateSchedule", each) for each in expiry.of_revision(own, at, role)),
    ]


def _tags(settings: DeploySettings, spec: RunSpec) -> list[dict[str, str]]:
    return tags.to_aws(tags.of_deployment(spec, settings.owner, end_of(settings, spec)))


def keeps_end(settings: DeploySettings, spec: RunSpec) -> bool:
    """Return whether the deployment ends when it ends now: neither what is served changes, nor how long it is to be."""
    before = deployment(spec).before
    return before is not None and before.ttl_hours == settings.ttl_hours and before.revision == revision(settings, spec)


def ends_at(settings: DeploySettings, spec: RunSpec) -> datetime | None:
    """Return when the deployment is deleted once the plan is carried out; None if it stays."""
    before = deployment(spec).before
    if before is not None and keeps_end(settings, spec):
        return datetime.fromisoformat(before.expires_at) if before.expires_at else None
    return end_of(settings, spec)


def end_of(settings: DeploySettings, spec: RunSpec) -> datetime | None:
    """Return when the deployment is deleted if it is made, or given more time, now; None if it stays."""
    if settings.ttl_hours is None:
        return None
    return datetime.fromisoformat(spec.created_at) + timedelta(hours=settings.ttl_hours)
