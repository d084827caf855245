"""List the permissions that are needed by the caller and by the role that the job runs as."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from launchers.aws import iam
from launchers.aws.s3 import split_uri
from launchers.base import Cloud, RunSpec
from launchers.sagemaker.settings import JobSettings

_CALLER = (  # a test holds them equal to the calls of a run's whole life
    "sts:GetCallerIdentity",
    "s3:ListBucket",
    "s3:GetBucketAcl",
    "s3:GetBucketPolicyStatus",
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",  # this and the next two: cleanup, and uploads that break off
    "s3:AbortMultipartUpload",
    "s3:ListBucketMultipartUploads",
    "iam:GetRole",
    "iam:SimulatePrincipalPolicy",  # optional: checks beforehand whether the job's role is sufficient
    "iam:PassRole",
    "sagemaker:CreateTrainingJob",
    "sagemaker:DescribeTrainingJob",
    "sagemaker:StopTrainingJob",
    "sagemaker:ListTrainingJobs",
    "sagemaker:ListTags",
    "sagemaker:AddTags",
    "logs:DescribeLogStreams",
    "logs:GetLogEvents",
)
_CALLER_KMS = ("kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey")

# what SageMaker itself calls in the name of the job's role; it says so under "CreateTrainingJob API: Execution Role
# Permissions" of https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html
_OBJECTS = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")
_BUCKET = ("s3:ListBucket", "s3:GetBucketLocation")
_EVERYWHERE = (
    "logs:CreateLogGroup",
    "logs:CreateLogStream",
    "logs:DescribeLogStreams",
    "logs:PutLogEvents",
    "cloudwatch:PutMetricData",
    "ecr:GetAuthorizationToken",
    "ecr:BatchCheckLayerAvailability",
    "ecr:GetDownloadUrlForLayer",
    "ecr:BatchGetImage",
)
_KMS = ("kms:Decrypt", "kms:GenerateDataKey", "kms:CreateGrant", "kms:DescribeKey")
_VPC = (
    "ec2:CreateNetworkInterface",
    "ec2:CreateNetworkInterfacePermission",
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteNetworkInterfacePermission",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeVpcs",
    "ec2:DescribeDhcpOptions",
    "ec2:DescribeSubnets",
    "ec2:DescribeSecurityGroups",
)
# AmazonSageMakerFullAccess permits objects in buckets of such names alone
# (https://docs.aws.amazon.com/aws-managed-policy/latest/reference/AmazonSageMakerFullAccess.html)
_COVERED = ("sagemaker", "aws-glue")


def of_caller(settings: JobSettings) -> tuple[str, ...]:
    """Return the IAM actions that the caller needs."""
    return (*_CALLER, *(_CALLER_KMS if settings.kms_key else ()))


def policy(settings: JobSettings, spec: RunSpec) -> list[dict[str, Any]]:
    """Return the statements of a minimal policy for the job's role."""
    assert settings.bucket is not None
    prefix = f"arn:{iam.partition(settings.cloud.region)}:s3:::"
    statements = [
        _allow(_OBJECTS, f"{prefix}{settings.bucket}/{settings.prefix}/*"),
        _allow(_BUCKET, f"{prefix}{settings.bucket}"),
    ]
    if (root := str(spec.config["data"].get("root") or "")).startswith("s3://"):
        bucket, key = split_uri(root.rstrip("/"))
        statements.append(_allow(("s3:GetObject",), f"{prefix}{bucket}/{key}/*" if key else f"{prefix}{bucket}/*"))
        statements.append(_allow(_BUCKET, f"{prefix}{bucket}"))
    if settings.kms_key:
        statements.append(_allow(_KMS, settings.kms_key if settings.kms_key.startswith("arn:") else "*"))
    return [*statements, _allow((*_EVERYWHERE, *(_VPC if settings.subnets else ())), "*")]


def of_role(settings: JobSettings, spec: RunSpec) -> tuple[str, ...]:
    """Return the IAM actions that the job's role needs."""
    return tuple(dict.fromkeys(action for statement in policy(settings, spec) for action in statement["Action"]))


def rows(settings: JobSettings, spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Yield the rows of a plan: both lists, and a policy that is ready to paste."""
    yield "permissions", _wrapped(", ".join(of_caller(settings)))
    yield "job's role", _wrapped(", ".join(of_role(settings, spec)))
    if note := bucket_note(settings):
        yield "", _wrapped(note)
    statements = ",\n".join(_wrapped(json.dumps(each)) for each in policy(settings, spec))
    yield "its policy", f'{{"Version": "2012-10-17", "Statement": [\n{statements}\n]}}'


def bucket_note(settings: JobSettings) -> str:
    """Return a note if the AWS managed policy does not cover the bucket; empty if it does."""
    if settings.bucket is None or any(word in settings.bucket for word in _COVERED):
        return ""
    return (
        f"AmazonSageMakerFullAccess alone does not let a role use the bucket {settings.bucket}, whose name does not "
        "contain sagemaker: the role needs the policy of the plan as well."
    )


def role_warning(settings: JobSettings, spec: RunSpec, role_arn: str) -> str:
    """Return a warning of what the job's role lacks, or may lack if AWS does not tell; empty if nothing is missing."""
    objects, bucket = policy(settings, spec)[:2]
    answers = [_denied(settings.cloud, role_arn, statement) for statement in (objects, bucket)]
    known = [answer for answer in answers if answer is not None]
    if len(known) < len(answers):
        return bucket_note(settings) and f"{bucket_note(settings)}\n{_SEE_POLICY}"
    lacking = [action for answer in known for action in answer]
    if not lacking:
        return ""
    return (
        f"The policies of the job's role do not let it use {objects['Resource']}: {', '.join(lacking)}. Unless the "
        f"bucket's policy allows it, the job will fail.\n{_SEE_POLICY}"
    )


_SEE_POLICY = "Try: dry_run=true, which prints a policy for the role"


def _denied(cloud: Cloud, role_arn: str, statement: dict[str, Any]) -> list[str] | None:
    return iam.denied(cloud, role_arn, statement["Action"], statement["Resource"])


def _allow(actions: tuple[str, ...], resource: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": resource}


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 64, break_on_hyphens=False, break_long_words=False)
