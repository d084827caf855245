"""CodeBuild in the rehearsal cloud: buildspecs and Dockerfiles whose steps really run, and what ECR has afterwards."""

import io
import json
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from launchers.rehearsal import process
from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.dockerfile import BuildError, build, instructions
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.rehearsal.services.build_run import script
from tests.support.deployed import BUCKET, CONTAINER, REPOSITORY, ROLE, Hosting, refusal
from tests.support.launcher_contract import until
from tests.support.odd_pictures import saved, upright
from tests.support.project import ROOT
from tests.support.serving import tiny_model

BASE = "public.ecr.aws/docker/library/python:3.12.12-slim-bookworm"
DOCKERFILE = f"""\
ARG BASE=3.12
FROM {BASE}
# a comment
ENV GREETING=hello NAME="two words" \\
    MORE=1
LABEL owner=me
WORKDIR /opt/app
COPY container.py requirements.txt ./
RUN python -m pip install --no-cache-dir -r requirements.txt -c nowhere.txt && echo "$GREETING" > greeting
EXPOSE 8080
ENTRYPOINT ["python", "container.py"]
"""
REGISTRY = REPOSITORY.partition("/")[0]
SPEC = f"""\
version: 0.2
env:
  variables: {{TAG: built}}
phases:
  pre_build:
    commands:
      - aws ecr get-login-password --region $AWS_REGION | docker login --username AWS --password-stdin {REGISTRY}
  build:
    commands:
      - docker build -f Dockerfile -t {REPOSITORY}:$TAG .
      - docker push {REPOSITORY}:$TAG
"""
ECR = ("GetAuthorizationToken", "BatchCheckLayerAvailability", "InitiateLayerUpload", "UploadLayerPart")
PUSHES = tuple(f"ecr:{name}" for name in (*ECR, "CompleteLayerUpload", "PutImage"))
LOGS = ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents")


# --- Dockerfiles and buildspecs, without a cloud ---


def context(place: Path, dockerfile: str = DOCKERFILE) -> Path:
    place.mkdir(exist_ok=True)
    (place / "Dockerfile").write_text(dockerfile)
    (place / "requirements.txt").write_text("numpy>=1.26\npillow>=13\n")
    (place / "container.py").write_bytes(CONTAINER.read_bytes())
    return place


def test_a_dockerfile_is_read_line_by_line() -> None:
    found = list(instructions(DOCKERFILE))
    assert [word for word, _ in found][:5] == ["ARG", "FROM", "ENV", "LABEL", "WORKDIR"]
    assert found[2][1].split() == ["GREETING=hello", 'NAME="two', 'words"', "MORE=1"]


def test_the_steps_of_a_dockerfile_run_in_a_folder_and_an_environment_of_their_own(tmp_path: Path) -> None:
    said: list[str] = []
    image = build(
        tmp_path / "context" / "Dockerfile", context(tmp_path / "context"), tmp_path / "images", {}, said.append
    )
    assert (image.environment["NAME"], image.environment["MORE"], image.labels) == ("two words", "1", {"owner": "me"})
    assert (Path(image.place) / "greeting").read_text() == "hello\n"
    assert image.program("python") == f"{image.path[0]}/python"
    assert any("Requirement already satisfied: numpy" in line for line in said)
    assert any("nowhere.txt is not applied" in line for line in said)


@pytest.mark.parametrize(
    ("dockerfile", "text"),
    [
        ("FROM python:3.12\n", "429 Too Many Requests"),
        (f"FROM {BASE}\nRUN exit 3\n", "did not complete successfully: exit code: 3"),
        (f"FROM {BASE}\nCOPY none .\n", "'none': not found"),
        (f"FROM {BASE}\nCOPY ../secret .\n", "not found"),
        (f"FROM {BASE}\nRUN python -m pip install no-such-package-of-anyone\n", "exit code: 1"),
        (f"FROM {BASE}\nBAKE cake\n", "unknown instruction: BAKE"),
        ("RUN true\n", "ERROR: failed to solve"),
        ("FROM public.ecr.aws/docker/library/golang:1\n", "images of Python alone"),
    ],
)
def test_a_step_that_fails_fails_the_build_and_leaves_nothing(tmp_path: Path, dockerfile: str, text: str) -> None:
    (tmp_path / "secret").touch()
    place = context(tmp_path / "context", dockerfile)
    with pytest.raises(BuildError, match=text):
        build(place / "Dockerfile", place, tmp_path / "images", {}, lambda line: None)
    assert not list((tmp_path / "images").glob("files/*"))


@pytest.mark.parametrize(
    ("phases", "ran", "status"),
    [
        ({"build": ["echo one", "echo two"], "post_build": ["echo three"]}, ["one", "two", "three"], 0),
        ({"build": ["echo one", "false", "echo two"], "post_build": ["echo three"]}, ["one", "three"], 1),
        ({"pre_build": ["exec_nothing"], "build": ["echo one"], "post_build": ["echo two"]}, [], 1),
        ({"install": ["x=5; cd /"], "build": ['echo "$x$PWD"']}, ["5/"], 0),  # one shell for all phases
        ({"build": ["if true\nthen echo one\nfi"]}, ["one"], 0),
    ],
)
def test_phases_run_as_codebuild_runs_them(phases: Mapping[str, Sequence[str]], ran: list[str], status: int) -> None:
    text = script({name: {"commands": commands} for name, commands in phases.items()})
    done = subprocess.run(["/bin/bash", "-c", text], capture_output=True, text=True)
    assert [line for line in done.stdout.splitlines() if not line.startswith("[Container]")] == ran
    assert done.returncode == status
    assert ("State: FAILED" in done.stdout) is bool(status)


# --- builds ---


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    place = tmp_path_factory.mktemp("builds") / "state"
    try:
        made = Hosting(Rehearsal(state_dir=str(place), reclaims=0, clock_rate=10)).ready()
        role(made, "builder", *PUSHES, *LOGS, "s3:GetObject")
        yield made
    finally:
        process.stop(place)


def role(hosting: Hosting, name: str, *actions: str) -> str:
    trust = {"Effect": "Allow", "Principal": {"Service": "codebuild.amazonaws.com"}, "Action": "sts:AssumeRole"}
    allowed = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    iam = hosting.cloud.client("iam")
    texts = [json.dumps({"Version": "2012-10-17", "Statement": [each]}) for each in (trust, allowed)]
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=texts[0])
    iam.put_role_policy(RoleName=name, PolicyName="all", PolicyDocument=texts[1])
    return f"arn:aws:iam::{ACCOUNT}:role/{name}"


def zipped(place: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(place.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(place))
    return buffer.getvalue()


def project(hosting: Hosting, name: str, content: bytes, **changed: Any) -> dict[str, Any]:
    hosting.cloud.client("s3").put_object(Bucket=BUCKET, Key=f"dogbreed/{name}.zip", Body=content)
    environment = {
        "type": "LINUX_CONTAINER",
        "image": "aws/codebuild/standard:7.0",
        "computeType": "BUILD_GENERAL1_SMALL",
    }
    given = {
        "name": name,
        "source": {"type": "S3", "location": f"{BUCKET}/dogbreed/{name}.zip", "buildspec": SPEC},
        "artifacts": {"type": "NO_ARTIFACTS"},
        "environment": {**environment, "privilegedMode": True},
        "serviceRole": f"arn:aws:iam::{ACCOUNT}:role/builder",
        **changed,
    }
    return dict(hosting.cloud.client("codebuild").create_project(**given)["project"])


def built(hosting: Hosting, name: str, **changed: Any) -> dict[str, Any]:
    """Start a build, and return it once it is over."""
    client = hosting.cloud.client("codebuild")
    started = client.start_build(projectName=name, **changed)["build"]
    assert started["buildStatus"] == "IN_PROGRESS"
    until(lambda: client.batch_get_builds(ids=[started["id"]])["builds"][0]["buildComplete"])
    return dict(client.batch_get_builds(ids=[started["id"]])["builds"][0])


def log(hosting: Hosting, found: Mapping[str, Any]) -> str:
    assert found["phases"][2].get("phaseStatus") == "SUCCEEDED", found["phases"]  # without it there is no log
    logs, where = hosting.cloud.client("logs"), found["logs"]
    events = logs.get_log_events(logGroupName=where["groupName"], logStreamName=where["streamName"])["events"]
    return "\n".join(event["message"] for event in events)


def failure(found: Mapping[str, Any]) -> tuple[str, str]:
    """Return the phase that failed, and why."""
    phase = next(each for each in found["phases"] if each.get("phaseStatus") == "FAILED")
    return phase["phaseType"], phase["contexts"][0]["message"]


@pytest.mark.cloud
def test_a_built_image_is_in_ecr_and_an_endpoint_runs_it(hosting: Hosting, tmp_path: Path) -> None:
    made = project(hosting, "dogs-image", zipped(context(tmp_path / "context")))
    assert made["arn"] == f"arn:aws:codebuild:{REGION}:{ACCOUNT}:project/dogs-image"
    assert (
        refusal(
            hosting.sagemaker.create_model,
            ModelName="early",
            ExecutionRoleArn=ROLE,
            PrimaryContainer={"Image": f"{REPOSITORY}:built"},
        )[1]
        == f"Requested image {REPOSITORY}:built not found."
    )
    found = built(hosting, "dogs-image")
    assert found["buildStatus"] == "SUCCEEDED", log(hosting, found)
    phases = [(each["phaseType"], each.get("phaseStatus")) for each in found["phases"]]
    assert phases[-3:] == [("PRE_BUILD", "SUCCEEDED"), ("BUILD", "SUCCEEDED"), ("COMPLETED", None)]
    assert "Login Succeeded" in log(hosting, found)
    tags = [
        each.get("imageTags")
        for each in hosting.cloud.client("ecr").describe_images(repositoryName="dogs")["imageDetails"]
    ]
    assert ["built"] in tags
    assert hosting.deploy("built", tag="built")["EndpointStatus"] == "InService"
    assert "GREETING" in hosting.ask("built")["variables"]
    hosting.delete("built")


@pytest.mark.cloud
def test_a_build_fails_where_a_step_the_daemon_or_a_permission_fails(hosting: Hosting, tmp_path: Path) -> None:
    good = zipped(context(tmp_path / "good"))
    project(hosting, "failing", zipped(context(tmp_path / "bad", f"FROM {BASE}\nRUN echo oh no; exit 7\n")))
    found = built(hosting, "failing")
    assert found["buildStatus"] == "FAILED"
    assert failure(found)[0] == "BUILD"
    assert "docker build -f Dockerfile" in failure(found)[1]
    assert failure(found)[1].endswith("exit status 1")
    assert "exit code: 7" in log(hosting, found)
    project(hosting, "good", good)
    unprivileged = built(hosting, "good", privilegedModeOverride=False)
    assert "Cannot connect to the Docker daemon" in log(hosting, unprivileged)
    denied = hosting.with_faults(denied_to_role=["s3:GetObject"])
    assert failure(built(denied, "good"))[0] == "DOWNLOAD_SOURCE"
    role(hosting, "silent", *PUSHES)
    project(hosting, "silent", good, serviceRole=f"arn:aws:iam::{ACCOUNT}:role/silent")
    assert failure(built(hosting, "silent"))[0] == "PROVISIONING"
    role(hosting, "no-push", *PUSHES[:-1], *LOGS, "s3:GetObject")
    project(hosting, "no-push", good, serviceRole=f"arn:aws:iam::{ACCOUNT}:role/no-push")
    refused = built(hosting, "no-push")
    assert "docker push" in failure(refused)[1]
    assert "ecr:PutImage" in log(hosting, refused)


@pytest.mark.cloud
def test_projects_and_builds_that_cannot_be_are_refused_and_one_can_be_stopped(hosting: Hosting) -> None:
    client = hosting.cloud.client("codebuild")
    spec = "version: 0.2\nphases:\n  build:\n    commands:\n      - sleep 600\n"
    source = {"type": "NO_SOURCE", "buildspec": spec}
    project(hosting, "slow", b"", source=source)
    code, text = refusal(project, hosting=hosting, name="slow", content=b"")
    assert (code, "Project already exists" in text) == ("ResourceAlreadyExistsException", True)
    assert "sts:AssumeRole" in refusal(client.update_project, name="slow", serviceRole=ROLE)[1]
    assert refusal(client.start_build, projectName="none")[0] == "ResourceNotFoundException"
    started = client.start_build(projectName="slow")["build"]["id"]
    until(lambda: client.batch_get_builds(ids=[started])["builds"][0]["currentPhase"] == "BUILD")
    client.stop_build(id=started)
    until(lambda: client.batch_get_builds(ids=[started])["builds"][0]["buildStatus"] == "STOPPED")
    assert client.list_builds_for_project(projectName="slow")["ids"] == [started]
    late = client.start_build(projectName="slow", timeoutInMinutesOverride=5)["build"]["id"]
    assert "slow" in client.list_projects()["projects"]
    client.stop_build(id=late)
    client.delete_project(name="slow")
    assert client.batch_get_projects(names=["slow"])["projectsNotFound"] == ["slow"]


@pytest.mark.cloud
def test_the_servers_own_dockerfile_gives_an_endpoint_that_classifies(hosting: Hosting, tmp_path: Path) -> None:
    source = ROOT / "launchers" / "deploy" / "image" / "Dockerfile"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("dogbreed", "launchers", "pyproject.toml", "README.md", "LICENSE"):
            for path in [ROOT / name, *(ROOT / name).rglob("*")]:
                if path.is_file() and "__pycache__" not in path.parts:
                    archive.write(path, path.relative_to(ROOT))
        archive.writestr(
            "Dockerfile", source.read_text().replace("FROM python:", "FROM public.ecr.aws/docker/library/python:")
        )
    project(hosting, "server", buffer.getvalue())
    variables = [{"name": "TAG", "value": "server"}]
    found = built(hosting, "server", environmentVariablesOverride=variables)
    assert found["buildStatus"] == "SUCCEEDED", log(hosting, found)
    hosting.data("tiny", tiny_model(tmp_path / "model.tar.gz").read_bytes())
    shown = hosting.deploy("real", data="tiny", tag="server", EnableNetworkIsolation=True)
    assert shown["EndpointStatus"] == "InService", hosting.log("real")
    answer = hosting.ask("real", saved(upright(), "PNG"), ContentType="image/png")
    assert len(answer["probabilities"]) == 133
    hosting.delete("real")
