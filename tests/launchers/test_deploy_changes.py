"""What changes of a deployment ask of an account, and what they leave there: with clients that only record."""

import logging
import signal
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from dogbreed.errors import Interrupted
from launchers.aws import tags
from launchers.aws.actions import Where, needs
from launchers.aws.tags import from_aws
from launchers.base import Cloud
from launchers.cost import prices
from launchers.deploy import (
    autoscaling,
    calls,
    doctor,
    endpoint,
    function_calls,
    images,
    names,
    parts,
    request,
    revisions,
    smoke,
    waiting,
)
from launchers.deploy.checks import Checks
from launchers.deploy.endpoint_change import EndpointChange
from launchers.deploy.launcher import DeployLauncher
from launchers.deploy.on_lambda import served as on_lambda_served
from launchers.deploy.on_lambda.change import FunctionChange
from launchers.deploy.parts import Part
from launchers.deploy.scaling import Concurrency, Invocations, Report, Scaled
from launchers.plan import Plan, Request
from launchers.rehearsal.services import builds
from launchers.spec import Deployed, RunSpec
from launchers.status import Handle, LaunchError, Phase, Status
from tests.support.deployments import Client, in_service, launcher, spec, with_clients

HANDLE = Handle("deploy", "eu-west-1", "dogs")
M5: dict[str, Any] = {"instance_type": "ml.m5.large", "fallback_type": None}
OWN = {"Tags": tags.to_aws({tags.RUN_ID: "dogs", tags.PURPOSE: "deployment", tags.SERVED: "a" * 10})}
A, B, C = (f"dogbreed-dogs-{letter * 10}" for letter in "abc")  # endpoint configurations, in the order of their age


def with_cloud(cloud: Cloud, **settings: Any) -> DeployLauncher:
    return replace(launcher(**settings), cloud=cloud)


def served(config: str, status: str = "InService") -> Any:
    about = {"EndpointName": "dogbreed-dogs", "EndpointArn": "arn:dogs", "EndpointStatus": status}
    return endpoint.Endpoint(**{
        "name": about["EndpointName"], "arn": about["EndpointArn"], "status": status, "config": config, "pending": "",
        "reason": "", "created": None, "modified": None, "instances": 1,
    })  # fmt: skip


# --- which revision was there before ---


@pytest.mark.parametrize(
    ("configs", "in_service", "served", "before"),
    [
        ([B, A], B, "a", A),
        ([B, A], A, "ba", B),  # which was rolled back
        ([B, A], A, "", ""),  # B was abandoned
        ([C, B, A], B, "a", A),  # C never came into service
        ([C, B, A], A, "b", B),
        ([C, B, A], C, "a", A),  # B never came into service
        ([C, B, A], C, "ba", B),
        ([A], A, "a", ""),
        ([B, A], "of-somebody-else", "ab", B),
    ],
)
def test_the_revision_before_is_the_next_older_one_that_has_served_or_else_the_next_newer(
    configs: list[str], in_service: str, served: str, before: str
) -> None:
    assert revisions.config_before(configs, in_service, [letter * 10 for letter in served]) == before


def test_what_is_in_service_is_noted_before_another_revision_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    made = with_clients(sagemaker=client)
    noted = {tags.SERVED: " ".join(f"{number:010}" for number in range(20))}
    for config, labels in ((A, {}), (A, {tags.SERVED: "a" * 10}), (B, {tags.SERVED: "a" * 10}), (B, noted)):
        revisions.note_served(made, "dogs", served(config), labels)
    added = [each["Tags"][0]["Value"] for each in client.asked("add_tags")]
    assert added[:2] == ["a" * 10, f"{'b' * 10} {'a' * 10}"]
    assert added[2].startswith("b" * 10)
    assert len(added[2]) <= 256
    assert all(tags.cleaned(value) == value for value in added)  # as AWS takes it
    changes = changing(Deployed("a" * 10, {}), wait=False)
    order: list[str] = []
    changes._found = served(A)
    changes.plan = replace(changes.plan, requests=(Request("sagemaker", "UpdateEndpoint", {}),))
    monkeypatch.setattr(revisions, "revisions", lambda cloud, name: [A])
    monkeypatch.setattr(revisions, "note_served", lambda *args: order.append("noted"))
    monkeypatch.setattr(EndpointChange, "_send", lambda self, each, filled: order.append(each.operation))
    changes._send_all({})
    assert order == ["noted", "UpdateEndpoint"]


def test_an_update_keeps_the_revision_that_served_before_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """After A, an update to B and a rollback, an update to C is from A."""
    removed: list[str] = []
    monkeypatch.setattr(revisions, "revisions", lambda cloud, name: [C, B, A])
    monkeypatch.setattr(parts, "remove_revision", lambda cloud, name, revision: removed.append(revision))
    monkeypatch.setattr(waiting, "settle", lambda *args, **more: Status(Phase.IN_SERVICE))
    monkeypatch.setattr(revisions, "traffic", lambda cloud, name: None)
    monkeypatch.setattr(smoke, "findings", lambda ask, model: [])
    monkeypatch.setattr(EndpointChange, "_config", C)
    monkeypatch.setattr(endpoint, "find", lambda cloud, name: served(C))
    changing(Deployed("a" * 10, {"machines": "1 x ml.c7i.large"}))._verify({})
    assert removed == ["b" * 10]


def changing(before: Deployed | None, **settings: Any) -> EndpointChange:
    """Return an update from `before`, of an account in which nothing is asked."""
    made, asked = with_cloud(with_clients(), **settings), spec(before)
    return EndpointChange(made, Plan(asked, HANDLE, (), (), (), None))


@pytest.mark.parametrize(
    ("before", "now", "deleted"),
    [("1", "3", ["2"]), ("2", "3", ["1"]), ("3", "3", [])],  # the last one moved no requests
)
def test_an_update_of_a_function_keeps_the_version_before_and_no_other(
    before: str, now: str, deleted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {"Versions": [{"Version": number} for number in ("$LATEST", "1", "2", "3")]}
    client = Client(list_versions_by_function=listed)
    change = function_change(spec(Deployed("a" * 10, {"version": before}, variant="lambda")), client)
    live = on_lambda_served.Served("dogbreed-dogs", "Active", "", "", {}, now, None)
    monkeypatch.setattr(on_lambda_served, "find", lambda cloud, name: live)
    change._forget_old_versions()
    assert [each["Qualifier"] for each in client.asked("delete_function")] == deleted


def function_change(asked: RunSpec, client: Client, requests: Sequence[Request] = ()) -> FunctionChange:
    made = with_cloud(with_clients(**{"lambda": client}), variant="lambda")
    return FunctionChange(made, Plan(asked, HANDLE, (), tuple(requests), (), None))


@pytest.mark.parametrize("service", ["lambda", "scheduler"])
def test_the_tag_of_a_functions_end_changes_with_its_schedules_alone(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tagged: list[Any] = []
    monkeypatch.setattr(function_calls, "tag_end", lambda cloud, function, at: tagged.append(at))
    monkeypatch.setattr("launchers.deploy.on_lambda.change.remember", lambda *args: None)
    for method in ("_check_account", "_clear", "_send", "_forget_old_versions"):
        monkeypatch.setattr(FunctionChange, method, lambda self, *args: {})
    monkeypatch.setattr(DeployLauncher, "record", lambda self, asked: None)
    before = Deployed("a" * 10, {"version": "1"}, variant="lambda")
    function_change(spec(before), Client(), [Request(service, "Any", {})]).make()
    assert len(tagged) == (service == "scheduler")


# --- an update ---


@pytest.mark.parametrize("instances", [1, 2, 5])
@pytest.mark.parametrize("bake_s", [180, 1200, 3600])
def test_an_update_may_take_longer_than_all_that_it_waits(instances: int, bake_s: int) -> None:
    made = launcher(instances=instances, bake_s=bake_s)
    asked = request.update(made, names.Names("dogs"), "new", instances)["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    routing = asked["TrafficRoutingConfiguration"]
    steps = 2 if routing["Type"] == "CANARY" else 1
    waits_s = steps * routing["WaitIntervalInSeconds"] + asked["TerminationWaitInSeconds"]
    assert waits_s == request.watched_s(made, instances)
    assert asked["MaximumExecutionTimeoutInSeconds"] >= waits_s + made.start_s


@pytest.mark.parametrize(("allowed", "kind", "found"), [(1, "ml.m5.large", 0), (1, "ml.c7i.large", 1)])
def test_an_update_needs_the_quota_twice_only_of_a_type_that_is_in_service(allowed: int, kind: str, found: int) -> None:
    quotas = {"Quotas": [{"QuotaName": f"{kind} for endpoint usage", "Value": allowed}]}
    before = replace(in_service(), revision="a" * 10)
    made = with_cloud(with_clients(**{"service-quotas": Client(list_service_quotas=quotas)}), instance_type=kind)
    assert len(EndpointChange(made, Plan(spec(before), HANDLE, (), (), (), None))._quota_findings()) == found
    cost = dict(made.plan(spec(before)).rows)["cost"]
    assert ("twice as many instances" in cost) == bool(found)


@pytest.mark.parametrize(("phase", "words"), [(Phase.IN_SERVICE, "rollback"), (Phase.FAILED, "cancel")])
def test_what_to_do_after_an_update_that_failed_is_what_its_endpoint_allows(
    phase: Phase, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = changing(in_service())
    monkeypatch.setattr(waiting, "settle", lambda *args, **more: Status(phase))
    monkeypatch.setattr(revisions, "traffic", lambda cloud, name: None)
    monkeypatch.setattr(smoke, "findings", lambda ask, model: ["It answers otherwise."])
    monkeypatch.setattr(endpoint, "find", lambda cloud, name: served(change._config))
    with pytest.raises(LaunchError) as caught:
        change._verify({})
    (note,) = caught.value.__notes__
    assert f"python -m launchers {words} deploy://eu-west-1/dogs" in note


@pytest.mark.parametrize(("kind", "memory_mb"), [("ml.c7i.large", 4096), ("ml.m5.large", 8192), ("ml.none", 4096)])
def test_a_model_is_examined_with_the_memory_of_its_instances(
    kind: str, memory_mb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(doctor, "examine", lambda model, **more: asked.update(more) or Checks())
    monkeypatch.setattr("launchers.aws.s3.head", lambda cloud, bucket, key: None)
    change = changing(None, instance_type=kind, fallback_type=None)
    upload = Request("s3", "PutObject", {"Bucket": "my-bucket", "Key": "model"})
    change.plan = replace(change.plan, requests=(upload,))
    change._examine()
    assert asked["memory_mb"] == memory_mb
    assert "launcher.instance_type" in asked["larger"]


def test_every_type_with_a_price_has_a_memory() -> None:
    rows = [prices.hosting(name) for name in prices.hosting_types()]
    assert min(row.memory_mb for row in rows if row is not None) >= 2048


# --- a rollback ---


@pytest.mark.parametrize("refused", [True, False])
def test_a_rollback_that_is_refused_leaves_the_scaling_as_it_was(
    refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = {A: "ml.m5.large", B: "ml.m5.xlarge"}
    scaled = Scaled("report", 1, 3, Report().policy(4))
    error = ClientError({"Error": {"Code": "ResourceLimitExceeded", "Message": "no quota"}}, "UpdateEndpoint")
    client, again, now = Client(update_endpoint=error if refused else {}, list_tags=OWN), list[Scaled](), [B]
    monkeypatch.setattr(revisions, "revisions", lambda cloud, name: [B, A])
    monkeypatch.setattr(
        revisions, "_variant", lambda cloud, config: {"InstanceType": configs[config], "InitialInstanceCount": 1}
    )
    monkeypatch.setattr(autoscaling, "present", lambda cloud, name: scaled)
    monkeypatch.setattr(revisions, "end_together", lambda *args: None)
    monkeypatch.setattr(calls, "send", lambda *args: None)
    monkeypatch.setattr(calls, "scale", lambda cloud, name, scaling, arn: again.append(scaling))
    monkeypatch.setattr(revisions, "traffic", lambda cloud, name: None)
    monkeypatch.setattr(waiting, "settle", lambda *args, **more: now.insert(0, A) or Status(Phase.IN_SERVICE))
    monkeypatch.setattr(endpoint, "find", lambda cloud, name: served(now[0]))
    made = with_cloud(with_clients(sagemaker=client))
    if refused:
        with pytest.raises(LaunchError, match="Rolling back failed"):
            revisions.rollback(made, HANDLE)
    else:
        revisions.rollback(made, HANDLE)
    assert again == [scaled if refused else scaled.on(0.5)]  # of half as many vCPUs


@pytest.mark.parametrize(("asked", "came"), [(True, A), (True, B), (False, A)])  # B: the alarms brought it back
def test_a_rollback_to_other_instances_that_is_stopped_is_completed_by_the_same_command(
    asked: bool,
    came: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    configs, labels = {A: "ml.m5.large", B: "ml.m5.xlarge"}, from_aws(OWN["Tags"])
    scaled = Scaled("report", 1, 3, Report().policy(4))
    account = SimpleNamespace(config=B, status="InService", scales=cast(Scaled | None, scaled), stops=True)

    def send(cloud: Cloud, each: Request, filled: dict[str, str]) -> None:
        account.scales = None if each.operation == "DeregisterScalableTarget" else account.scales

    def settle(made: Any, handle: Handle, **more: Any) -> Status:
        if account.stops:  # Ctrl-C while it is updated
            account.status, account.stops = "Updating", False
            raise Interrupted("The deployment continues without this terminal", signal.SIGINT)
        account.status, account.config = "InService", came
        return Status(Phase.IN_SERVICE)

    def scale(cloud: Cloud, name: str, wanted: Scaled, arn: str) -> None:
        account.scales = wanted

    monkeypatch.setattr(revisions, "revisions", lambda cloud, name: [B, A])
    monkeypatch.setattr(
        revisions, "_variant", lambda cloud, config: {"InstanceType": configs[config], "InitialInstanceCount": 1}
    )
    monkeypatch.setattr(autoscaling, "present", lambda cloud, name: account.scales)
    monkeypatch.setattr(revisions, "end_together", lambda *args: None)
    monkeypatch.setattr(revisions, "traffic", lambda cloud, name: None)
    monkeypatch.setattr(calls, "send", send)
    monkeypatch.setattr(calls, "scale", scale)
    monkeypatch.setattr(waiting, "settle", settle)
    monkeypatch.setattr(endpoint, "find", lambda cloud, name: served(account.config, account.status))
    monkeypatch.setattr(tags, "read", lambda cloud, arn: dict(labels))
    monkeypatch.setattr(tags, "add", lambda cloud, arn, more: labels.update(more))
    monkeypatch.setattr(tags, "remove", lambda cloud, arn, key: labels.pop(key))
    monkeypatch.setattr(DeployLauncher, "status", lambda self, handle: Status(Phase.IN_SERVICE))
    client = Client()
    made = with_cloud(with_clients(sagemaker=client))
    with pytest.raises(Interrupted), caplog.at_level(logging.WARNING, "dogbreed"):
        revisions.rollback(made, HANDLE)
    assert account.scales is None
    again = "python -m launchers rollback deploy://eu-west-1/dogs"
    assert again in capsys.readouterr().out  # before it can be stopped, also by SIGKILL
    assert again in caplog.text
    if not asked:  # as after SIGKILL before the update
        account.status = "InService"
    if came == A:
        assert revisions.rollback(made, HANDLE).phase is Phase.IN_SERVICE
    else:
        with pytest.raises(LaunchError, match="The rollback of dogs did not come into service"):
            revisions.rollback(made, HANDLE)
    updates = [each["EndpointConfigName"] for each in client.asked("update_endpoint")]
    assert updates == ([A] if asked else [A, A])
    assert account.scales == (scaled if came == B else scaled.on(0.5))
    assert tags.SCALED not in labels


def test_what_ended_a_rollback_is_said_although_its_scaling_cannot_begin_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def expired(*args: Any) -> Any:
        raise LaunchError("Asking for dogbreed-dogs failed.")

    monkeypatch.setattr(tags, "add", lambda *args: None)
    monkeypatch.setattr(calls, "send", lambda *args: None)
    monkeypatch.setattr(endpoint, "find", expired)
    scaled, made = Scaled("report", 1, 3, Report().policy(4)), with_cloud(with_clients())
    stopped = Interrupted("The deployment continues without this terminal", signal.SIGINT)
    with (
        caplog.at_level(logging.WARNING, "dogbreed"),
        pytest.raises(Interrupted) as caught,
        revisions._not_scaling(made, HANDLE, served(B), scaled, "ml.m5.xlarge", A),
    ):
        raise stopped
    assert caught.value.__notes__ == ["Asking for dogbreed-dogs failed."]
    assert "python -m launchers rollback deploy://eu-west-1/dogs" in caplog.text


@pytest.mark.parametrize(
    "scaled",
    [
        Scaled("report", 1, 3, Report().policy(4)),
        Scaled("report", 1, 3, Report(cpu_percent=133.3).policy(4)).on(1 / 3),
        Scaled("concurrency", 2, 5, Concurrency().policy(4)),
        Scaled("invocations", 1, 3, Invocations(max_rps=7.77).policy(4)),
        Scaled("unknown", 1, 3, None),
    ],
)
def test_how_a_deployment_scales_survives_a_tag(scaled: Scaled) -> None:
    assert Scaled.of_numbers(scaled.numbers) == scaled
    assert tags.cleaned(scaled.numbers) == scaled.numbers


def test_a_deployment_that_scales_and_is_not_waited_for_says_what_lets_it_scale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change = changing(in_service())
    later = Request("application-autoscaling", "RegisterScalableTarget", {})
    change.plan = replace(change.plan, requests=(Request("sagemaker", "UpdateEndpoint", {}), later))

    def interrupted(*args: Any, **more: Any) -> Status:
        raise Interrupted("The deployment continues without this terminal", signal.SIGINT)

    monkeypatch.setattr(waiting, "settle", interrupted)
    monkeypatch.setattr(revisions, "traffic", lambda cloud, name: None)
    with pytest.raises(Interrupted) as caught:
        change._verify({})
    assert "the same command again, once it is in service" in caught.value.__notes__[0]


# --- the end ---


def test_a_part_that_resists_hides_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [Part(kind, f"dogbreed-{name}", name) for name in ("ants", "bees") for kind in ("alarm", "model")]

    def remove(cloud: Cloud, part: Part) -> None:
        if (part.deployment, part.kind) == ("ants", "alarm"):
            raise LaunchError("deleting the alarm was refused")
        there.remove(part)

    monkeypatch.setattr(parts, "remove", remove)
    monkeypatch.setattr(parts, "everything", lambda cloud, prefix="": [each for each in there if prefix in each.name])
    report = launcher().cleanup(apply=True)
    assert report.left == ("alarm dogbreed-ants",)
    (error,) = report.errors
    assert "deleting the alarm was refused" in str(error)


def test_what_a_cancel_could_not_remove_is_said_before_anything_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launchers.deploy.variants.find", lambda cloud, name: None)
    monkeypatch.setattr(parts, "of_deployment", lambda cloud, name: [Part("endpoint", "dogbreed-dogs", "dogs")])
    monkeypatch.setattr(parts, "remove_all", lambda cloud, name: ["endpoint dogbreed-dogs (it was refused)"])
    monkeypatch.setattr("launchers.deploy.records.Records.of", lambda settings, name: None)
    with pytest.raises(LaunchError, match=r"endpoint dogbreed-dogs \(it was refused\)"):
        with_cloud(with_clients(s3=Client(list_objects_v2=RuntimeError("asked")))).cancel(HANDLE)


# --- the image ---


def test_a_project_that_is_there_builds_as_it_would_be_made_now() -> None:
    exists = ClientError({"Error": {"Code": "ResourceAlreadyExistsException", "Message": "there"}}, "CreateProject")
    client = Client(create_project=exists, start_build={"build": {"buildStatus": "SUCCEEDED", "id": "one"}})
    made = with_cloud(with_clients(codebuild=client, s3=Client()), build_role="arn:aws:iam::123456789012:role/mine")
    images._build_there(made, "123456789012.dkr.ecr.eu-west-1.amazonaws.com/dogbreed-serve:tag", "123456789012")
    (asked,) = client.asked("start_build")
    (project,) = client.asked("create_project")
    assert asked["buildspecOverride"] == project["source"]["buildspec"]
    assert asked["serviceRoleOverride"] == project["serviceRole"] == "arn:aws:iam::123456789012:role/mine"
    needed = {need.action: need.resource for need in needs("codebuild", "StartBuild", asked, Where("eu-west-1"))}
    assert needed["iam:PassRole"] == asked["serviceRoleOverride"]
    assert builds._overridden(project, asked)["serviceRole"] == asked["serviceRoleOverride"]
