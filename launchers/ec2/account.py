"""Look up in the account what a run needs, and find out before anything is created what would stop it there."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dogbreed import commands
from dogbreed.errors import raise_findings
from launchers.aws import profiles, roles, tags
from launchers.aws.errors import code_of, errors
from launchers.aws.iam import Caller
from launchers.aws.policy import role_name
from launchers.base import Cloud
from launchers.ec2 import amis, permissions
from launchers.ec2.fleet import SECURITY_GROUP, Found
from launchers.ec2.settings import Ec2Settings
from launchers.spec import RunSpec
from launchers.status import Cause, LaunchError, Shortage

_QUOTAS = {  # of vCPUs that may run at once, by the first letter of a type: on spot, on demand
    "G": ("L-3819A6DF", "L-DB2E81BA"),
    "V": ("L-3819A6DF", "L-DB2E81BA"),
    "P": ("L-7212CCBC", "L-417A185B"),
}
_STANDARD_QUOTA = ("L-34B43A08", "L-1216C47A")
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")


@dataclass(frozen=True)
class _Subnet:
    id: str
    zone: str
    vpc: str


def look_up(settings: Ec2Settings, spec: RunSpec, caller: Caller) -> Found:
    """Return what the requests need. Raises LaunchError, listing every problem that was found."""
    findings: list[str] = []
    image = _image(settings, spec, findings)
    types = _types(settings, image, findings)
    subnets = _subnets(settings, findings)
    if subnets and types:
        subnets = _with_types(settings, subnets, findings)
    groups = _security_groups(settings, subnets, findings)
    findings += _profile_findings(settings)
    findings += _service_role_findings(settings)
    findings += _key_findings(settings, caller)
    raise_findings(LaunchError, findings)
    if shortage := _shortage(settings, types):
        raise LaunchError(*shortage)
    return Found(image["ImageId"], image["RootDeviceName"], [each.id for each in subnets], groups)


def set_up(settings: Ec2Settings, spec: RunSpec, caller: Caller) -> None:
    """Create what runs share in the account, as `launchers iam --apply` does, unless it is there or not permitted."""
    if (
        settings.machine_role != role_name("machine")
        or profiles.profile(settings.cloud, settings.machine_role) is not None
    ):
        return
    machine = permissions.machine_role(settings, spec.config, caller.account)
    with suppress(LaunchError):
        for change in roles.changes(settings.cloud, [machine], caller, settings.bucket):
            roles.make(change)


# --- image and machines ---


def _image(settings: Ec2Settings, spec: RunSpec, findings: list[str]) -> dict[str, Any]:
    """Return the image as EC2 describes it; empty if it cannot be used."""
    from botocore.exceptions import ClientError

    parameter = amis.parameter(settings.image, settings.instance_type, spec.created_at)
    ami, again = settings.image, "Try: another launcher.image of `python -m launchers images`, or an AMI's id"
    if parameter is not None:
        with errors(f"reading the parameter {parameter}"):
            try:
                ami = settings.cloud.client("ssm").get_parameter(Name=parameter)["Parameter"]["Value"]
            except ClientError as error:
                if code_of(error) != "ParameterNotFound":
                    raise
                findings.append(
                    f"AWS has no parameter {parameter} in {settings.cloud.region}, which would name the image.\n{again}"
                )
                return {}
    with errors(f"looking up the image {ami}"):
        try:
            images = settings.cloud.client("ec2").describe_images(ImageIds=[ami])["Images"]
        except ClientError as error:
            if not code_of(error).startswith("InvalidAMIID"):
                raise
            images = []
    if not images or images[0].get("State", "available") != "available":
        findings.append(f"The image {ami} does not exist in {settings.cloud.region}, or is not available.\n{again}")
        return {}
    image: dict[str, Any] = images[0]
    sizes = [device.get("Ebs", {}).get("VolumeSize", 0) for device in image.get("BlockDeviceMappings", [])]
    if settings.volume_gb < (least := max(sizes, default=0)):
        findings.append(
            f"The image {ami} needs a disk of at least {least} GB, got launcher.volume_gb={settings.volume_gb}.\n"
            f"Try: launcher.volume_gb={max(least, 100)}"
        )
    return image


def _types(settings: Ec2Settings, image: Mapping[str, Any], findings: list[str]) -> list[dict[str, Any]]:
    """Return the instance types as EC2 describes them."""
    from botocore.exceptions import ClientError

    found: list[dict[str, Any]] = []
    for name in settings.types:
        with errors(f"looking up the instance type {name}"):
            try:
                found += settings.cloud.client("ec2").describe_instance_types(InstanceTypes=[name])["InstanceTypes"]
            except ClientError as error:
                if code_of(error) not in ("InvalidInstanceType", "InvalidParameterValue"):
                    raise
                findings.append(
                    f"EC2 has no instance type {name} in {settings.cloud.region}.\nTry: launcher.instance_type=m5.large"
                )
    for each in found:
        kinds = each.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
        if image and kinds and image.get("Architecture") not in kinds:
            findings.append(
                f"The image {image['ImageId']} is for {image.get('Architecture')}, and {each['InstanceType']} has an "
                f"{kinds[0]} processor.\nTry: launcher.image=auto, or an image of `python -m launchers images` for it"
            )
    return found


def _shortage(settings: Ec2Settings, types: Sequence[Mapping[str, Any]]) -> tuple[str, Cause, Shortage] | None:
    """Return what to raise if the account's quota lets none of the types run."""
    from botocore.exceptions import ClientError

    needed: dict[str, int] = {}
    for each in types:
        spot, on_demand = _QUOTAS.get(str(each["InstanceType"])[0].upper(), _STANDARD_QUOTA)
        code, vcpus = on_demand if settings.on_demand else spot, int(each["VCpuInfo"]["DefaultVCpus"])
        needed[code] = min(vcpus, needed.get(code, vcpus))
    small: list[tuple[str, float, int]] = []
    for code, vcpus in needed.items():
        with errors("reading the quota of vCPUs"):
            try:
                client = settings.cloud.client("service-quotas")
                quota = client.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]
            except ClientError as error:
                if code_of(error) in (*_DENIED, "NoSuchResourceException"):
                    return None  # the group's activities will tell
                raise
        if float(quota["Value"]) >= vcpus:
            return None
        small.append((str(quota.get("QuotaName", code)), float(quota["Value"]), vcpus))
    if not small:
        return None
    name, value, vcpus = small[0]
    ask = ("request-service-quota-increase", "--service-code", "ec2", "--quota-code", next(iter(needed)))
    text = (
        f"The quota of the account for {name!r} is {value:g} vCPUs, and {settings.types[0]} needs {vcpus}.\n"
        f"Try: {commands.shell('aws', 'service-quotas', *ask, '--desired-value', str(max(8, vcpus)))}"
        + ("" if settings.on_demand else ";\nor launcher.on_demand=true, which has a quota of its own")
    )
    return text, Cause.QUOTA, Shortage(f"the quota for {name!r} is {value:g} vCPUs", int(value), 0, vcpus)


# --- network ---


def _subnets(settings: Ec2Settings, findings: list[str]) -> list[_Subnet]:
    from botocore.exceptions import ClientError

    client = settings.cloud.client("ec2")
    with errors("looking up subnets"):
        if settings.subnets:
            try:
                found = client.describe_subnets(SubnetIds=list(settings.subnets))["Subnets"]
            except ClientError as error:
                if not code_of(error).startswith("InvalidSubnet"):
                    raise
                findings.append(f"{error.response['Error'].get('Message')}\nTry: aws ec2 describe-subnets")
                return []
        else:
            chosen = [{"Name": "default-for-az", "Values": ["true"]}]
            found = client.describe_subnets(Filters=chosen)["Subnets"]
    subnets = [_Subnet(each["SubnetId"], each["AvailabilityZone"], each["VpcId"]) for each in found]
    if not subnets:
        findings.append(
            f"The account has no default subnet in {settings.cloud.region}.\n"
            "Try: aws ec2 create-default-vpc; or launcher.subnets=[subnet-...]"
        )
    elif len({each.vpc for each in subnets}) > 1:
        findings.append("launcher.subnets are in different VPCs.\nTry: subnets of one VPC")
    return sorted(subnets, key=lambda each: (each.zone, each.id))


def _with_types(settings: Ec2Settings, subnets: Sequence[_Subnet], findings: list[str]) -> list[_Subnet]:
    """Return the subnets in whose zones AWS offers at least one of the types."""
    chosen = [{"Name": "instance-type", "Values": settings.types}]
    with errors("looking up where AWS offers the instance types"):
        pages = settings.cloud.client("ec2").get_paginator("describe_instance_type_offerings")
        found = pages.paginate(LocationType="availability-zone", Filters=chosen)
        offered = [(each["InstanceType"], each["Location"]) for page in found for each in page["InstanceTypeOfferings"]]
    zones = {zone for _, zone in offered}
    fitting = [each for each in subnets if each.zone in zones]
    if not fitting:
        where = f", but in {', '.join(sorted(zones))}" if zones else ""
        other = f"launcher.subnets=[<one in {min(zones)}>], or " if zones else ""
        findings.append(
            f"AWS offers {' and '.join(settings.types)} in none of the zones "
            f"{', '.join(each.zone for each in subnets)}{where}.\nTry: {other}another launcher.instance_type"
        )
    return fitting


def _security_groups(settings: Ec2Settings, subnets: Sequence[_Subnet], findings: list[str]) -> list[str]:
    if settings.security_groups or not subnets:
        return list(settings.security_groups)
    vpc = subnets[0].vpc
    chosen = [{"Name": "group-name", "Values": [SECURITY_GROUP]}, {"Name": "vpc-id", "Values": [vpc]}]
    with errors("looking up the security group"):
        found = settings.cloud.client("ec2").describe_security_groups(Filters=chosen)["SecurityGroups"]
    if not found:
        findings.append(f"The VPC {vpc} has no security group {SECURITY_GROUP}.\nTry: {_apply(settings)}")
    return [each["GroupId"] for each in found]


# --- roles and keys ---


def _profile_findings(settings: Ec2Settings) -> Iterator[str]:
    name = settings.machine_role.rpartition("/")[2]
    found = profiles.profile(settings.cloud, name)
    if found is None:
        yield f"The instance profile {name} does not exist.\nTry: {_apply(settings)}"
    elif not found["Roles"]:
        yield f"The instance profile {name} has no role.\nTry: {_apply(settings)}"


def _service_role_findings(settings: Ec2Settings) -> Iterator[str]:
    """Check the roles by which Auto Scaling and spot start machines; AWS makes them once for an account."""
    for role, service in (profiles.GROUPS_ROLE, *([] if settings.on_demand else [profiles.SPOT_ROLE])):
        if profiles.has_service_role(settings.cloud, role) is False:
            create = commands.shell("aws", "iam", "create-service-linked-role", "--aws-service-name", service)
            ways = commands.one_per_line([_apply(settings), create])
            yield f"The account lacks the service-linked role {role}.\n{ways}"


def _key_findings(settings: Ec2Settings, caller: Caller) -> Iterator[str]:
    """Check that Auto Scaling may use the key of the volume: without a grant each machine ends as it starts.

    https://docs.aws.amazon.com/autoscaling/ec2/userguide/key-policy-requirements-EBS-encryption.html
    """
    from botocore.exceptions import ClientError

    if not settings.kms_key:
        return
    role, service = profiles.GROUPS_ROLE
    arn = f"arn:{caller.partition}:iam::{caller.account}:role/aws-service-role/{service}/{role}"
    client = settings.cloud.client("kms")
    with errors(f"reading the key {settings.kms_key}"):
        try:
            about = client.describe_key(KeyId=settings.kms_key)["KeyMetadata"]
            if about.get("KeyManager") == "AWS":
                return
            policy = client.get_key_policy(KeyId=about["KeyId"], PolicyName="default")["Policy"]
            grants = client.list_grants(KeyId=about["KeyId"], GranteePrincipal=arn)["Grants"]
        except ClientError as error:
            if code_of(error) in _DENIED:
                return  # the group's activities will tell
            raise
    if grants or arn in policy:
        return
    operations = "Encrypt Decrypt ReEncryptFrom ReEncryptTo GenerateDataKey GenerateDataKeyWithoutPlaintext DescribeKey"
    key = ("--key-id", about["Arn"], "--grantee-principal", arn)
    grant = commands.shell("aws", "kms", "create-grant", *key, "--operations", *operations.split(), "CreateGrant")
    yield f"Auto Scaling may not use the key {settings.kms_key}, with which the volume is encrypted.\nTry: {grant}"


def _apply(settings: Ec2Settings) -> str:
    """Return the command that creates what runs share in the account."""
    place = settings.cloud.option
    chosen = ["launcher=ec2_spot", *(["aws=rehearsal"] if not settings.cloud.bills else [])]
    if settings.subnets:
        chosen.append(f"launcher.subnets=[{','.join(settings.subnets)}]")
    bucket = ["--bucket", settings.bucket] if settings.bucket and settings.cloud.bills else []
    return commands.launchers("iam", "--apply", *place, *bucket, "--for", *chosen)


def bucket_of_profile(cloud: Cloud, role: str) -> str | None:
    """Return the bucket that `launchers iam --apply` has noted for the machines of the account; None if none is."""
    found = profiles.profile(cloud, role.rpartition("/")[2])
    return None if found is None else tags.from_aws(found.get("Tags", ())).get(profiles.BUCKET)


def spot_prices(cloud: Cloud, types: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return today's spot price in USD per hour, by type and zone: the latest of each."""
    with errors("reading spot prices"):
        pages = cloud.client("ec2").get_paginator("describe_spot_price_history")
        found = [
            each
            for page in pages.paginate(InstanceTypes=list(types), ProductDescriptions=["Linux/UNIX"])
            for each in page["SpotPriceHistory"]
        ]
    found.sort(key=lambda each: each["Timestamp"])
    return {(each["InstanceType"], each["AvailabilityZone"]): float(each["SpotPrice"]) for each in found}
