"""Roles as accounts have them: with paths, in other partitions, not to be looked at; in moto, without a server."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aws_calls
import boto3
import pytest
from moto import mock_aws

from launchers import prepare
from launchers.aws import iam, profiles, roles
from launchers.aws.account import Account
from launchers.aws.actions import Where
from launchers.aws.policy import INLINE_CHARACTERS, MANAGED_CHARACTERS, Grant, Identity, size
from launchers.cli.verbs import main as launchers_command
from launchers.sagemaker.training import SageMakerLauncher

ACCOUNT = "123456789012"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
NAME = "AmazonSageMaker-ExecutionRole-20240101T000000"
PARTITIONS = {"eu-west-1": "aws", "cn-north-1": "aws-cn"}


@pytest.fixture(params=PARTITIONS)
def region(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setattr(roles, "lacking", lambda *_: None)  # moto has no SimulatePrincipalPolicy: nobody may ask here
    with mock_aws():
        client = boto3.client("iam", region_name=request.param)
        client.create_role(RoleName=NAME, Path="/service-role/", AssumeRolePolicyDocument=json.dumps(TRUST))
        yield request.param


def arn(region: str) -> str:
    return f"arn:{PARTITIONS[region]}:iam::{ACCOUNT}:role/service-role/{NAME}"


@pytest.mark.parametrize("by", ["name", "arn"])
def test_a_role_with_a_path_is_passed_on_by_its_whole_arn(by: str, region: str, tmp_path: Path) -> None:
    cloud = Account(region=region)
    cloud.client("s3").create_bucket(
        Bucket="my-sagemaker-bucket", CreateBucketConfiguration={"LocationConstraint": region}
    )
    role = NAME if by == "name" else arn(region)
    words = ["data=drawn", "launcher=sagemaker_gpu", "launcher.instance_type=ml.m5.large", f"aws.role={role}"]
    where = [f"aws.region={region}", "aws.bucket=my-sagemaker-bucket", f"hydra.run.dir={tmp_path}/run"]
    launcher, plan = prepare([*words, *where])
    launcher.submit(plan)
    job = cloud.client("sagemaker").describe_training_job(TrainingJobName=plan.spec.run_id)
    assert job["RoleArn"] == arn(region)


def test_an_arn_of_another_path_account_or_partition_is_refused_with_the_right_one(region: str) -> None:
    cloud = Account(region=region)
    caller = iam.caller(cloud)
    assert caller == iam.Caller(ACCOUNT, PARTITIONS[region], caller.arn)
    assert caller.arn.startswith(f"arn:{PARTITIONS[region]}:sts::{ACCOUNT}:")
    wrong = arn(region).replace("/service-role", "")
    for setting in ("aws.role", "launcher.machine_role"):
        found = iam.find_role(cloud, wrong, "sagemaker.amazonaws.com", caller, setting)
        assert f"Try: {setting}={arn(region)}" in found.findings[0]
        (finding,) = iam.find_role(cloud, "nobody", "sagemaker.amazonaws.com", caller, setting).findings
        assert finding == f"The role nobody does not exist.\nTry: {setting}=<one of `aws iam list-roles`>"
    for other in (arn(region).replace(ACCOUNT, "999999999999"), arn(region).replace("arn:aws", "arn:aws-iso")):
        found = iam.find_role(cloud, other, "sagemaker.amazonaws.com", caller, "aws.role")
        assert "is not in this account" in found.findings[0]
    assert iam.find_role(cloud, arn(region), "sagemaker.amazonaws.com", caller, "aws.role") == iam.Role(arn(region))


class _Blind:
    """An account in which nobody may look at roles."""

    def __init__(self, cloud: Account) -> None:
        self._cloud = cloud

    def client(self, service: str) -> Any:
        client = self._cloud.client(service)
        if service == "iam":
            from botocore.exceptions import ClientError

            def deny(**_: Any) -> None:
                error = {"Error": {"Code": "AccessDenied", "Message": "not authorized to perform: iam:GetRole"}}
                raise ClientError(error, "GetRole")

            client.get_role = deny
        return client


def test_where_roles_may_not_be_looked_at_the_arn_is_asked_for(region: str) -> None:
    cloud: Any = _Blind(Account(region=region))
    caller = iam.caller(cloud)
    (finding,) = iam.find_role(cloud, NAME, "sagemaker.amazonaws.com", caller, "launcher.role").findings
    assert finding.splitlines()[-1] == f"Or the ARN that the IAM console shows: launcher.role={arn(region)}"
    wanted = f"arn:{PARTITIONS[region]}:iam::{ACCOUNT}:role/*{NAME}"  # whatever its path is
    assert f"iam:GetRole on {wanted} is not permitted" in finding
    assert "Try: aws iam put-user-policy --user-name moto --policy-name iam-GetRole --policy-document " in finding
    assert iam.find_role(cloud, arn(region), "sagemaker.amazonaws.com", caller, "aws.role") == iam.Role(arn(region))


def test_a_plan_says_that_it_does_not_know_the_arn_of_a_role_given_by_name() -> None:
    assert iam.arn_in_plan(NAME) == f"<the ARN of the role {NAME}>"
    assert iam.arn_in_plan(arn("cn-north-1")) == arn("cn-north-1")


# --- a launcher that is new ---


@dataclass(frozen=True)
class Deploying(SageMakerLauncher):
    """A launcher with a further role, which a setting of its own names."""

    hosting_role: str | None = None

    def identities(self, config: Mapping[str, Any], day: str, account: str) -> Sequence[Identity]:
        arn = Where("eu-west-1", account).arn("sagemaker", "endpoint/dogs")
        person = Identity("launch", "the person who launches", (Grant(("sagemaker:CreateEndpoint",), (arn,)),))
        hosting = Identity(
            "hosting",
            "the endpoint",
            (Grant(("s3:GetObject",), (f"arn:aws:s3:::{self.bucket}/dogbreed/models/*",)),),
            "sagemaker.amazonaws.com",
            "launcher.hosting_role",
        )
        return [person, hosting]


DEPLOY = [
    "launcher=sagemaker_gpu", f"launcher._target_={__name__}.Deploying", "+launcher.hosting_role=null",
    "aws.bucket=my-bucket",
]  # fmt: skip


def test_the_roles_that_a_launcher_declares_are_printed_created_checked_and_removed(
    region: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for_deploy = ["--for", *DEPLOY, f"aws.region={region}"]
    assert launchers_command(["iam", "--json", *for_deploy]) == 0
    found = json.loads(capsys.readouterr().out)["roles"]
    assert [role["role"] for role in found] == ["dogbreed-launch", "dogbreed-hosting"]
    client = boto3.client("iam", region_name=region)
    assert launchers_command(["iam", "--apply", *for_deploy, f"launcher.hosting_role={NAME}"]) == 0
    out = capsys.readouterr().out  # a role of one's own is left alone
    assert f"launcher.hosting_role={NAME}" in out
    assert "dogbreed-hosting" not in out
    assert launchers_command(["iam", "--apply", *for_deploy]) == 0
    assert "launcher.hosting_role=dogbreed-hosting" in capsys.readouterr().out
    made = client.get_role(RoleName="dogbreed-hosting")["Role"]
    assert made["Arn"] == f"arn:{PARTITIONS[region]}:iam::{ACCOUNT}:role/dogbreed/dogbreed-hosting"
    asked = []
    monkeypatch.setattr(roles, "lacking", lambda cloud, arn, grants: asked.append((arn, grants[0].actions)) or [])
    assert launchers_command(["iam", "--check", *for_deploy]) == 0  # none is configured: ours
    assert asked[-1] == (made["Arn"], ("s3:GetObject",))
    assert launchers_command(["iam", "--check", *for_deploy, f"launcher.hosting_role={NAME}"]) == 0
    assert asked[-1] == (arn(region), ("s3:GetObject",))
    assert launchers_command(["iam", "--remove", *for_deploy]) == 0
    assert [role["RoleName"] for role in client.list_roles()["Roles"]] == [NAME]


@pytest.mark.usefixtures("administrator")
@pytest.mark.parametrize("region", ["eu-west-1"], indirect=True)
def test_a_security_group_is_removed_first_and_also_if_its_profile_has_gone(region: str) -> None:
    cloud = Account(region=region)
    iam_client, ec2 = cloud.client("iam"), cloud.client("ec2")
    iam_client.create_instance_profile(InstanceProfileName="dogbreed-machine", Path="/dogbreed/")
    labels = [{"ResourceType": "security-group", "Tags": [{"Key": "dogbreed:purpose", "Value": "machine"}]}]
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    ec2.create_security_group(GroupName="dogbreed-machine", Description="x", VpcId=vpc, TagSpecifications=labels)
    group, profile = [text for text, _ in profiles.removals(cloud)]
    assert (group.split(" in ")[0], profile.split(" /")[0]) == (
        "remove the security group dogbreed-machine", "remove the instance profile"
    )  # fmt: skip
    iam_client.delete_instance_profile(InstanceProfileName="dogbreed-machine")
    ((text, remove),) = profiles.removals(cloud)
    assert text == group
    remove()
    assert list(profiles.removals(cloud)) == []


# --- policies that are too large for a role ---


@pytest.fixture
def administrator(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called here is no part of a launch."""
    monkeypatch.delenv(aws_calls.CALLS, raising=False)


def wide(statements: int) -> Identity:
    """An identity with so many statements of about 450 characters each."""
    grants = [
        Grant((f"s3:Action{number:03}",), tuple(f"arn:aws:s3:::{'b' * 180}-{number}-{part}" for part in range(2)))
        for number in range(statements)
    ]
    return Identity("launch", "the person who launches", tuple(grants))


def make_all(changes: Iterable[roles.Change]) -> None:
    for each in changes:
        roles.make(each)


def allowed(cloud: Account) -> list[dict[str, Any]]:
    """Return the statements that the role has, read as AWS has them, without our code."""
    client = cloud.client("iam")
    inside = client.list_role_policies(RoleName="dogbreed-launch")["PolicyNames"]
    found = [client.get_role_policy(RoleName="dogbreed-launch", PolicyName=name)["PolicyDocument"] for name in inside]
    for each in client.list_attached_role_policies(RoleName="dogbreed-launch")["AttachedPolicies"]:
        version = client.get_policy(PolicyArn=each["PolicyArn"])["Policy"]["DefaultVersionId"]
        policy = client.get_policy_version(PolicyArn=each["PolicyArn"], VersionId=version)["PolicyVersion"]
        found.append(policy["Document"])
    assert all(size(each) <= (INLINE_CHARACTERS if inside else MANAGED_CHARACTERS) for each in found)
    return sorted((each for document in found for each in document["Statement"]), key=json.dumps)


@pytest.mark.usefixtures("administrator")
@pytest.mark.parametrize("region", ["eu-west-1"], indirect=True)
def test_a_policy_that_is_too_large_for_a_role_becomes_managed_ones_and_changes_with_it(region: str) -> None:
    cloud = Account(region=region)
    caller = iam.caller(cloud)
    for statements in (5, 40, 60, 61, 30, 60, 5):  # the same number of parts with other statements among them
        wanted = wide(statements)
        made = list(roles.changes(cloud, [wanted], caller))
        assert made
        make_all(made)
        assert allowed(cloud) == sorted(wanted.policy()["Statement"], key=json.dumps)
        assert list(roles.changes(cloud, [wanted], caller)) == []
    make_all(roles.removals(cloud))
    assert cloud.client("iam").list_policies(Scope="Local")["Policies"] == []


@pytest.mark.usefixtures("administrator")
@pytest.mark.parametrize("region", ["eu-west-1"], indirect=True)
def test_parts_whose_making_was_interrupted_are_taken_up_or_removed(
    region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud, wanted = Account(region=region), wide(60)
    caller, client = iam.caller(cloud), cloud.client("iam")
    with monkeypatch.context() as broken:
        broken.setattr(client, "attach_role_policy", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make_all(roles.changes(cloud, [wanted], caller))
    assert len(client.list_policies(Scope="Local")["Policies"]) == 1
    make_all(roles.changes(cloud, [wanted], caller))
    assert allowed(cloud) == sorted(wanted.policy()["Statement"], key=json.dumps)
    (first, *_) = client.list_attached_role_policies(RoleName="dogbreed-launch")["AttachedPolicies"]
    client.detach_role_policy(RoleName="dogbreed-launch", PolicyArn=first["PolicyArn"])
    make_all(roles.removals(cloud))
    assert client.list_policies(Scope="Local")["Policies"] == []


@pytest.mark.usefixtures("administrator")
@pytest.mark.parametrize("region", ["eu-west-1"], indirect=True)
def test_roles_of_another_account_than_the_named_one_are_left(region: str, capsys: pytest.CaptureFixture[str]) -> None:
    cloud, words = Account(region=region), ["iam", "--remove", "--for", *DEPLOY, f"aws.region={region}"]
    make_all(roles.changes(cloud, [wide(1)], iam.caller(cloud)))
    assert launchers_command([*words, "--account", "999999999999"]) == 1
    assert f"but your credentials are of the account {ACCOUNT}." in capsys.readouterr().err
    assert len(cloud.client("iam").list_roles()["Roles"]) == 2
    assert launchers_command([*words, "--account", ACCOUNT]) == 0
    assert [role["RoleName"] for role in cloud.client("iam").list_roles()["Roles"]] == [NAME]
