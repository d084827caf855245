"""Define what the person who launches a job needs to be permitted, and the role that the job runs as."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dogbreed.errors import ConfigError, raise_findings
from launchers.aws import grants, lacking, secret_arns, tags
from launchers.aws.actions import SAGEMAKER, Where
from launchers.aws.iam import Caller
from launchers.aws.policy import Grant, Identity, role_in_arn, role_name
from launchers.sagemaker import fitting, images
from launchers.sagemaker.settings import JobSettings
from launchers.spec import RunSpec

_OWN_ROLE, _ROLE_SETTING = role_name("training"), "aws.role"
_NO_RESOURCE = "AWS has no resource for this action"
_LOGS = "log-group:/aws/sagemaker/TrainingJobs:*"
_OURS = {"Null": {f"aws:ResourceTag/{tags.RUN_ID}": "false"}}  # only what a launcher has tagged
_ECR_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/(?P<name>[^:@]+)"
)
# AmazonSageMakerFullAccess permits objects in buckets of such names alone
# (https://docs.aws.amazon.com/aws-managed-policy/latest/reference/AmazonSageMakerFullAccess.html)
_COVERED = ("sagemaker", "aws-glue")


def identities(settings: JobSettings, config: Mapping[str, Any], day: str, account: str = "*") -> list[Identity]:
    """Return the person who launches and the job's role. day: ISO 8601; support of images ends.

    config: of the run; with the node `hpo` of a search by SageMaker's tuner, if it is one. account: the 12 digits of
    the account; "*" fits any.
    """
    findings = images.findings(settings.image, settings.cloud.region, settings.instance_type, day)
    raise_findings(ConfigError, [*findings, *secret_arns.findings(settings.secrets, settings.cloud.region)])
    tunes = "strategy" in (config.get("hpo") or {})
    return [caller(settings, account, tunes=tunes), job_role(settings, config, day, account)]


def caller(settings: JobSettings, account: str = "*", *, tunes: bool = False) -> Identity:
    """Return what the person who launches needs: a test holds it equal to the calls of a run's whole life.

    tunes: whether to search with SageMaker's tuner.
    """
    where = Where(settings.cloud.region or "*", account)
    bucket, objects = where.bucket(settings.bucket or "*"), where.bucket(settings.bucket or "*", f"{settings.prefix}/*")
    jobs, passed = where.arn("sagemaker", "training-job/*"), _role_arns(settings, where)
    return Identity(
        "launch",
        "the person who launches",
        (
            # no condition on s3:prefix: HeadBucket has none, and without ListBucket a missing object is "denied"
            Grant(
                ("s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:GetBucketAcl", "s3:GetBucketPolicyStatus"),
                (bucket,),
            ),
            Grant(("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"), (objects,)),
            # of the job's role, and of one's own: what they lack is reported before anything is submitted
            Grant(("iam:GetRole", "iam:SimulatePrincipalPolicy"), (*passed, where.role(role_in_arn("launch")))),
            Grant(("iam:PassRole",), passed, {"StringEquals": {"iam:PassedToService": SAGEMAKER}}),
            Grant(("sagemaker:CreateTrainingJob",), (jobs,), _job_conditions(settings)),
            Grant(("sagemaker:AddTags",), (jobs,), {"StringEquals": {"sagemaker:TaggingAction": "CreateTrainingJob"}}),
            Grant(("sagemaker:AddTags", "sagemaker:StopTrainingJob", "sagemaker:UpdateTrainingJob"), (jobs,), _OURS),
            # by name, also of jobs that do not exist and so have no tags
            Grant(("sagemaker:DescribeTrainingJob", "sagemaker:ListTags"), (jobs,)),
            Grant(("sagemaker:ListTrainingJobs",), everywhere=_NO_RESOURCE),
            Grant(("logs:DescribeLogStreams", "logs:GetLogEvents"), (where.arn("logs", _LOGS),)),
            *(_tuning(settings, where) if tunes else ()),
            *grants.kms(settings.kms_key, where),
        ),
    )


def _tuning(settings: JobSettings, where: Where) -> Iterator[Grant]:
    """Grant the person who launches tuning jobs. Their training jobs are created by SageMaker, in nobody's name."""
    jobs, create = where.arn("sagemaker", "hyper-parameter-tuning-job/*"), "CreateHyperParameterTuningJob"
    yield Grant((f"sagemaker:{create}",), (jobs,), _job_conditions(settings))
    yield Grant(("sagemaker:AddTags",), (jobs,), {"StringEquals": {"sagemaker:TaggingAction": create}})
    yield Grant(("sagemaker:StopHyperParameterTuningJob",), (jobs,), _OURS)
    reads = ("DescribeHyperParameterTuningJob", "ListTags", "ListTrainingJobsForHyperParameterTuningJob")
    yield Grant(tuple(f"sagemaker:{name}" for name in reads), (jobs,))
    yield Grant(("sagemaker:ListHyperParameterTuningJobs",), everywhere=_NO_RESOURCE)


def job_role(settings: JobSettings, config: Mapping[str, Any], day: str, account: str = "*") -> Identity:
    """Return what SageMaker calls in the name of the job's role.

    It says so under "CreateTrainingJob API: Execution Role Permissions" of
    https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html.
    """
    where = Where(settings.cloud.region or "*", account)
    bucket, prefix = settings.bucket or "*", settings.prefix
    needed = [
        Grant(("s3:GetObject",), (where.bucket(bucket, f"{prefix}/*"),)),
        # DeleteObject: what a run deletes in its checkpoint folder is deleted in the bucket
        Grant(("s3:PutObject", "s3:DeleteObject"), (where.bucket(bucket, f"{prefix}/runs/*"),)),
        Grant(("s3:ListBucket",), (where.bucket(bucket),)),
        Grant(
            ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
            (where.arn("logs", _LOGS),),
        ),
        Grant(
            ("cloudwatch:PutMetricData",),
            conditions={"StringLike": {"cloudwatch:namespace": "/aws/sagemaker/*"}},
            everywhere="metrics have no ARN; the condition limits them to the namespace of training jobs",
        ),
        Grant(("ecr:GetAuthorizationToken",), everywhere=_NO_RESOURCE),
        Grant(
            ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage"),
            _repositories(settings, day, where),
        ),
        *grants.photos(config, where),
        *secret_arns.grants(settings.secrets),
        *grants.kms(settings.kms_key, where),
        *_vpc(settings, where),
    ]
    trust = {} if account == "*" else {"StringEquals": {"aws:SourceAccount": account}}
    return Identity(
        "training", "the training job", tuple(needed), SAGEMAKER, _ROLE_SETTING, trust, bucket_note(settings)
    )


def _job_conditions(settings: JobSettings) -> dict[str, dict[str, str | list[str]]]:
    """Return what the request for a job must be like: our tag, the machines of the settings, and their network."""
    tagged: dict[str, str | list[str]] = {f"aws:RequestTag/{tags.RUN_ID}": "false"}
    types = fitting.types(settings)
    every: dict[str, str | list[str]] = {"sagemaker:InstanceTypes": types if len(types) > 1 else types[0]}
    for key, values in (("VpcSubnets", settings.subnets), ("VpcSecurityGroupIds", settings.security_groups)):
        if values:
            tagged[f"sagemaker:{key}"] = "false"
            every[f"sagemaker:{key}"] = sorted(values)
    isolated: dict[str, dict[str, str | list[str]]] = {"Bool": {"sagemaker:NetworkIsolation": "true"}}
    return {"ForAllValues:StringEquals": every, "Null": tagged, **(isolated if settings.network_isolation else {})}


def _role_arns(settings: JobSettings, where: Where) -> tuple[str, ...]:
    """Return the ARN of the job's role; of one that is given by name, with and without a path."""
    role = settings.role or "*"
    if role == _OWN_ROLE:
        return (where.role(role_in_arn("training")),)
    return (role,) if role.startswith("arn:") else (where.role(role), where.role(f"*/{role}"))


def _repositories(settings: JobSettings, day: str, where: Where) -> tuple[str, ...]:
    uri = settings.image_uri(day)
    found = _ECR_IMAGE.match(uri)
    if found is None:
        return (f"arn:{where.partition}:ecr:*:*:repository/*",)
    return (f"arn:{where.partition}:ecr:{found['region']}:{found['account']}:repository/{found['name']}",)


def _vpc(settings: JobSettings, where: Where) -> Iterator[Grant]:
    if not settings.subnets:
        return
    interface = where.arn("ec2", "network-interface/*")
    parts = [f"subnet/{name}" for name in settings.subnets]
    parts += [f"security-group/{name}" for name in settings.security_groups]
    yield Grant(("ec2:CreateNetworkInterface",), (interface, *(where.arn("ec2", part) for part in parts)))
    yield Grant(
        (
            "ec2:CreateNetworkInterfacePermission",
            "ec2:DeleteNetworkInterface",
            "ec2:DeleteNetworkInterfacePermission",
        ),
        (interface,),
    )
    yield Grant(
        (
            "ec2:DescribeDhcpOptions",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeSubnets",
            "ec2:DescribeVpcs",
        ),
        everywhere=_NO_RESOURCE,
    )


# --- in the plan, and before the job is submitted ---


def _config(spec: RunSpec) -> Mapping[str, Any]:
    """Return the config of a spec, which is that of a trial, with the node of its search by SageMaker's tuner."""
    return spec.config if spec.tuning is None else {**spec.config, "hpo": {"strategy": spec.tuning.strategy}}


def rows(settings: JobSettings, spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Yield the rows of a plan: both lists, and a policy that is ready to paste."""
    launch, role = identities(settings, _config(spec), spec.created_at)
    return grants.rows(launch, role, "job's role", bucket_note(settings))


def bucket_note(settings: JobSettings) -> str:
    """Return a note if the AWS managed policy does not cover the bucket; empty if it does."""
    if settings.bucket is None or any(word in settings.bucket for word in _COVERED):
        return ""
    return (
        f"AmazonSageMakerFullAccess alone does not let a role use the bucket {settings.bucket}, whose name does not "
        "contain sagemaker: the role also needs the policy that `python -m launchers iam` prints."
    )


def warning(settings: JobSettings, spec: RunSpec, caller: Caller, role_arn: str) -> str:
    """Return a warning of what the caller and the job's role lack; empty if nothing."""
    launch, training = identities(settings, _config(spec), spec.created_at, caller.account)
    note = bucket_note(settings)
    return lacking.warning(settings.cloud, caller, launch, [(role_arn, training)], spec.overrides, note=note)


def how_to_grant(role_arn: str, typed: Sequence[str]) -> str:
    """Return how the role of a job gets what the job needs. typed: the overrides of its run."""
    return lacking.how_to_grant("training", _ROLE_SETTING, role_arn, typed)
