"""Whether a launch of an EC2 instance succeeds, by AWS's rules: zones, architectures, quotas, capacity, keys."""

from collections.abc import Iterable, Mapping
from typing import Any

from launchers.aws.access import Decision, decide
from launchers.rehearsal.faults import Faults
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.rehearsal.principals import parsed
from launchers.rehearsal.service import Refused
from launchers.rehearsal.services.ec2_catalog import IMAGE_OF, architectures, offerings, quota_of, types, vcpus
from launchers.rehearsal.services.ec2_instance import Instance

AUTOSCALING_ROLE = (
    f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"
)
_KEY_ACTIONS = ("kms:Decrypt", "kms:GenerateDataKeyWithoutPlaintext", "kms:CreateGrant")


def check_launch(
    data: Mapping[str, Any], kind: str, zone: str, faults: Faults, others: Iterable[Instance], *, spot: bool
) -> None:
    """Raise Refused if EC2 launches no instance of this type in this zone. others: all instances that are alive."""
    if kind not in types():
        raise Refused("InvalidInstanceType", f"Invalid value '{kind}' for InstanceType.")
    image = IMAGE_OF[data["ImageId"]]
    if image.architecture not in architectures(kind):
        text = f"The architecture '{','.join(architectures(kind))}' of the specified instance type does not match"
        raise Refused("InvalidParameterValue", f"{text} the architecture '{image.architecture}' of the specified AMI.")
    if (kind, zone) not in offerings():
        elsewhere = sorted(place for name, place in offerings() if name == kind)
        text = f"Your requested instance type ({kind}) is not supported in your requested Availability Zone ({zone})."
        where = f"choosing {', '.join(elsewhere)}"
        raise Refused(
            "Unsupported",
            f"{text} Please retry your request by not specifying an Availability Zone or {where}.",
        )
    if "spot" not in types()[kind].get("SupportedUsageClasses", ["spot"]) and spot:
        raise Refused("InvalidParameterCombination", f"The instance type {kind} has no spot instances.")
    for device in data.get("BlockDeviceMappings", ()):
        volume = device.get("Ebs", {})
        least = image.gigabytes
        if device.get("DeviceName") == image.root and volume.get("VolumeSize", least) < least:
            text = f"Volume of size {volume['VolumeSize']}GB is smaller than snapshot"
            raise Refused("InvalidBlockDeviceMapping", f"{text}, expect size >= {least}GB")
    _check_quota(kind, faults, others, spot=spot)
    if zone in faults.no_capacity_in or kind in faults.no_capacity_of:
        if spot:
            text = "There is no Spot capacity available that matches your request."
            raise Refused("UnfulfillableCapacity", text)
        text = f"We currently do not have sufficient {kind} capacity in the Availability Zone you requested ({zone})."
        raise Refused(
            "InsufficientInstanceCapacity", f"{text} Our system will be working on provisioning additional capacity."
        )


def _check_quota(kind: str, faults: Faults, others: Iterable[Instance], *, spot: bool) -> None:
    quota = quota_of(kind, spot=spot)
    if quota is None:
        return
    used = sum(vcpus(each.type) for each in others if quota_of(each.type, spot=each.spot) == quota)
    most = faults.quotas.get(quota.code, quota.vcpus)
    if used + vcpus(kind) <= most:
        return
    if spot:
        raise Refused("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
    text = f"You have requested more vCPU capacity than your current vCPU limit of {most} allows for the instance"
    raise Refused(
        "VcpuLimitExceeded",
        f"{text} bucket that the specified instance type belongs to. "
        "Please visit http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
    )


def key_refused(data: Mapping[str, Any], by: str) -> bool:
    """Return whether a volume's KMS key cannot be used. by: the ARN of the role that launches.

    A key of AWS's own, aws/ebs, may be used by all of the account. One of the account's must allow the role in its
    policy or by a grant (https://docs.aws.amazon.com/autoscaling/ec2/userguide/key-policy-requirements-EBS-encryption.html).
    """
    keys = [
        each["Ebs"]["KmsKeyId"] for each in data.get("BlockDeviceMappings", ()) if each.get("Ebs", {}).get("KmsKeyId")
    ]
    return any(not _may_use(key, by) for key in keys)


def _may_use(name: str, by: str) -> bool:
    if name.endswith("alias/aws/ebs"):
        return True
    from moto.kms.models import kms_backends  # here, since it loads much that nothing else needs

    backend = kms_backends[ACCOUNT][REGION]
    identity = backend.any_id_to_key_id(name)
    key = backend.keys.get(identity)
    if key is None or key.key_state != "Enabled":
        return False
    if any(grant.grantee_principal == by for grant in key.grants.values()):
        return True
    # the account as a whole lets its roles be allowed by IAM, where this role has nothing of KMS's
    statements = parsed(key.policy).get("Statement", [])
    named = [
        each
        for each in statements
        if f"arn:aws:iam::{ACCOUNT}:root" not in str(each.get("Principal")) or "Condition" in each
    ]
    policy = {"Statement": named}
    who, context = {"AWS": [by]}, {"kms:GrantIsForAWSResource": ["true"]}
    return all(decide([policy], action, key.arn, context, who) is Decision.ALLOWED for action in _KEY_ACTIONS)
