"""Compares what all tests asked of AWS (tests/support/children/aws_calls.py) with what the printed policies grant.

Launchers may not call what the person who launches is not granted, and each action is granted because a test needs it:
on that resource, under those conditions, as that role. What differs has a reason below.
"""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

from launchers.aws.access import Decision, decide
from launchers.aws.actions import actions_of
from launchers.cli.verbs import main as launchers_command
from launchers.rehearsal.names import ACCOUNT, BUCKET

_NOT_SIMULATED = "tried where iam:SimulatePrincipalPolicy is not permitted; whoever has it learns what a role lacks"
_BY_AN_ADMINISTRATOR = "only a rehearsal sets itself up; on AWS an administrator does, with `launchers iam --apply`"
_OF_A_KEY = "granted where launcher.kms_key names a key"
_BY_THE_JOB = "the rented machine calls it as the job's role, which has it where launcher.secrets names a secret"
NOT_GRANTED = {  # called by launchers
    "secretsmanager:GetSecretValue": _BY_THE_JOB,
    "ssm:GetParameter": _BY_THE_JOB,
    **dict.fromkeys(("kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListGrants"), _OF_A_KEY),
    **dict.fromkeys(
        (
            "ec2:CreateSecurityGroup",
            "ec2:DescribeVpcs",
            "iam:AddRoleToInstanceProfile",
            "iam:CreateInstanceProfile",
            "iam:CreateRole",
            "iam:PutRolePolicy",
        ),
        _BY_AN_ADMINISTRATOR,
    ),
    "pricing:GetProducts": "of whoever refreshes the table of prices; a run asks AWS for none",
    "s3:CreateBucket": "only a rehearsal creates the bucket that one is to bring",
    **dict.fromkeys(
        ("iam:ListRolePolicies", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies", "iam:GetPolicy"), _NOT_SIMULATED
    ),
    **dict.fromkeys(("iam:GetPolicyVersion", "iam:ListUserPolicies", "iam:GetUserPolicy"), _NOT_SIMULATED),
    "iam:ListAttachedUserPolicies": _NOT_SIMULATED,
}
_WITHOUT_LIMIT = "of an update that takes a limit of concurrency away"
_BY_DOCKER = "Docker on the launcher's machine pushes the image, and the tests have no Docker"
_OF_SESSIONS = "the agent of Session Manager on the machine calls it, and the rehearsal has none"
_AS_AWS_SAYS = "SageMaker's page on execution roles asks for it, and the rehearsal does without"
NOT_CALLED = {  # but granted, by role and action
    ("dogbreed-hosting", "cloudwatch:PutMetricData"): "SageMaker measures its machines; the rehearsal does not",
    ("dogbreed-hosting", "ecr:BatchCheckLayerAvailability"): _AS_AWS_SAYS,
    ("dogbreed-hosting", "s3:ListBucket"): _AS_AWS_SAYS,
    ("dogbreed-launch", "lambda:DeleteFunctionConcurrency"): _WITHOUT_LIMIT,
    ("dogbreed-launch", "lambda:DeleteProvisionedConcurrencyConfig"): _WITHOUT_LIMIT,
    ("dogbreed-launch", "cloudwatch:TagResource"): "PutMetricAlarm with tags needs it, says AWS",
    ("dogbreed-launch", "lambda:ListTags"): "GetFunction returns no tags without it, says AWS",
    ("dogbreed-launch", "lambda:InvokeFunctionUrl"): "a function URL is asked by HTTP, not by boto3",
    ("dogbreed-launch", "logs:TagResource"): "CreateLogGroup with tags needs it, says AWS",
    **{
        ("dogbreed-launch", f"ecr:{action}"): _BY_DOCKER
        for action in (
            "BatchCheckLayerAvailability",
            "CompleteLayerUpload",
            "GetAuthorizationToken",
            "InitiateLayerUpload",
            "PutImage",
            "UploadLayerPart",
        )
    },
    ("dogbreed-launch", "ec2:RunInstances"): "AWS checks it of whoever creates a group",
    ("dogbreed-machine", "s3:AbortMultipartUpload"): "of a checkpoint in several parts whose upload breaks off",
    **{
        ("dogbreed-machine", action): _OF_SESSIONS
        for action in (
            "ssm:UpdateInstanceInformation",
            "ssmmessages:CreateControlChannel",
            "ssmmessages:CreateDataChannel",
            "ssmmessages:OpenControlChannel",
            "ssmmessages:OpenDataChannel",
        )
    },
    ("dogbreed-training", "cloudwatch:PutMetricData"): "SageMaker measures its machines; the rehearsal does not",
}
NOT_CALLED_ON = {  # as above, and by a part of the resource
    ("dogbreed-lambda", "s3:GetObject", "/models/"): "of a model that is not in the package; records have no digests",
    ("dogbreed-launch", "iam:GetRole", "AWSServiceRoleFor"): "of a service-linked role that the account lacks",
    ("dogbreed-launch", "s3:AbortMultipartUpload", "/models/"): "of a model in several parts whose upload breaks off",
    ("dogbreed-launch", "s3:AbortMultipartUpload", "/images/"): "of a source of several parts whose upload breaks off",
    ("dogbreed-launch", "logs:GetLogEvents", "/aws/codebuild/"): "of a build that fails",
}
OF_SETTINGS = {  # granted to either role where the settings name a key or a VPC, which the rehearsal has not
    "kms:": "S3 and the disks of machines use the key",
    "ec2:": "SageMaker attaches its machines to the VPC",
}


@lru_cache
def granted(*settings: str) -> dict[str, list[dict[str, Any]]]:
    """Return the statements of each role's policy, as `python -m launchers iam --json` prints them."""
    out = io.StringIO()
    with redirect_stdout(out):
        launchers_command(
            ["iam", "--json", "--account", ACCOUNT, "--bucket", BUCKET, "--for", "aws=rehearsal", *settings]
        )
    return {role["role"]: role["policy"]["Statement"] for role in json.loads(out.getvalue())["roles"]}


def differences(folder: Path) -> list[str]:
    """Return what was called and is not granted, and what is granted and was not called. folder: of the records."""
    records = [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    policies = granted()
    return [*_not_granted(records, policies["dogbreed-launch"]), *_not_called(records, policies)]


def _not_granted(records: list[dict[str, Any]], launch: list[dict[str, Any]]) -> Iterator[str]:
    to_launch = {action for statement in launch for action in _listed(statement["Action"])}
    for service, operation in sorted({(each["calls"], each["operation"]) for each in records if "calls" in each}):
        for action in actions_of(service, operation):
            if action not in to_launch and action not in NOT_GRANTED:
                yield f"{action} is called ({service}, {operation}) and not granted to dogbreed-launch"


def _not_called(records: list[dict[str, Any]], policies: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    by_launchers = {
        action for each in records if "calls" in each for action in actions_of(each["calls"], each["operation"])
    }
    for role, statements in policies.items():
        asked = [each for each in records if f":assumed-role/{role}/" in each.get("by", "")]
        for statement in statements:
            for action in _listed(statement["Action"]):
                if (role, action) in NOT_CALLED:
                    continue
                if role == "dogbreed-launch" and action not in by_launchers:
                    yield f"{action} is granted to {role}, and only tests call it"
                for resource in _listed(statement["Resource"]):
                    if any((role, action) == key[:2] and key[2] in resource for key in NOT_CALLED_ON):
                        continue
                    one = {**statement, "Action": action, "Resource": resource}
                    if not any(_allows(one, each) for each in asked if each["action"] == action):
                        yield f"{action} on {resource} is granted to {role} ({_conditions(statement)}) and not called"


def _allows(statement: dict[str, Any], asked: Mapping[str, Any]) -> bool:
    policy = {"Statement": [statement]}
    return decide([policy], asked["action"], asked["resource"], asked["context"]) is Decision.ALLOWED


def _conditions(statement: Mapping[str, Any]) -> str:
    return json.dumps(statement["Condition"]) if "Condition" in statement else "without conditions"


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
