"""The policies that are printed: actions exist, on resources and conditions that they have, and none is dangerous."""

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from cloudsplaining.scan.policy_document import PolicyDocument
from policy_sentry.querying.actions import get_action_data, get_actions_for_service

from launchers.aws import roles
from launchers.aws.access import Decision, decide
from launchers.aws.actions import Where, actions_of, needs
from launchers.aws.policy import Grant, Identity, merged, name_of_role
from launchers.cli.verbs import main as launchers_command
from launchers.sagemaker import permissions
from tests.support.plans import COMMANDS, launched, planned

_GLOBAL_KEYS = ("aws:RequestTag/", "aws:ResourceTag/")


@lru_cache
def identities() -> list[Identity]:
    found: list[Identity] = []
    for name in COMMANDS:
        found += permissions.identities(launched(name), planned(name).spec.config, "2026-11-24", "123456789012")
    return found


def grants() -> Iterator[tuple[str, Grant]]:
    for identity in identities():
        for grant in identity.grants:
            for action in grant.actions:
                yield action, grant


@lru_cache
def rows_of(action: str) -> list[dict[str, Any]]:
    service, _, name = action.partition(":")
    rows: list[dict[str, Any]] = get_action_data(service, name)[service]
    return rows


def test_each_action_exists_and_has_the_resource_and_the_condition_keys() -> None:
    for action, grant in grants():
        rows = rows_of(action)
        assert rows, f"AWS has no action {action}"
        forms = [row["resource_arn_format"] for row in rows if row["resource_arn_format"] != "*"]
        assert bool(forms) == (grant.resources != ("*",)), f"{action} on {grant.resources}; AWS has {forms}"
        assert bool(grant.everywhere) == (grant.resources == ("*",)), f"{action} needs a reason"
        for arn in grant.resources:
            assert arn == "*" or any(_is_of(arn, form) for form in forms), f"{action} on {arn}; AWS has {forms}"
        keys = {key for row in rows for key in row["condition_keys"]}
        for wanted in (key for values in grant.conditions.values() for key in values):
            generic = next((prefix for prefix in _GLOBAL_KEYS if wanted.startswith(prefix)), wanted)
            assert any(key.startswith(generic) for key in keys), f"{action} has no condition key {wanted}"


def _is_of(arn: str, form: str) -> bool:
    """Return whether an ARN has a form such as arn:${Partition}:s3:::${BucketName}/${ObjectName}.

    A * as its last part stands for all that follows in the form.
    """
    parts, wanted = arn.split(":"), form.split(":")
    if parts[-1] == "*" and len(wanted) >= len(parts):
        arn = ":".join([*parts[:-1], *wanted[len(parts) - 1 :]])
    expression = re.sub(r"\\\$\\{\w+\\}", ".+", re.escape(form))
    return re.fullmatch(f"{expression}(:.*)?", arn) is not None


def test_policies_are_in_their_shortest_form() -> None:
    for identity in identities():
        policy = identity.policy()
        seen = set()
        for statement in policy["Statement"]:
            for part in ("Action", "Resource"):
                values = statement[part]
                assert isinstance(values, str) or (len(values) > 1 and values == sorted(set(values)))
            actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
            assert not [action for action in actions if "*" in action]
            key = (str(statement["Resource"]), str(statement.get("Condition")))
            assert key not in seen, f"two statements on {key}"
            seen.add(key)


def test_statements_that_are_joined_allow_what_they_allowed_apart() -> None:
    several = [Grant(("a:X", "a:Y"), ("r1",)), Grant(("a:Y",), ("r2",)), Grant(("a:X",), ("r2",)), Grant(("a:Z",))]
    joined = [grant.statement() for grant in merged(several)]
    for action in ("a:X", "a:Y", "a:Z"):
        for resource in ("r1", "r2", "r3"):
            apart = decide([{"Statement": [grant.statement() for grant in several]}], action, resource, {})
            assert decide([{"Statement": joined}], action, resource, {}) is apart


SERVICES = ("s3", "sagemaker", "iam", "sts", "logs", "ecr", "ec2", "kms", "cloudwatch", "lambda", "events")


@pytest.mark.parametrize("place", range(2 * len(COMMANDS)))
def test_every_other_action_and_every_other_resource_is_denied(place: int) -> None:
    identity = identities()[place]
    policy, denied = identity.policy(), 0
    granted = {action for grant in identity.grants for action in grant.actions}
    others = sorted({action for service in SERVICES for action in get_actions_for_service(service)} - granted)
    for grant in identity.grants:
        context = roles._context(grant.conditions)
        for resource in grant.resources:
            one = resource.replace("*", "any")
            for action in grant.actions:
                assert decide([policy], action, one, context) is Decision.ALLOWED
                for other in _others(one):
                    assert decide([policy], action, other, context) is Decision.IMPLICIT_DENY, (action, other)
                    denied += 1
            for action in others[:: 1 + len(others) // 300]:
                assert decide([policy], action, one, context) is Decision.IMPLICIT_DENY, (action, one)
                denied += 1
    assert denied > 2000


def _others(arn: str) -> set[str]:
    """Return ARNs that differ from one in its partition, region, account, bucket, folder or name."""
    changes = [
        ("arn:aws:", "arn:aws-cn:"), (":eu-west-1:", ":us-east-1:"), (":us-east-1:", ":eu-west-1:"),
        (":123456789012:", ":999999999999:"), (":763104351884:", ":999999999999:"), (":::my-", ":::My-"),
        (":::my-", ":::not-my-"), (":::dogbreed-rehearsal", ":::dogbreed-rehearsals"), ("/dogbreed/", "/dogbreeds/"),
        ("/dogbreed/", "/x/dogbreed/"), ("/dogs/", "/cats/"), ("TrainingJobs", "Endpoints"),
        ("training-job/", "endpoint/"), ("role/", "user/"), ("dogbreed-launch", "admin"), ("MyRole", "YourRole"),
        ("repository/", "repository/x/"), (":subnet/", ":vpc/"), ("subnet-0", "subnet-1"), ("sg-0", "sg-1"),
    ]  # fmt: skip
    return {arn.replace(old, new) for old, new in changes if old in arn}


@pytest.mark.parametrize("place", range(2 * len(COMMANDS)))
def test_nobody_can_gain_other_permissions_or_read_what_is_not_theirs(place: int) -> None:
    identity = identities()[place]
    found = PolicyDocument(identity.policy())
    assert found.allows_privilege_escalation == []
    assert found.allows_data_exfiltration_actions == []
    assert found.permissions_management_without_constraints == []
    assert found.infrastructure_modification == []
    assert found.service_wildcard == []
    # a token for pulling images, which other permissions limit to the image's repository: AWS has no narrower form
    pulls = ["ecr:GetAuthorizationToken"] if identity.name == "training" else []
    assert found.credentials_exposure == pulls


def test_a_role_is_only_taken_by_its_service_for_one_s_own_account() -> None:
    for identity in identities():
        trust, role = identity.trust_policy("123456789012", "aws"), "arn:aws:iam::123456789012:role/x"
        ours, others = ({"aws:SourceAccount": [account]} for account in ("123456789012", "999999999999"))
        service = {"Service": [identity.service]}
        if identity.service:
            assert decide([trust], "sts:AssumeRole", role, ours, service) is Decision.ALLOWED
            assert decide([trust], "sts:AssumeRole", role, others, service) is Decision.IMPLICIT_DENY
            assert decide([trust], "sts:AssumeRole", role, {}, service) is Decision.IMPLICIT_DENY
        for wanted, expected in (("123456789012", not identity.service), ("999999999999", False)):
            person = {"AWS": [f"arn:aws:iam::{wanted}:user/me", wanted]}
            assert (decide([trust], "sts:AssumeRole", role, ours, person) is Decision.ALLOWED) == expected


def test_the_policies_of_an_account_are_those_that_were_read(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--account", "123456789012", "--bucket", "my-bucket", "--for", "aws.region=eu-west-1"]
    assert launchers_command(["iam", *words]) == 0
    printed, file = capsys.readouterr().out, Path(__file__).parent / "plans" / "iam.txt"
    if os.environ.get("DOGBREED_RECORD"):
        file.write_text(printed)
    assert printed == file.read_text(), "DOGBREED_RECORD=1 python -m pytest tests/launchers/test_policies.py"


def test_the_name_of_a_role_is_read_from_its_arn_and_from_that_of_a_session() -> None:
    account = "123456789012"
    assert name_of_role(f"arn:aws:iam::{account}:role/service-role/My.Role") == "My.Role"
    assert name_of_role(f"arn:aws-cn:sts::{account}:assumed-role/My.Role/me@x") == "My.Role"
    assert name_of_role(f"arn:aws:iam::{account}:user/me") == name_of_role(f"arn:aws:iam::{account}:root") == ""


def test_an_operation_is_known_by_its_action() -> None:
    assert actions_of("s3", "HeadObject") == ["s3:GetObject"]
    assert actions_of("s3", "HeadBucket") == actions_of("s3", "ListObjectsV2") == ["s3:ListBucket"]
    assert actions_of("s3", "CopyObject") == ["s3:GetObject", "s3:PutObject"]
    assert actions_of("sagemaker", "DescribeTrainingJob") == ["sagemaker:DescribeTrainingJob"]
    assert actions_of("sts", "GetCallerIdentity") == []  # which needs none


def test_what_hosting_needs_names_each_resource() -> None:
    def found(service: str, operation: str, **parameters: object) -> list[str]:
        return [f"{each.action} {each.resource}" for each in needs(service, operation, parameters, Where("r", "1"))]

    endpoint = {"EndpointName": "dogs", "EndpointConfigName": "dogs-1"}
    parts = ("endpoint/dogs", "endpoint-config/dogs-1")
    for operation in ("CreateEndpoint", "UpdateEndpoint"):
        assert found("sagemaker", operation, **endpoint) == [
            f"sagemaker:{operation} arn:aws:sagemaker:r:1:{part}" for part in parts
        ]
    assert found("sagemaker", "InvokeEndpoint", EndpointName="dogs") == [
        "sagemaker:InvokeEndpoint arn:aws:sagemaker:r:1:endpoint/dogs"
    ]
    model = {"ModelName": "dogs", "ExecutionRoleArn": "arn:aws:iam::1:role/x", "Tags": [{"Key": "a", "Value": "b"}]}
    assert [need.split()[0] for need in found("sagemaker", "CreateModel", **model)] == [
        "sagemaker:CreateModel",
        "sagemaker:AddTags",
        "iam:PassRole",
    ]
    target = {"Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:deleteEndpoint", "RoleArn": "arn:aws:iam::1:role/x"}
    assert found("scheduler", "CreateSchedule", Name="later", Target=target) == [
        "scheduler:CreateSchedule arn:aws:scheduler:r:1:schedule/default/later",
        "iam:PassRole arn:aws:iam::1:role/x",
    ]
    assert found("cloudwatch", "DeleteAlarms", AlarmNames=["a", "b"]) == [
        f"cloudwatch:DeleteAlarms arn:aws:cloudwatch:r:1:alarm:{name}" for name in "ab"
    ]
    assert found("cloudwatch", "DescribeAlarms", AlarmNamePrefix="dogs-") == [
        "cloudwatch:DescribeAlarms arn:aws:cloudwatch:r:1:alarm:dogs-*"
    ]
    assert found("ecr", "DescribeRepositories", repositoryNames=["dogs"]) == [
        "ecr:DescribeRepositories arn:aws:ecr:r:1:repository/dogs"
    ]
    assert found("codebuild", "BatchGetBuilds", ids=["image:1", "image:2"]) == [
        "codebuild:BatchGetBuilds arn:aws:codebuild:r:1:project/image"
    ]
    assert actions_of("codebuild", "StartBuild") == ["codebuild:StartBuild"]
    assert actions_of("scheduler", "DeleteSchedule") == ["scheduler:DeleteSchedule"]
