"""Define what the person who launches on EC2 needs to be permitted, and the role of the machines."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launchers.aws import grants, lacking, profiles, secret_arns, tags
from launchers.aws.actions import EC2, Where
from launchers.aws.iam import Caller
from launchers.aws.policy import Grant, Identity, role_in_arn, role_name
from launchers.ec2 import names
from launchers.ec2.settings import Ec2Settings
from launchers.overrides import override_key
from launchers.spec import RunSpec

_ROLE_SETTING = "launcher.machine_role"
_NO_RESOURCE = "AWS has no resource for this action"
_OURS = {"Null": {f"aws:ResourceTag/{tags.RUN_ID}": "false"}}  # only what a launcher has tagged
_TAGGED = {"Null": {f"aws:RequestTag/{tags.RUN_ID}": "false"}}
# what the agent calls that opens a shell on the machine, without a key and an open port:
# https://docs.aws.amazon.com/systems-manager/latest/userguide/getting-started-create-iam-instance-profile.html
_SESSIONS = (
    "ssm:UpdateInstanceInformation",
    *(f"ssmmessages:{kind}{name}Channel" for kind in ("Create", "Open") for name in ("Control", "Data")),
)


def identities(settings: Ec2Settings, config: Mapping[str, Any], account: str = "*") -> list[Identity]:
    """Return the person who launches and the role of the machines. account: its 12 digits; "*" fits any."""
    return [caller(settings, account), machine_role(settings, config, account)]


def caller(settings: Ec2Settings, account: str = "*") -> Identity:
    """Return what the person who launches needs: a test holds it equal to the calls of a run's whole life."""
    where = Where(settings.cloud.region or "*", account)
    bucket, objects = where.bucket(settings.bucket or "*"), where.bucket(settings.bucket or "*", f"{settings.prefix}/*")
    groups = where.arn("autoscaling", f"autoScalingGroup:*:autoScalingGroupName/{names.PREFIX}*")
    templates, profile = where.arn("ec2", "launch-template/*"), _profile(settings, where)
    return Identity(
        "launch",
        "the person who launches",
        (
            Grant(
                ("s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetBucketAcl", "s3:GetBucketPolicyStatus"),
                (bucket,),
            ),
            Grant(("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"), (objects,)),
            Grant(("autoscaling:CreateAutoScalingGroup",), (groups,), _TAGGED),
            Grant(("autoscaling:CreateOrUpdateTags",), (groups,), _TAGGED),
            Grant(
                (
                    "autoscaling:DeleteAutoScalingGroup",
                    "autoscaling:PutScheduledUpdateGroupAction",
                    "autoscaling:SetDesiredCapacity",
                    "autoscaling:SuspendProcesses",
                    "autoscaling:UpdateAutoScalingGroup",
                ),
                (groups,),
                _OURS,
            ),
            Grant(("ec2:CreateLaunchTemplate",), (templates,), _TAGGED),
            Grant(("ec2:CreateTags",), (templates,), {"StringEquals": {"ec2:CreateAction": "CreateLaunchTemplate"}}),
            Grant(("ec2:DeleteLaunchTemplate",), (templates,), _OURS),
            *_starting(where),
            Grant(("iam:PassRole",), _role_arns(settings, where), {"StringEquals": {"iam:PassedToService": EC2}}),
            # what one lacks oneself, and what the machines' role lacks, is reported before anything is submitted
            Grant(("iam:SimulatePrincipalPolicy",), (*_role_arns(settings, where), where.role(role_in_arn("launch")))),
            Grant(("iam:GetInstanceProfile",), (profile,)),
            # one that does not exist has no path
            Grant(
                ("iam:GetRole",),
                (
                    where.role("aws-service-role/*"),
                    where.role("AWSServiceRoleFor*"),
                    where.role(role_in_arn("launch")),
                ),
            ),
            Grant(("ssm:GetParameter",), (_parameter(settings, where),)),
            Grant(("servicequotas:GetServiceQuota",), (where.arn("servicequotas", "ec2/*"),)),
            Grant(("ec2:GetConsoleOutput",), (where.arn("ec2", "instance/*"),), _OURS),
            Grant(
                (
                    "autoscaling:DescribeAutoScalingGroups",
                    "autoscaling:DescribeScalingActivities",
                    "ec2:DescribeImages",
                    "ec2:DescribeInstanceTypeOfferings",
                    "ec2:DescribeInstanceTypes",
                    "ec2:DescribeLaunchTemplates",
                    "ec2:DescribeSecurityGroups",
                    "ec2:DescribeSpotPriceHistory",
                    "ec2:DescribeSubnets",
                ),
                everywhere=_NO_RESOURCE,
            ),
            *grants.kms(settings.kms_key, where),
            *_key_checks(settings, where),
        ),
    )


def machine_role(settings: Ec2Settings, config: Mapping[str, Any], account: str = "*") -> Identity:
    """Return what the machine calls with the credentials of its instance profile."""
    where = Where(settings.cloud.region or "*", account)
    bucket, prefix = settings.bucket or "*", settings.prefix
    groups = where.arn("autoscaling", f"autoScalingGroup:*:autoScalingGroupName/{names.PREFIX}*")
    needed = [
        Grant(("s3:GetObject",), (where.bucket(bucket, f"{prefix}/*"),)),
        # DeleteObject: contents of checkpoints that a later one has replaced
        Grant(
            ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"), (where.bucket(bucket, f"{prefix}/runs/*"),)
        ),
        Grant(("s3:ListBucket",), (where.bucket(bucket),)),
        # of its own group: a machine that is done is not replaced
        Grant(("autoscaling:TerminateInstanceInAutoScalingGroup",), (groups,), _OURS),
        Grant(_SESSIONS, everywhere="Session Manager has no resource for what its agent on the machine calls"),
        *grants.photos(config, where),
        *secret_arns.grants(settings.secrets),
        *grants.kms(settings.kms_key, where),
    ]
    subnets = tuple(settings.subnets)
    return Identity("machine", "the machine on EC2", tuple(needed), EC2, _ROLE_SETTING, subnets=subnets)


def _starting(where: Where) -> Iterator[Grant]:
    """Grant what Auto Scaling checks of the caller before it starts machines in its own name.

    https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-launch-template-permissions.html
    """
    made = ("instance", "volume", "network-interface")
    used = ("security-group", "subnet", "launch-template")
    parts = [where.arn("ec2", f"{kind}/*") for kind in (*made, *used)]
    image = f"arn:{where.partition}:ec2:{where.region}::image/*"
    yield Grant(("ec2:RunInstances",), (*parts, image))
    tagged = [where.arn("ec2", f"{kind}/*") for kind in ("instance", "volume")]
    yield Grant(("ec2:CreateTags",), tuple(tagged), {"StringEquals": {"ec2:CreateAction": "RunInstances"}})


def _key_checks(settings: Ec2Settings, where: Where) -> Iterator[Grant]:
    if settings.kms_key:
        yield Grant(("kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListGrants"), (where.arn("kms", "key/*"),))


def _parameter(settings: Ec2Settings, where: Where) -> str:
    """Return the ARN of the parameters that may name the image; AWS's public ones are of no account."""
    own = settings.image.startswith("/") and not settings.image.startswith("/aws/")
    public = f"arn:{where.partition}:ssm:{where.region}::parameter/aws/service/*"
    return where.arn("ssm", f"parameter{settings.image}") if own else public


def _role_arns(settings: Ec2Settings, where: Where) -> tuple[str, ...]:
    """Return the ARN of the machines' role; of one that is given by name, with and without a path."""
    role = settings.machine_role
    if role == role_name("machine"):
        return (where.role(role_in_arn("machine")),)
    return (role,) if role.startswith("arn:") else (where.role(role), where.role(f"*/{role}"))


def _profile(settings: Ec2Settings, where: Where) -> str:
    name = settings.machine_role.rpartition("/")[2]
    return where.profile(f"*{name}")


def rows(settings: Ec2Settings, spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Yield the rows of a plan: both lists, and a policy that is ready to paste."""
    launch, role = identities(settings, spec.config)
    return grants.rows(launch, role, "machine's role")


def warning(settings: Ec2Settings, spec: RunSpec, caller: Caller) -> str:
    """Return a warning of what the caller and the machines' role lack; empty if nothing, or if there is no role."""
    found = profiles.profile(settings.cloud, settings.machine_role.rpartition("/")[2])
    if found is None or not found["Roles"]:
        return ""
    launch, machine = identities(settings, spec.config, caller.account)
    return lacking.warning(settings.cloud, caller, launch, [(found["Roles"][0]["Arn"], machine)], spec.overrides)


def how_to_grant(typed: Sequence[str]) -> str:
    """Return how the machines' role gets what a run needs. typed: the overrides of the run."""
    named = [text.partition("=")[2] for text in typed if override_key(text) == _ROLE_SETTING]
    return lacking.how_to_grant("machine", _ROLE_SETTING, named[-1] if named else role_name("machine"), typed)
