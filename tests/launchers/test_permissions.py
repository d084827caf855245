"""What must be permitted to whom: said in the plan, ready to be pasted, and asked of AWS where it tells."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from launchers import prepare
from launchers.aws import account, tags
from launchers.base import Plan
from launchers.sagemaker import permissions
from launchers.sagemaker.training import SageMakerLauncher
from tests.support.plans import COMMANDS, REAL, launched, planned


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
        (("s3:PutObject",), "my-sagemaker-bucket", "do not let it use arn:aws:s3:::my-sagemaker-bucket/dogbreed/*"),
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


def test_several_machines_in_a_vpc_are_told_what_their_security_group_must_permit() -> None:
    launcher, spec = launched("guarded"), planned("guarded").spec
    several = replace(launcher, instances=2, network_isolation=False)
    assert "UDP 500 and protocol 50" in dict(several.plan(spec).rows)["network"]


# --- the calls of a run's whole life ---

IAM_NAMES = {  # of operations whose permission is called otherwise
    "s3:HeadBucket": ["s3:ListBucket"],
    "s3:HeadObject": ["s3:GetObject"],
    "s3:ListObjectsV2": ["s3:ListBucket"],
    "s3:ListMultipartUploads": ["s3:ListBucketMultipartUploads"],
    "s3:CreateMultipartUpload": ["s3:PutObject"],
    "s3:UploadPart": ["s3:PutObject"],
    "s3:CompleteMultipartUpload": ["s3:PutObject"],
    "s3:CopyObject": ["s3:GetObject", "s3:PutObject"],
    "sagemaker:CreateTrainingJob": ["sagemaker:CreateTrainingJob", "iam:PassRole"],
}


NOT_IN_MOTO: dict[str, Any] = {"SimulatePrincipalPolicy": {"EvaluationResults": []}, "StopTrainingJob": {}}


class Http:
    status_code = 200


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The operations that launchers call, by service, in moto's account."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    seen: set[str] = set()
    connect = account.Account.client

    def note(model: Any, **_: Any) -> Any:
        seen.add(f"{model.service_model.service_name}:{model.name}")
        return (Http(), NOT_IN_MOTO[model.name]) if model.name in NOT_IN_MOTO else None

    def client(self: account.Account, service: str) -> Any:
        known = service in self._clients
        made = connect(self, service)
        if not known:
            made.meta.events.register("before-call", note)
        return made

    monkeypatch.setattr(account.Account, "client", client)
    with mock_aws():
        yield seen


def test_the_caller_s_list_is_what_a_run_calls_from_submission_to_cleanup(calls: set[str], tmp_path: Path) -> None:
    words = ["data=drawn", "launcher=sagemaker_gpu", *REAL, "aws.role=MyRole", f"hydra.run.dir={tmp_path}/run"]
    launcher, plan = prepare(words)
    assert isinstance(launcher, SageMakerLauncher)
    set_up = {name: boto3.client(name, region_name="eu-west-1") for name in ("s3", "iam", "logs", "sagemaker")}
    where = {"CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
    set_up["s3"].create_bucket(Bucket="my-bucket", **where)
    statement = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    set_up["iam"].create_role(RoleName="MyRole", AssumeRolePolicyDocument=trust)
    launcher.submit(plan)
    job = launcher.jobs.latest(plan.spec.run_id)
    assert job is not None
    group, stream = "/aws/sagemaker/TrainingJobs", f"{job.name}/algo-1-1700000000"
    set_up["logs"].create_log_group(logGroupName=group)
    set_up["logs"].create_log_stream(logGroupName=group, logStreamName=stream)
    assert list(launcher.logs(plan.handle)) == []
    assert [handle for handle, _ in launcher.list(active_only=False)] == [plan.handle]
    launcher._end_early(plan.handle)  # where it still runs
    tags.add(launcher.cloud, job.arn, {tags.ENDED_EARLY: "yes"})
    launcher._stop(job)
    launcher.fetch(plan.handle, tmp_path / "run", checkpoints=False)
    set_up["s3"].put_object(Bucket="my-bucket", Key="dogbreed/runs/never-a-job/spec.json", Body=b"{}")
    set_up["s3"].create_multipart_upload(Bucket="my-bucket", Key="dogbreed/data/broken")
    assert len(launcher.cleanup(older_than=timedelta(seconds=-5), apply=True).removed) == 2
    needed = {name for call in calls for name in IAM_NAMES.get(call, [call])}
    assert needed == set(permissions.of_caller(launcher))
