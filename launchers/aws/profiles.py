"""Create and remove what machines of EC2 share in an account: an instance profile, by which they take their role, and a
security group that lets nothing in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from launchers.aws import tags
from launchers.aws.errors import code_of, errors
from launchers.aws.policy import ROLE_PATH, Identity, role_name
from launchers.base import Cloud

# by which AWS starts machines for groups, and on spot; each account needs them once:
# https://docs.aws.amazon.com/autoscaling/ec2/userguide/autoscaling-service-linked-role.html, and
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/service-linked-roles-spot-instance-requests.html
GROUPS_ROLE = ("AWSServiceRoleForAutoScaling", "autoscaling.amazonaws.com")
SPOT_ROLE = ("AWSServiceRoleForEC2Spot", "spot.amazonaws.com")
BUCKET = "dogbreed:bucket"  # a tag of the profile: where runs are whose group is gone
_GONE = ("NoSuchEntity", "NoSuchEntityException")
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")

Step = tuple[str, Callable[[], None]]  # in words, and how it is made


def changes(cloud: Cloud, identity: Identity, bucket: str | None) -> Iterator[Step]:
    """Yield what must change so that machines can take the role. bucket: the one to note; None if it is not known."""
    name, client = role_name(identity.name), cloud.client("iam")
    found = profile(cloud, name)
    if found is None:
        labels = tags.to_aws({tags.PURPOSE: identity.name, **({BUCKET: bucket} if bucket else {})})
        yield (
            f"create the instance profile {ROLE_PATH}{name}",
            lambda: _do(client.create_instance_profile, InstanceProfileName=name, Path=ROLE_PATH, Tags=labels),
        )
    if found is None or not found["Roles"]:
        yield (
            f"give it the role {name}",
            lambda: _do(client.add_role_to_instance_profile, InstanceProfileName=name, RoleName=name),
        )
    if found is not None and bucket and tags.from_aws(found.get("Tags", ())).get(BUCKET) != bucket:
        noted = tags.to_aws({BUCKET: bucket})
        yield (
            f"note the bucket {bucket} in the instance profile",
            lambda: _do(client.tag_instance_profile, InstanceProfileName=name, Tags=noted),
        )
    yield from _group_changes(cloud, name, identity.subnets)
    for role, service in (GROUPS_ROLE, SPOT_ROLE):
        if has_service_role(cloud, role) is False:
            yield (
                f"create AWS's own role {role}",
                lambda service=service: _do(client.create_service_linked_role, AWSServiceName=service),  # type: ignore[misc]
            )


def has_service_role(cloud: Cloud, role: str) -> bool | None:
    """Return whether the account has a service-linked role; None if the caller may not look."""
    from botocore.exceptions import ClientError

    with errors(f"looking up the role {role}"):
        try:
            cloud.client("iam").get_role(RoleName=role)
        except ClientError as error:
            if code_of(error) in _GONE:
                return False
            if code_of(error) in _DENIED:
                return None
            raise
    return True


def profile(cloud: Cloud, name: str) -> Mapping[str, Any] | None:
    """Return an instance profile, or None if there is none of that name."""
    from botocore.exceptions import ClientError

    with errors(f"looking up the instance profile {name}"):
        try:
            found: Mapping[str, Any] = cloud.client("iam").get_instance_profile(InstanceProfileName=name)
        except ClientError as error:
            if code_of(error) in _GONE:
                return None
            raise
    return dict(found["InstanceProfile"])


def _group_changes(cloud: Cloud, name: str, subnets: Sequence[str]) -> Iterator[Step]:
    vpc = _vpc(cloud, subnets)
    if vpc is None:  # the plan's submission says how to create one
        return
    chosen = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]
    client = cloud.client("ec2")
    with errors("looking up the security group"):
        if client.describe_security_groups(Filters=chosen)["SecurityGroups"]:
            return
    labels = [{"ResourceType": "security-group", "Tags": tags.to_aws({tags.PURPOSE: "machine"})}]
    yield (
        f"create the security group {name} in {vpc}, with no inbound rule",
        lambda: _do(
            client.create_security_group,
            GroupName=name,
            Description="dogbreed: machines that train. Nothing may come in.",
            VpcId=vpc,
            TagSpecifications=labels,
        ),
    )


def _vpc(cloud: Cloud, subnets: Sequence[str]) -> str | None:
    client = cloud.client("ec2")
    with errors("looking up the VPC"):
        if subnets:
            found = client.describe_subnets(SubnetIds=list(subnets))["Subnets"]
        else:
            found = client.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    return str(found[0]["VpcId"]) if found else None


def removals(cloud: Cloud) -> Iterator[Step]:
    """Yield the removal of what `changes` has created. A role cannot go before its profile.

    Groups are first: one that a machine uses cannot go, and then the profile and its role have to stay as well.
    """
    client = cloud.client("iam")
    with errors("listing instance profiles"):
        pages = client.get_paginator("list_instance_profiles").paginate(PathPrefix=ROLE_PATH)
        found = [each for page in pages for each in page["InstanceProfiles"]]
    yield from _group_removals(cloud, expected=bool(found))
    for each in found:
        name, held = each["InstanceProfileName"], [role["RoleName"] for role in each["Roles"]]
        yield f"remove the instance profile {ROLE_PATH}{name}", _removal(client, name, held)


def _group_removals(cloud: Cloud, *, expected: bool) -> Iterator[Step]:
    """expected: whether there may be a group; if not, who may not look for one does not need to."""
    from botocore.exceptions import ClientError

    client, chosen = cloud.client("ec2"), [{"Name": f"tag:{tags.PURPOSE}", "Values": ["machine"]}]
    with errors("looking up security groups"):
        try:
            found = client.describe_security_groups(Filters=chosen)["SecurityGroups"]
        except ClientError as error:
            if expected or code_of(error) not in _DENIED:
                raise
            return
    for each in found:
        text = f"remove the security group {each['GroupName']} in {each['VpcId']}"
        yield text, lambda name=each["GroupId"]: _do(client.delete_security_group, GroupId=name)  # type: ignore[misc]


def _removal(client: Any, name: str, held: Sequence[str]) -> Callable[[], None]:
    def remove() -> None:
        for role in held:
            client.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=role)
        client.delete_instance_profile(InstanceProfileName=name)

    return remove


def _do(method: Callable[..., Any], **arguments: Any) -> None:
    method(**arguments)
