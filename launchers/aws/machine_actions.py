"""Map the calls with which machines of EC2 are rented to the IAM actions that they need, for launchers/aws/actions.py.

AWS states them in the Service Authorization Reference, of Amazon EC2 Auto Scaling, Amazon EC2 and others
(https://docs.aws.amazon.com/service-authorization/latest/reference/).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launchers.aws.actions import Where

Parameters = Mapping[str, Any]
Wanted = tuple[str, str] | tuple[str, str, Mapping[str, Sequence[str]]]  # action, resource, and context of the request
MachineCall = Callable[[Parameters, "Where"], Iterator[Wanted]]


def _tags(parameters: Parameters) -> dict[str, list[str]]:
    tags = parameters.get("Tags") or ()
    found = {f"aws:RequestTag/{tag['Key']}": [str(tag["Value"])] for tag in tags}
    return {**found, "aws:TagKeys": [str(tag["Key"]) for tag in tags]} if found else {}


def _is_known(parameters: Parameters) -> bool:
    """Return whether these are the parameters of a call: if nothing is known of them, they may have tags."""
    return bool(parameters)


def _on_group(action: str) -> MachineCall:
    """An action on an Auto Scaling group, whose ARN has an id that only AWS knows."""

    def found(parameters: Parameters, where: "Where") -> Iterator[Wanted]:
        name = parameters.get("AutoScalingGroupName") or "*"
        group = where.arn("autoscaling", f"autoScalingGroup:*:autoScalingGroupName/{name}")
        tags = _tags(parameters)
        yield (f"autoscaling:{action}", group, tags)
        if action == "CreateAutoScalingGroup" and (tags or not _is_known(parameters)):
            yield ("autoscaling:CreateOrUpdateTags", group, tags)

    return found


def _create_launch_template(parameters: Parameters, where: "Where") -> Iterator[Wanted]:
    """CreateLaunchTemplate, whose own tags need a permission of their own."""
    template, tags = where.arn("ec2", "launch-template/*"), dict[str, list[str]]()
    for specification in parameters.get("TagSpecifications") or ():
        tags = _tags(specification)
    yield ("ec2:CreateLaunchTemplate", template, tags)
    if tags or not _is_known(parameters):
        yield ("ec2:CreateTags", template, {**tags, "ec2:CreateAction": ["CreateLaunchTemplate"]})


def _create_security_group(parameters: Parameters, where: "Where") -> Iterator[Wanted]:
    group = where.arn("ec2", "security-group/*")
    yield ("ec2:CreateSecurityGroup", group)
    yield ("ec2:CreateSecurityGroup", where.arn("ec2", "vpc/*"))
    yield ("ec2:CreateTags", group, {"ec2:CreateAction": ["CreateSecurityGroup"]})


def _in_ec2(action: str, kind: str, parameter: str = "") -> MachineCall:
    """An action of EC2 on a resource, which a parameter names; without one on any of that kind."""

    def found(parameters: Parameters, where: "Where") -> Iterator[Wanted]:
        name = parameters[parameter] if parameter else "*"
        yield (f"ec2:{action}", where.arn("ec2", f"{kind}/{name}"))

    return found


def _get_instance_profile(parameters: Parameters, where: "Where") -> Iterator[Wanted]:
    yield ("iam:GetInstanceProfile", where.profile(str(parameters["InstanceProfileName"])))


def _get_parameter(parameters: Parameters, where: "Where") -> Iterator[Wanted]:
    """GetParameter; AWS's own public parameters belong to no account."""
    name = str(parameters["Name"])
    arn = name if name.startswith("arn:") else where.arn("ssm", f"parameter/{name.lstrip('/')}")
    if name.startswith("/aws/service/"):
        arn = f"arn:{where.partition}:ssm:{where.region}::parameter{name}"
    yield ("ssm:GetParameter", arn)


def _get_quota(parameters: Parameters, where: "Where") -> Iterator[Wanted]:
    quota = f"{parameters['ServiceCode']}/{parameters['QuotaCode']}"
    yield ("servicequotas:GetServiceQuota", where.arn("servicequotas", quota))


_GROUP_ACTIONS = (
    "CreateAutoScalingGroup", "UpdateAutoScalingGroup", "DeleteAutoScalingGroup", "PutScheduledUpdateGroupAction",
    "SetDesiredCapacity", "SuspendProcesses", "TerminateInstanceInAutoScalingGroup",
)  # fmt: skip

CALLS: Mapping[tuple[str, str], MachineCall] = {
    **{("autoscaling", action): _on_group(action) for action in _GROUP_ACTIONS},
    ("ec2", "CreateLaunchTemplate"): _create_launch_template,
    ("ec2", "DeleteLaunchTemplate"): _in_ec2("DeleteLaunchTemplate", "launch-template"),
    ("ec2", "GetConsoleOutput"): _in_ec2("GetConsoleOutput", "instance", "InstanceId"),
    ("ec2", "CreateSecurityGroup"): _create_security_group,
    ("ec2", "DeleteSecurityGroup"): _in_ec2("DeleteSecurityGroup", "security-group"),
    ("iam", "GetInstanceProfile"): _get_instance_profile,
    ("ssm", "GetParameter"): _get_parameter,
    ("servicequotas", "GetServiceQuota"): _get_quota,
}
