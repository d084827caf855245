"""What a submission to EC2 leaves if it fails, and when its deadline begins; in moto, without a server."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import aws_calls
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from launchers.aws import s3
from launchers.aws.account import Account
from launchers.aws.errors import errors, translated
from launchers.ec2 import groups, leftovers, spot, state
from launchers.ec2.fleet import Found
from launchers.ec2.groups import Group
from launchers.ec2.spot import Ec2Launcher
from launchers.ec2.state import Seen
from launchers.plan import Request
from launchers.status import Cause, Failures, LaunchError, Phase
from tests.support.ec2_plans import launched, planned

NAME, KEY = "dogbreed-20261124-120000-abcd", "dogbreed/runs/20261124-120000-abcd/submissions/1.json"
THEIRS = "s3://their-bucket/dogbreed/runs/20261124-120000-abcd"


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ec2Launcher]:
    monkeypatch.delenv(aws_calls.CALLS, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        cloud = Account(region="eu-west-1", poll_s=0.0)
        place = {"LocationConstraint": "eu-west-1"}
        cloud.client("s3").create_bucket(Bucket="my-bucket", CreateBucketConfiguration=place)
        yield replace(launched("ec2"), cloud=cloud)


def found(launcher: Ec2Launcher) -> Found:
    subnets = launcher.cloud.client("ec2").describe_subnets()["Subnets"]
    return Found("ami-12c6146b", "/dev/xvda", [subnets[0]["SubnetId"]], ["sg-1"], deadline=4_000_000_000)


def submitted(launcher: Ec2Launcher) -> bool:
    return "Contents" in launcher.cloud.client("s3").list_objects_v2(Bucket="my-bucket", Prefix=KEY)


def test_a_name_that_another_run_has_is_refused_and_leaves_what_is_theirs(launcher: Ec2Launcher) -> None:
    plan = planned("ec2")
    labels = [{"Key": "dogbreed:files", "Value": THEIRS}]
    launcher.cloud.client("ec2").create_launch_template(
        LaunchTemplateName=NAME,
        LaunchTemplateData={"ImageId": "ami-12c6146b", "InstanceType": "m5.large"},
        TagSpecifications=[{"ResourceType": "launch-template", "Tags": labels}],
    )
    launcher.cloud.client("autoscaling").create_auto_scaling_group(
        AutoScalingGroupName=NAME,
        LaunchTemplate={"LaunchTemplateName": NAME},
        MinSize=0,
        MaxSize=1,
        DesiredCapacity=1,
        VPCZoneIdentifier=found(launcher).subnets[0],
        Tags=[{**each, "PropagateAtLaunch": False} for each in labels],
    )
    with pytest.raises(LaunchError) as refused:
        launcher._create(plan, found(launcher))
    assert f"whose files are in {THEIRS}.\nTry: run_id=<another name>" in str(refused.value)
    assert not submitted(launcher)
    groups.remove(launcher.cloud, NAME, launcher.layout.run(plan.spec.run_id).uri)  # as `cancel` and `result` do
    group = groups.describe(launcher.cloud, NAME)
    assert group is not None
    assert (group.desired, groups.files_of(launcher.cloud, NAME)) == (1, THEIRS)


def fail_at(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    make = groups.make

    def failing(cloud: Any, request: Request) -> None:
        if request.operation == operation:
            raise LaunchError(f"{operation} failed")
        make(cloud, request)

    monkeypatch.setattr(groups, "make", failing)


def test_what_fails_half_way_leaves_nothing_of_its_own(launcher: Ec2Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, "PutScheduledUpdateGroupAction")
    with pytest.raises(LaunchError, match="PutScheduledUpdateGroupAction failed"):
        launcher._create(planned("ec2"), found(launcher))
    assert not submitted(launcher)
    assert groups.describe(launcher.cloud, NAME) is None
    assert groups.files_of(launcher.cloud, NAME) == ""


def test_if_tidying_up_fails_too_the_command_that_ends_it_is_named(
    launcher: Ec2Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, "SetDesiredCapacity")

    def denied(*_: Any) -> None:
        with errors("removing the group"):
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DeleteAutoScalingGroup")

    monkeypatch.setattr(groups, "remove", denied)
    with pytest.raises(LaunchError, match="SetDesiredCapacity failed") as failed:
        launcher._create(planned("ec2"), found(launcher))
    (note,) = failed.value.__notes__
    assert note.startswith("What was made may still be there. Try: python -m launchers cancel ec2://eu-west-1/")
    assert submitted(launcher)  # so that `cancel` knows the run


def test_what_is_left_of_a_submission_that_was_broken_off_is_cancelled_and_its_status_says_so(
    launcher: Ec2Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expired(*_: Any) -> None:
        raise LaunchError("The AWS credentials have expired.")

    plan = planned("ec2")
    with monkeypatch.context() as patched:
        fail_at(patched, "SuspendProcesses")
        patched.setattr(groups, "remove", expired)
        with pytest.raises(LaunchError, match="SuspendProcesses failed"):
            launcher._create(plan, found(launcher))
    monkeypatch.setattr(groups, "activities", lambda cloud, name: [])  # which moto does not tell
    before, after = launcher.status(plan.handle), launcher.cancel(plan.handle)
    assert groups.describe(launcher.cloud, NAME) is None
    for status in (before, after):
        assert (status.phase, status.cause) == (Phase.FAILED, Cause.INTERRUPTED)
        assert status.detail == "submitting it was broken off before a machine was asked for"


def test_a_run_that_cannot_be_asked_to_stop_is_ended_all_the_same(
    launcher: Ec2Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned("ec2")
    launcher._create(plan, found(launcher))

    def denied(*_: Any, **__: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    monkeypatch.setattr(s3, "write_json", denied)
    with pytest.raises(LaunchError, match="Asking the run to stop failed") as failed:
        launcher.cancel(plan.handle)
    (note,) = failed.value.__notes__
    assert note.startswith("The run was ended all the same.")
    assert groups.describe(launcher.cloud, NAME) is None


def test_a_result_in_this_bucket_says_nothing_of_a_group_whose_files_are_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launcher, run_id = launched("ec2"), planned("ec2").spec.run_id
    seen = Seen(launcher.layout, run_id, {"number": 1}, result={"outcome": "succeeded"})
    monkeypatch.setattr(state, "read", lambda cloud, layout, run_id: seen)
    group = Group(NAME, 1, 1, (), {"dogbreed:files": THEIRS}, datetime.now(UTC), deleting=False)
    mine = replace(group, tags={"dogbreed:files": seen.location.uri})
    for each, expected in ((group, []), (mine, [NAME])):
        monkeypatch.setattr(groups, "find", lambda cloud, each=each: [each])
        monkeypatch.setattr(groups, "templates", lambda cloud: iter(()))
        unused = leftovers.unused(launcher.cloud, launcher.layout, datetime.max.replace(tzinfo=UTC), Failures())
        assert list(unused) == expected


def test_the_deadline_begins_when_everything_is_uploaded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, made = SimpleNamespace(now=1_764_000_000.0), list[Found]()

    def upload(*_: Any) -> None:
        clock.now += 7 * 3600

    launcher, plan = launched("ec2"), planned("ec2")
    known = Found("ami-1", "/dev/xvda", ["subnet-1"], ["sg-1"])
    for place, name, answer in (
        (spot.iam, "caller", None),
        (spot.account, "look_up", known),
        (spot.permissions, "warning", ""),
        (spot, "remember", None),
        (spot, "refuse_if_alive_here", None),
        (spot.state, "read", Seen(launcher.layout, plan.spec.run_id, None)),
    ):
        monkeypatch.setattr(place, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(spot.iam, "caller", lambda _: SimpleNamespace(account="123456789012"))
    monkeypatch.setattr(spot.bucket, "bucket_findings", lambda *_: [])
    monkeypatch.setattr(spot, "time", SimpleNamespace(time=lambda: clock.now))
    monkeypatch.setattr(Ec2Launcher, "check_photos", lambda *_: None)
    monkeypatch.setattr(Ec2Launcher, "upload", upload)
    monkeypatch.setattr(Ec2Launcher, "_create", lambda self, plan, found: made.append(found))
    launcher.submit(plan)
    (sent,) = made
    assert sent.deadline == clock.now + 3600 * launcher.deadline_h
    assert (sent.number, sent.after, sent.limit) == (1, 0, "launcher.deadline_h")


def test_what_ec2_does_not_authorize_is_a_lack_of_permission() -> None:
    error = ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "You are not."}}, "CreateLaunchTemplate")
    assert translated(error, "calling CreateLaunchTemplate").cause is Cause.PERMISSION
    assert "python -m launchers iam" in str(translated(error, "calling CreateLaunchTemplate"))
