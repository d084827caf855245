"""What the whole cloud tier is held against at its end (tests/support/permitted.py), with records made here."""

import json
from pathlib import Path
from typing import Any

import pytest

from launchers.rehearsal.names import ACCOUNT, BUCKET
from tests.support import permitted
from tests.support.permitted import NOT_CALLED, OF_SETTINGS, differences, granted

CALLS = {  # of launchers, with which all that is granted to the person who launches is needed
    "s3": [
        "ListObjectsV2", "ListMultipartUploads", "GetBucketAcl", "GetBucketPolicyStatus", "GetObject", "PutObject",
        "DeleteObject", "AbortMultipartUpload",
    ],
    "iam": ["GetRole", "SimulatePrincipalPolicy", "GetInstanceProfile"],
    "autoscaling": [
        "CreateAutoScalingGroup", "DeleteAutoScalingGroup", "DescribeAutoScalingGroups", "DescribeScalingActivities",
        "PutScheduledUpdateGroupAction", "SetDesiredCapacity", "SuspendProcesses", "UpdateAutoScalingGroup",
    ],
    "ec2": [
        "CreateLaunchTemplate", "DeleteLaunchTemplate", "DescribeImages", "DescribeInstanceTypeOfferings",
        "DescribeInstanceTypes", "DescribeLaunchTemplates", "DescribeSecurityGroups", "DescribeSpotPriceHistory",
        "DescribeSubnets", "GetConsoleOutput",
    ],
    "service-quotas": ["GetServiceQuota", "ListServiceQuotas"],
    "ssm": ["GetParameter"],
    "sagemaker": [
        "CreateTrainingJob", "AddTags", "StopTrainingJob", "DescribeTrainingJob", "ListTags", "ListTrainingJobs",
        "CreateModel", "CreateEndpointConfig", "CreateEndpoint", "UpdateEndpoint", "DeleteEndpoint",
        "DeleteTags", "DescribeEndpoint", "DeleteEndpointConfig", "DescribeEndpointConfig", "DeleteModel",
        "DescribeModel", "UpdateTrainingJob",
        "ListEndpointConfigs", "ListEndpoints", "ListModels",
        "CreateHyperParameterTuningJob", "DescribeHyperParameterTuningJob", "StopHyperParameterTuningJob",
        "ListHyperParameterTuningJobs", "ListTrainingJobsForHyperParameterTuningJob",
    ],
    "sagemaker-runtime": ["InvokeEndpoint"],
    "cloudwatch": ["DeleteAlarms", "PutMetricAlarm", "DescribeAlarms"],
    "scheduler": ["CreateSchedule", "DeleteSchedule", "GetSchedule", "UpdateSchedule", "ListSchedules"],
    "ecr": ["CreateRepository", "DescribeImages"],
    "codebuild": ["BatchGetBuilds", "CreateProject", "StartBuild"],
    "logs": [
        "DescribeLogStreams", "GetLogEvents", "DeleteLogGroup", "DescribeLogGroups", "CreateLogGroup",
        "PutRetentionPolicy",
    ],
    "lambda": [
        "CreateAlias", "CreateFunction", "CreateFunctionUrlConfig", "DeleteFunction", "DeleteFunctionConcurrency",
        "DeleteProvisionedConcurrencyConfig", "GetAccountSettings", "GetAlias", "GetFunction",
        "GetFunctionConfiguration", "GetFunctionUrlConfig", "GetProvisionedConcurrencyConfig", "Invoke",
        "ListFunctions", "ListVersionsByFunction", "PublishVersion", "PutFunctionConcurrency",
        "PutProvisionedConcurrencyConfig", "TagResource", "UntagResource", "UpdateAlias", "UpdateFunctionCode",
        "UpdateFunctionConfiguration",
    ],
    "sts": ["GetCallerIdentity"],
    "application-autoscaling": [
        "RegisterScalableTarget", "DeregisterScalableTarget", "PutScalingPolicy", "DescribeScalableTargets",
        "DescribeScalingPolicies",
    ],
}  # fmt: skip


def values(conditions: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    found = {key: ["any"] for key in conditions.get("Null", {})}
    for operator, keys in conditions.items():
        if operator != "Null":
            found |= {key: [wanted] if isinstance(wanted, str) else list(wanted) for key, wanted in keys.items()}
    return found


def records() -> list[dict[str, Any]]:
    """Of tests that call just what is granted."""
    found: list[dict[str, Any]] = [
        {"calls": service, "operation": name} for service, names in CALLS.items() for name in names
    ]
    for role, statements in granted().items():
        by = f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/session"
        found += [
            {"by": by, "action": action, "resource": resource, "context": values(statement.get("Condition", {}))}
            for statement in statements
            for action in permitted._listed(statement["Action"])
            for resource in permitted._listed(statement["Resource"])
            if (role, action) not in NOT_CALLED
        ]
    return found


def written(folder: Path, found: list[dict[str, Any]]) -> Path:
    for number in range(2):  # as of two processes
        (folder / f"{number}.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in found[number::2]))
    return folder


def test_calls_and_policies_that_are_equal_do_not_differ(tmp_path: Path) -> None:
    assert differences(written(tmp_path, records())) == []


def test_a_call_that_is_not_granted_is_named(tmp_path: Path) -> None:
    more = {"calls": "sagemaker", "operation": "DeleteDomain"}
    (text,) = differences(written(tmp_path, [*records(), more]))
    assert text == "sagemaker:DeleteDomain is called (sagemaker, DeleteDomain) and not granted to dogbreed-launch"


@pytest.mark.parametrize(
    ("by", "action", "resource"),
    [
        ("dogbreed-launch", "sagemaker:StopTrainingJob", "training-job/"),
        ("dogbreed-training", "s3:DeleteObject", f"{BUCKET}/dogbreed/runs/"),
        ("dogbreed-training", "ecr:BatchCheckLayerAvailability", "repository/"),
    ],
)
def test_a_grant_that_no_test_needs_is_named(by: str, action: str, resource: str, tmp_path: Path) -> None:
    kept = [each for each in records() if not (f"role/{by}/" in each.get("by", "") and each["action"] == action)]
    (text,) = differences(written(tmp_path, kept))
    assert text.startswith(f"{action} on arn:aws:")
    assert resource in text
    assert f"is granted to {by} (" in text
    assert text.endswith("and not called")


def test_a_grant_is_needed_with_its_condition_and_by_launchers_themselves(tmp_path: Path) -> None:
    tagging = ["CreateTrainingJob"]
    kept = [each for each in records() if each.get("context", {}).get("sagemaker:TaggingAction") != tagging]
    (text,) = differences(written(tmp_path, kept))
    assert text.startswith("sagemaker:AddTags on ")
    assert '"sagemaker:TaggingAction": "CreateTrainingJob"' in text
    kept = [each for each in records() if each.get("operation") != "ListTrainingJobs"]
    (text,) = differences(written(tmp_path, kept))
    assert text == "sagemaker:ListTrainingJobs is granted to dogbreed-launch, and only tests call it"


def test_what_keys_and_networks_need_besides_has_a_reason() -> None:
    vpc = ("launcher.subnets=[subnet-0a1b2c3d]", "launcher.security_groups=[sg-0a1b2c3d]")
    plain, guarded = (
        {action for each in roles.values() for statement in each for action in permitted._listed(statement["Action"])}
        for roles in (granted(), granted("launcher=sagemaker_gpu", "launcher.kms_key=alias/mine", *vpc))
    )
    assert {f"{action.partition(':')[0]}:" for action in guarded - plain} == OF_SETTINGS.keys()
