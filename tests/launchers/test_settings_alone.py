"""Each setting of a deployment, changed alone: it changes what is deployed, or the guide says when it counts."""

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest

from dogbreed.errors import ConfigError
from launchers.deploy import request, watching
from launchers.deploy.names import Names
from launchers.deploy.on_lambda import request as function_request
from launchers.deploy.scaling import Concurrency, Fixed, Invocations, Report
from launchers.deploy.settings import DeploySettings
from launchers.plan import Plan
from launchers.project import PROJECT
from launchers.spec import Deployed
from tests.support.deployments import in_service, launcher, spec

TOPIC = "arn:aws:sns:eu-west-1:123456789012:alarms"
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/mine:1"
OTHER: dict[str, Any] = {  # another value of each setting
    "bucket": "other-bucket",
    "role": "other",
    "expiry_role": "other",
    "build_role": "other",
    "variant": "lambda",
    "lambda_role": "other",
    "architecture": "arm64",
    "memory_mb": 3008,
    "reserved": 4,
    "canary": True,
    "front": None,
    "front_role": "other",
    "provisioned": 2,
    "prefix": "other",
    "instance_type": "ml.m5.xlarge",
    "fallback_type": "ml.c6i.large",
    "instances": 2,
    "scaling": Report(),
    "image": IMAGE,
    "ttl_hours": 72,
    "start_s": 400,
    "bake_s": 400,
    "max_error_rate": 0.1,
    "max_latency_ms": 1000,
    "alarm_topic": TOPIC,
    "rps": 9,
    "owner": "you",
    "kms_key": "mine",
    "subnets": ["subnet-1"],
    "security_groups": ["sg-1"],
    "wait_for_capacity_h": 1,
    "wait": False,
}
ENDPOINT: dict[str, Any] = {
    "front": "lambda",
    "reserved": 3,
    "provisioned": 1,
    "instance_type": "ml.m5.large",
    "fallback_type": None,
    "scaling": Fixed(),
    "ttl_hours": 48,
}
FUNCTION: dict[str, Any] = {"variant": "lambda", "reserved": 3}
TOGETHER = {"subnets": "security_groups", "security_groups": "subnets"}  # a plan takes neither without the other
OF_FUNCTION: dict[str, Any] = {"variant": "realtime", "front": "lambda"}
REFUSED = {  # by the plan: what an update cannot change, or one of them does not have
    "endpoint": {"variant", "front"},
    "function": {"variant", "front", "provisioned", "scaling", "alarm_topic", "subnets", "security_groups"},
}


def documented(kind: str) -> set[str]:
    """The settings that change nothing alone, as the guide lists them."""
    text = (PROJECT / "launchers" / "deploy" / "README.md").read_text()
    section = text.partition("## Another setting alone")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (both|endpoint|function) \|", section, re.MULTILINE)
    assert rows
    return {name for names, of in rows if of in ("both", kind) for name in re.findall(r"`(\w+)`", names)}


def of_function(**settings: Any) -> Deployed:
    made, asked = launcher(**settings), spec()
    facts = function_request.wanted_facts(made, asked)
    return Deployed(
        function_request.revision(made, asked), facts, "2026-11-24T20:00:00+00:00", made.ttl_hours, variant="lambda"
    )


def planned(base: Mapping[str, Any], before: Deployed, **changes: Any) -> Plan:
    return launcher(**{**base, **changes}).plan(spec(before))


def test_each_setting_is_tried() -> None:
    assert OTHER.keys() == {field.name for field in fields(DeploySettings)} - {"cloud"}


@pytest.mark.parametrize("kind", ["endpoint", "function"])
@pytest.mark.parametrize("name", OTHER)
def test_another_setting_alone_changes_something_or_the_guide_says_when_it_counts(name: str, kind: str) -> None:
    base, before = (ENDPOINT, in_service(**ENDPOINT)) if kind == "endpoint" else (FUNCTION, of_function(**FUNCTION))
    assert planned(base, before).requests == ()
    other = {**OTHER, **(OF_FUNCTION if kind == "function" else {})}
    others = {each: other[each] for each in (name, TOGETHER.get(name, name))}
    if name in REFUSED[kind]:
        with pytest.raises(ConfigError):
            planned(base, before, **others)
        return
    changed = planned(base, before, **others).requests != ()
    assert changed != (name in documented(kind))


@pytest.mark.parametrize("kind", [Concurrency, Report, partial(Invocations, max_rps=20.0)])
def test_each_number_of_a_scaling_alone_changes_it(kind: Any) -> None:
    scaling = kind()
    base = {**ENDPOINT, "scaling": scaling}
    before = in_service(**base)
    assert planned(base, before).requests == ()
    for field in fields(scaling):
        value = getattr(scaling, field.name)
        other = 3 if value is None else value + 1 if field.name != "safety" else value / 2
        plan = planned(base, before, scaling=replace(scaling, **{field.name: other}))
        assert {each.service for each in plan.requests} >= {"application-autoscaling"}, field.name
        assert "scaling: " in dict(plan.rows)["change"]


# --- alarms ---


@pytest.mark.parametrize(
    ("changes", "put", "said"),
    [
        ({"max_error_rate": 0.1}, ["errors"], ["alarm errors: above 0.05 -> above 0.1;"]),
        ({"max_latency_ms": 500}, ["latency", "slow"], ["alarm latency: above 2000000 -> above 500000", "alarm slow:"]),
        (
            {"alarm_topic": TOPIC},
            ["errors", "latency", "slow", "throttled", "idle"],
            [f"alarms sent to nobody -> {TOPIC};"],
        ),
    ],
)
def test_another_limit_or_topic_alone_puts_the_alarms_that_it_changes(
    changes: dict[str, Any], put: list[str], said: list[str]
) -> None:
    plan = planned(ENDPOINT, in_service(**ENDPOINT), **changes)
    assert {each.operation for each in plan.requests} == {"PutMetricAlarm"}
    found = [each.parameters["AlarmName"] for each in plan.requests]
    assert found == [f"dogbreed-dogs-{kind}" for kind in put]
    for words in said:
        assert words in dict(plan.rows)["change"]
    assert planned({**ENDPOINT, **changes}, in_service(**{**ENDPOINT, **changes})).requests == ()


def test_a_topic_that_is_taken_away_is_in_no_alarm_afterwards() -> None:
    plan = planned(ENDPOINT, in_service(**ENDPOINT, alarm_topic=TOPIC))
    assert [each.operation for each in plan.requests] == ["PutMetricAlarm"] * 5
    assert not [each for each in plan.requests if "AlarmActions" in each.parameters]
    assert f"{TOPIC} -> nobody" in dict(plan.rows)["change"].replace("\n", " ")


def test_an_alarm_that_somebody_has_deleted_or_changed_is_put_again() -> None:
    before = in_service(**ENDPOINT)
    less = replace(before, alarms={name: text for name, text in before.alarms.items() if "slow" not in name})
    ends, put = planned(ENDPOINT, less).requests
    assert ends.parameters["Name"] == "dogbreed-dogs-expiry-alarms"
    assert (put.operation, put.parameters["AlarmName"]) == ("PutMetricAlarm", "dogbreed-dogs-slow")
    edited = {**before.alarms, "dogbreed-dogs-idle": before.alarms["dogbreed-dogs-idle"].replace("24 of", "12 of")}
    plan = planned(ENDPOINT, replace(before, alarms=edited))
    assert [each.parameters["AlarmName"] for each in plan.requests] == ["dogbreed-dogs-idle"]
    assert "alarm idle: below 1 (Sum of Invocations, 12 of 24" in dict(plan.rows)["change"]


def test_an_update_deletes_the_alarms_that_are_not_asked_for_any_more() -> None:
    plan = planned({**ENDPOINT, "start_s": 400, "ttl_hours": 8}, in_service(**ENDPOINT))
    (over,) = (each for each in plan.requests if each.operation == "DeleteAlarms")
    assert over.parameters == {"AlarmNames": ["dogbreed-dogs-idle"]}
    operations = [each.operation for each in plan.requests]
    assert operations.index("DeleteAlarms") > operations.index("UpdateEndpoint")


def test_what_cloudwatch_describes_reads_as_what_was_asked_for() -> None:
    made = launcher(**ENDPOINT, alarm_topic=TOPIC)
    asked = watching.alarms(made, Names("dogs"), [], "dogbreed-dogs")
    more = {"AlarmArn": "arn:aws:cloudwatch:...", "StateValue": "OK", "OKActions": [], "ActionsEnabled": True}
    described = [{**each, **more} for each in asked]
    assert {each["AlarmName"]: watching.in_words(each) for each in described} == request.wanted_alarms(made, spec())
    plain = launcher(**ENDPOINT)
    bare = [{**each, "AlarmActions": []} for each in watching.alarms(plain, Names("dogs"), [], "dogbreed-dogs")]
    assert {each["AlarmName"]: watching.in_words(each) for each in bare} == request.wanted_alarms(plain, spec())
