"""Build the requests that submit a run: a launch template, a group of exactly one machine, and the group's deadline.

All of it follows from the launcher's settings, the RunSpec, and what only the account knows. The order is such that a
client which is killed between any two calls leaves nothing that costs money: the group gets its machine last, when the
action that ends it is already scheduled.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from launchers.aws import sent, tags
from launchers.aws.policy import role_name
from launchers.aws.s3 import split_uri
from launchers.cost.limits import Limits
from launchers.ec2 import amis, names
from launchers.ec2.fitting import ENDING_S, beside_usd, limit_of
from launchers.ec2.settings import Ec2Settings
from launchers.ec2.user_data import encoded, user_data
from launchers.payload.code import BUNDLE_FILE
from launchers.plan import Request
from launchers.remote.secret_values import PREFIX
from launchers.spec import RunSpec

SUBMISSION = "dogbreed:submission"  # a tag of groups and templates: the number of the submission
SECURITY_GROUP = role_name("machine")  # its name, like that of the role; `launchers iam --apply` creates both
_PROCESSES = ["AZRebalance"]  # which may exceed the group's maximum by one machine for a while


@dataclass(frozen=True)
class Found:
    """What only the account knows, and what is new with each submission.

    number: of the submission, from 1. after: attempts of earlier submissions. deadline: seconds since 1970. limit: the
    setting that the deadline comes from; empty if it is the plan's.
    """

    image: str
    root_device: str
    subnets: Sequence[str]
    security_groups: Sequence[str]
    number: int = 1
    after: int = 0
    deadline: int | None = None
    limit: str = ""


def in_plan(settings: Ec2Settings, spec: RunSpec) -> Found:
    """Return the words that stand in a plan for what only the account knows."""
    parameter = amis.parameter(settings.image, settings.instance_type, spec.created_at)
    return Found(
        settings.image if parameter is None else f"<the AMI of {parameter}>",
        "<the root device of the AMI>",
        settings.subnets or ["<the default subnets>"],
        settings.security_groups or [f"<the security group {SECURITY_GROUP}>"],
    )


def requests(settings: Ec2Settings, spec: RunSpec, found: Found | None = None) -> tuple[Request, ...]:
    """Return the calls that submit a run, in order. found: None for the plan."""
    known = in_plan(settings, spec) if found is None else found
    name = names.group_name(spec.run_id, known.number)
    return (
        *sent.requests(settings.layout, spec, settings.encryption),
        _submission(settings, spec, found),
        Request("ec2", "CreateLaunchTemplate", _template(settings, spec, name, found)),
        Request("autoscaling", "CreateAutoScalingGroup", _group(settings, spec, name, known)),
        Request(
            "autoscaling", "SuspendProcesses", {"AutoScalingGroupName": name, "ScalingProcesses": list(_PROCESSES)}
        ),
        Request("autoscaling", "PutScheduledUpdateGroupAction", _deadline(settings, name, known)),
        Request(
            "autoscaling",
            "SetDesiredCapacity",
            {"AutoScalingGroupName": name, "DesiredCapacity": 1, "HonorCooldown": False},
        ),
    )


def _submission(settings: Ec2Settings, spec: RunSpec, found: Found | None) -> Request:
    """Return the upload of what launchers/remote/ec2.py reads. It is refused if the submission exists already."""
    body = "<what the machine is to do>" if found is None else json.dumps(submission(settings, spec, found), indent=2)
    key = names.submission_key(settings.layout, spec.run_id, 1 if found is None else found.number)
    put = {"Bucket": settings.bucket, "Key": key, "Body": body, "IfNoneMatch": "*", **settings.encryption}
    return Request("s3", "PutObject", put)


def submission(settings: Ec2Settings, spec: RunSpec, found: Found) -> dict[str, Any]:
    """Return what the machine is to do. Other submissions of the run, and the bill, are told from it as well."""
    layout, data = settings.layout, spec.config["data"]
    if spec.photos is not None:
        photos = {"bucket": layout.bucket, "prefix": layout.photos(spec)}
    elif not data.get("source"):
        bucket, key = split_uri(f"{str(data['root']).rstrip('/')}/")
        photos = {"bucket": bucket, "prefix": key}
    else:
        photos = None
    return {
        "number": found.number,
        "run": names.run_key(layout, spec.run_id),
        "group": names.group_name(spec.run_id, found.number),
        "after": found.after,
        "max_attempts": max_attempts(spec),
        "deadline": found.deadline,
        "ends_at": None if found.deadline is None else found.deadline + ENDING_S,
        "limit": found.limit or limit_of(settings, spec),
        "beside_usd_per_hour": beside_usd(settings, 3600),
        "code": layout.code(spec),
        "photos": photos,
        "features": sent.features_key(layout, spec),
        "environment": {f"{PREFIX}{name}": arn for name, arn in (settings.secrets or {}).items()},
        "encryption": settings.encryption,
        "types": settings.types,
        "on_demand": settings.on_demand,
        "plan": digest(settings, spec),
        **({"name": str(spec.config["name"])} if spec.config.get("name") else {}),
    }


def max_attempts(spec: RunSpec) -> int:
    """Return how many machines the run may have one after the other."""
    return Limits.of(spec.config).max_attempts


def script(settings: Ec2Settings, spec: RunSpec, found: Found) -> str:
    """Return the user data of the machines of a submission."""
    assert settings.cloud.region is not None
    assert settings.bucket is not None
    assert found.deadline is not None
    return user_data(
        run_id=spec.run_id,
        region=settings.cloud.region,
        bucket=settings.bucket,
        bundle=f"{settings.layout.code(spec)}{BUNDLE_FILE}",
        submission=names.submission_key(settings.layout, spec.run_id, found.number),
        deadline=found.deadline,
        install_torch=amis.torch_to_install(settings.image, settings.instance_type, spec.created_at),
    )


def _template(settings: Ec2Settings, spec: RunSpec, name: str, found: Found | None) -> dict[str, Any]:
    """Return the launch template: an encrypted volume, IMDSv2 alone, no key, no inbound rule, no secret."""
    known = in_plan(settings, spec) if found is None else found
    labels = tags.to_aws(_tags(settings, spec, known.number))
    ebs = {"VolumeSize": settings.volume_gb, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    key = {"KmsKeyId": settings.kms_key} if settings.kms_key else {}
    # the deadline is a number of fixed length, so that the size in the plan is that of what is sent
    planned = replace(known, deadline=0 if known.deadline is None else known.deadline)
    size = len(script(settings, spec, replace(planned, deadline=10**9)).encode())
    return {
        "LaunchTemplateName": name,
        "LaunchTemplateData": {
            "ImageId": known.image,
            "IamInstanceProfile": {"Name": settings.machine_role.rpartition("/")[2]},
            "InstanceInitiatedShutdownBehavior": "terminate",
            "UserData": f"<{size:,} bytes>" if found is None else encoded(script(settings, spec, found)),
            "BlockDeviceMappings": [{"DeviceName": known.root_device, "Ebs": {**ebs, **key}}],
            "NetworkInterfaces": [
                {
                    "DeviceIndex": 0,
                    "AssociatePublicIpAddress": settings.public_ip,
                    "Groups": list(known.security_groups),
                    "DeleteOnTermination": True,
                }
            ],
            "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "TagSpecifications": [{"ResourceType": kind, "Tags": labels} for kind in ("instance", "volume")],
        },
        "TagSpecifications": [{"ResourceType": "launch-template", "Tags": labels}],
    }


def _group(settings: Ec2Settings, spec: RunSpec, name: str, found: Found) -> dict[str, Any]:
    """Return the group, which has no machine yet. Its minimum is 0, so that a machine can end itself for good."""
    template = {"LaunchTemplateName": name, "Version": "1"}
    return {
        "AutoScalingGroupName": name,
        "MixedInstancesPolicy": {
            "LaunchTemplate": {
                "LaunchTemplateSpecification": template,
                "Overrides": [{"InstanceType": each} for each in settings.types],
            },
            "InstancesDistribution": {
                "OnDemandBaseCapacity": 0,
                "OnDemandPercentageAboveBaseCapacity": 100 if settings.on_demand else 0,
                "OnDemandAllocationStrategy": "lowest-price",
                "SpotAllocationStrategy": "price-capacity-optimized",
            },
        },
        "MinSize": 0,
        "MaxSize": 1,
        "DesiredCapacity": 0,
        "VPCZoneIdentifier": ",".join(found.subnets),
        "HealthCheckType": "EC2",
        "CapacityRebalance": False,  # it starts a second machine while the first still writes
        "Tags": [
            {"Key": key, "Value": value, "PropagateAtLaunch": False}
            for key, value in _tags(settings, spec, found.number).items()
        ],
    }


def _deadline(settings: Ec2Settings, name: str, found: Found) -> dict[str, Any]:
    at = (
        f"<{settings.deadline_h:g} h after submission>"
        if found.deadline is None
        else datetime.fromtimestamp(found.deadline, UTC)
    )
    none = {"MinSize": 0, "MaxSize": 0, "DesiredCapacity": 0}
    return {"AutoScalingGroupName": name, "ScheduledActionName": names.DEADLINE, "StartTime": at, **none}


def _tags(settings: Ec2Settings, spec: RunSpec, number: int) -> dict[str, str]:
    files = settings.layout.run(spec.run_id).uri
    return {
        **tags.of_run(spec, settings.owner),
        names.FILES: files,
        SUBMISSION: str(number),
        tags.PLAN: digest(settings, spec),
    }


def digest(settings: Ec2Settings, spec: RunSpec) -> str:
    """Return a digest that identifies a plan among those of its run, whenever it is submitted."""
    assert spec.code is not None
    about = {
        "machine": [settings.types, settings.on_demand, settings.image, settings.volume_gb, settings.kms_key],
        "network": [list(settings.subnets), list(settings.security_groups), settings.public_ip, settings.machine_role],
        "deadline_h": settings.deadline_h,
        "secrets": dict(settings.secrets or {}),
        "code": spec.code.digest,
        "photos": None if spec.photos is None else spec.photos.digest,
        "command": [asdict(sent.command(spec, resumes=False)), spec.going_on],
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
