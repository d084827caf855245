"""A Lambda in front of an endpoint, in the rehearsal cloud: its answers and errors, its limit, updates, and its end.

All of it under the generated roles, on a clock that runs ten times faster.
"""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from dogbreed.inference import Predictor
from launchers import prepare
from launchers.deploy import front, parts, smoke
from launchers.deploy.launcher import DeployLauncher
from launchers.deploy.names import Names
from launchers.deploy.signing import SigningProxy, signer
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.status import Handle, LaunchError
from tests.support.launcher_contract import until
from tests.support.odd_pictures import saved, upright
from tests.support.places import BAKE_S, Place, deploying, end, endpoint, environment, left_in
from tests.support.project import ROOT

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1800)]
FRONT = ("launcher.front=lambda", "launcher.reserved=3")
PHOTO = saved(upright(), "JPEG")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with deploying(tmp_path_factory.mktemp("front"), image=False) as found:
        yield found


@pytest.fixture(scope="module")
def handles() -> dict[str, Handle]:
    return {}


@pytest.fixture
def dogs(place: Place, handles: dict[str, Handle]) -> Handle:
    """A deployment with a front that tests share, made again after one that has ended it."""
    if not left_in(place.cloud, "dogs"):
        _, handles["dogs"] = place.deployed("dogs", *FRONT, "launcher.provisioned=1")
    return handles["dogs"]


@pytest.fixture
def expected(place: Place) -> list[float]:
    return list(Predictor.from_artifact(place.model).probabilities([PHOTO])[0])


def as_launcher(place: Place, **faults: Any) -> Rehearsal:
    return replace(place.cloud, launch_as="dogbreed-launch", faults=faults, _clients={})


@contextmanager
def opened(place: Place, handle: Handle) -> Iterator[str]:
    """The address of a signing proxy, as `python -m launchers open` has it."""
    cloud = as_launcher(place)
    proxy = SigningProxy(DeployLauncher.at(cloud).url(handle), signer(cloud))
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy.address
    finally:
        proxy.close()
        thread.join()


def call(place: Place, name: str, event: Any) -> dict[str, Any]:
    answer = (
        as_launcher(place)
        .client("lambda")
        .invoke(FunctionName=Names(name).endpoint, Qualifier="live", Payload=json.dumps(event))
    )
    assert "FunctionError" not in answer, answer["Payload"].read()
    return dict(json.loads(answer["Payload"].read()))


def test_an_event_and_a_url_call_are_answered_as_predict_does(
    place: Place, dogs: Handle, expected: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = call(place, "dogs", {"body": base64.b64encode(PHOTO).decode(), "content_type": "image/jpeg"})
    assert set(answer) == {"statusCode", "headers", "body"}
    found = json.loads(answer["body"])
    assert len(found) == 133
    assert found == pytest.approx(expected, abs=1e-4)

    with opened(place, dogs) as address:
        reply = requests.post(address, data=PHOTO, headers={"Content-Type": "image/jpeg"}, timeout=60)
        assert (reply.status_code, reply.headers["Content-Type"]) == (200, "application/json")
        assert reply.json() == pytest.approx(expected, abs=1e-4)
        named = requests.post(address, data=PHOTO, headers={"Accept": "application/json;verbose=true"}, timeout=60)
        assert len(named.json()["predictions"]) == 5

    photo = place.here / "photo.jpg"
    photo.write_bytes(PHOTO)
    capsys.readouterr()
    assert place.verb("invoke", "dogs", str(photo), "--json") == 0
    said = json.loads(capsys.readouterr().out)[str(photo)]
    assert said["probabilities"] == pytest.approx(expected, abs=1e-4)
    assert place.verb("status", "dogs") == 0
    status = capsys.readouterr().out
    assert "front: Lambda, at most 3 at once, 1 kept warm" in status
    assert re.search(r"URL http://127\.0\.0\.1:\d+/, for requests that are signed", status)


def test_its_log_has_a_line_for_each_request_and_no_photo(place: Place, dogs: Handle) -> None:
    call(place, "dogs", {"body": base64.b64encode(PHOTO).decode(), "content_type": "image/jpeg"})
    logs, group = place.cloud.client("logs"), "/aws/lambda/dogbreed-dogs"
    (found,) = logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]
    assert found["retentionInDays"] == 14
    events = [event["message"] for event in logs.filter_log_events(logGroupName=group)["events"]]
    lines = [json.loads(text) for text in events if text.startswith("{")]
    answered = next(line for line in lines if (line["status"], line["bytes"]) == (200, len(PHOTO)))
    assert f"START RequestId: {answered['requestId']} Version: 1" in events
    assert not any(base64.b64encode(PHOTO).decode()[:40] in text for text in events)


def test_logs_show_the_front_beside_the_endpoint_in_order_of_time(
    place: Place, dogs: Handle, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_at = datetime.now(UTC)
    call(place, "dogs", {"body": base64.b64encode(PHOTO).decode(), "content_type": "image/jpeg"})
    capsys.readouterr()
    assert place.verb("logs", "dogs", "--json") == 0
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    times = [datetime.fromisoformat(line["at"]) for line in lines]
    assert times == sorted(times)
    assert [line for line in lines if not line["text"].startswith("front: ")]
    latest = [line["text"] for line, at in zip(lines, times, strict=True) if at >= asked_at - timedelta(seconds=1)]
    assert any(text.startswith('front: {"requestId"') for text in latest)
    assert place.verb("logs", "dogs", "--tail", "3") == 0
    assert [line.partition(" | ")[2] for line in capsys.readouterr().out.splitlines()] == [
        line["text"] for line in lines[-3:]
    ]
    assert place.verb("logs", "dogs", "--since", "1h") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(lines)


def test_other_limits_of_alarms_and_another_topic_alone_change_the_alarms(place: Place, dogs: Handle) -> None:
    def alarms() -> dict[str, dict[str, Any]]:
        found = place.cloud.client("cloudwatch").describe_alarms(AlarmNamePrefix="dogbreed-dogs-")["MetricAlarms"]
        return {alarm["AlarmName"].removeprefix("dogbreed-dogs-"): alarm for alarm in found}

    warm, topic = (*FRONT, "launcher.provisioned=1"), f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"
    assert place.prepared("dogs", *warm)[1].requests == ()
    before, config = alarms(), endpoint(place, "dogs")["EndpointConfigName"]
    changed = (*warm, "launcher.max_error_rate=0.2", f"launcher.alarm_topic={topic}")
    place.deployed("dogs", *changed)
    assert alarms()["errors"]["Threshold"] == 0.2
    assert [alarm["AlarmActions"] for alarm in alarms().values()] == [[topic]] * len(before)
    assert place.prepared("dogs", *changed)[1].requests == ()
    place.deployed("dogs", *warm)
    assert alarms()["errors"]["Threshold"] == 0.05
    assert not [alarm for alarm in alarms().values() if alarm["AlarmActions"]]
    assert endpoint(place, "dogs")["EndpointConfigName"] == config


TRUNCATED = (_WHOLE := next(smoke.pictures()))[: len(_WHOLE) // 2]


@pytest.mark.parametrize(
    ("body", "method", "path", "status", "code"),
    [
        (b"", "POST", "/", 400, "empty"),
        (b"a text about dogs", "POST", "/", 415, "unsupported_type"),
        (TRUNCATED, "POST", "/", 422, "damaged_picture"),
        (PHOTO + b"x" * 4_600_000, "POST", "/", 413, "body_too_large"),
        (PHOTO + b"x" * 7_000_000, "POST", "/", 413, None),  # too large for the proxy, as it is for Lambda
        (PHOTO, "POST", "/docs", 404, "not_found"),
        (b"", "GET", "/", 405, "method_not_allowed"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(
    place: Place, dogs: Handle, body: bytes, method: str, path: str, status: int, code: str | None
) -> None:
    with opened(place, dogs) as address:
        reply = requests.request(method, address.rstrip("/") + path, data=body, timeout=60)
    assert reply.status_code == status
    if code is not None:
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.json()["code"] == code


@contextmanager
def paused(place: Place, name: str) -> Iterator[None]:
    """Stop the endpoint's container for a while, so that requests wait."""
    pids = [
        json.loads(file.read_bytes())["pid"]
        for file in place.cloud.state_folder.glob(f"endpoints/{Names(name).endpoint}/machines/*/process.json")
    ]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_with_three_slots_the_fourth_request_at_once_is_refused(place: Place, dogs: Handle) -> None:
    with opened(place, dogs) as address, ThreadPoolExecutor(4) as pool:
        for _ in range(5):  # a container that is paused for seconds counts as ill, and the answer is another error
            until(lambda: requests.post(address, data=PHOTO, timeout=60).status_code == 200)
            with paused(place, "dogs"):
                asked = [pool.submit(requests.post, address, data=PHOTO, timeout=120) for _ in range(4)]
                until(lambda: any(each.done() for each in asked))  # noqa: B023
            replies = [each.result() for each in asked]
            statuses = sorted(reply.status_code for reply in replies)
            if statuses[-1] < 500:
                break
    assert statuses == [200, 200, 200, 429]
    (refused,) = (reply for reply in replies if reply.status_code == 429)
    assert refused.json()["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"


def test_a_url_of_somebody_elses_signature_or_of_none_is_refused(place: Place, dogs: Handle) -> None:
    url = DeployLauncher.at(as_launcher(place)).url(dogs)
    assert requests.post(url, data=PHOTO, timeout=60).status_code == 403
    denied = as_launcher(place)  # a role that may ask the function itself, but not by its URL
    keys = place.cloud.client("iam").create_access_key(UserName=user(place))["AccessKey"]
    denied._clients["lambda"] = _client(place, keys)
    proxy = SigningProxy(url, signer(denied))
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        assert requests.post(proxy.address, data=PHOTO, timeout=60).status_code == 403
    finally:
        proxy.close()
        thread.join()


def user(place: Place) -> str:
    iam = place.cloud.client("iam")
    iam.create_user(UserName="guest")
    statement = {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName="guest", PolicyName="all", PolicyDocument=policy)
    return "guest"


def _client(place: Place, keys: dict[str, str]) -> Any:
    import boto3

    made = place.cloud.client("lambda").meta
    return boto3.client(
        "lambda",
        region_name=made.region_name,
        endpoint_url=made.endpoint_url,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
    )


def test_open_listens_until_it_is_interrupted(place: Place, dogs: Handle) -> None:
    words = ["-m", "launchers", "open", str(dogs), "--port", "0", "--state-dir", place.cloud.state_dir]
    with subprocess.Popen(
        [sys.executable, *words], cwd=place.here, env=environment(), stdout=subprocess.PIPE, text=True
    ) as opening:
        assert opening.stdout is not None
        line = opening.stdout.readline()
        found = re.search(r"^dogs answers at (http://127\.0\.0\.1:\d+/) until Ctrl-C; each request is signed", line)
        assert found, line
        assert len(requests.post(found[1], data=PHOTO, timeout=60).json()) == 133
        opening.send_signal(signal.SIGINT)
        assert opening.wait(timeout=300) == 0


def test_a_front_is_added_changed_kept_by_an_update_and_removed(place: Place, dogs: Handle) -> None:
    def functions() -> list[str]:
        return [text for text in left_in(place.cloud, "cats") if "function" in text or text.startswith("front")]

    def live() -> dict[str, Any]:
        return dict(place.cloud.client("lambda").get_function_configuration(FunctionName="dogbreed-cats:live"))

    place.deployed("cats")
    assert functions() == []
    launcher, handle = place.deployed("cats", *FRONT)
    assert len(functions()) == 4  # itself, its log group, and a schedule for both
    first = live()["Version"]
    place.deployed("cats", "launcher.front=lambda", "launcher.reserved=5")
    assert live()["Version"] == first  # nothing that it runs has changed
    reserved = place.cloud.client("lambda").get_function_concurrency(FunctionName="dogbreed-cats")
    assert reserved["ReservedConcurrentExecutions"] == 5
    with place.composing, pytest.MonkeyPatch.context() as patch:
        patch.setattr(front, "TIMEOUT_S", 21)
        _, plan = prepare([*place.words("cats", *FRONT), f"hydra.run.dir={place.here}/run"])
        launcher.submit(plan)
    assert live()["Version"] != first
    assert live()["Timeout"] == 21
    place.deployed("cats", "launcher.front=lambda", "launcher.reserved=5")
    before, config = live()["Version"], endpoint(place, "cats")["EndpointConfigName"]
    launcher, handle = place.deployed("cats", "launcher.front=lambda", "launcher.reserved=5", "launcher.start_s=2999")
    assert endpoint(place, "cats")["EndpointConfigName"] != config
    launcher.rollback(handle)
    assert endpoint(place, "cats")["EndpointConfigName"] == config
    assert live()["Version"] == before
    assert len(launcher.invoke(handle, PHOTO)["probabilities"]) == 133
    place.deployed("cats")
    assert functions() == []
    with pytest.raises(LaunchError, match=r"has no URL\.\nTry: launcher\.front=lambda"):
        launcher.url(handle)
    end(place, "cats")
    assert left_in(place.cloud, "cats") == []


def test_a_deployment_with_a_front_ends_by_itself(place: Place, dogs: Handle) -> None:
    place.deployed("flies", *FRONT)  # which may take longer than it is to be there
    place.deployed("flies", *FRONT, "launcher.ttl_hours=0.08")
    until(lambda: left_in(place.cloud, "flies") == [], every_s=1)


CREATING = (
    "logs:CreateLogGroup",
    "logs:PutRetentionPolicy",
    "lambda:CreateFunction",
    "lambda:TagResource",
    "lambda:PutFunctionConcurrency",
    "lambda:PublishVersion",
    "lambda:CreateAlias",
    "lambda:PutProvisionedConcurrencyConfig",
    "lambda:CreateFunctionUrlConfig",
)


def test_a_permission_that_is_missing_at_any_step_is_named_and_leaves_nothing(place: Place, dogs: Handle) -> None:
    wrong, warm = [], (*FRONT, "launcher.provisioned=1")
    for action in CREATING:
        with pytest.raises(LaunchError) as caught:
            place.deployed("bees", *warm, f"+aws.faults.denied=[{action}]")
        if action not in str(caught.value):
            wrong.append(f"{action}: {caught.value}")
        wrong += [f"{action} leaves {text}" for text in left_in(place.cloud, "bees")]
    _, handle = place.deployed("bees")
    before = left_in(place.cloud, "bees")
    for action in CREATING:
        with pytest.raises(LaunchError) as caught:
            place.deployed("bees", *warm, f"+aws.faults.denied=[{action}]")
        if action not in str(caught.value) or left_in(place.cloud, "bees") != before:
            wrong.append(f"a front that is added without {action}: {caught.value}, {left_in(place.cloud, 'bees')}")
    place.deployed("bees", *warm)
    for action in ("lambda:DeleteFunction", "logs:DeleteLogGroup"):
        try:
            said = str(DeployLauncher.at(as_launcher(place, denied=[action])).cancel(handle))
        except LaunchError as error:
            said = str(error)
        if not ("Not everything could be removed" in said and action in said):
            wrong.append(f"cancel, {action}: {said}")
        place.deployed("bees", *warm)
    end(place, "bees")
    assert [*wrong, *left_in(place.cloud, "bees")] == []


def test_a_front_that_may_not_ask_the_endpoint_is_found_and_taken_down(place: Place, dogs: Handle) -> None:
    with pytest.raises(LaunchError, match="The function may not ask the endpoint"):
        place.deployed("moths", *FRONT, "+aws.faults.denied_to_role=[sagemaker:InvokeEndpoint]")
    assert left_in(place.cloud, "moths") == []


def test_what_the_account_cannot_reserve_is_said_in_the_plan(place: Place, dogs: Handle) -> None:
    with pytest.raises(Exception, match="new accounts have 10 in all"):
        place.prepared("wolves", *FRONT, "+aws.faults.concurrency=10")
    place.prepared("wolves", *FRONT, "+aws.faults.concurrency=1000")


def killed(place: Place, name: str, call: int) -> list[parts.Part]:
    child = ROOT / "tests" / "support" / "children" / "deploy_killed.py"
    words = [*place.words(name, *FRONT), f"hydra.run.dir={place.here}/run"]
    done = subprocess.run([sys.executable, str(child), str(call), *words], cwd=place.here, env=environment())
    assert done.returncode == -signal.SIGKILL
    return parts.of_deployment(place.cloud, name)


def test_the_same_command_completes_what_a_killed_one_has_begun(place: Place, dogs: Handle) -> None:
    calls = [each.operation for each in place.prepared("ants", *FRONT)[1].requests]
    found = killed(place, "ants", calls.index("CreateFunction") + 1)
    assert "front" in {part.kind for part in found}
    assert "dogbreed-ants-expiry-function" in {part.name for part in found}
    launcher, handle = place.deployed("ants", *FRONT, f"launcher.bake_s={BAKE_S}")
    assert len(launcher.invoke(handle, PHOTO)["probabilities"]) == 133
    end(place, "ants")
    assert left_in(place.cloud, "ants") == []


@pytest.mark.slow
@pytest.mark.parametrize("call", range(1, 20))
def test_a_client_that_is_killed_after_any_call_leaves_only_what_ends_by_itself_or_is_cleaned_up(
    place: Place, dogs: Handle, call: int
) -> None:
    name = f"wasps-{call}"
    found = killed(place, name, call)
    schedules = [part.name for part in found if part.kind == "schedule"]
    if "front" in {part.kind for part in found}:
        assert any(text.endswith("expiry-function") for text in schedules)
    if "endpoint" in {part.kind for part in found}:
        end(place, name)
    else:
        DeployLauncher.at(place.cloud).cleanup(older_than=timedelta(0), apply=True)
    assert left_in(place.cloud, name) == []


def test_a_front_whose_endpoint_is_gone_says_so_and_cancel_leaves_nothing(
    place: Place, dogs: Handle, capsys: pytest.CaptureFixture[str]
) -> None:
    url = DeployLauncher.at(place.cloud).url(dogs)
    place.cloud.client("sagemaker").delete_endpoint(EndpointName=Names("dogs").endpoint)  # by hand, behind its back
    event = {"body": base64.b64encode(PHOTO).decode(), "content_type": "image/jpeg"}
    until(lambda: call(place, "dogs", event)["statusCode"] == 502)
    assert json.loads(call(place, "dogs", event)["body"])["code"] == "no_endpoint"
    capsys.readouterr()
    assert place.verb("cancel", "dogs") == 0
    assert "front" in capsys.readouterr().out
    assert left_in(place.cloud, "dogs") == []
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)
    with pytest.raises(LaunchError, match="There is no deployment dogs"):
        DeployLauncher.at(place.cloud).url(dogs)
