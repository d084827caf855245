"""Keys in the bucket, tags, roles, and AWS's errors in words, without a cloud."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import botocore.session
import pytest
from botocore import exceptions
from botocore.parsers import ResponseParserError
from hypothesis import given, settings
from hypothesis import strategies as st

from launchers.aws import bucket, iam, tags
from launchers.aws.errors import denial, errors
from launchers.aws.layout import Layout, RunLocation
from launchers.rehearsal.validation import findings
from launchers.spec import SearchOutput
from launchers.status import Cause, LaunchError
from tests.support.deployments import Client, with_clients
from tests.support.plans import planned

SPEC = planned("gpu").spec


def test_where_a_run_lies_is_known_by_its_checkpoints() -> None:
    layout = Layout("my-bucket", "team/dogbreed")
    run = layout.run("a-run")
    assert RunLocation.of_checkpoints(run.checkpoints_uri) == run
    assert run.spec_uri == layout.uri(layout.spec("a-run")) == "s3://my-bucket/team/dogbreed/runs/a-run/spec.json"
    assert run.features_uri.startswith(run.checkpoints_uri)
    assert layout.spec("a-run").startswith(layout.runs)


TAG = botocore.session.get_session().get_service_model("sagemaker").shape_for("Tag")


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_owner_can_be_a_tag(owner: str) -> None:
    made = tags.of_run(SPEC, owner)
    assert tags.from_aws(tags.to_aws(made)) == made
    for tag in tags.to_aws(made):
        assert not list(findings(TAG, tag))


def test_what_is_tagged_expires_30_days_after_the_run_was_asked_for() -> None:
    made = tags.of_run(SPEC, "me")
    expires, created = (datetime.fromisoformat(text) for text in (made[tags.EXPIRES_AT], SPEC.created_at))
    assert (expires - created).days == 30
    assert made[tags.PURPOSE] == "training"
    assert tags.of_run(replace(SPEC, output=SearchOutput("mine", 30)), "me")[tags.PURPOSE] == "search"


def test_a_role_is_given_by_its_name_or_its_arn() -> None:
    arn = "arn:aws:iam::123456789012:role/team/MyRole"
    assert iam.is_role("MyRole")
    assert iam.is_role(arn)
    assert not iam.is_role("team/MyRole")


def refused(code: str, message: str) -> exceptions.ClientError:
    return exceptions.ClientError({"Error": {"Code": code, "Message": message}}, "PutObject")


@pytest.mark.parametrize(
    ("error", "cause", "lines"),
    [
        (
            refused("AccessDenied", "User: x is not authorized to perform: s3:PutObject on resource: arn:aws:s3:::b"),
            Cause.PERMISSION,
            ["Sending it failed. Not permitted: s3:PutObject on arn:aws:s3:::b.", "Try: python -m launchers iam"],
        ),
        (refused("SlowDown", "Reduce it"), Cause.CAPACITY, ["Sending it failed. AWS throttled", "Reduce it", "Try: "]),
        (refused("Odd", "No such thing"), Cause.UNKNOWN, ["Sending it failed.", "No such thing", "Try: debug=true"]),
        (exceptions.NoCredentialsError(), Cause.PERMISSION, ["Sending it failed. No AWS credentials", "Try: aws"]),
        (
            exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
            Cause.CAPACITY,
            ["Sending it failed. AWS cannot be reached.", "Could not connect to", "Try: check the network"],
        ),
        (
            ResponseParserError("Unable to parse response (no element found), invalid XML received"),
            Cause.CAPACITY,
            ["Sending it failed. AWS cannot be reached.", "Unable to parse response", "Try: check the network"],
        ),
        (
            exceptions.NoRegionError(),
            Cause.BAD_CONFIG,
            ["Sending it failed. ", "You must specify a region", "Try: aws.r"],
        ),
    ],
)
def test_an_error_of_aws_says_what_happened_and_what_to_try(error: Any, cause: Cause, lines: list[str]) -> None:
    with pytest.raises(LaunchError) as caught, errors("sending it", then="(a hint)"):
        raise error
    assert caught.value.cause is cause
    found = str(caught.value).splitlines()
    assert found[-1] == "(a hint)"
    assert [text.startswith(line) for text, line in zip(found, lines, strict=False)] == [True] * len(lines), found
    assert len(found) == len(lines) + 1


WHY = "because no identity-based policy allows the s3:PutObject action"
POLICY = (
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:PutObject","Resource":"arn:aws:s3:::b/k"}]}'
)


@pytest.mark.parametrize(
    ("who", "grant"),
    [
        ("arn:aws:iam::123456789012:user/team/me", "aws iam put-user-policy --user-name me"),
        ("arn:aws:sts::123456789012:assumed-role/Dev/me@x", "aws iam put-role-policy --role-name Dev"),
    ],
)
def test_a_denial_ends_with_the_action_the_resource_and_the_command_that_grants_it(who: str, grant: str) -> None:
    text = f'User: {who} is not authorized to perform: s3:PutObject on resource: "arn:aws:s3:::b/k" {WHY}'
    with pytest.raises(LaunchError) as caught, errors("sending it"):
        raise refused("AccessDenied", text)
    first, hint = str(caught.value).splitlines()
    assert first == "Sending it failed. Not permitted: s3:PutObject on arn:aws:s3:::b/k."
    assert hint == f"Try: {grant} --policy-name s3-PutObject --policy-document '{POLICY}'"


def test_a_role_that_iam_names_without_its_arn_is_named_with_it() -> None:
    who = "arn:aws-cn:sts::123456789012:assumed-role/Dev/me"
    text = f"User: {who} is not authorized to perform: iam:GetRole on resource: role Their.Role because no policy does"
    found = denial(text)
    assert found is not None
    assert str(found) == "iam:GetRole on arn:aws-cn:iam::123456789012:role/Their.Role"


@pytest.mark.parametrize(
    ("role", "more"),
    [
        ("dogbreed-launch", []),
        ("Mine", ["It changes dogbreed-launch, not Mine. Then: aws.launch_as=dogbreed-launch"]),
    ],
)
def test_a_denial_by_a_rehearsal_ends_with_the_command_for_that_rehearsal(role: str, more: list[str]) -> None:
    text = f"User: arn:aws:sts::123456789012:assumed-role/{role}/x is not authorized to perform: s3:GetObject"
    error = refused("AccessDenied", text)
    error.response["ResponseMetadata"] = {"HTTPHeaders": {"x-dogbreed-rehearsal-state": "/a%20place"}}
    with pytest.raises(LaunchError) as caught, errors("sending it"):
        raise error
    command = "Try: python -m launchers iam --apply --state-dir '/a place'"
    assert str(caught.value).splitlines()[1:] == [command, *more]


def test_what_no_policy_can_grant_is_said_and_head_is_named_though_s3_says_nothing() -> None:
    text = "User: arn:aws:iam::1:user/me is not authorized to perform: s3:GetObject with an explicit deny in a policy"
    with pytest.raises(LaunchError, match="A policy denies it explicitly"), errors("sending it"):
        raise refused("AccessDenied", text)
    head = exceptions.ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadObject")
    with pytest.raises(LaunchError) as caught, errors("checking s3://b/k"):
        raise head
    first, hint = str(caught.value).splitlines()
    assert first == "Checking s3://b/k failed. Not permitted: s3:GetObject on s3://b/k."
    assert hint == "Try: python -m launchers iam --apply --for aws.bucket=b"
    expired = exceptions.ClientError({"Error": {"Code": "400", "Message": "Bad Request"}}, "HeadObject")
    with pytest.raises(LaunchError, match="credentials have expired") as caught, errors("checking s3://b/k"):
        raise expired
    assert caught.value.cause is Cause.PERMISSION


@pytest.mark.parametrize("call", ["head_bucket", "get_bucket_policy_status", "get_bucket_acl"])
def test_a_connection_that_is_lost_while_a_bucket_is_checked_is_said_whichever_call_it_was(call: str) -> None:
    lost = exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1/")
    answers = {
        "head_bucket": {"BucketRegion": "eu-west-1"},
        "get_bucket_policy_status": {"PolicyStatus": {"IsPublic": False}},
        "get_bucket_acl": {"Grants": []},
    }
    with pytest.raises(LaunchError, match="AWS cannot be reached") as caught:
        bucket.bucket_findings(with_clients(s3=Client(**{**answers, call: lost})), "my-bucket", "123456789012")
    assert caught.value.cause is Cause.CAPACITY
