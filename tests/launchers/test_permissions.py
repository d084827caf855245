"""What must be permitted to whom: said in the plan, ready to be pasted, and asked of AWS where it tells."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from launchers.base import Plan
from launchers.sagemaker import permissions
from tests.support.plans import COMMANDS, launched, planned


def row(plan: Plan, name: str) -> str:
    return dict(plan.rows)[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_plan_lists_what_the_job_s_role_needs_and_its_policy_permits_just_that(name: str) -> None:
    plan = planned(name)
    policy = json.loads(row(plan, "its policy"))
    allowed = [action for statement in policy["Statement"] for action in statement["Action"]]
    assert set(allowed) == set(re.split(r",\s+", row(plan, "job's role")))
    assert set(allowed) >= {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "ecr:BatchGetImage"}
    resources = json.dumps([each["Resource"] for each in policy["Statement"] if "s3:ListBucket" not in each["Action"]])
    for request in plan.requests[:-1]:
        assert f":s3:::{request.parameters['Bucket']}/dogbreed/*" in resources
    assert all(len(line) <= 120 for line in row(plan, "its policy").splitlines())


def test_keys_networks_and_photos_elsewhere_need_more() -> None:
    guarded = json.loads(row(planned("guarded"), "its policy"))["Statement"]
    assert {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": "arn:aws:s3:::my-photos/dogs/*"} in guarded
    text, plain = json.dumps(guarded), row(planned("gpu"), "its policy")
    for action in ("kms:GenerateDataKey", "ec2:CreateNetworkInterfacePermission"):
        assert action in text
        assert action not in plain


def test_a_bucket_that_the_usual_policy_does_not_cover_is_named() -> None:
    text = str(planned("gpu"))
    assert "AmazonSageMakerFullAccess alone does not let a role use" in text.replace("\n" + 15 * " ", " ")
    launcher = launched("gpu")
    assert permissions.bucket_note(launcher)
    for name in ("my-sagemaker-bucket", "aws-glue-things"):
        assert not permissions.bucket_note(replace(launcher, bucket=name))


def test_policies_are_written_for_the_region_s_partition() -> None:
    launcher = launched("gpu")
    launcher.cloud.region = "cn-north-1"
    (objects, *_) = permissions.policy(launcher, planned("gpu").spec)
    assert objects["Resource"] == "arn:aws-cn:s3:::my-bucket/dogbreed/*"


class Account:
    """Answers SimulatePrincipalPolicy. denied: what the role may not do; None if nobody may ask."""

    region = "eu-west-1"

    def __init__(self, denied: tuple[str, ...] | None) -> None:
        self.denied = denied

    def client(self, service: str) -> Any:
        assert service == "iam"
        return self

    def simulate_principal_policy(self, **asked: Any) -> dict[str, Any]:
        if self.denied is None:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "SimulatePrincipalPolicy")
        assert asked["PolicySourceArn"] == "arn:aws:iam::1:role/x"
        decisions = {name: "implicitDeny" if name in self.denied else "allowed" for name in asked["ActionNames"]}
        return {"EvaluationResults": [{"EvalActionName": n, "EvalDecision": d} for n, d in decisions.items()]}


@pytest.mark.parametrize(
    ("denied", "bucket", "text"),
    [
        ((), "my-bucket", ""),
        (("s3:PutObject", "s3:ListBucket"), "my-bucket", "s3:PutObject, s3:ListBucket"),
        (("s3:PutObject",), "my-sagemaker-bucket", "may not use arn:aws:s3:::my-sagemaker-bucket/dogbreed/*"),
        (None, "my-bucket", "AmazonSageMakerFullAccess alone"),
        (None, "my-sagemaker-bucket", ""),
    ],
)
def test_what_the_role_lacks_is_asked_of_aws_where_that_is_permitted(
    denied: tuple[str, ...] | None, bucket: str, text: str
) -> None:
    launcher: Any = replace(launched("gpu"), bucket=bucket, cloud=Account(denied))
    warning = permissions.role_warning(launcher, planned("gpu").spec, "arn:aws:iam::1:role/x")
    assert text in warning
    assert bool(warning) == bool(text)
    assert not warning or "Try: dry_run=true" in warning
