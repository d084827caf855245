"""What a Lambda function with the model inside would be, as its plan says: requests, sizes, prices, what is refused."""

import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.errors import ConfigError
from launchers.aws import tags
from launchers.cost import serving
from launchers.cost.comparison import Sized, compare
from launchers.deploy import function_kinds, names, parts, permissions, served
from launchers.deploy.function import VERSION
from launchers.deploy.on_lambda import request, sizing, target
from launchers.deploy.on_lambda import served as on_lambda_served
from launchers.deploy.on_lambda.asking import ask
from launchers.payload.model import SentModel
from launchers.payload.package import HANDLER
from launchers.plan import Plan
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.services import schedule_target
from launchers.rehearsal.validation import findings
from launchers.spec import Deployed
from launchers.status import Cause, LaunchError, Phase
from tests.support.deployments import MODEL, Client, launcher, spec, with_clients
from tests.support.project import ROOT

PLANS = Path(__file__).parent / "plans"
RECORD = "DOGBREED_RECORD=1 python -m pytest tests/launchers/test_deploy_lambda.py"
SMALL = {"size": 14_100_000, "backbone": "tf_efficientnet_lite0", "image_px": 160}
OLD = Deployed(
    "0" * 10,
    {"model": "abcdef012345, in the package", "memory": "1769 MB", "at once": "at most 3 requests", "version": "7"},
    "2026-11-24T13:00:00+00:00",
    ttl_hours=8,
    variant="lambda",
)
CASES: dict[str, tuple[dict[str, Any], Deployed | None, dict[str, Any]]] = {
    "deploy-lambda": ({}, None, SMALL),
    "deploy-lambda-s3": ({"ttl_hours": None, "architecture": "arm64", "reserved": 3}, None, {}),
    "deploy-lambda-update": ({"canary": True}, OLD, SMALL),
}


def planned(name: str) -> Plan:
    settings, before, model = CASES[name]
    return launcher(variant="lambda", **settings).plan(spec(before, **model))


def test_another_limit_alone_makes_no_version() -> None:
    made, asked = launcher(variant="lambda", reserved=3), spec(**SMALL)
    facts = {**request.wanted_facts(made, asked), "version": "7"}
    before = replace(OLD, revision=request.revision(made, asked), facts=facts)
    assert launcher(variant="lambda", reserved=3).plan(spec(before, **SMALL)).requests == ()
    for settings, operation in (({"reserved": 5}, "PutFunctionConcurrency"), ({}, "DeleteFunctionConcurrency")):
        plan = launcher(variant="lambda", **settings).plan(spec(before, **SMALL))
        assert [each.operation for each in plan.requests] == [operation]
        assert "at once: at most 3 requests -> " in dict(plan.rows)["change"]


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
        text = json.dumps(each.parameters).replace(VERSION, "8")
        for role in ("lambda", "scheduler"):
            text = text.replace(f"<the ARN of the role dogbreed-{role}>", f"arn:aws:iam::123456789012:role/{role}")
        parameters = json.loads(text)
        if each.service == "s3":
            parameters["Body"] = b""
        assert not list(findings(model.input_shape, parameters)), each


def test_the_schedules_end_the_function_and_its_log_and_are_created_before_them() -> None:
    session, ended = botocore.session.get_session(), {}
    for each in planned("deploy-lambda").requests:
        if each.service == "scheduler":
            service, action = each.parameters["Target"]["Arn"].rpartition("aws-sdk:")[2].split(":")
            service = schedule_target._SERVICES.get(service, service)
            operation, wanted = action[0].upper() + action[1:], json.loads(each.parameters["Target"]["Input"])
            model = session.get_service_model(service).operation_model(operation)
            assert not list(findings(model.input_shape, schedule_target._as_in_model(wanted, service, operation)))
            ended |= wanted
        elif each.operation in ("CreateFunction", "CreateLogGroup"):
            assert {each.parameters.get("FunctionName"), each.parameters.get("logGroupName")} & {*ended.values()}
    assert ended == {"FunctionName": "dogbreed-dogs", "LogGroupName": "/aws/lambda/dogbreed-dogs"}


@pytest.mark.parametrize("name", CASES)
def test_requests_get_to_a_version_last_and_through_a_url_that_asks_for_a_signature(name: str) -> None:
    calls = [each for each in planned(name).requests if each.service == "lambda"]
    order = [each.operation for each in calls]
    assert order.index("PublishVersion") < min(n for n, call in enumerate(order) if call.endswith("Alias"))
    for each in calls:
        if each.operation == "CreateFunctionUrlConfig":
            assert (each.parameters["AuthType"], each.parameters["Qualifier"]) == ("AWS_IAM", "live")


def test_a_canary_is_a_tenth_of_the_requests_and_its_alarm_goes_with_it() -> None:
    *_, alarm, canary, moved, _, removed = planned("deploy-lambda-update").requests
    assert alarm.parameters["Dimensions"][-1] == {"Name": "ExecutedVersion", "Value": VERSION}
    assert canary.parameters["FunctionVersion"] == "7"
    assert canary.parameters["RoutingConfig"]["AdditionalVersionWeights"] == {VERSION: 0.1}
    assert moved.parameters["FunctionVersion"] == VERSION
    assert moved.parameters["RoutingConfig"]["AdditionalVersionWeights"] == {}
    assert removed.parameters["AlarmNames"] == [alarm.parameters["AlarmName"]]
    plain = launcher(variant="lambda").plan(spec(OLD, **SMALL)).requests
    assert plain[-2] == moved
    assert plain[-1].operation == "DeleteFunctionConcurrency"  # it is not limited any more
    topic = "arn:aws:sns:eu-west-1:123456789012:alarms"
    told = launcher(variant="lambda", canary=True, alarm_topic=topic).plan(spec(OLD, **SMALL)).requests
    assert told[-5].parameters == {**alarm.parameters, "AlarmActions": [topic]}


@pytest.mark.parametrize("canary", [False, True])
def test_how_many_requests_it_takes_at_once_changes_after_the_new_version_was_tested(canary: bool) -> None:
    plan = launcher(variant="lambda", canary=canary, reserved=5).plan(spec(OLD, **SMALL))
    order = [each.operation for each in plan.requests if each.service == "lambda"]
    assert order[-2:] == ["UpdateAlias", "PutFunctionConcurrency"]
    same = launcher(variant="lambda", canary=canary, reserved=3).plan(spec(OLD, **SMALL))
    assert "PutFunctionConcurrency" not in [each.operation for each in same.requests]


@pytest.mark.parametrize(
    ("numbers", "live", "served", "before"),
    [
        (["2", "1"], "2", ["1"], "1"),
        (["2", "1"], "1", ["2", "1"], "2"),  # which was rolled back
        (["2", "1"], "1", [], ""),  # a command was killed before it had tested 2
        (["11", "10", "9"], "10", ["9"], "9"),  # 11 never came into service
        (["11", "10", "9"], "11", ["9"], "9"),  # nor did 10
        (["12", "10", "9"], "9", ["10", "9"], "10"),
        (["3"], "3", ["3"], ""),
    ],
)
def test_the_version_before_is_the_next_older_one_that_has_served_or_else_the_next_newer(
    numbers: list[str], live: str, served: list[str], before: str
) -> None:
    assert on_lambda_served.version_before(numbers, live, served) == before


def test_the_version_that_is_live_is_noted_before_another_one_takes_its_place() -> None:
    client = Client()
    cloud = with_clients(**{"lambda": client})
    live = on_lambda_served.Served("dogbreed-dogs", "Active", "", "", {}, "7", None, arn="arn:dogs")
    on_lambda_served.note_served(cloud, live)
    on_lambda_served.note_served(cloud, replace(live, tags={tags.SERVED: "7 3"}))
    on_lambda_served.note_served(cloud, replace(live, tags={tags.SERVED: "3"}))
    asked = [(each["Resource"], each["Tags"]) for each in client.asked("tag_resource")]
    assert asked == [("arn:dogs", {tags.SERVED: "7"}), ("arn:dogs", {tags.SERVED: "7 3"})]


def test_a_function_without_its_url_is_one_whose_creation_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {
        "get_function": {
            "Configuration": {"State": "Active", "Handler": HANDLER, "LastModified": "2026-11-24T12:00:00.000+0000"},
            "Tags": {"dogbreed:run-id": "dogs", "dogbreed:purpose": "deployment"},
        },
        "get_alias": {"FunctionVersion": "1"},
        "get_function_url_config": None,
    }
    monkeypatch.setattr(on_lambda_served, "described", lambda cloud, method, **asked: answers[method])
    cloud = launcher().cloud
    found = on_lambda_served.find(cloud, "dogs")
    assert found is not None
    assert (found.phase, found.live) == (Phase.FAILED, "")  # so that the same command makes it again
    answers["get_function_url_config"] = {"FunctionUrl": "https://x.lambda-url.eu-west-1.on.aws/"}
    found = on_lambda_served.find(cloud, "dogs")
    assert found is not None
    assert (found.phase, found.live) == (Phase.IN_SERVICE, "1")


@pytest.mark.parametrize(
    ("status", "words", "cause"),
    [
        (422, "The deployment dogs refused the picture: no picture", Cause.BAD_CONFIG),
        (500, "The deployment dogs answers with 500: no picture", Cause.USER_CODE),
        (503, "The deployment dogs answers with 503: no picture", Cause.CAPACITY),
    ],
)
def test_a_server_that_fails_has_not_refused_the_picture(status: int, words: str, cause: Cause) -> None:
    said = {"statusCode": status, "body": json.dumps({"detail": "no picture"}), "isBase64Encoded": False}
    cloud = with_clients(**{"lambda": Client(invoke={"Payload": io.BytesIO(json.dumps(said).encode())})})
    with pytest.raises(LaunchError) as caught:
        ask(cloud, "dogs", b"x")
    assert (str(caught.value), caught.value.cause) == (words, cause)


def test_a_canary_that_was_left_ends_before_anything_else_changes() -> None:
    left = replace(OLD, facts={**OLD.facts, "canary": "8"}, alarms={"dogbreed-dogs-errors": "above 0"})
    plan = launcher(variant="lambda").plan(spec(left, **SMALL))
    operations = [each.operation for each in plan.requests]
    first = operations.index("UpdateAlias")
    assert plan.requests[first].parameters["FunctionVersion"] == "7"
    assert plan.requests[first].parameters["RoutingConfig"]["AdditionalVersionWeights"] == {}
    assert operations[first + 1 : first + 4] == ["DeleteFunction", "DeleteAlarms", "UpdateFunctionCode"]
    assert plan.requests[first + 1].parameters == {"FunctionName": "dogbreed-dogs", "Qualifier": "8"}


# --- revisions ---


def revision(settings: dict[str, Any] | None = None, **changes: Any) -> str:
    return request.revision(launcher(variant="lambda", **(settings or {})), spec(**changes))


def test_the_same_model_in_the_same_function_is_the_same_revision_whenever_and_by_whom() -> None:
    later = replace(spec(OLD), created_at="2026-12-24T12:00:00+00:00")
    assert request.revision(launcher(variant="lambda", owner="you", ttl_hours=1, rps=5), later) == revision()


@pytest.mark.parametrize(
    "settings",
    [{"architecture": "arm64"}, {"memory_mb": 2048}, {"lambda_role": "other"}, {"prefix": "other"}],
)
def test_another_setting_of_what_runs_is_another_revision(settings: dict[str, Any]) -> None:
    assert revision(settings) != revision()


def test_another_model_or_another_package_is_another_revision_and_another_package() -> None:
    settings, other = launcher(variant="lambda"), spec(**SMALL)
    assert other.deployment is not None
    server = replace(other, deployment=replace(other.deployment, package_digest="d" * 64))
    digests = [request.package_digest(settings, each) for each in (other, server, spec(**SMALL, digest="e" * 64))]
    assert len({*digests}) == len({request.revision(settings, each) for each in (other, server)}) + 1 == 3


def test_a_package_without_the_model_is_the_same_for_all_of_them() -> None:
    settings = launcher(variant="lambda")
    assert request.package_digest(settings, spec()) == request.package_digest(settings, spec(digest="e" * 64))
    assert revision() != revision(digest="e" * 64)


def test_the_same_deployment_again_does_nothing_and_another_ttl_changes_its_end_alone() -> None:
    facts = request.wanted_facts(launcher(variant="lambda"), spec())
    before = replace(OLD, revision=revision(), facts=facts)
    assert launcher(variant="lambda").plan(spec(before)).requests == ()
    longer = launcher(variant="lambda", ttl_hours=99).plan(spec(before))
    assert {each.operation for each in longer.requests} == {"UpdateSchedule"}
    assert "its end alone" in dict(longer.rows)["change"]
    kept = launcher(variant="lambda", ttl_hours=None).plan(spec(before))
    assert {each.operation for each in kept.requests} == {"DeleteSchedule"}


def test_what_lambda_describes_has_the_facts_that_were_planned() -> None:
    settings = launcher(variant="lambda", reserved=3)
    plan = settings.plan(spec(**SMALL))
    create, published = (
        next(each.parameters for each in plan.requests if each.operation == name)
        for name in ("CreateFunction", "PublishVersion")
    )
    shown = {**create, "Description": published["Description"], "Role": "arn:aws:iam::1:role/dogbreed/dogbreed-lambda"}
    assert request.facts(shown, 3) == request.wanted_facts(settings, spec(**SMALL))
    assert request.described(published["Description"]) == (revision({"reserved": 3}, **SMALL), "0123456789ab")


def test_the_functions_variables_are_those_of_the_image() -> None:
    image = {name: value for name, value in served.image_variables().items() if not name.startswith("PYTHON")}
    assert image == request._VARIABLES


# --- names ---

NAMES = st.from_regex(r"[a-z](-?[a-z0-9]){0,10}", fullmatch=True)


@given(NAMES)
def test_every_part_is_found_again_under_the_name_of_its_deployment(name: str) -> None:
    found = names.Names(name)
    assert {parts._owner_of_schedule(text) for text in found.function_schedules.values()} == {name}
    assert function_kinds.LOG_GROUP.owner(found.function_log_group) == name
    assert function_kinds.FUNCTION.owner(found.endpoint) == name
    assert all(len(text) <= 64 for text in (*found.function_schedules.values(), found.endpoint))


# --- sizes and prices ---


def model(size: int) -> SentModel:
    return replace(MODEL, size=size)


@given(st.integers(10_000, 2_000_000_000))
def test_a_function_has_the_memory_that_its_model_needs_and_one_vcpu(size: int) -> None:
    memory = sizing.memory_mb(model(size), None)
    assert memory >= max(1769, sizing.needed_mb(model(size)))
    assert sizing.disk_mb(model(size)) * 2**20 > size or sizing.is_inside(model(size))


def test_small_models_are_in_the_package_and_large_ones_in_s3() -> None:
    assert sizing.is_inside(model(14_100_000))
    assert sizing.is_inside(model(25_000_000))
    assert not sizing.is_inside(MODEL)
    row = dict(launcher(variant="lambda").plan(spec()).rows)
    assert "in S3" in row["model"]
    assert "inside the package" in dict(planned("deploy-lambda").rows)["model"]


def test_a_start_that_lambda_would_break_off_is_said_with_what_to_do() -> None:
    start = dict(launcher(variant="lambda").plan(spec(size=600_000_000)).rows)["start"]
    assert "more than the 10 s" in start
    assert "Try: " in start
    assert sizing.start_s(MODEL) < sizing.INIT_S


def test_the_plan_compares_both_variants_at_nothing_the_expected_and_ten_times_as_much() -> None:
    lines = dict(launcher(variant="lambda", rps=2).plan(spec(**SMALL)).rows)["compare"].splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["0", "2", "20"]
    assert lines[1].split()[1:] == ["$78.11", "$0.00", "$0.00"]
    assert "of 3 requests at once" in dict(launcher(variant="lambda", reserved=3).plan(spec()).rows)["cost"]


def test_every_line_about_a_price_fits_a_terminal() -> None:
    for name in CASES:
        plan = planned(name)
        lines = plan.brief().splitlines()
        indent = max(len(row) for row, _ in plan.rows) + 4
        lines += [
            f"{'':{indent}}{line}" for row, text in plan.rows if row in ABOUT_PRICES for line in text.splitlines()
        ]
        assert [line for line in lines if len(line) > 80] == []


ABOUT_PRICES = ("cost", "compare", "start")
GUIDE = ROOT / "launchers" / "deploy" / "on_lambda" / "README.md"


def test_the_guides_table_is_what_the_traffic_costs() -> None:
    """Of ResNet50, in which a request takes 0.14 s of one vCPU."""
    rows = re.findall(r"^\| ([\d.]+) \| \$([\d.]+) \| \$([\d.]+) \| \$([\d.]+) \|", GUIDE.read_text(), re.MULTILINE)
    assert [rps for rps, *_ in rows] == ["0", "0.1", "1", "12", "30"]
    service_s = serving.seconds_on_vcpu("resnet50", 133, 224)
    assert service_s is not None
    for rps, realtime, function, free in rows:
        month = compare(float(rps), service_s, Sized(1769), "ml.m5.large", 1)
        assert (month.realtime, month.function, month.free) == pytest.approx(
            (float(realtime), float(function), float(free)), abs=0.005
        )


# --- what is refused ---

WRONG: dict[str, dict[str, Any]] = {
    "launcher.variant='serverless'": {"variant": "serverless"},
    "launcher.bucket": {"bucket": "s3://my-bucket"},
    "launcher.lambda_role is not set": {"lambda_role": None},
    "launcher.expiry_role": {"expiry_role": "a role"},
    "launcher.architecture='riscv64' is none of Lambda's": {"architecture": "riscv64"},
    "the model needs about 680.": {"memory_mb": 512},
    "a function has 128 to 10,240": {"memory_mb": 20_000},
    "launcher.reserved must be at least 1": {"reserved": 0},
    "launcher.ttl_hours": {"ttl_hours": 0},
    "launcher.rps": {"rps": -1},
    "launcher.bake_s": {"canary": True, "bake_s": 30},
    "would be told nothing": {"alarm_topic": "arn:aws:sns:eu-west-1:123456789012:alarms"},
    "alarm_topic is in us-east-1": {"alarm_topic": "arn:aws:sns:us-east-1:123456789012:alarms", "canary": True},
    "launcher.subnets and launcher.security_groups": {"subnets": ["subnet-1"], "security_groups": ["sg-1"]},
}


@pytest.mark.parametrize("words", WRONG)
def test_a_setting_that_cannot_work_is_found_in_the_plan_with_what_to_try(words: str) -> None:
    with pytest.raises(ConfigError, match="Try: ") as caught:
        launcher(**{"variant": "lambda", **WRONG[words]}).plan(spec())
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory_mb": "abc"}, "launcher.memory_mb must be a whole number or null, got 'abc'"),
        ({"memory_mb": 1769.5}, "launcher.memory_mb must be a whole number or null, got 1769.5"),
        ({"reserved": True}, "launcher.reserved must be a whole number or null, got True"),
        ({"canary": "maybe"}, "launcher.canary must be true or false, got 'maybe'.\nTry: launcher.canary=false"),
        ({"rps": float("nan")}, "launcher.rps must be a number, got nan.\nTry: launcher.rps=0.1"),
        ({"ttl_hours": "8h"}, "launcher.ttl_hours must be a number or null, got '8h'"),
        ({"architecture": None}, "launcher.architecture must be text, got None.\nTry: launcher.architecture=x86_64"),
        ({"variant": "realtime", "instances": "two"}, "launcher.instances must be a whole number, got 'two'"),
        (
            {"variant": "realtime", "subnets": "subnet-1"},
            "launcher.subnets must be a list, got 'subnet-1'.\nTry: launcher.subnets=[]",
        ),
    ],
)
def test_a_value_of_another_type_is_named_with_what_it_must_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        launcher(**{"variant": "lambda", **settings}).plan(spec())
    assert words in str(caught.value)


def test_a_region_without_function_urls_is_refused() -> None:
    made = launcher(variant="lambda")
    elsewhere = replace(made, cloud=replace(made.cloud, region="eu-south-2"))  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="Lambda has no function URLs in eu-south-2"):
        elsewhere.plan(spec())


def test_a_model_that_no_function_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs about 12,300 MB of memory, and a function has at most 10,240"):
        launcher(variant="lambda").plan(spec(size=3_000_000_000))


def test_an_update_from_one_variant_to_another_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dogs is served with launcher\.variant=realtime"):
        launcher(variant="lambda").plan(spec(replace(OLD, variant="realtime")))


def test_a_rehearsed_function_is_for_this_machine(tmp_path: Path) -> None:
    here = target.here()
    cloud = Rehearsal(state_dir=str(tmp_path), bucket="my-bucket")
    assert target.of(cloud, here.architecture) == here
    other = "arm64" if here.architecture == "x86_64" else "x86_64"
    with pytest.raises(ConfigError, match=f"a rehearsed function runs on this machine, which is {here.architecture}"):
        replace(launcher(variant="lambda", architecture=other), cloud=cloud).plan(spec())


def test_a_photo_that_lambda_could_not_take_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="a function takes at most 4,400,000"):
        ask(Rehearsal(state_dir=str(tmp_path)), "dogs", bytes(4_400_001))


# --- permissions ---


@pytest.mark.parametrize(("deployment", "shown"), [("dogs", "dogs"), ("", "*")])
def test_the_functions_role_writes_its_log_and_reads_its_models_alone(deployment: str, shown: str) -> None:
    (role,) = (
        each
        for each in permissions.identities(launcher(), "123456789012", deployment)
        if each.setting == "launcher.lambda_role"
    )
    allowed = {action: grant.resources for grant in role.grants for action in grant.actions}
    logs = (f"arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/dogbreed-{shown}:*",)
    assert allowed == {
        "logs:CreateLogStream": logs,
        "logs:PutLogEvents": logs,
        "s3:GetObject": (f"arn:aws:s3:::my-bucket/dogbreed/models/{shown}/*/model.tar.gz",),
    }


def test_whoever_deploys_can_make_no_url_that_everybody_may_use() -> None:
    caller = permissions.caller(launcher(), "123456789012")
    (grant,) = (each for each in caller.grants if "lambda:CreateFunctionUrlConfig" in each.actions)
    assert grant.conditions == {"StringEquals": {"lambda:FunctionUrlAuthType": "AWS_IAM"}}
    for each in caller.grants:
        for action in each.actions:
            if re.match(r"lambda:(?!ListFunctions|GetAccountSettings)", action):
                assert each.resources == ("arn:aws:lambda:eu-west-1:123456789012:function:dogbreed-*",)
