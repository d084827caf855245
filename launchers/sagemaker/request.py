"""Build the requests that submit a training job: its objects in the bucket, and CreateTrainingJob.

All of it follows from the launcher's settings and the RunSpec.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dogbreed.progress import METRIC_PATTERNS
from launchers.aws import iam, sent, tags
from launchers.aws.layout import RunLocation
from launchers.aws.sent import ML
from launchers.payload.code import ENTRY_FILE
from launchers.payload.photos import FEATURES
from launchers.plan import Request
from launchers.remote.secret_values import PREFIX
from launchers.sagemaker.instances import has_own_disks
from launchers.sagemaker.job import STUDY
from launchers.sagemaker.settings import JobSettings
from launchers.spec import RunSpec, SearchOutput

RETRIES = 2  # after an InternalServerError of SageMaker's, from the checkpoint


def requests(settings: JobSettings, spec: RunSpec, limit: str = "") -> tuple[Request, ...]:
    """Return the calls that submit a run, in order: its objects, then the job. limit: that shortened it, as typed."""
    return (
        *sent.requests(settings.layout, spec, settings.encryption),
        Request("sagemaker", "CreateTrainingJob", training_job(settings, spec, limit)),
    )


# --- CreateTrainingJob ---


def training_job(settings: JobSettings, spec: RunSpec, limit: str = "") -> dict[str, Any]:
    """Return the request. Where the role was given by name, only the account knows its ARN.

    limit: that shortened the job, as typed; it is a tag, so that the job's end can be explained.
    """
    assert settings.role is not None
    several = settings.instances > 1
    vpc = network(settings)
    location = settings.layout.run(spec.run_id)
    request = {
        "TrainingJobName": spec.run_id,
        "RoleArn": iam.arn_in_plan(settings.role),
        "AlgorithmSpecification": {
            "TrainingImage": settings.image_uri(spec.created_at),
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python", f"{ML}/input/data/code/{ENTRY_FILE}"],
            "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in METRIC_PATTERNS.items()],
        },
        "InputDataConfig": channels(settings, spec),
        "OutputDataConfig": output(settings, location),
        "CheckpointConfig": {"S3Uri": location.checkpoints_uri, "LocalPath": f"{ML}/checkpoints"},
        "ResourceConfig": resources(settings),
        "StoppingCondition": limits(settings),
        "RetryStrategy": {"MaximumRetryAttempts": RETRIES},
        "EnableManagedSpotTraining": settings.spot,
        "EnableNetworkIsolation": settings.network_isolation,
        "EnableInterContainerTrafficEncryption": several,
        "Environment": environment(settings, spec),
    }
    plan = digest({**request, **vpc}, spec)
    limited = {tags.LIMIT: limit} if limit else {}
    return {**request, "Tags": tags.to_aws({**tags.of_run(spec, settings.owner), tags.PLAN: plan, **limited}), **vpc}


def network(settings: JobSettings) -> dict[str, Any]:
    where = {"Subnets": list(settings.subnets), "SecurityGroupIds": list(settings.security_groups)}
    return {"VpcConfig": where} if settings.subnets else {}


def output(settings: JobSettings, location: RunLocation) -> dict[str, Any]:
    key = {"KmsKeyId": settings.kms_key} if settings.kms_key else {}
    return {"S3OutputPath": location.output_uri, **key}


def limits(settings: JobSettings) -> dict[str, Any]:
    wait = {"MaxWaitTimeInSeconds": settings.max_wait_s} if settings.spot else {}
    return {"MaxRuntimeInSeconds": settings.max_run_s, **wait}


def digest(request: Mapping[str, Any], spec: RunSpec) -> str:
    """Return a digest that identifies a plan among those of its run. request: without tags, which depend on time."""
    about = [request, asdict(sent.command(spec, resumes=False)), spec.going_on]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def channels(settings: JobSettings, spec: RunSpec) -> list[dict[str, Any]]:
    layout, data = settings.layout, spec.config["data"]
    found = [
        _channel("code", layout.uri(layout.code(spec))),
        _channel("spec", layout.uri(layout.spec(spec.run_id))),
    ]
    if spec.photos is not None:  # streamed: the first shards are unpacked while the last are on their way
        found.append(_channel("photos", layout.uri(layout.photos(spec)), mode="FastFile"))
    elif not data.get("source"):
        found.append(_channel("photos", f"{str(data['root']).rstrip('/')}/"))
    if key := sent.features_key(
        settings.layout, spec
    ):  # streamed: of all that is kept there, only what the run needs is read
        found.append(_channel(FEATURES, layout.uri(key), mode="FastFile"))
    return found


def _channel(name: str, uri: str, mode: str = "File") -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "InputMode": mode, "DataSource": {"S3DataSource": source}}


def resources(settings: JobSettings) -> dict[str, Any]:
    encrypted = settings.kms_key and not has_own_disks(settings.instance_type)
    return {
        "InstanceType": settings.instance_type,
        "InstanceCount": settings.instances,
        "VolumeSizeInGB": settings.volume_gb,
        **({"VolumeKmsKeyId": settings.kms_key} if encrypted else {}),
        **({"KeepAlivePeriodInSeconds": settings.keep_alive_s} if settings.keep_alive_s else {}),
    }


def environment(settings: JobSettings, spec: RunSpec) -> dict[str, str]:
    found = {"DOGBREED_INSTALL": "no" if settings.network_isolation else "yes"}
    match spec.output:
        case SearchOutput(study) if spec.tuning is None:
            found[STUDY] = study
    return found | {f"{PREFIX}{name}": arn for name, arn in (settings.secrets or {}).items()}
