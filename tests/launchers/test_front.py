"""The Lambda in front of an endpoint, as plans have it: requests, updates, expiry, its role, and what is refused."""

import io
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from dogbreed.errors import ConfigError
from launchers.aws.account import Account
from launchers.deploy import front, names, permissions, request
from launchers.deploy.front_checks import findings
from launchers.plan import Plan
from launchers.rehearsal import validation
from launchers.spec import Deployed
from tests.support.deployments import in_service, launcher, spec

PLANS = Path(__file__).parent / "plans"
RECORD = "DOGBREED_RECORD=1 python -m pytest tests/launchers/test_front.py"
ROLES = {"front": "lambda", "reserved": 3}

CASES: dict[str, tuple[dict[str, Any], Deployed | None]] = {
    "deploy-front": ({**ROLES, "provisioned": 1}, None),
    "deploy-front-added": (ROLES, in_service()),
    "deploy-front-changed": ({**ROLES, "reserved": 5, "provisioned": 2}, in_service(**ROLES)),
    "deploy-front-removed": ({}, in_service(**ROLES)),
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
        if each.service == "s3":
            continue
        model = session.get_service_model(each.service).operation_model(each.operation)
        text = json.dumps(each.parameters).replace(request.ACCOUNT, "123456789012").replace("<the version>", "7")
        for role in ("hosting", "scheduler", "front"):
            text = text.replace(f"<the ARN of the role dogbreed-{role}>", f"arn:aws:iam::123456789012:role/{role}")
        assert not list(validation.findings(model.input_shape, json.loads(text))), each


def operations(plan: Plan) -> list[str]:
    return [each.operation for each in plan.requests]


def test_what_deletes_the_front_is_made_before_it_and_callers_come_last() -> None:
    made = planned("deploy-front").requests
    schedules = [each.parameters["Name"] for each in made if each.operation == "CreateSchedule"]
    assert {"dogbreed-dogs-expiry-function", "dogbreed-dogs-expiry-function-logs"} <= set(schedules)
    order = operations(planned("deploy-front"))
    assert order.index("CreateFunction") > max(n for n, name in enumerate(order) if name == "CreateSchedule")
    assert order.index("CreateAlias") < order.index("PutProvisionedConcurrencyConfig")
    (url,) = (each.parameters for each in made if each.operation == "CreateFunctionUrlConfig")
    assert (url["Qualifier"], url["AuthType"]) == ("live", "AWS_IAM")
    (function,) = (each.parameters for each in made if each.operation == "CreateFunction")
    assert {"dogbreed:run-id", "dogbreed:owner", "dogbreed:purpose", "dogbreed:expires-at"} <= set(function["Tags"])


def test_a_front_that_is_as_asked_for_stays_as_it_is() -> None:
    assert planned_for(ROLES, in_service(**ROLES)).requests == ()
    limits = ["PutFunctionConcurrency", "PutProvisionedConcurrencyConfig"]
    assert operations(planned("deploy-front-changed")) == limits  # no new version: its code is the same
    other = replace(in_service(**ROLES), front="0" * 10)
    changed = operations(planned_for({**ROLES, "provisioned": 1}, other))
    assert changed[0] == "UpdateFunctionCode"
    assert changed[-2:] == ["UpdateAlias", "PutProvisionedConcurrencyConfig"]
    assert operations(planned("deploy-front-removed"))[:2] == ["UpdateSchedule", "DeleteFunction"]
    fewer = {**ROLES, "reserved": 2, "provisioned": 2}
    less = operations(planned_for(fewer, in_service(**ROLES | {"reserved": 5, "provisioned": 5})))
    assert less.index("DeleteProvisionedConcurrencyConfig") < less.index("PutFunctionConcurrency")
    assert less.index("PutFunctionConcurrency") < less.index("PutProvisionedConcurrencyConfig")


def planned_for(settings: dict[str, Any], before: Deployed) -> Plan:
    return launcher(**settings).plan(spec(before))


def test_a_front_follows_the_end_of_its_deployment() -> None:
    later = planned_for({**ROLES, "ttl_hours": 24}, in_service(**ROLES)).requests
    moved = {each.parameters["Name"] for each in later if each.operation == "UpdateSchedule"}
    assert {"dogbreed-dogs-expiry-function", "dogbreed-dogs-expiry-function-logs"} <= moved
    kept = planned_for({**ROLES, "ttl_hours": None}, in_service(**ROLES)).requests
    taken = {each.parameters["Name"] for each in kept if each.operation == "DeleteSchedule"}
    assert "dogbreed-dogs-expiry-function" in taken
    added = planned("deploy-front-added").requests
    (at,) = {
        each.parameters["ScheduleExpression"] for each in added if each.parameters.get("Name", "").endswith("function")
    }
    assert at == "at(2026-11-24T13:00:00)"


def test_an_update_of_the_endpoint_keeps_the_front() -> None:
    plan = planned_for({**ROLES, "instances": 2}, in_service(**ROLES))
    assert "UpdateEndpoint" in operations(plan)
    assert not [each for each in plan.requests if each.service in ("lambda", "logs")]


def test_the_package_is_one_file_and_always_the_same() -> None:
    content = front.package()
    front.package.cache_clear()
    assert front.package() == content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["lambda_handler.py"]
        assert archive.infolist()[0].external_attr >> 16 & 0o444 == 0o444


def test_its_role_may_ask_one_endpoint_and_write_its_log() -> None:
    (found,) = (each for each in permissions.identities(launcher(), "123456789012", "dogs") if each.name == "front")
    assert found.policy()["Statement"] == [
        {
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/dogbreed-dogs:*",
        },
        {
            "Effect": "Allow",
            "Action": "sagemaker:InvokeEndpoint",
            "Resource": "arn:aws:sagemaker:eu-west-1:123456789012:endpoint/dogbreed-dogs",
        },
    ]
    (wide,) = (each for each in permissions.identities(launcher(), "123456789012") if each.name == "front")
    assert wide.policy()["Statement"][1]["Resource"].endswith(":endpoint/dogbreed-*")


@pytest.mark.parametrize(
    ("settings", "reservable", "words"),
    [
        ({"front": "nginx"}, None, "launcher.front='nginx'"),
        ({"reserved": 3}, None, "Try: launcher.front=lambda"),
        ({"provisioned": 1}, None, "Try: launcher.front=lambda"),
        ({"front": "lambda", "reserved": 0}, None, "at least 1"),
        ({"front": "lambda", "provisioned": -1}, None, "must not be negative"),
        ({"front": "lambda", "reserved": 3, "provisioned": 4}, None, "Try: launcher.provisioned=3"),
        ({"front": "lambda", "reserved": 3}, 0, "new accounts have 10 in all"),
        ({"front": "lambda", "reserved": 901}, 900, "Try: launcher.reserved=900"),
    ],
)
def test_what_a_front_cannot_be_is_said_in_the_plan(
    settings: dict[str, Any], reservable: int | None, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        launcher(**settings).plan(spec(reservable=reservable))
    assert words in str(caught.value)
    assert "Try: " in str(caught.value)


def test_a_region_without_function_urls_and_a_missing_role_are_said() -> None:
    there = replace(launcher(front="lambda"), cloud=Account(region="eu-south-2"))
    assert "no function URLs in eu-south-2" in next(findings(there, spec()))
    with pytest.raises(ConfigError, match=r"launcher\.front_role is not set"):
        launcher(front="lambda", front_role=None).plan(spec())
    with pytest.raises(ConfigError, match="has a URL of its own"):
        launcher(front="lambda", variant="lambda").plan(spec())


def test_what_may_be_reserved_passes() -> None:
    assert not list(findings(launcher(front="lambda", reserved=900, provisioned=900), spec(reservable=900)))
    assert names.Names("dogs").function_log_group == "/aws/lambda/dogbreed-dogs"
