"""What a deployment would do, as its plan says: names, requests, updates, expiry, permissions, and what is refused."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.errors import ConfigError
from launchers.aws.account import Account
from launchers.aws.scaling_actions import SCALING_ROLE
from launchers.cost import prices, serving
from launchers.deploy import names, parts, permissions, request
from launchers.deploy.endpoint import Endpoint, what_next
from launchers.deploy.scaling import Fixed, Report
from launchers.plan import Plan
from launchers.rehearsal.services import schedule_target
from launchers.rehearsal.validation import findings
from launchers.spec import Deployed, RunSpec
from launchers.status import Cause, Handle, LaunchError, Phase
from tests.support.deployments import in_service, launcher, spec

PLANS = Path(__file__).parent / "plans"
RECORD = "DOGBREED_RECORD=1 python -m pytest tests/launchers/test_deploy.py"
OLD = replace(in_service(), revision="0" * 10, facts={"machines": "1 x ml.m5.large", "model": "s3://my-bucket/old"})
REPORT: dict[str, Any] = {"instance_type": "ml.m5.large", "fallback_type": None, "scaling": Report()}
SCALED = replace(OLD, facts={**OLD.facts, "machines": "1 x ml.c7i.large"}, scaling="concurrency: 1 to 3 instances")
CASES: dict[str, tuple[dict[str, Any], Deployed | None]] = {
    "deploy": ({}, None),
    "deploy-kept": (
        {
            "ttl_hours": None,
            "fallback_type": None,
            "kms_key": "0a1b2c3d",
            "subnets": ["subnet-1"],
            "security_groups": ["sg-1"],
        },
        None,
    ),
    "deploy-update": ({"instances": 3}, OLD),
    "deploy-report": ({**REPORT, "alarm_topic": "arn:aws:sns:eu-west-1:123456789012:alarms"}, None),
    "deploy-report-retyped": ({**REPORT, "ttl_hours": None}, SCALED),
}


def planned(name: str) -> Plan:
    settings, before = CASES[name]
    return launcher(**settings).plan(spec(before))


@pytest.mark.parametrize("name", CASES)
def test_a_plan_equals_the_recorded_one(name: str) -> None:
    text, file = f"{planned(name)}\n", PLANS / f"{name}.txt"
    if os.environ.get("DOGBREED_RECORD"):
        file.write_text(text)
    assert text == file.read_text(), f"To accept this change: {RECORD}"


@pytest.mark.parametrize("name", CASES)
def test_each_request_is_one_that_aws_accepts(name: str) -> None:
    session = botocore.session.get_session()
    for each in planned(name).requests:
        model = session.get_service_model(each.service).operation_model(each.operation)
        text = json.dumps(each.parameters).replace(request.ACCOUNT, "123456789012")
        for role in ("hosting", "scheduler"):
            text = text.replace(f"<the ARN of the role dogbreed-{role}>", f"arn:aws:iam::123456789012:role/{role}")
        parameters = json.loads(text)
        if each.service == "s3":
            parameters["Body"] = b""
        assert not list(findings(model.input_shape, parameters)), each


@pytest.mark.parametrize("name", CASES)
def test_everything_billable_is_tagged(name: str) -> None:
    for each in planned(name).requests:
        if each.operation.startswith(("Create", "Put")) and each.service in ("sagemaker", "cloudwatch"):
            keys = {tag["Key"] for tag in each.parameters["Tags"]}
            assert {"dogbreed:run-id", "dogbreed:owner", "dogbreed:purpose"} <= keys
            assert ("dogbreed:expires-at" in keys) == (name not in ("deploy-kept", "deploy-report-retyped"))


NAME_KEYS = {"deleteEndpoint": "EndpointName", "deleteEndpointConfig": "EndpointConfigName", "deleteModel": "ModelName"}


KEYS = {
    "PutMetricAlarm": "AlarmName",
    "CreateModel": "ModelName",
    "RegisterScalableTarget": "ResourceId",
    "PutScalingPolicy": "ResourceId",
}


@pytest.mark.parametrize("name", ["deploy", "deploy-update", "deploy-report"])
def test_what_deletes_a_part_is_created_before_it_and_deletes_all_of_them(name: str) -> None:
    scheduled: set[str] = set()
    for each in planned(name).requests:
        if each.service == "scheduler":
            wanted = json.loads(each.parameters["Target"]["Input"])
            scheduled |= {value for text in wanted.values() for value in ([text] if isinstance(text, str) else text)}
        elif each.operation != "PutObject":
            key = KEYS.get(each.operation) or (
                "EndpointName" if each.operation.endswith("Endpoint") else "EndpointConfigName"
            )
            assert each.parameters[key] in scheduled


def test_the_schedules_call_what_they_name_with_its_own_parameters() -> None:
    session = botocore.session.get_session()
    for each in planned("deploy-report").requests:
        if each.service == "scheduler":
            service, action = each.parameters["Target"]["Arn"].rpartition("aws-sdk:")[2].split(":")
            service = schedule_target._SERVICES.get(service, service)
            operation = action[0].upper() + action[1:]
            model, given = session.get_service_model(service), json.loads(each.parameters["Target"]["Input"])
            assert all(name[0].isupper() for name in given)
            named = schedule_target._as_in_model(given, service, operation)
            assert not list(findings(model.operation_model(operation).input_shape, named))
            assert each.parameters["ActionAfterCompletion"] == "DELETE"


# --- revisions ---


def revision(settings: dict[str, Any] | None = None, **changes: Any) -> str:
    return request.revision(launcher(**(settings or {})), spec(**changes))


def test_the_same_model_on_the_same_machines_is_the_same_revision_whenever_and_by_whom() -> None:
    later = replace(spec(OLD), created_at="2026-12-24T12:00:00+00:00")
    assert request.revision(launcher(owner="you", ttl_hours=1, rps=5, wait=False), later) == revision()


@pytest.mark.parametrize(
    "settings",
    [
        {"instances": 2},
        {"instance_type": "ml.m5.large"},
        {"fallback_type": None},
        {"role": "other"},
        {"kms_key": "mine"},
        {"subnets": ["subnet-1"], "security_groups": ["sg-1"]},
        {"start_s": 600},
        {"image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/mine:1"},
    ],
)
def test_another_setting_of_what_runs_is_another_revision(settings: dict[str, Any]) -> None:
    assert revision(settings) != revision()


def test_another_model_or_another_server_is_another_revision() -> None:
    other = spec()
    assert other.deployment is not None
    server = replace(other, deployment=replace(other.deployment, image_digest="c" * 64))
    assert len({revision(), revision(digest="d" * 64), request.revision(launcher(), server)}) == 3


def test_the_same_deployment_again_does_nothing() -> None:
    before = replace(OLD, revision=revision())
    plan = launcher().plan(spec(before))
    assert plan.requests == ()
    assert "none" in dict(plan.rows)["change"]
    assert "2026-11-24 13:00 UTC" in dict(plan.rows)["ends"]  # as it is, not as a new one would end


@pytest.mark.parametrize(
    ("was", "ttl_hours", "operations"),
    [(8, 48, {"UpdateSchedule", "CreateSchedule"}), (None, 8, {"CreateSchedule"}), (8, None, {"DeleteSchedule"})],
)
def test_another_end_alone_changes_the_schedules_and_whether_a_day_without_requests_is_watched(
    was: float | None, ttl_hours: float | None, operations: set[str]
) -> None:
    before = in_service(ttl_hours=was, scaling=Fixed())
    plan = launcher(ttl_hours=ttl_hours, scaling=Fixed()).plan(spec(before))
    assert {each.operation for each in plan.requests if each.service == "scheduler"} == operations
    others = [(each.operation, each.parameters) for each in plan.requests if each.service != "scheduler"]
    idle = "dogbreed-dogs-idle"
    if was is None:
        assert others == [("DeleteAlarms", {"AlarmNames": [idle]})]
    else:
        assert [(operation, made["AlarmName"]) for operation, made in others] == [("PutMetricAlarm", idle)]
    assert ("2026-11-24 13:00 UTC now" if was else "never now") in dict(plan.rows)["change"]
    wanted = {None: "never", 8: "2026-11-24 20:00 UTC", 48: "2026-11-26 12:00 UTC"}
    assert wanted[ttl_hours] in dict(plan.rows)["ends"]


@given(instances=st.integers(2, 50))
def test_a_canary_is_at_most_half_of_the_instances(instances: int) -> None:
    routing = _policy(instances)["TrafficRoutingConfiguration"]
    assert routing["Type"] == "CANARY"
    assert 0 < routing["CanarySize"]["Value"] <= instances / 2


def test_a_single_instance_is_replaced_at_once_and_watched() -> None:
    policy = _policy(1)
    assert policy["TrafficRoutingConfiguration"]["Type"] == "ALL_AT_ONCE"
    assert policy["TerminationWaitInSeconds"] >= 300


def _policy(instances: int) -> dict[str, Any]:
    update = launcher(instances=instances).plan(spec(OLD)).requests[-1]
    assert update.operation == "UpdateEndpoint"
    config = update.parameters["DeploymentConfig"]
    assert [each["AlarmName"] for each in config["AutoRollbackConfiguration"]["Alarms"]] == [
        "dogbreed-dogs-errors",
        "dogbreed-dogs-latency",
    ]
    found: dict[str, Any] = config["BlueGreenUpdatePolicy"]
    return found


def test_the_plan_of_an_update_shows_the_difference_and_that_it_needs_the_quota_twice() -> None:
    rows = dict(planned("deploy-update").rows)
    assert "machines: 1 x ml.m5.large -> 3 x ml.c7i.large, else ml.c6i.large" in rows["change"]
    assert "those of before as well" in rows["cost"]
    same_type = launcher(instances=3).plan(spec(replace(in_service(), revision="0" * 10)))
    assert "6 of the account's quota" in dict(same_type.rows)["cost"]


def test_what_differs_only_in_what_the_account_knows_is_no_difference() -> None:
    planned = request.wanted_facts(launcher(), spec())
    assert planned["role"] == "dogbreed-hosting"
    model = {
        "PrimaryContainer": {
            "Image": planned["image"].replace(request.ACCOUNT, "123456789012"),
            "ModelDataUrl": planned["model"],
        },
        "ExecutionRoleArn": "arn:aws:iam::123456789012:role/dogbreed/dogbreed-hosting",
        "EnableNetworkIsolation": True,
    }
    variant = {
        "InitialInstanceCount": 1,
        "InstancePools": [{"InstanceType": "ml.c7i.large"}, {"InstanceType": "ml.c6i.large"}],
    }
    assert request.facts(model, {"ProductionVariants": [variant]}) == planned


def test_a_deployment_that_shall_stay_loses_what_would_end_it() -> None:
    plan = launcher(ttl_hours=None).plan(spec(OLD))
    ended = [each.parameters["Name"] for each in plan.requests if each.service == "scheduler"]
    assert ended == list(names.Names("dogs").schedules.values())
    assert {each.operation for each in plan.requests if each.service == "scheduler"} == {"DeleteSchedule"}
    assert "never" in dict(plan.rows)["ends"]


# --- names ---

NAMES = st.from_regex(r"[a-z](-?[a-z0-9]){0,10}", fullmatch=True)


@given(NAMES, st.text("0123456789abcdef", min_size=10, max_size=10))
def test_every_part_is_found_again_under_the_name_of_its_deployment(name: str, revision: str) -> None:
    common, own = names.Names(name), names.RevisionNames(name, revision)
    owners = {
        **dict.fromkeys(common.alarms.values(), parts._owner_of_alarm),
        **dict.fromkeys((*common.schedules.values(), *own.schedules.values()), parts._owner_of_schedule),
        common.log_group: next(kind.owner for kind in parts.KINDS if kind.name == "log group"),
        common.endpoint: names.deployment_of,
        own.config: parts._owner,
    }
    assert {owner(text) for text, owner in owners.items()} == {name} or owners[own.config](own.config) == name
    assert names.revision_of(own.config, name) == revision
    assert all(len(text) <= 63 for text in owners if not text.startswith("/"))


@given(NAMES, NAMES)
def test_no_part_of_one_deployment_belongs_to_another(one: str, other: str) -> None:
    if one != other:
        assert names.revision_of(names.RevisionNames(one, "0" * 10).config, other) is None
        for text in (*names.Names(one).schedules.values(), *names.RevisionNames(one, "0" * 10).schedules.values()):
            assert parts._owner_of_schedule(text) == one


NO_NAMES = ["Dogs", "", "-dogs", "dogs-", "do gs", "dogs_1", "a" * 31, "1dogs", "döge", "a--b"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_aws_or_its_policies_would_not_take_is_refused(name: str) -> None:
    assert not names.is_name(name)


@pytest.mark.parametrize("name", [*NO_NAMES, "dogs/cats", "dogs*", "../dogs", "dogs\n"])
def test_a_handle_with_such_a_name_is_said_to_be_none_and_aws_is_not_asked(name: str) -> None:
    made, handle = launcher(), Handle("deploy", "eu-west-1", name)  # without credentials, so that asking would fail
    status = made.status(handle)
    assert (status.phase, made.cancel(handle).phase) == (Phase.LOST, Phase.LOST)
    assert "cannot be the name of a deployment: it has at most 30 lower-case letters" in status.detail
    assert "Try: python -m launchers list" in status.detail
    for ask in (made.logs, made.rollback, made.url, lambda handle: made.invoke(handle, b""), made.result):
        with pytest.raises(LaunchError, match="cannot be the name of a deployment"):
            ask(handle)  # type: ignore[operator]
    assert made.deployed(name) is None
    assert launcher(front="lambda", reserved=3).reservable(name) is None


@pytest.mark.parametrize("foreign", ["dogs", "dogbreed-", "my-dogbreed-dogs", "dogbreed-Dogs", "dogbreed-dogs-"])
def test_an_endpoint_of_another_name_is_nobodys_deployment(foreign: str) -> None:
    assert names.deployment_of(foreign) is None


# --- what is refused ---

WRONG: dict[str, dict[str, Any]] = {
    "launcher.bucket": {"bucket": "s3://my-bucket"},
    "No bucket": {"bucket": None},
    "launcher.prefix": {"prefix": "/a/"},
    "launcher.role": {"role": "a role"},
    "launcher.expiry_role": {"expiry_role": None},
    "launcher.instance_type": {"instance_type": "ml.c7i.larg"},
    "a type that SageMaker's endpoints run on": {"fallback_type": "ml.g5.xlarge"},
    "of another size": {"fallback_type": "ml.c6i.xlarge"},
    "launcher.instances": {"instances": 0},
    "launcher.image": {"image": "dogbreed-serve:latest"},
    "is in us-east-1": {"image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1"},
    "launcher.ttl_hours": {"ttl_hours": 0},
    "launcher.ttl_hours must": {"ttl_hours": -8},
    "launcher.start_s": {"start_s": 10},
    "launcher.bake_s": {"bake_s": 30},
    "launcher.max_error_rate": {"max_error_rate": 5},
    "launcher.max_latency_ms": {"max_latency_ms": 0},
    "launcher.rps": {"rps": -1},
    "subnets and security groups": {"subnets": ["subnet-1"]},
}


@pytest.mark.parametrize("words", WRONG)
def test_a_setting_that_cannot_work_is_found_in_the_plan_with_what_to_try(words: str) -> None:
    with pytest.raises(ConfigError, match="Try: ") as caught:
        launcher(**WRONG[words]).plan(spec())
    assert words in str(caught.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match="3 problems found"):
        launcher(ttl_hours=0, instances=0).plan(spec(name="Dogs"))


def test_a_spec_travels_as_json() -> None:
    for each in (spec(), spec(OLD)):
        assert RunSpec.from_json(each.to_json()) == each


def test_a_plan_names_a_function_where_that_is_cheaper() -> None:
    # 0.1 requests/s of ResNet50, of which one vCPU does 60 GFLOP/s: 262,800 x ($0.0000002 + 0.137 s x $0.0000288)
    text = dict(launcher().plan(spec()).rows)["cheaper"]
    assert text.startswith("launcher.variant=lambda: about $1.0")
    assert "cheaper" not in dict(launcher(rps=100).plan(spec()).rows)


def test_a_price_of_a_month_is_that_of_the_table() -> None:
    row = prices.hosting("ml.c7i.large")
    assert row is not None
    assert serving.usd_per_month("ml.c7i.large", 2) == pytest.approx(2 * row.usd * 730)
    assert serving.usd_per_month("ml.m7i.48xlarge", 1) is None


# --- permissions ---


def _statements() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for identity in permissions.identities(launcher(), "123456789012"):
        for grant in identity.grants:
            for action in grant.actions:
                yield identity.name, action, grant.resources


def test_only_what_has_no_resource_is_allowed_on_everything() -> None:
    for identity in permissions.identities(launcher(), "123456789012"):
        for grant in identity.grants:
            assert (grant.resources == ("*",)) == bool(grant.everywhere)
            assert not any("*" in action for action in grant.actions)


def test_every_role_is_limited_to_resources_of_ours() -> None:
    for name, action, resources in _statements():
        for resource in resources:
            if resource != "*" and action not in ("cloudwatch:DescribeAlarms", "logs:DescribeLogGroups"):
                if resource.endswith((":scalable-target/*", SCALING_ROLE)):  # whose names are AWS's own
                    continue
                assert "dogbreed" in resource or "my-bucket" in resource, (name, action, resource)


def test_the_scheduler_may_delete_what_its_schedules_name_and_nothing_else() -> None:
    wanted = {
        f"{schedule_target._SERVICES.get(service, service)}:{action[0].upper()}{action[1:]}"
        for plan in (planned("deploy-report"), launcher(variant="lambda").plan(spec()))
        for each in plan.requests
        if each.service == "scheduler"
        for service, action in [each.parameters["Target"]["Arn"].rpartition("aws-sdk:")[2].split(":")]
    }
    assert {action for name, action, _ in _statements() if name == "scheduler"} == wanted


@pytest.mark.parametrize(
    ("reason", "cause", "try_"),
    [
        ("Unable to provision capacity due to InsufficientInstanceCapacity error.", Cause.CAPACITY, "fallback_type"),
        ("Role r is not authorized to perform: ecr:BatchGetImage", Cause.PERMISSION, "python -m launchers iam --apply"),
        ("The container did not pass the ping health check.", Cause.USER_CODE, "launcher.start_s"),
        ("Something else.", Cause.UNKNOWN, "Try: the same command again"),
    ],
)
def test_why_an_endpoint_failed_and_what_to_try(reason: str, cause: Cause, try_: str) -> None:
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    found = Endpoint("dogbreed-dogs", "arn", "Failed", "config", "", reason, moment, moment, 0)
    status = found.status_of(Account(region="eu-west-1"), "dogs")
    assert (status.phase, status.cause) == (Phase.FAILED, cause)
    assert (status.shortage is not None) == (cause is Cause.CAPACITY)  # then launcher.wait_for_capacity_h applies
    assert try_ in what_next(cause)
