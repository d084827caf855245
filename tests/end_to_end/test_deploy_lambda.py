"""A Lambda function with the model inside, in the rehearsal cloud: from the command to its URL, an update, and its end.

All of it under the generated roles, on a clock that runs ten times faster. The package is made once, of what is
installed here, and runs unpacked under AWS's own runtime.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dogbreed.inference import Predictor
from dogbreed.serving import event
from launchers import prepare
from launchers.cli.verbs import main as launchers_command
from launchers.deploy import parts
from launchers.deploy.function import ALIAS
from launchers.deploy.launcher import DeployLauncher
from launchers.deploy.names import Names
from launchers.deploy.on_lambda import change, checks, package, sizing, wheels
from launchers.deploy.on_lambda.change import FunctionChange
from launchers.plan import Plan, Request
from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.names import BUCKET
from launchers.status import Handle, LaunchError, Phase
from tests.support.browser import answer, chromium, given, page_of
from tests.support.hostile import HOSTILE
from tests.support.launcher_contract import until
from tests.support.odd_pictures import saved, upright
from tests.support.places import in_less_time
from tests.support.project import ROOT
from tests.support.serving import serving, tiny_model

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1800)]


@dataclass
class Place:
    """A cloud of its own, and the folder that commands are typed in."""

    cloud: Rehearsal
    here: Path
    model: Path

    def words(self, name: str, *more: str) -> list[str]:
        """Return the words of the command that deploys."""
        return [
            "launcher=deploy",
            "launcher.variant=lambda",
            "aws=rehearsal",
            f"aws.state_dir={self.cloud.state_dir}",
            "aws.launch_as=dogbreed-launch",
            "aws.clock_rate=10",
            f"name={name}",
            f"checkpoint={self.model}",
            *more,
        ]

    def deployed(self, name: str, *more: str) -> tuple[DeployLauncher, Handle]:
        launcher, plan = prepare([*self.words(name, *more), f"hydra.run.dir={self.here}/run"])
        assert isinstance(launcher, DeployLauncher)
        return launcher, launcher.submit(plan)

    def verb(self, *words: str) -> int:
        return launchers_command([*words, "--state-dir", self.cloud.state_dir])

    def live(self, name: str) -> dict[str, Any]:
        return dict(self.cloud.client("lambda").get_alias(FunctionName=Names(name).endpoint, Name=ALIAS))

    def call(self, name: str, asked: Any) -> dict[str, Any]:
        """Call the function directly with any event, and return its answer."""
        payload = json.dumps(asked).encode()
        answer = self.cloud.client("lambda").invoke(FunctionName=Names(name).endpoint, Qualifier=ALIAS, Payload=payload)
        assert "FunctionError" not in answer, answer["Payload"].read()
        return dict(json.loads(answer["Payload"].read()))

    def left(self, name: str) -> list[str]:
        return [str(part) for part in parts.of_deployment(self.cloud, name)]

    def end(self, name: str) -> None:
        DeployLauncher.at(self.cloud).cancel(Handle("deploy", "rehearsal", name))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    here, before = tmp_path_factory.mktemp("deploy"), Path.cwd()
    os.chdir(here)
    cloud = Rehearsal(state_dir=str(here / "state"), reclaims=0, clock_rate=10)
    found = Place(cloud, here, tiny_model(here / "model.tar.gz"))
    try:
        assert found.verb("iam", "--apply", "--for", "launcher=deploy") == 0
        with in_less_time():
            yield found
    finally:
        process.stop(Path(cloud.state_dir))
        os.chdir(before)


@pytest.fixture(scope="module")
def one_cache() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield folder


@pytest.fixture(autouse=True)
def package_is_made_once(own_cache: None, one_cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOGBREED_CACHE", one_cache)


@pytest.fixture(scope="module")
def dogs(place: Place, one_cache: str) -> Iterator[Handle]:
    """A function that tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOGBREED_CACHE", one_cache)
        _, handle = place.deployed("dogs")
    yield handle
    place.end("dogs")


def test_a_function_is_made_asked_listed_and_shown(
    place: Place, dogs: Handle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert str(dogs) == "deploy://rehearsal/dogs"
    photo = place.here / "photo.png"
    photo.write_bytes(saved(upright(), "PNG"))
    capsys.readouterr()
    assert place.verb("invoke", "dogs", str(photo), "--json") == 0
    said = json.loads(capsys.readouterr().out)[str(photo)]
    expected = Predictor.from_artifact(place.model).probabilities([photo])[0]
    assert len(expected) == 133
    assert said["probabilities"] == pytest.approx(list(expected), abs=1e-4)

    assert place.verb("status", "dogs") == 0
    shown = capsys.readouterr().out
    assert re.search(r"version 1: 1769 MB", shown)
    assert re.search(r"URL http://127\.0\.0\.1:\d+/", shown)
    assert place.verb("list") == 0
    assert re.search(r"deployments/dogs +deploy +in service", capsys.readouterr().out)
    assert place.verb("logs", "dogs") == 0
    assert re.search(r"REPORT RequestId: \S+\s+Duration: ", capsys.readouterr().out)


def test_the_page_works_in_a_browser_through_open(place: Place, dogs: Handle) -> None:
    photo = saved(upright(), "JPEG")
    command = [sys.executable, "-m", "launchers", "open", "dogs", "--port", "0", "--state-dir", place.cloud.state_dir]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=place.here, env=environment, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", proxy.stdout.readline())
        assert found is not None
        with chromium() as browser, page_of(browser, found[0]) as page:
            given(page, "drop", photo)
            assert answer(page)[0].startswith(Predictor.from_artifact(place.model).predict(photo)[0].breed)
            page.goto(f"{found[0]}docs")
            assert "/invocations" in page.inner_text("body")
        proxy.send_signal(signal.SIGINT)
        assert proxy.wait(300) == 0


def test_the_same_command_again_does_nothing(place: Place, dogs: Handle) -> None:
    before = place.live("dogs")
    launcher, plan = prepare([*place.words("dogs"), f"hydra.run.dir={place.here}/run"])
    assert plan.requests == ()
    launcher.submit(plan)
    assert place.live("dogs") == {**before, "ResponseMetadata": place.live("dogs")["ResponseMetadata"]}


def test_another_ttl_alone_changes_when_it_ends(place: Place, dogs: Handle) -> None:
    client, before = place.cloud.client("scheduler"), place.live("dogs")["FunctionVersion"]
    schedule = Names("dogs").function_schedules["function"]
    place.deployed("dogs", "launcher.ttl_hours=99")
    assert client.get_schedule(Name=schedule)["Description"] == "launcher.ttl_hours=99"
    place.deployed("dogs", "launcher.ttl_hours=null")
    assert not [text for text in place.left("dogs") if text.startswith("schedule")]
    place.deployed("dogs")
    assert client.get_schedule(Name=schedule)["Description"] == "launcher.ttl_hours=8"
    assert place.live("dogs")["FunctionVersion"] == before


def test_hostile_bodies_get_the_servers_answers(place: Place, dogs: Handle, tmp_path: Path) -> None:
    limits = ("--deadline-s", "60", "--max-body-bytes", str(event.BODY_BYTES))
    compared, differing = 0, {}
    with serving(place.model, tmp_path, *limits) as server:
        for kind, hostile in HOSTILE.items():
            body, headers = hostile.body(), {"content-type": hostile.content_type}
            # Lambda itself refuses an event that large, and headers that are none in HTTP
            if len(body) > event.BODY_BYTES + 100_000 or not hostile.content_type.isprintable():
                continue
            said = place.call("dogs", event.event("POST", "/invocations", body, headers))
            reply = server.ask("POST", "/invocations", body, content_type=hostile.content_type)
            if (said["statusCode"], json.loads(event.content(said))) != (reply.status, reply.json):
                differing[kind] = (reply.status, reply.body[:200], said["statusCode"], said["body"][:200])
            compared += 1
    assert differing == {}
    assert compared >= 200


def test_an_update_moves_the_alias_and_a_rollback_moves_it_back(place: Place) -> None:
    launcher, handle = place.deployed("cats")
    assert place.live("cats")["FunctionVersion"] == "1"
    place.deployed("cats", "launcher.memory_mb=2048")
    assert place.live("cats")["FunctionVersion"] == "2"
    assert "2048 MB" in str(launcher.status(handle))
    assert launcher.rollback(handle).phase is Phase.IN_SERVICE
    assert place.live("cats")["FunctionVersion"] == "1"
    place.deployed("cats", "launcher.memory_mb=3008", "launcher.reserved=3")
    versions = place.cloud.client("lambda").list_versions_by_function(FunctionName=Names("cats").endpoint)["Versions"]
    assert [each["Version"] for each in versions] == ["$LATEST", "1", "3"]  # those live now and before
    assert "at most 3 requests" in str(launcher.status(handle))
    place.end("cats")
    assert place.left("cats") == []


def test_a_version_that_does_not_answer_gets_nobodys_requests(
    place: Place, dogs: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model in S3 is another one than the function was deployed for."""
    before = place.left("dogs")
    monkeypatch.setattr(sizing, "is_inside", lambda model: False)
    _, plan = prepare([*place.words("dogs"), f"hydra.run.dir={place.here}/run"])
    key = next(each.parameters["Key"] for each in plan.requests if str(each.parameters.get("Key")).endswith(".tar.gz"))
    place.cloud.client("s3").put_object(Bucket=BUCKET, Key=key, Body=place.model.read_bytes() + b"\0")
    with pytest.raises(LaunchError, match="does not answer") as caught:
        place.deployed("dogs")
    assert "The SHA-256 of s3://" in str(caught.value)  # from the function's log
    assert place.left("dogs") == before
    assert place.call("dogs", event.event("GET", "/ping"))["statusCode"] == 200
    place.cloud.client("s3").delete_object(Bucket=BUCKET, Key=key)


def test_a_model_in_s3_is_read_under_the_functions_role(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "is_inside", lambda model: False)
    launcher, handle = place.deployed("birds")
    assert len(launcher.invoke(handle, saved(upright(), "JPEG"))["probabilities"]) == 133
    status = launcher.cancel(handle)
    assert "2 model files in s3://" in str(status)
    assert place.left("birds") == []


def test_a_canary_that_fails_goes_back(place: Place) -> None:
    place.deployed("fish")
    alarm = Names("fish").alarms["errors"]
    canary = ("launcher.memory_mb=2048", "launcher.canary=true", "launcher.bake_s=120")
    command = [sys.executable, str(ROOT / "train.py"), *place.words("fish", *canary)]
    client, moved = place.cloud.client("cloudwatch"), place.cloud.client("lambda")
    with subprocess.Popen(command, cwd=place.here, stderr=subprocess.PIPE, text=True) as update:
        until(lambda: "RoutingConfig" in place.live("fish"))
        assert place.live("fish")["RoutingConfig"]["AdditionalVersionWeights"] == {"2": 0.1}
        until(lambda: bool(client.describe_alarms(AlarmNames=[alarm])["MetricAlarms"]))
        while update.poll() is None:  # until the command has seen it: the next evaluation would set it back
            with suppress(client.exceptions.ResourceNotFound):  # the command has seen it and removed it
                client.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="made to go off")
            time.sleep(0.2)
        said = update.communicate()[1]
        assert update.returncode == 1, said
    assert "went off" in said
    assert place.live("fish")["FunctionVersion"] == "1"
    assert "RoutingConfig" not in place.live("fish")
    versions = moved.list_versions_by_function(FunctionName=Names("fish").endpoint)["Versions"]
    assert [each["Version"] for each in versions] == ["$LATEST", "1"]
    place.end("fish")
    assert place.left("fish") == []


def test_a_deployment_ends_by_itself_when_its_time_is_over(place: Place) -> None:
    place.deployed("flies")  # which may take longer than it is to be there
    place.deployed("flies", "launcher.ttl_hours=0.08")
    until(lambda: place.left("flies") == [], every_s=1)


CREATING = (
    "s3:PutObject",
    "scheduler:CreateSchedule",
    "logs:CreateLogGroup",
    "logs:PutRetentionPolicy",
    "lambda:CreateFunction",
    "iam:PassRole",
    "lambda:PutFunctionConcurrency",
    "lambda:PublishVersion",
    "lambda:InvokeFunction",
    "lambda:CreateAlias",
    "lambda:CreateFunctionUrlConfig",
)
REMOVING = ("lambda:DeleteFunction", "logs:DeleteLogGroup", "scheduler:DeleteSchedule")


def test_a_permission_that_is_missing_at_any_step_is_named_and_leaves_nothing(place: Place) -> None:
    wrong = []
    for action in CREATING:
        with pytest.raises(LaunchError) as caught:
            place.deployed("bees", "launcher.reserved=2", f"+aws.faults.denied=[{action}]")
        if action not in str(caught.value):
            wrong.append(f"{action}: {caught.value}")
        wrong += [f"{action} leaves {text}" for text in place.left("bees")]
    _, handle = place.deployed("bees")
    before = place.left("bees")
    for action in ("lambda:UpdateFunctionCode", "lambda:UpdateFunctionConfiguration", "lambda:UpdateAlias"):
        with pytest.raises(LaunchError) as caught:
            place.deployed("bees", "launcher.memory_mb=2048", f"+aws.faults.denied=[{action}]")
        if action not in str(caught.value):
            wrong.append(f"update, {action}: {caught.value}")
        if place.left("bees") != before or place.live("bees")["FunctionVersion"] != "1":
            wrong.append(f"an update without {action} leaves {place.left('bees')}, {place.live('bees')}")
    for action in REMOVING:
        mine = replace(place.cloud, launch_as="dogbreed-launch", faults={"denied": [action]}, _clients={})
        with pytest.raises(LaunchError, match="Not everything could be removed") as caught:
            DeployLauncher.at(mine).cancel(handle)
        if action not in str(caught.value):
            wrong.append(f"cancel, {action}: {caught.value}")
        place.deployed("bees")
    place.end("bees")
    assert [*wrong, *place.left("bees")] == []


def killed(place: Place, name: str, call: int, *more: str) -> None:
    """Run the command that deploys, and kill it after a call of its plan."""
    child = ROOT / "tests" / "support" / "children" / "deploy_killed.py"
    words = [*place.words(name, *more), f"hydra.run.dir={place.here}/run"]
    done = subprocess.run(
        [sys.executable, str(child), str(call), *words], cwd=place.here, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "call", [pytest.param(call, marks=[] if call in (3, 6, 9) else pytest.mark.slow) for call in range(1, 11)]
)
def test_a_client_that_is_killed_leaves_what_its_schedules_delete_and_the_command_again_completes(
    call: int, place: Place
) -> None:
    name = f"ants-{call}"
    if call == 10:
        assert len(planned(place, name, "launcher.reserved=2").requests) == call
    killed(place, name, call, "launcher.reserved=2")
    schedules = [part.name for part in parts.of_deployment(place.cloud, name) if part.kind == "schedule"]
    assert schedules == sorted(Names(name).function_schedules.values())[: max(0, call - 1)]
    launcher, handle = place.deployed(name, "launcher.reserved=2")
    assert launcher.status(handle).phase is Phase.IN_SERVICE
    assert launcher.url(handle)
    place.end(name)
    assert place.left(name) == []


CANARY = ("launcher.memory_mb=2048", "launcher.canary=true", "launcher.reserved=2")
UPDATE = (*CANARY, "launcher.bake_s=120")


@pytest.fixture
def short_canary(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """An update with a canary of two seconds, in which no real alarm could go off."""
    monkeypatch.setattr(checks, "LEAST_BAKE_S", 1)
    return (*CANARY, "launcher.bake_s=2")


@pytest.mark.parametrize(
    "call", [pytest.param(call, marks=[] if call == 7 else pytest.mark.slow) for call in range(1, 12)]
)
def test_an_update_whose_client_is_killed_keeps_answering_and_the_command_again_completes(
    call: int, place: Place, short_canary: tuple[str, ...]
) -> None:
    name = f"wasps-{call}"
    launcher, handle = place.deployed(name)
    if call == 11:
        assert len(planned(place, name, *UPDATE).requests) == call
    if call <= 7:  # after the eighth there has been the whole canary
        killed(place, name, call, *UPDATE)
    else:
        stopped(place, name, call, *short_canary)
    assert launcher.status(handle).phase is Phase.IN_SERVICE
    assert len(launcher.invoke(handle, saved(upright(), "JPEG"))["probabilities"]) == 133
    place.deployed(name, *short_canary)
    assert "2048 MB, at most 2 requests" in str(launcher.status(handle))
    assert "RoutingConfig" not in place.live(name)
    assert not [text for text in place.left(name) if text.startswith("alarm")]
    assert planned(place, name, *short_canary).requests == ()
    place.end(name)
    assert place.left(name) == []


def planned(place: Place, name: str, *more: str) -> Plan:
    return prepare([*place.words(name, *more), f"hydra.run.dir={place.here}/run"])[1]


class Stopped(BaseException):
    """Ends a command at once, in this process."""


def stopped(place: Place, name: str, call: int, *more: str) -> None:
    """Do what `killed` does, in this process and with its settings: nothing is undone after the call."""
    launcher, plan = prepare([*place.words(name, *more), f"hydra.run.dir={place.here}/run"])
    assert isinstance(launcher, DeployLauncher)

    class Killed(FunctionChange):
        made = 0

        def _send(self, each: Request, filled: dict[str, str]) -> None:
            super()._send(each, filled)
            self.made += 1
            if self.made == call:
                raise Stopped

        def _undo(self, error: BaseException) -> None: ...

    with pytest.raises(Stopped):
        Killed(launcher, plan).make()


def test_a_canary_that_a_killed_command_has_left_ends_with_the_command_of_before(
    place: Place, short_canary: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    place.deployed("gnats")
    stopped(place, "gnats", 8, *short_canary)
    assert place.live("gnats")["RoutingConfig"]["AdditionalVersionWeights"] == {"2": 0.1}
    capsys.readouterr()
    assert place.verb("status", "gnats") == 0
    assert "a canary: some of the requests get to version 2" in capsys.readouterr().out
    assert "the canary ends" in dict(planned(place, "gnats").rows)["change"]
    place.deployed("gnats")
    assert (place.live("gnats")["FunctionVersion"], "RoutingConfig" in place.live("gnats")) == ("1", False)
    assert not [text for text in place.left("gnats") if text.startswith("alarm")]
    versions = place.cloud.client("lambda").list_versions_by_function(FunctionName=Names("gnats").endpoint)["Versions"]
    assert [each["Version"] for each in versions] == ["$LATEST", "1"]
    place.end("gnats")
    assert place.left("gnats") == []


def test_a_canary_without_an_alarm_ends_with_all_requests_at_the_new_version(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()  # the time that the canary lasts, once it has been seen
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 10_000 * over.is_set(), sleep=time.sleep)
    monkeypatch.setattr(change, "time", clock)
    place.deployed("eels")
    client, name = place.cloud.client("lambda"), Names("eels")
    executed, ping = [], json.dumps(event.event("GET", "/ping")).encode()
    with ThreadPoolExecutor(1) as pool, ExitStack() as ending:
        ending.callback(over.set)
        update = pool.submit(place.deployed, "eels", *CANARY, "launcher.bake_s=3600")
        until(lambda: "RoutingConfig" in place.live("eels"))
        assert place.live("eels")["RoutingConfig"]["AdditionalVersionWeights"] == {"2": 0.1}
        assert place.live("eels")["FunctionVersion"] == "1"
        alarms = place.cloud.client("cloudwatch").describe_alarms(AlarmNames=[name.alarms["errors"]])["MetricAlarms"]
        assert [alarm["Namespace"] for alarm in alarms] == ["AWS/Lambda"]
        while not update.done():
            said = client.invoke(FunctionName=name.endpoint, Qualifier=ALIAS, Payload=ping)
            executed.append(said["ExecutedVersion"])
            if len(executed) == 10:
                over.set()
        launcher, handle = update.result()
    assert set(executed) <= {"1", "2"}
    assert place.live("eels")["FunctionVersion"] == "2"
    assert "RoutingConfig" not in place.live("eels")
    assert not [text for text in place.left("eels") if text.startswith("alarm")]
    assert launcher.rollback(handle).phase is Phase.IN_SERVICE  # the version before is kept
    assert place.live("eels")["FunctionVersion"] == "1"
    place.end("eels")
    assert place.left("eels") == []


def test_the_quota_of_instances_is_none_of_a_functions(place: Place) -> None:
    place.deployed("toads", "+aws.faults.quotas={ml.c7i.large:0}")
    place.end("toads")
    assert place.left("toads") == []


def test_a_function_that_is_not_ours_is_left_alone(place: Place, dogs: Handle) -> None:
    client = place.cloud.client("lambda")
    about = client.get_function_configuration(FunctionName=Names("dogs").endpoint)
    client.create_function(
        FunctionName="dogbreed-whale",
        Role=about["Role"],
        Runtime=about["Runtime"],
        Handler=about["Handler"],
        Code=_code(place),
    )
    with pytest.raises(LaunchError, match="did not create"):
        place.deployed("whale")
    with pytest.raises(LaunchError, match="did not create"):
        place.end("whale")
    client.delete_function(FunctionName="dogbreed-whale")
    assert not DeployLauncher.at(place.cloud).cleanup(older_than=timedelta(0)).found


def _code(place: Place) -> dict[str, str]:
    found = place.cloud.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="dogbreed/models/dogs/")["Contents"]
    return {"S3Bucket": BUCKET, "S3Key": next(each["Key"] for each in found if each["Key"].endswith(".zip"))}


def test_a_variant_cannot_be_changed_by_an_update(place: Place, dogs: Handle) -> None:
    words = [word for word in place.words("dogs") if not word.startswith("launcher.variant")]
    with pytest.raises(Exception, match=r"dogs is served with launcher\.variant=lambda") as caught:
        prepare([*words, f"hydra.run.dir={place.here}/run"])
    assert "launchers cancel dogs" in str(caught.value)


def test_a_package_that_is_too_large_is_refused_before_anything_is_uploaded(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOGBREED_CACHE", str(tmp_path))
    monkeypatch.setattr(package, "LARGEST_BYTES", 100_000)
    monkeypatch.setattr(wheels, "from_here", lambda: ())  # our own code alone is larger
    monkeypatch.setattr(sizing, "is_inside", lambda model: True)
    with pytest.raises(LaunchError, match="unpacked, and Lambda takes at most"):
        place.deployed("whales")
    found = place.cloud.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="dogbreed/models/whales/")
    assert found["KeyCount"] == 0
    assert place.left("whales") == []
