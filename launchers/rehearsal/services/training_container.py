"""Prepare a training job's container: files under /opt/ml, environment variables, the command."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dogbreed.run_folder import write_json
from launchers.aws.actions import Need
from launchers.aws.s3 import split_uri
from launchers.rehearsal.access import HERE, StoreOfRole, authorize
from launchers.rehearsal.faults import Faults
from launchers.rehearsal.machine import Machine
from launchers.rehearsal.names import REGION, Server
from launchers.rehearsal.principals import role_session
from launchers.rehearsal.service import Refused
from launchers.rehearsal.services.training_record import JobRecord

ML = "/opt/ml"
_STAND_IN = ["python", str(Path(__file__).parent.parent / "toolkit.py")]
_TRAIN = ["python", "-m", "sagemaker_training.cli.train"] if find_spec("sagemaker_training") else _STAND_IN


@dataclass
class Host:
    """One machine of an attempt. stream: of its log."""

    machine: Machine
    name: str  # algo-1
    address: str
    stream: str


def hosts_of(job: JobRecord, attempt: int, second: int) -> list[Host]:
    """The hosts of an attempt, on fresh machines. second: of its start, which names the streams."""
    count = job.request["ResourceConfig"]["InstanceCount"]
    hosts = []
    for n in range(1, count + 1):
        machine = Machine(job.folder / "machines" / str(attempt) / f"algo-{n}", {ML: "ml"})
        address = f"127.0.0.{n}" if count > 1 else "127.0.0.1"
        hosts.append(Host(machine, f"algo-{n}", address, f"{job.name}/algo-{n}-{second}"))
    return hosts


def furnish(host: Host, hosts: Sequence[Host], request: Mapping[str, Any], store: StoreOfRole) -> str:
    """Put folders, configuration and the data of all channels under /opt/ml. Return the reason if the job fails."""
    if denied := _image_denied(request["AlgorithmSpecification"].get("TrainingImage", ""), store):
        return denied
    ml = host.machine.path(ML)
    for name in ("input/config", "input/data", "model", "output/data", "code"):
        (ml / name).mkdir(parents=True, exist_ok=True)
    channels = request.get("InputDataConfig", [])
    config = ml / "input" / "config"
    given = {key: text.replace(f"{ML}/", f"{ml}/") for key, text in request.get("HyperParameters", {}).items()}
    write_json(config / "hyperparameters.json", given)
    write_json(config / "inputdataconfig.json", {channel["ChannelName"]: _channel(channel) for channel in channels})
    write_json(config / "resourceconfig.json", _resources(host, hosts, request["ResourceConfig"]["InstanceType"]))
    for channel in channels:
        uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
        try:
            found = store.download(*split_uri(uri), ml / "input" / "data" / channel["ChannelName"])
        except Refused as refused:
            return f'ClientError: Data download failed from S3 URL "{uri}": AccessDenied: {refused.text}'
        if not found:
            return (
                f'ClientError: Data download failed: No S3 objects found under S3 URL "{uri}" given in input data '
                f"source. Please ensure that the bucket exists in the selected region ({REGION}), that objects "
                "exist under that S3 prefix, and that the role has s3:ListBucket permissions"
            )
    return ""


def _image_denied(image: str, store: StoreOfRole) -> str:
    """Return why the role may not pull the image; empty if it may."""
    host, _, rest = image.partition("/")
    account, region = host.split(".")[0], host.split(".")[3]
    repository = f"arn:{HERE.partition}:ecr:{region}:{account}:repository/{rest.partition(':')[0].partition('@')[0]}"
    pulling = [Need("ecr:GetAuthorizationToken")]
    names = ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")
    pulling += [Need(f"ecr:{name}", repository) for name in names]
    try:
        authorize(store.role, pulling)
    except Refused as refused:
        return f"ClientError: Cannot pull the image {image}: AccessDenied: {refused.text}"
    return ""


def _channel(channel: Mapping[str, Any]) -> dict[str, str]:
    source = channel["DataSource"]["S3DataSource"]
    return {
        "TrainingInputMode": channel.get("InputMode", "File"),
        "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
        "RecordWrapperType": "None",
    }


def _resources(host: Host, hosts: Sequence[Host], kind: str) -> dict[str, Any]:
    several = len(hosts) > 1  # then the names must be addresses, for nobody resolves algo-2 here
    names = [each.address if several else each.name for each in hosts]
    return {
        "current_host": host.address if several else host.name,
        "current_instance_type": kind,
        "current_group_name": "homogeneousCluster",
        "hosts": names,
        "instance_groups": [{"instance_group_name": "homogeneousCluster", "instance_type": kind, "hosts": names}],
        "network_interface_name": "lo",
    }


def command(request: Mapping[str, Any]) -> list[str]:
    algorithm = request["AlgorithmSpecification"]
    own = algorithm.get("ContainerEntrypoint")
    return [*(_TRAIN if own is None else own), *algorithm.get("ContainerArguments", [])]


def has_toolkit(request: Mapping[str, Any]) -> bool:
    """Return whether the image's own command `train` starts the job."""
    return "ContainerEntrypoint" not in request["AlgorithmSpecification"]


def environment(host: Host, job: JobRecord, server: Server, faults: Faults) -> dict[str, str]:
    """Return the variables of the command, in addition to those of every machine.

    Without a network the command can reach neither S3 nor a package index. The maximum delay of checkpoint uploads is
    minutes on AWS and seconds here.
    """
    if job.request.get("EnableNetworkIsolation"):
        network = {"PIP_NO_INDEX": "1"}
    else:
        session = role_session(job.request["RoleArn"], "SageMaker", faults.denied_to_role)
        network = {"AWS_ENDPOINT_URL": server.url, **session}
    return {
        "SAGEMAKER_BASE_DIR": str(host.machine.path(ML)),
        "SAGEMAKER_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "TRAINING_JOB_NAME": job.name,
        "TRAINING_JOB_ARN": job.arn,
        "GLOO_SOCKET_IFNAME": "lo",
        "DOGBREED_UPLOADS_S": str(25 * faults.upload_lag_s),
        **({"PYTHONUNBUFFERED": "1", "SM_STUDIO_LOCAL_MODE": "true"} if has_toolkit(job.request) else {}),
        **job.request.get("Environment", {}),
        **network,
    }
