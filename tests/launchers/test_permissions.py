"""What must be permitted to whom: said in the plan, ready to be pasted, and asked of AWS where it tells."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from launchers import prepare
from launchers.aws import account, actions, grants, iam, roles, tags
from launchers.aws.access import Decision, decide
from launchers.aws.policy import Identity
from launchers.deploy import permissions as deploy_permissions
from launchers.plan import Plan
from launchers.sagemaker import permissions
from launchers.sagemaker.training import SageMakerLauncher
from tests.support import deployments
from tests.support.plans import COMMANDS, REAL, launched, planned


def listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def actions_of(policy: Any) -> list[str]:
    return [action for statement in policy["Statement"] for action in listed(statement["Action"])]


def row(plan: Plan, name: str) -> str:
    return dict(plan.rows)[name]


DAY = "2026-11-24"


def of(name: str) -> list[Identity]:
    return permissions.identities(launched(name), planned(name).spec.config, DAY, "123456789012")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_plan_lists_what_the_job_s_role_needs_and_its_policy_permits_just_that(name: str) -> None:
    plan = planned(name)
    policy = json.loads(row(plan, "its policy"))
    allowed = set(actions_of(policy))
    assert allowed == set(re.split(r",\s+", row(plan, "job's role")))
    assert allowed >= {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "ecr:BatchGetImage"}
    for request in plan.requests[:-1]:  # what is sent is what the job reads
        arn = f"arn:aws:s3:::{request.parameters['Bucket']}/{request.parameters['Key']}"
        assert decide([policy], "s3:GetObject", arn, {}) is Decision.ALLOWED
        own = arn.startswith(f"arn:aws:s3:::{request.parameters['Bucket']}/dogbreed/runs/")
        assert (decide([policy], "s3:PutObject", arn, {}) is Decision.ALLOWED) == own  # of the rest it changes nothing
    assert all(len(line) <= 120 for line in row(plan, "its policy").splitlines())


def test_keys_networks_and_photos_elsewhere_need_more() -> None:
    guarded, plain = [of(name)[1].policy()["Statement"] for name in ("guarded", "gpu")]
    assert {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::my-photos/dogs/*"} in [
        {**each, "Resource": next(r for r in listed(each["Resource"]) if "photos" in r)}
        for each in guarded
        if each["Action"] == "s3:GetObject"
    ]
    for action in ("kms:GenerateDataKey", "ec2:CreateNetworkInterfacePermission"):
        assert action in json.dumps(guarded)
        assert action not in json.dumps(plain)


def test_a_job_may_only_be_like_the_settings_and_only_one_s_own_may_be_stopped() -> None:
    policy = of("guarded")[0].policy()
    job = "arn:aws:sagemaker:eu-west-1:123456789012:training-job/any"
    like = {
        "aws:RequestTag/dogbreed:run-id": ["any"],
        "sagemaker:InstanceTypes": ["ml.m5.xlarge"],
        "sagemaker:NetworkIsolation": ["true"],
        "sagemaker:VpcSubnets": ["subnet-0a1b2c3d"],
        "sagemaker:VpcSecurityGroupIds": ["sg-0a1b2c3d"],
    }
    assert decide([policy], "sagemaker:CreateTrainingJob", job, like) is Decision.ALLOWED
    for key in like:
        other, absent = {**like, key: ["false"]}, {name: values for name, values in like.items() if name != key}
        if not key.startswith("aws:"):
            assert decide([policy], "sagemaker:CreateTrainingJob", job, other) is Decision.IMPLICIT_DENY, key
        if key != "sagemaker:InstanceTypes":  # every request has them
            assert decide([policy], "sagemaker:CreateTrainingJob", job, absent) is Decision.IMPLICIT_DENY, key
    ours = {"aws:ResourceTag/dogbreed:run-id": ["any"]}
    assert decide([policy], "sagemaker:StopTrainingJob", job, ours) is Decision.ALLOWED
    assert decide([policy], "sagemaker:StopTrainingJob", job, {}) is Decision.IMPLICIT_DENY
    assert decide([policy], "sagemaker:AddTags", job, {}) is Decision.IMPLICIT_DENY  # which would make it one's own


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
    for identity in permissions.identities(launcher, planned("gpu").spec.config, DAY, "123456789012"):
        arns = [arn for each in identity.policy()["Statement"] for arn in listed(each["Resource"]) if arn != "*"]
        assert {arn.split(":")[1] for arn in arns} == {"aws-cn"}


class Account:
    """Answers SimulatePrincipalPolicy and GetRole. denied: what may not be done; None if nobody may ask.

    in_parts: whether the results for several resources come as parts of one.
    """

    region = "eu-west-1"

    def __init__(self, denied: tuple[str, ...] | None, *, in_parts: bool = False) -> None:
        self.denied, self.in_parts, self.asked = denied, in_parts, []

    def __repr__(self) -> str:  # as dataclasses have it: what is known of one account is not of another
        return f"Account({self.denied})"

    def client(self, service: str) -> Any:
        assert service == "iam"
        return self

    def get_paginator(self, name: str) -> Any:
        assert name == "simulate_principal_policy"
        return self

    def get_role(self, RoleName: str) -> Any:  # noqa: N803 (boto3's name)
        return {"Role": {"Arn": f"arn:aws:iam::123456789012:role/path/{RoleName}"}}

    def paginate(self, **asked: Any) -> Any:
        if self.denied is None:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "SimulatePrincipalPolicy")
        self.asked.append(asked)
        decisions = {name: "implicitDeny" if name in self.denied else "allowed" for name in asked["ActionNames"]}
        if self.in_parts:
            whole = {"EvalResourceName": "*", "EvalDecision": "implicitDeny"}
            results = [
                {"EvalActionName": name, **whole, "ResourceSpecificResults": [
                    {"EvalResourceName": resource, "EvalResourceDecision": decision}
                    for resource in asked["ResourceArns"]
                ]}
                for name, decision in decisions.items()
            ]  # fmt: skip
        else:
            results = [
                {"EvalActionName": name, "EvalResourceName": resource, "EvalDecision": decision}
                for name, decision in decisions.items()
                for resource in asked["ResourceArns"]
            ]
        half = len(results) // 2
        return [{"EvaluationResults": results[:half]}, {"EvaluationResults": results[half:]}]

    def list_role_policies(self, RoleName: str) -> Any:  # noqa: N803 (boto3's name)
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListRolePolicies")


ME, X = "arn:aws:sts::123456789012:assumed-role/me/session", "arn:aws:iam::123456789012:role/x"
OURS = [
    "arn:aws:sts::123456789012:assumed-role/dogbreed-launch/session",
    "arn:aws:iam::123456789012:role/dogbreed/dogbreed-training",
]


@lru_cache
def gpu() -> tuple[SageMakerLauncher, Plan]:
    return launched("gpu"), planned("gpu")


def warned(account: Any, caller: str = ME, role: str = X, bucket: str = "my-bucket") -> str:
    launcher: Any = replace(gpu()[0], bucket=bucket, cloud=account)
    return permissions.warning(launcher, gpu()[1].spec, iam.Caller("123456789012", "aws", caller), role)


@pytest.mark.parametrize("in_parts", [False, True])
def test_each_action_that_either_role_lacks_is_named_with_its_resource(in_parts: bool) -> None:
    launcher, plan = gpu()
    launch, training = permissions.identities(launcher, plan.spec.config, DAY, "123456789012")
    caller = iam.Caller("123456789012", "aws", ME)
    for action in {*grants.actions(launch), *grants.actions(training)}:
        account: Any = Account((action,), in_parts=in_parts)
        warning = permissions.warning(replace(launcher, cloud=account), plan.spec, caller, X)
        named = {line.strip().partition(" (for ")[0] for line in warning.splitlines() if line.startswith("  ")}
        resources = {
            f"{action} on {resource}"
            for grant in (*launch.grants, *training.grants)
            if action in grant.actions
            for resource in grant.resources
        }
        assert named == resources
        assert ("You (" in warning) == (action in grants.actions(launch))
        assert ("The role of the training job" in warning) == (action in grants.actions(training))


def test_what_either_role_lacks_is_asked_in_few_requests_and_once_if_it_is_nothing() -> None:
    account = Account(())
    assert warned(account, *OURS) == ""
    asked = len(account.asked)
    assert asked <= 5
    assert warned(account, *OURS) == ""
    assert len(account.asked) == asked
    lacking = Account(("s3:PutObject",))
    assert warned(lacking, *OURS) == warned(lacking, *OURS) != ""  # it may have been granted meanwhile
    assert len(lacking.asked) == 2 * len(account.asked)


class Particular(Account):
    """Simulates only actions that need the same kind of resource, as AWS does; none at all if `refuses`."""

    def __init__(self, denied: tuple[str, ...], *, refuses: bool = False) -> None:
        super().__init__(denied)
        self.refuses = refuses

    def __repr__(self) -> str:
        return f"Particular({self.denied})"

    def paginate(self, **asked: Any) -> Any:
        mixed = "*" in asked["ResourceArns"] and len(asked["ResourceArns"]) > 1
        services = {name.partition(":")[0] for name in asked["ActionNames"]}
        if self.refuses or mixed or len(services) > 1:
            text = "Invalid Input Actions: [a] and [b] require different authorization information"
            raise ClientError({"Error": {"Code": "InvalidInput", "Message": text}}, "SimulatePrincipalPolicy")
        return super().paginate(**asked)


def test_actions_that_aws_does_not_simulate_at_once_are_asked_for_one_by_one() -> None:
    denied = ("s3:PutObject", "sagemaker:StopTrainingJob")
    assert warned(Particular(denied)) == warned(Account(denied)) != ""
    assert warned(Particular(())) == ""
    launch = of("gpu")[0]
    assert roles.lacking(Particular((), refuses=True), X, launch.grants) is None  # and it may not read policies either


def test_actions_without_a_resource_are_never_asked_for_beside_others() -> None:
    account = Account(("s3:PutObject",))
    warned(account, *OURS)
    assert ["*"] in [asked["ResourceArns"] for asked in account.asked]
    assert all(asked["ResourceArns"] == ["*"] or "*" not in asked["ResourceArns"] for asked in account.asked)


def test_a_role_that_is_not_ours_is_named_as_the_one_to_change() -> None:
    lacks: Any = Account(("s3:PutObject",))
    ours, foreign = warned(lacks, *OURS), warned(lacks)
    assert ours.splitlines()[-1].startswith("Try: python -m launchers iam --apply --for ")
    command, note = foreign.splitlines()[-2:]
    assert command.startswith("Try: python -m launchers iam --apply --for ")
    assert "aws.role" not in command  # so that ours is created
    assert note == (
        "It creates dogbreed-launch and dogbreed-training, to be used instead, and does not change "
        "assumed-role/me/session and role/x."
    )
    typed = ["launcher=sagemaker_gpu", "aws.role=x", "aws.faults.denied=[a:B]", "model.lr=1"]
    hint = permissions.how_to_grant(X, typed)
    assert hint.splitlines() == [
        "Have this permission added to the role x. Or create dogbreed-training, which has it, with:",
        "python -m launchers iam --apply --for launcher=sagemaker_gpu",
        "and use it: aws.role=dogbreed-training",
    ]
    command = "python -m launchers iam --apply"
    expected = f"An administrator grants it to the role dogbreed-training with: {command}"
    assert permissions.how_to_grant(OURS[1], []) == expected


@pytest.mark.parametrize(
    ("denied", "bucket", "texts"),
    [
        ((), "my-bucket", []),
        (
            ("s3:PutObject",),
            "my-bucket",
            ["You (arn:aws:sts::", "The role of the training job", "s3:PutObject on arn:aws:s3:::my-"],
        ),
        (
            ("ecr:BatchGetImage",),
            "my-bucket",
            ["The role of the training job", "ecr:BatchGetImage on arn:aws:ecr:eu-west-1:763"],
        ),
        (("sagemaker:StopTrainingJob",), "my-bucket", ["You (", "sagemaker:StopTrainingJob on arn:aws:sagemaker:"]),
        (("sagemaker:CreateTrainingJob",), "my-bucket", ["(for sagemaker:InstanceTypes=ml.g4dn.xlarge)"]),
        (None, "my-bucket", ["iam:SimulatePrincipalPolicy on arn:", "AmazonSageMakerFullAccess alone"]),
        (None, "my-sagemaker-bucket", []),
    ],
)
def test_what_one_lacks_is_asked_of_aws_where_that_is_permitted(
    denied: tuple[str, ...] | None, bucket: str, texts: list[str]
) -> None:
    account = Account(denied)
    warning = warned(account, bucket=bucket)
    assert [text for text in texts if text not in warning] == []
    assert bool(warning) == bool(texts)
    command = "Try: python -m launchers iam --apply --for launcher=sagemaker_gpu aws.region=eu-west-1"
    assert not warning or any(line.startswith(command) for line in warning.splitlines())
    asked = {each["PolicySourceArn"] for each in account.asked}
    assert asked == (set() if denied is None else {f"arn:aws:iam::123456789012:role/{n}" for n in ("path/me", "x")})


def test_several_machines_in_a_vpc_are_told_what_their_security_group_must_permit() -> None:
    launcher, spec = launched("guarded"), planned("guarded").spec
    several = replace(launcher, instances=2, network_isolation=False)
    assert "UDP 500 and protocol 50" in dict(several.plan(spec).rows)["network"]


@pytest.mark.parametrize(
    ("variant", "action", "said"),
    [
        ("realtime", "sagemaker:CreateEndpoint", "sagemaker:CreateEndpoint on arn:aws:sagemaker:eu-west-1:"),
        ("realtime", "iam:PassRole", "dogbreed-hosting (for iam:PassedToService=sagemaker.amazonaws.com)"),
        ("realtime", "ecr:BatchGetImage", f"The role of the endpoint, {X}, lacks"),
        ("realtime", "cloudwatch:DeleteAlarms", f"The role of the schedules that end a deployment, {X}-2, lacks"),
        ("realtime", "lambda:CreateFunction", ""),  # which this one does not call
        ("lambda", "lambda:CreateFunction", "You ("),
        ("lambda", "s3:GetObject", f"The role of a function with the model inside, {X}, lacks"),
        ("lambda", "sagemaker:CreateEndpoint", ""),
    ],
)
def test_a_deployment_says_what_its_calls_and_its_roles_lack(variant: str, action: str, said: str) -> None:
    made: Any = deployments.launcher(variant=variant)
    plan = made.plan(deployments.spec())
    first = "launcher.role" if variant == "realtime" else "launcher.lambda_role"
    taken = {first: X, "launcher.expiry_role": f"{X}-2"}
    asked = Account((action,))
    made, caller = replace(made, cloud=asked), iam.Caller("123456789012", "aws", ME)
    warning = deploy_permissions.warning(made, plan.spec, caller, plan.requests, taken)
    assert said in warning
    assert bool(warning) == bool(said)
    if said:
        assert "Try: python -m launchers iam --apply --for launcher=deploy" in warning
    named = {name for each in asked.asked for name in each["ActionNames"]}
    other = "lambda:CreateFunction" if variant == "realtime" else "sagemaker:CreateEndpoint"
    assert other not in named


# --- the calls of a run's whole life ---

NOT_IN_MOTO: dict[str, Any] = {
    "SimulatePrincipalPolicy": {"EvaluationResults": [], "IsTruncated": False},
    "StopTrainingJob": {},
}


class Http:
    status_code = 200


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The IAM actions of what launchers call, in moto's account."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    seen: set[str] = set()
    where = actions.Where("eu-west-1")
    connect = account.Account.client

    def keep(params: Any, model: Any, **_: Any) -> None:
        service = model.service_model.service_name
        seen.update(need.action for need in actions.needs(service, model.name, params, where))

    def note(model: Any, **_: Any) -> Any:
        return (Http(), NOT_IN_MOTO[model.name]) if model.name in NOT_IN_MOTO else None

    def client(self: account.Account, service: str) -> Any:
        known = service in self._clients
        made = connect(self, service)
        if not known:
            made.meta.events.register("provide-client-params", keep)
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
    with suppress(NotImplementedError):  # by moto
        launcher._give_back(job)
    launcher.fetch(plan.handle, tmp_path / "run", checkpoints=False)
    set_up["s3"].put_object(Bucket="my-bucket", Key="dogbreed/runs/never-a-job/spec.json", Body=b"{}")
    set_up["s3"].create_multipart_upload(Bucket="my-bucket", Key="dogbreed/data/broken")
    assert len(launcher.cleanup(older_than=timedelta(seconds=-5), apply=True).removed) == 2
    assert calls == set(grants.actions(permissions.caller(launcher)))
