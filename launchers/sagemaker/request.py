"""Build what is sent for a run: objects in the bucket, the command of the machine, and the CreateTrainingJob request.

All of it follows from the launcher's settings and the RunSpec.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dogbreed.commands import override
from dogbreed.progress import METRIC_PATTERNS
from launchers.aws import iam, tags
from launchers.overrides import STAYS_HERE, override_key, root_key
from launchers.payload.code import BUNDLE_FILE, ENTRY_FILE
from launchers.payload.photos import FEATURES, FEATURES_ABOUT
from launchers.plan import Request
from launchers.remote.secret_values import PREFIX
from launchers.sagemaker.instances import has_own_disks
from launchers.sagemaker.job import STUDY
from launchers.sagemaker.settings import JobSettings
from launchers.spec import RunOutput, RunSpec, SearchOutput

_ML, _TMP = "/opt/ml", "/tmp/dogbreed"  # launchers/remote/entry.py replaces them by where they are on the machine
_RETRIES = 2  # after an InternalServerError of SageMaker's, from the checkpoint
_SET_HERE = frozenset({"data.root", "hpo.study", "hpo.one_job", "hpo.fresh"})  # for the machine, whatever was typed


def requests(settings: JobSettings, spec: RunSpec) -> tuple[Request, ...]:
    """Return the calls that submit a run, in order: its objects, then the job."""
    put = {"Bucket": settings.bucket, **settings.encryption}
    return (
        *(Request("s3", "PutObject", {**put, "Key": key, "Body": body}) for key, body in _objects(settings, spec)),
        Request("sagemaker", "CreateTrainingJob", training_job(settings, spec)),
    )


def _objects(settings: JobSettings, spec: RunSpec) -> list[tuple[str, str]]:
    """Return key and content, in words, of each object. `aws.transfer.upload` makes the contents."""
    assert spec.code is not None
    layout = settings.layout
    code = layout.code(spec)
    objects = [
        (f"{code}{ENTRY_FILE}", "<launchers/remote/entry.py>"),
        (f"{code}{BUNDLE_FILE}", f"<{len(spec.code.files)} files, {spec.code.size:,} bytes>"),
    ]
    if spec.photos is not None:
        count, shards = spec.photos.files, len(spec.photos.shards)
        objects.append((layout.photos(spec), f"<{count:,} photos in {shards} files and their manifest>"))
    if key := features_key(settings, spec):  # SageMaker refuses an input without any object
        objects.append((f"{key}{FEATURES_ABOUT}", "<which photos these are>"))
    return [*objects, (layout.spec(spec.run_id), "<the settings of this run>")]


def features_key(settings: JobSettings, spec: RunSpec) -> str | None:
    """Return where features of the run's photos are kept for the next run; None for a run that computes none."""
    return settings.layout.features(spec) if spec.workload.wants_features else None


# --- the command of the machine ---


@dataclass(frozen=True)
class Command:
    """The overrides of train.py on the machine. typed: as the person wrote them. own: what the machine needs; paths in
    them are replaced by the machine's own.
    """

    typed: list[str]
    own: list[str]

    @property
    def argv(self) -> list[str]:
        return ["python", "train.py", *self.typed, *self.own]


def command(spec: RunSpec, *, resumes: bool) -> Command:
    """Return the command of the machine. resumes: whether an earlier machine has saved files of the run."""
    folder = f"{_ML}/checkpoints"
    match spec.output:
        case SearchOutput(study):  # always the same command: it resumes what it finds in the folder
            multirun, stays = ["-m"], STAYS_HERE - {"hpo"}
            about = [f"hpo.study={study}", "hpo.one_job=false", "hpo.fresh=false", f"hydra.sweep.dir={folder}"]
        case RunOutput():
            multirun, stays = [], STAYS_HERE
            fresh = [f"run_id={spec.run_id}", f"hydra.run.dir={folder}"]
            about = [override("resume", folder)] if resumes else fresh
    words = (spec.going_on or ()) if resumes else spec.overrides
    typed = [text for text in words if root_key(text) not in stays and override_key(text) not in _SET_HERE]
    own = ["launcher=local", *about, override("data.root", _data_root(spec))]
    assert spec.code is not None
    sources = spec.sources.moved(f"{_ML}/code", spec.code.config_dirs)
    return Command([*sources.flags, *multirun, *typed], [*own, *sources.searchpath])


def _data_root(spec: RunSpec) -> str:
    """Return the path of the photos on the machine: unpacked, downloaded by the run itself, or an input from S3."""
    if spec.photos is not None:
        return _unpacked_photos()
    data = spec.config["data"]
    return f"{_TMP}/{Path(str(data['root'])).name}" if data.get("source") else f"{_ML}/input/data/photos"


def _unpacked_photos() -> str:
    return f"{_TMP}/photos"


def extras(settings: JobSettings, spec: RunSpec) -> list[str]:
    """Return the extras of pyproject.toml that the machine needs."""
    logger = str((spec.config.get("logger") or {}).get("_target_", ""))
    return [*(["wandb"] if "wandb" in logger.lower() else []), *(["aws"] if settings.secrets else [])]


def sent(settings: JobSettings, spec: RunSpec) -> dict[str, Any]:
    """Return the content of spec.json in the bucket, which launchers/remote/entry.py reads.

    fresh, again: the command of a machine without saved files, and of one with them; `again` is None for a run
    that was not resumed, whose command resumes by itself.
    """
    described = spec if spec.code is None else replace(spec, code=spec.code.as_sent())
    return {
        "spec": json.loads(described.to_json()),
        "fresh": asdict(command(spec, resumes=False)),
        "again": asdict(command(spec, resumes=True)) if spec.going_on is not None else None,
        "extras": extras(settings, spec),
        "unpacks": _unpacked_photos() if spec.photos is not None else None,
    }


# --- CreateTrainingJob ---


def training_job(settings: JobSettings, spec: RunSpec) -> dict[str, Any]:
    """Return the request. Where the role was given by name, only the account knows its ARN."""
    assert settings.role is not None
    several = settings.instances > 1
    network = {"Subnets": list(settings.subnets), "SecurityGroupIds": list(settings.security_groups)}
    vpc = {"VpcConfig": network} if settings.subnets else {}
    location = settings.layout.run(spec.run_id)
    request = {
        "TrainingJobName": spec.run_id,
        "RoleArn": iam.arn_in_plan(settings.role),
        "AlgorithmSpecification": {
            "TrainingImage": settings.image_uri(spec.created_at),
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python", f"{_ML}/input/data/code/{ENTRY_FILE}"],
            "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in METRIC_PATTERNS.items()],
        },
        "InputDataConfig": _channels(settings, spec),
        "OutputDataConfig": {
            "S3OutputPath": location.output_uri,
            **({"KmsKeyId": settings.kms_key} if settings.kms_key else {}),
        },
        "CheckpointConfig": {"S3Uri": location.checkpoints_uri, "LocalPath": f"{_ML}/checkpoints"},
        "ResourceConfig": _resources(settings),
        "StoppingCondition": {
            "MaxRuntimeInSeconds": settings.max_run_s,
            **({"MaxWaitTimeInSeconds": settings.max_wait_s} if settings.spot else {}),
        },
        "RetryStrategy": {"MaximumRetryAttempts": _RETRIES},
        "EnableManagedSpotTraining": settings.spot,
        "EnableNetworkIsolation": settings.network_isolation,
        "EnableInterContainerTrafficEncryption": several,
        "Environment": _environment(settings, spec),
    }
    plan = _digest({**request, **vpc}, spec)
    return {**request, "Tags": tags.to_aws({**tags.of_run(spec, settings.owner), tags.PLAN: plan}), **vpc}


def _digest(request: Mapping[str, Any], spec: RunSpec) -> str:
    """Return a digest that identifies a plan among those of its run. request: without tags, which depend on time."""
    about = [request, asdict(command(spec, resumes=False)), spec.going_on]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _channels(settings: JobSettings, spec: RunSpec) -> list[dict[str, Any]]:
    layout, data = settings.layout, spec.config["data"]
    channels = [
        _channel("code", layout.uri(layout.code(spec))),
        _channel("spec", layout.uri(layout.spec(spec.run_id))),
    ]
    if spec.photos is not None:  # streamed: the first shards are unpacked while the last are on their way
        channels.append(_channel("photos", layout.uri(layout.photos(spec)), mode="FastFile"))
    elif not data.get("source"):
        channels.append(_channel("photos", f"{str(data['root']).rstrip('/')}/"))
    if key := features_key(settings, spec):  # streamed: of all that is kept there, only what the run needs is read
        channels.append(_channel(FEATURES, layout.uri(key), mode="FastFile"))
    return channels


def _channel(name: str, uri: str, mode: str = "File") -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "InputMode": mode, "DataSource": {"S3DataSource": source}}


def _resources(settings: JobSettings) -> dict[str, Any]:
    encrypted = settings.kms_key and not has_own_disks(settings.instance_type)
    return {
        "InstanceType": settings.instance_type,
        "InstanceCount": settings.instances,
        "VolumeSizeInGB": settings.volume_gb,
        **({"VolumeKmsKeyId": settings.kms_key} if encrypted else {}),
    }


def _environment(settings: JobSettings, spec: RunSpec) -> dict[str, str]:
    environment = {"DOGBREED_INSTALL": "no" if settings.network_isolation else "yes"}
    match spec.output:
        case SearchOutput(study):
            environment[STUDY] = study
    return environment | {f"{PREFIX}{name}": arn for name, arn in (settings.secrets or {}).items()}
