"""SageMaker's hosting in the rehearsal cloud, with plain boto3: real containers, statuses, refusals in AWS's words."""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.image import Image
from launchers.rehearsal.names import ACCOUNT, REGION, SERVER_FILE
from launchers.rehearsal.services.endpoint_invoke import LARGEST, forward
from tests.support.deployed import BUCKET, KIND, REPOSITORY, ROLE, Hosting, refusal
from tests.support.launcher_contract import until
from tests.support.odd_pictures import saved, upright
from tests.support.processes import alive
from tests.support.serving import tiny_model

ARN = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}"


class Silent(BaseHTTPRequestHandler):
    """Answers nothing, and keeps the connection until the test is over."""

    over = threading.Event()

    def do_POST(self) -> None:
        self.over.wait(120)


def test_a_container_that_takes_too_long_is_a_timeout_in_awss_words() -> None:
    Silent.over.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        instance: Any = SimpleNamespace(port=server.server_port, name="primary")
        status, _, content = forward(instance, {"Body": b"x"}, timeout_s=0.1)
    finally:
        Silent.over.set()
        server.shutdown()
        server.server_close()
    assert status == 0
    assert content.startswith(b"Your invocation timed out while waiting for a response from container primary.")


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    """A cloud of its own whose clock runs ten times faster."""
    place = tmp_path_factory.mktemp("hosting") / "state"
    try:
        yield Hosting(Rehearsal(state_dir=str(place), reclaims=0, clock_rate=10)).ready()
    finally:
        process.stop(place)


@pytest.fixture(scope="module")
def dogs(hosting: Hosting) -> Hosting:
    """With an endpoint of two instances."""
    hosting.config("dogs", hosting.model("dogs", EnableNetworkIsolation=True), 2)
    tags = [{"Key": "owner", "Value": "me"}]
    hosting.sagemaker.create_endpoint(EndpointName="dogs", EndpointConfigName="dogs", Tags=tags)
    assert hosting.settled("dogs")["EndpointStatus"] == "InService"
    return hosting


@pytest.mark.cloud
def test_a_request_reaches_a_container_and_its_answer_the_caller(dogs: Hosting) -> None:
    answer = dogs.runtime.invoke_endpoint(
        EndpointName="dogs",
        Body=b"\xff\xd8photo",
        ContentType="application/x-image",
        Accept="a/b",
        CustomAttributes="c",
    )
    seen = json.loads(answer["Body"].read())
    assert (seen["size"], seen["type"], seen["accept"], seen["custom"]) == (7, "application/x-image", "a/b", "c")
    assert (answer["ContentType"], answer["InvokedProductionVariant"]) == ("application/json", "main")
    assert seen["model"] == "boxer"
    pids: set[int] = set()
    until(lambda: bool(pids.add(dogs.ask("dogs")["pid"]) or len(pids) == 2))  # both instances get requests


@pytest.mark.cloud
def test_a_container_of_an_isolated_model_has_no_credentials_no_home_and_a_read_only_model(dogs: Hosting) -> None:
    seen = dogs.ask("dogs")
    names = set(seen["variables"])
    assert not {name for name in names if name.startswith("AWS_")} - {"AWS_REGION", "AWS_DEFAULT_REGION"}
    assert "HOME" not in names
    assert not seen["writes"] or os.geteuid() == 0  # root may write everywhere


@pytest.mark.cloud
def test_what_describe_shows_is_what_runs(dogs: Hosting) -> None:
    until(lambda: dogs.shown("dogs")["ProductionVariants"][0]["CurrentInstanceCount"] == 2)
    shown = dogs.shown("dogs")
    variant = shown["ProductionVariants"][0]
    assert (variant["CurrentInstanceCount"], variant["DesiredInstanceCount"], variant["CurrentWeight"]) == (2, 2, 1.0)
    image = variant["DeployedImages"][0]
    assert image["SpecifiedImage"] == f"{REPOSITORY}:one"
    assert image["ResolvedImage"].startswith(f"{REPOSITORY}:one@sha256:")
    assert shown["EndpointArn"] == f"{ARN}:endpoint/dogs"
    assert "PendingDeploymentSummary" not in shown
    assert dogs.sagemaker.list_tags(ResourceArn=shown["EndpointArn"])["Tags"] == [{"Key": "owner", "Value": "me"}]
    listed = dogs.sagemaker.list_endpoints(NameContains="dog", StatusEquals="InService")["Endpoints"]
    assert [each["EndpointName"] for each in listed] == ["dogs"]
    assert dogs.sagemaker.list_models(NameContains="dogs")["Models"][0]["ModelArn"] == f"{ARN}:model/dogs"
    assert dogs.sagemaker.describe_model(ModelName="dogs")["EnableNetworkIsolation"]
    config = dogs.sagemaker.describe_endpoint_config(EndpointConfigName="dogs")
    assert config["ProductionVariants"][0]["InstanceType"] == KIND
    until(lambda: "main: starting" in dogs.log("dogs"))


@pytest.mark.cloud
@pytest.mark.parametrize(("body", "status", "text"), [(b"fail", 500, "no dogs today"), (b"wrong", 422, "no picture")])
def test_an_error_of_the_container_is_a_model_error(dogs: Hosting, body: bytes, status: int, text: str) -> None:
    with pytest.raises(ClientError) as caught:
        dogs.ask("dogs", body)
    answer: Any = caught.value.response
    whose = "client" if status == 422 else "server"
    assert answer["Error"]["Code"] == "ModelError"
    assert answer["Error"]["Message"].startswith(f"Received {whose} error ({status}) from primary with message ")
    assert (answer["OriginalStatusCode"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (status, 424)
    assert text in answer["OriginalMessage"]
    assert "/aws/sagemaker/Endpoints/dogs" in answer["LogStreamArn"]


@pytest.mark.cloud
def test_what_cannot_be_invoked_is_refused(dogs: Hosting) -> None:
    invoke = dogs.runtime.invoke_endpoint
    text = f"Endpoint cats of account {ACCOUNT} not found."
    assert refusal(invoke, EndpointName="cats", Body=b"x") == ("ValidationError", text)
    assert refusal(invoke, EndpointName="dogs", Body=b"x" * (LARGEST + 1))[0] == "413"
    assert dogs.ask("dogs", b"x" * LARGEST)["size"] == LARGEST
    assert refusal(invoke, EndpointName="dogs", Body=b"x", TargetVariant="other")[0] == "ValidationError"
    streaming = dogs.runtime.invoke_endpoint_with_response_stream
    assert "has InvokeEndpoint alone" in refusal(streaming, EndpointName="dogs", Body=b"x")[1]


@pytest.mark.cloud
def test_refusals_come_in_awss_words_and_order(dogs: Hosting) -> None:
    make, new = dogs.sagemaker, {"EndpointName": "new", "EndpointConfigName": "dogs"}
    missing = f'Could not find endpoint configuration "{ARN}:endpoint-config/none".'
    assert refusal(make.create_endpoint, **{**new, "EndpointConfigName": "none"}) == ("ValidationException", missing)
    taken = f'Cannot create already existing endpoint "{ARN}:endpoint/dogs".'
    assert refusal(make.create_endpoint, **{**new, "EndpointName": "dogs"})[1] == taken
    for call in (make.describe_endpoint, make.delete_endpoint):
        assert refusal(call, EndpointName="none")[1] == f'Could not find endpoint "{ARN}:endpoint/none".'
    assert refusal(make.delete_model, ModelName="none")[1] == f'Could not find model "{ARN}:model/none".'
    variant = {"VariantName": "main", "ModelName": "none", "InstanceType": KIND, "InitialInstanceCount": 1}
    refused = refusal(make.create_endpoint_config, EndpointConfigName="x", ProductionVariants=[variant])
    assert refused[1] == f'Could not find model "{ARN}:model/none".'
    refused = refusal(make.create_endpoint_config, EndpointConfigName="dogs", ProductionVariants=[variant])
    assert refused[1] == f'Cannot create already existing endpoint configuration "{ARN}:endpoint-config/dogs".'
    odd = {**variant, "InstanceType": "ml.dog.large"}
    assert "ml.dog.large" in refusal(make.create_endpoint_config, EndpointConfigName="x", ProductionVariants=[odd])[1]
    capacities = [{"VariantName": "other", "DesiredInstanceCount": 1}]
    change = make.update_endpoint_weights_and_capacities
    assert refusal(change, EndpointName="dogs", DesiredWeightsAndCapacities=capacities)[1] == (
        'The variant name(s) "other" is/are not present within endpoint configuration "dogs".'
    )


@pytest.mark.cloud
def test_models_are_checked_against_ecr_s3_and_iam(hosting: Hosting) -> None:
    create, container = hosting.sagemaker.create_model, {"Image": f"{REPOSITORY}:one"}

    def refused(role: str = ROLE, **changed: str) -> str:
        return refusal(create, ModelName="bad", PrimaryContainer={**container, **changed}, ExecutionRoleArn=role)[1]

    other = f"{REPOSITORY}:unbuilt"
    assert refused(Image=other) == f"Requested image {other} not found."
    assert "Using non-ECR image" in refused(Image="python:3.12")
    assert refused(ModelDataUrl=f"s3://{BUCKET}/none") == f"Could not find model data at s3://{BUCKET}/none."
    assert "Could not access model data at s3://elsewhere/x" in refused(ModelDataUrl="s3://elsewhere/x")
    assert "is invalid. Please ensure that the role exists" in refused(role=f"arn:aws:iam::{ACCOUNT}:role/nobody")


@pytest.mark.cloud
def test_quotas_and_missing_capacity(hosting: Hosting) -> None:
    limited = hosting.with_faults(quotas={"ml.m5.large": 1})
    hosting.config("two", hosting.model("two"), 2, InstanceType="ml.m5.large")
    code, text = refusal(limited.sagemaker.create_endpoint, EndpointName="two", EndpointConfigName="two")
    assert code == "ResourceLimitExceeded"
    assert text.startswith(
        "The account-level service limit 'ml.m5.large for endpoint usage' is 1 Instances, with current utilization of "
        "0 Instances and a request delta of 2 Instances."
    )
    scarce = hosting.with_faults(no_capacity_of=[KIND])
    failed = scarce.deploy("scarce")
    assert failed["EndpointStatus"] == "Failed"
    assert "InsufficientInstanceCapacity" in failed["FailureReason"]
    assert (
        "in status Failed"
        in refusal(scarce.sagemaker.update_endpoint, EndpointName="scarce", EndpointConfigName="two")[1]
    )
    hosting.delete("scarce")
    pools = [{"InstanceType": "ml.m7i.large", "Priority": 2}, {"InstanceType": KIND, "Priority": 1}]
    hosting.config("pools", "scarce", InstancePools=pools)
    scarce.sagemaker.create_endpoint(EndpointName="pools", EndpointConfigName="pools")
    shown = scarce.settled("pools")["ProductionVariants"][0]["InstancePools"]
    assert {each["InstanceType"]: each["CurrentInstanceCount"] for each in shown} == {KIND: 0, "ml.m7i.large": 1}
    hosting.delete("pools")


@pytest.mark.cloud
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"ping_status": 500}, "The primary container for production variant main did not pass the ping health check."),
        ({"exits": 1}, "The primary container for production variant main did not pass the ping health check."),
        ({"data": "broken"}, "Failed to extract model data archive"),
        ({"tag": "empty"}, "CannotStartContainerError."),
    ],
)
def test_an_endpoint_that_cannot_start_fails_with_the_cause(hosting: Hosting, more: Any, reason: str) -> None:
    name = f"bad-{next(iter(more)).replace('_', '-')}"
    hosting.data("broken", b"no archive")
    if more.get("tag"):
        hosting.image("empty", Image(["/no/such/program"]))
    model = hosting.model(name, **more)
    hosting.config(name, model, ContainerStartupHealthCheckTimeoutInSeconds=60)
    hosting.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    failed = hosting.settled(name)
    assert failed["EndpointStatus"] == "Failed"
    assert failed["FailureReason"].startswith(reason)
    if "exits" in more:
        assert "main: I do not start" in hosting.log(name)
    hosting.delete(name)


@pytest.mark.cloud
def test_a_role_that_may_not_read_the_artifact_or_pull_the_image(hosting: Hosting) -> None:
    for action, text in (("s3:GetObject", "Failed to download model data"), ("ecr:BatchGetImage", "BatchGetImage")):
        name = action.partition(":")[0]
        failed = hosting.with_faults(denied_to_role=[action]).deploy(f"denied-{name}")
        assert text in failed["FailureReason"]
        hosting.delete(f"denied-{name}")


@pytest.mark.cloud
def test_an_endpoint_in_creation_stays_and_a_container_that_ends_is_started_again(
    hosting: Hosting, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.touch()  # its containers begin to serve once this is gone
    assert hosting.deploy("mortal", wait=False, held=held)["EndpointStatus"] == "Creating"
    in_progress = f'Cannot update in-progress endpoint "{ARN}:endpoint/mortal".'
    assert refusal(hosting.sagemaker.delete_endpoint, EndpointName="mortal") == ("ValidationException", in_progress)
    held.unlink()
    assert hosting.settled("mortal")["EndpointStatus"] == "InService"
    before = hosting.ask("mortal")["pid"]
    held.touch()
    code, text = refusal(hosting.runtime.invoke_endpoint, EndpointName="mortal", Body=b"die")
    assert (code, "could not get a response from the mortal endpoint" in text) == ("ModelError", True)
    until(lambda: hosting.shown("mortal")["ProductionVariants"][0]["CurrentInstanceCount"] == 0)
    held.unlink()
    until(lambda: hosting.shown("mortal")["ProductionVariants"][0]["CurrentInstanceCount"] == 1)
    assert hosting.ask("mortal")["pid"] != before
    hosting.delete("mortal")
    assert "Could not find endpoint" in refusal(hosting.sagemaker.describe_endpoint, EndpointName="mortal")[1]
    assert not alive(before)


@pytest.mark.cloud
def test_a_container_answers_what_it_was_asked_before_it_ends_and_is_killed_30_s_later(
    hosting: Hosting, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    hosting.deploy("stubborn", end_s=600, held=held)
    pid = hosting.ask("stubborn")["pid"]
    held.touch()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(hosting.ask, "stubborn", b"hold")
        try:
            until(lambda: "main: asked hold" in hosting.log("stubborn"))
            hosting.sagemaker.delete_endpoint(EndpointName="stubborn")
            assert hosting.shown("stubborn")["EndpointStatus"] == "Deleting"
            assert alive(pid)
        finally:
            held.unlink()
        assert answer.result()["pid"] == pid
    until(lambda: "stubborn" not in hosting.names())
    assert not alive(pid)


@pytest.mark.cloud
def test_whoever_lacks_a_permission_may_not_invoke(dogs: Hosting) -> None:
    caught = refusal(
        dogs.with_faults(denied=["sagemaker:InvokeEndpoint"]).runtime.invoke_endpoint, EndpointName="dogs", Body=b""
    )
    assert caught[0] == "AccessDeniedException"
    assert f"sagemaker:InvokeEndpoint on resource: {ARN}:endpoint/dogs" in caught[1]


@pytest.mark.cloud
def test_endpoints_come_back_after_the_cloud_was_killed(tmp_path: Path) -> None:
    place = tmp_path / "state"
    hosting = Hosting(Rehearsal(state_dir=str(place), reclaims=0, clock_rate=10)).ready()
    try:
        hosting.deploy("stays")
        pid = hosting.ask("stays")["pid"]
        hosting.deploy("grows", wait=False, start_s=1)
        os.kill(json.loads((place / SERVER_FILE).read_text())["pid"], signal.SIGKILL)
        until(lambda: process.running(place) is None)
        again = Hosting(Rehearsal(state_dir=str(place), reclaims=0))
        assert again.ask("stays")["pid"] != pid
        until(lambda: not alive(pid))  # nothing is left of the first one
        assert again.settled("grows")["EndpointStatus"] == "InService"
        assert again.sagemaker.describe_model(ModelName="stays")["ModelName"] == "stays"
        assert [line for line in again.log("stays") if line == "main: starting"] == 2 * ["main: starting"]
    finally:
        process.stop(place)


@pytest.mark.cloud
def test_an_artifact_of_ours_is_served_by_our_server(hosting: Hosting, tmp_path: Path) -> None:
    hosting.data("tiny", tiny_model(tmp_path / "model.tar.gz").read_bytes())
    program = "from dogbreed.serving.__main__ import serve; raise SystemExit(serve())"
    hosting.image("server", Image([sys.executable, "-c", program]))
    shown = hosting.deploy("real", data="tiny", tag="server", EnableNetworkIsolation=True)
    assert shown["EndpointStatus"] == "InService", shown
    answer = hosting.ask("real", saved(upright(), "PNG"), ContentType="image/png")
    assert len(answer["probabilities"]) == 133
    hosting.delete("real")
