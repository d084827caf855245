"""What each service of the rehearsal cloud keeps to: operations by name, state over a restart, what runs, an end."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from launchers.rehearsal import process
from launchers.rehearsal.bucket_settings import BucketSettings
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.gateway import Gateway
from launchers.rehearsal.identity_store import IdentityStore
from launchers.rehearsal.names import ACCOUNT, FAULTS_HEADER, REGION, SERVER_FILE, SESSION_HEADER, Server
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.service import Answer, Call, Refused
from launchers.rehearsal.services.training_record import JobRecord
from tests.support.launcher_contract import until
from tests.support.project import ROOT
from tests.support.toy_cloud import FOUND, ModelPackageGroups

ARN = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}"


@contextlib.contextmanager
def toy_cloud(state: Path, idle_s: float = 600) -> Iterator[Any]:
    """Start a cloud whose services are toys; a client of SageMaker in it."""
    words = [sys.executable, "-m", "tests.support.toy_cloud", str(state), str(idle_s)]
    state.mkdir(exist_ok=True)
    started = subprocess.Popen(words, cwd=ROOT)
    try:
        until(lambda: process.running(state) is not None or started.poll() is not None)
        assert started.poll() is None
        yield Rehearsal(state_dir=str(state)).client("sagemaker")
    finally:
        process.stop(state)
        started.kill()
        started.wait()


def description(sagemaker: Any, name: str) -> str:
    return str(sagemaker.describe_model_package_group(ModelPackageGroupName=name)["ModelPackageGroupDescription"])


def test_a_service_of_a_few_lines_answers_and_what_it_keeps_survives_a_kill_and_an_orderly_end(tmp_path: Path) -> None:
    state = tmp_path / "state"
    create = {"ModelPackageGroupDescription": "runs"}
    with toy_cloud(state) as sagemaker:
        sagemaker.create_model_package_group(ModelPackageGroupName="quiet", ModelPackageGroupDescription="still here")
        sagemaker.create_model_package_group(ModelPackageGroupName="killed", **create)
        assert description(sagemaker, "killed") == "runs"
        with pytest.raises(ClientError, match="There is no group nobody"):
            description(sagemaker, "nobody")
        with pytest.raises(ClientError, match="does not satisfy the pattern"):  # AWS's model holds for it as well
            sagemaker.create_model_package_group(ModelPackageGroupName="not_a_name")
        os.kill(json.loads((state / SERVER_FILE).read_text())["pid"], signal.SIGKILL)
        until(lambda: process.running(state) is None)
    with toy_cloud(state) as sagemaker:
        assert description(sagemaker, "quiet") == "still here"
        assert description(sagemaker, "killed") == "was killed"
        sagemaker.create_model_package_group(ModelPackageGroupName="stopped", **create)
    assert json.loads((state / FOUND).read_text())["stopped"] == "runs"  # what acts on others ends before them
    with toy_cloud(state) as sagemaker:
        assert description(sagemaker, "stopped") == "ended"


def test_a_server_does_not_end_while_a_service_is_active(tmp_path: Path) -> None:
    state = tmp_path / "state"
    held = state / "groups" / "held"  # until the first request
    held.parent.mkdir(parents=True)
    held.touch()
    with toy_cloud(state, idle_s=1) as sagemaker:
        sagemaker.create_model_package_group(ModelPackageGroupName="busy", ModelPackageGroupDescription="runs")
        held.unlink()
        time.sleep(3.5)  # it looks once a second whether its time is over
        assert process.running(state) is not None
        sagemaker.delete_model_package_group(ModelPackageGroupName="busy")
        until(lambda: process.running(state) is None)


# --- the gateway, without a server ---


class Recorder:
    """Stands for moto: what reaches it, it notes."""

    def __init__(self) -> None:
        self.reached = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.reached += 1
        start_response("200 OK", [])
        return [b'{"Tags": [{"Key": "by", "Value": "moto"}]}']


class Answers:
    """A service that is these handlers."""

    active = False

    def __init__(self, **handlers: Callable[[Call], Answer | None]) -> None:
        self.operations = {("sagemaker", name): handler for name, handler in handlers.items()}

    def begin(self, server: Server) -> None: ...

    def end(self) -> None: ...


def ask(gateway: Gateway, operation: str, service: str = "sagemaker", **parameters: Any) -> tuple[int, Any]:
    """Send one request, signed. Parameters that are headers begin with HTTP_."""
    body = json.dumps({name: value for name, value in parameters.items() if not name.startswith("HTTP_")}).encode()
    target = {"X-Amz-Target": f"Any.{operation}"}
    request = AWSRequest("POST", "http://127.0.0.1:1/", target, body)
    SigV4Auth(Credentials("key", "key"), service, REGION).add_auth(request)
    environ = {
        **{_header(name): value for name, value in request.headers.items()},
        "HTTP_HOST": "127.0.0.1:1",
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/",
        "REQUEST_URI": "/",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        **{name: value for name, value in parameters.items() if name.startswith("HTTP_")},
    }
    status: list[str] = []
    answer = b"".join(gateway(environ, lambda line, headers: status.append(line)))
    return int(status[0].split()[0]), json.loads(answer)


def gateway_of(tmp_path: Path, *services: Any) -> tuple[Gateway, Recorder]:
    moto, settings = Recorder(), BucketSettings(tmp_path / "buckets.json")
    store, identities = ObjectStore(tmp_path / "s3"), IdentityStore(tmp_path / "iam.json")
    return Gateway(moto, services, store, settings, identities, "key"), moto


def test_services_answer_for_tags_of_their_own_arns_alone(tmp_path: Path) -> None:
    first, second = ModelPackageGroups(tmp_path / "one"), Answers(ListTags=_tags_of_endpoints)
    gateway, moto = gateway_of(tmp_path, first, second)
    assert ask(gateway, "CreateModelPackageGroup", ModelPackageGroupName="mine")[0] == 200
    group = f"{ARN}:model-package-group/mine"
    tags = [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]
    assert ask(gateway, "AddTags", ResourceArn=group, Tags=tags) == (200, {"Tags": tags})
    assert ask(gateway, "DeleteTags", ResourceArn=group, TagKeys=["a"]) == (200, {})
    assert ask(gateway, "ListTags", ResourceArn=group) == (200, {"Tags": tags[1:]})
    assert ask(gateway, "ListTags", ResourceArn=f"{ARN}:endpoint/mine")[1]["Tags"][0]["Value"] == "endpoints"
    assert moto.reached == 0
    assert ask(gateway, "ListTags", ResourceArn=f"{ARN}:project/mine")[1]["Tags"][0]["Value"] == "moto"
    assert ask(gateway, "AddTags", ResourceArn=f"{ARN}:endpoint/mine", Tags=tags)[1]["Tags"][0]["Value"] == "moto"
    assert moto.reached == 2
    status, refusal = ask(gateway, "ListTags", ResourceArn=f"{ARN}:model-package-group/other")
    assert (status, refusal["message"]) == (400, "There is no group other.")


def _tags_of_endpoints(call: Call) -> Answer | None:
    return {"Tags": [{"Key": "by", "Value": "endpoints"}]} if ":endpoint/" in call.parameters["ResourceArn"] else None


def test_an_operation_of_the_same_name_belongs_to_the_service_it_is_signed_for(tmp_path: Path) -> None:
    gateway, moto = gateway_of(tmp_path, Answers(ListTags=lambda call: {"Tags": []}))
    assert ask(gateway, "ListTags", ResourceArn=f"{ARN}:endpoint/x") == (200, {"Tags": []})
    ask(gateway, "ListTags", service="dax", ResourceName="x")
    assert moto.reached == 1


def test_a_refusal_is_an_answer_that_moto_does_not_see(tmp_path: Path) -> None:
    def refuse(call: Call) -> Answer:
        raise Refused("ResourceInUse", "Twice is once too often.", 409)

    gateway, moto = gateway_of(tmp_path, Answers(CreateModelPackageGroup=refuse))
    status, answer = ask(gateway, "CreateModelPackageGroup", ModelPackageGroupName="x")
    assert (status, answer) == (409, {"__type": "ResourceInUse", "message": "Twice is once too often."})
    assert moto.reached == 0


def test_a_handler_gets_the_faults_and_the_session_of_who_asks(tmp_path: Path) -> None:
    def create(call: Call) -> Answer:
        return {"found": not call.session.among_first(call.faults.no_capacity, "machines")}

    gateway, _ = gateway_of(tmp_path, Answers(CreateModelPackageGroup=create))

    def found(session: str) -> bool:
        headers = {_header(FAULTS_HEADER): '{"no_capacity": 2}', _header(SESSION_HEADER): session}
        return bool(ask(gateway, "CreateModelPackageGroup", ModelPackageGroupName="x", **headers)[1]["found"])

    assert [found("one") for _ in range(3)] == [False, False, True]
    assert not found("other")
    assert ask(gateway, "CreateModelPackageGroup", ModelPackageGroupName="x")[1]["found"]  # who asked for no faults


def _header(name: str) -> str:
    return f"HTTP_{name.upper().replace('-', '_')}"


# --- training jobs ---


def test_a_record_is_loaded_as_it_was_saved_whatever_another_version_noted_besides(tmp_path: Path) -> None:
    record = JobRecord(tmp_path / "jobs" / "one", {"TrainingJobName": "one"}, 1.0, tags={"a": "b"})
    record.to("Failed", "It did not work", status="Failed")
    assert JobRecord.load_all(tmp_path / "jobs") == [record]
    file = record.folder / "job.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "trouble": {"reclaims": 1}}))
    assert JobRecord.load_all(tmp_path / "jobs") == [record]
