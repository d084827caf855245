"""What Auto Scaling and EC2 refuse in a request for a group of instances, and the permissions that it needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moto.iam.models import SERVICE_NAME_CONVERSION, iam_backends

from launchers.aws.access import Decision
from launchers.aws.actions import Need
from launchers.rehearsal.access import HERE, allowed, authorize
from launchers.rehearsal.names import ACCOUNT
from launchers.rehearsal.principals import caller_named
from launchers.rehearsal.service import Call, Refused
from launchers.rehearsal.services.ec2_catalog import types
from launchers.rehearsal.services.ec2_group import Group
from launchers.rehearsal.services.ec2_instances import Instances
from launchers.rehearsal.services.ec2_launch import AUTOSCALING_ROLE
from launchers.rehearsal.services.ec2_templates import check_known, groups_of, role_of

SERVICE_NAME_CONVERSION.setdefault("spot", "EC2Spot")  # AWSServiceRoleForEC2Spot, which moto would call otherwise
_EC2 = "ec2.amazonaws.com"


def check_request(asked: Mapping[str, Any], call: Call, instances: Instances) -> None:
    """Raise Refused for a group that cannot launch instances as it is described."""
    if "VPCZoneIdentifier" not in asked and "AvailabilityZones" not in asked:
        raise Refused("ValidationError", "At least one Availability Zone or VPC Subnet is required.")
    group = Group(Path("x.json"), "x", dict(asked), 0.0, 0, 0, 0)
    subnets = instances.network.subnets
    if missing := [each for each in group.subnets if each not in subnets]:
        raise Refused("ValidationError", f"The subnet ID '{missing[0]}' does not exist")
    if ("LaunchTemplate" in asked) == ("MixedInstancesPolicy" in asked):
        text = "Valid requests must contain either LaunchTemplate, LaunchConfigurationName, InstanceId or"
        raise Refused("ValidationError", f"{text} MixedInstancesPolicy parameter.")
    try:
        identity, _, data = instances.templates.data(group.template)
        for kind in group.overrides:
            if kind not in types():
                raise Refused("InvalidInstanceType", f"The following supplied instance types do not exist: [{kind}]")
        if not group.overrides and "InstanceType" not in data:
            raise Refused("MissingParameter", "The request must contain the parameter InstanceType")
        if "MixedInstancesPolicy" in asked and "InstanceMarketOptions" in data:
            text = "Incompatible launch template: Market Options cannot be used with a MixedInstancesPolicy"
            raise Refused("InvalidParameterCombination", text)
        check_known(data, instances.network)
    except Refused as refused:
        text = f"You must use a valid fully-formed launch template. {refused.text}"
        raise Refused("ValidationError", text) from None
    _check_permissions(call, group, identity, data)


def make_linked_role(call: Call) -> bool:
    """Make the role under which Auto Scaling launches, as AWS does with the first group. Return whether it did."""
    iam = iam_backends[ACCOUNT]["aws"]
    if any(role.arn == AUTOSCALING_ROLE for role in iam.get_roles()):
        return False
    need = Need("iam:CreateServiceLinkedRole", AUTOSCALING_ROLE, {"iam:AWSServiceName": ["autoscaling.amazonaws.com"]})
    principal = caller_named(call.caller, call.faults.denied)
    if allowed(principal, need) is not Decision.ALLOWED:
        text = "The default Service-Linked Role for Auto Scaling could not be created."
        raise Refused(
            "ValidationError",
            f"{text} com.amazonaws.services.identitymanagement.model.AmazonIdentityManagementException: User: "
            f"{principal.arn} is not authorized to perform: {need.action} on resource: {need.resource}",
        )
    iam.create_service_linked_role("autoscaling.amazonaws.com", "of Auto Scaling", "")
    return True


def _check_permissions(call: Call, group: Group, template: str, data: Mapping[str, Any]) -> None:
    """Raise Refused unless the caller may launch such instances: Auto Scaling asks EC2 in the caller's name.

    https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-launch-template-permissions.html
    """
    principal = caller_named(call.caller, call.faults.denied)
    tags = {f"aws:RequestTag/{key}": [value] for key, value in group.propagated().items()}
    for each in data.get("TagSpecifications", ()):
        tags |= {f"aws:RequestTag/{tag['Key']}": [tag.get("Value", "")] for tag in each.get("Tags", ())}
    arns = [f"arn:{HERE.partition}:ec2:{HERE.region}::image/{data['ImageId']}"]
    arns += [HERE.arn("ec2", f"security-group/{each}") for each in groups_of(data)]
    arns += [HERE.arn("ec2", f"subnet/{each}") for each in group.subnets]
    arns += [HERE.arn("ec2", f"launch-template/{template}"), HERE.arn("ec2", "network-interface/*")]
    made = [HERE.arn("ec2", f"{kind}/*") for kind in ("instance", "volume")]
    context = {**tags, "ec2:LaunchTemplate": [HERE.arn("ec2", f"launch-template/{template}")]}
    needs = [Need("ec2:RunInstances", arn, context) for arn in (*arns, *made)]
    if data.get("TagSpecifications"):
        needs += [Need("ec2:CreateTags", arn, {**tags, "ec2:CreateAction": ["RunInstances"]}) for arn in made]
    if "IamInstanceProfile" in data:
        role = role_of(data["IamInstanceProfile"])[1]
        if role is not None:
            needs.append(Need("iam:PassRole", role, {"iam:PassedToService": [_EC2]}))
    try:
        authorize(principal, needs)
    except Refused as refused:
        text = f"You are not authorized to use launch template: {template}"
        raise Refused("AccessDeniedException", f"{text}. {refused.text}", 403) from None


def check_sizes(least: int, most: int, desired: int) -> None:
    if least > most:
        raise Refused("ValidationError", "Max bound must be greater than or equal to min bound")
    if not least <= desired <= most:
        text = "Desired capacity:{} must be between the specified min size:{} and max size:{}"
        raise Refused("ValidationError", text.format(desired, least, most))


def refuse_pending(group: Group) -> None:
    if group.deleting:
        raise Refused("ValidationError", f"AutoScalingGroup {group.name} is pending delete")
