"""The endpoint's image in the account: found under the digest of what goes into it, or built once.

It is built by Docker on this machine where that runs, else by AWS CodeBuild in the account, from the same Dockerfile.
"""

import base64
import logging
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launchers.aws.actions import Where
from launchers.aws.errors import code_of, errors
from launchers.aws.policy import role_in_arn, role_name
from launchers.base import Cloud
from launchers.deploy import request
from launchers.deploy.settings import AUTO, DeploySettings
from launchers.payload import image
from launchers.project import PROJECT
from launchers.spec import RunSpec
from launchers.status import Cause, LaunchError

log = logging.getLogger("dogbreed")

BUILDER = "dogbreed-image"  # the CodeBuild project
_BUILD_MINUTES = 20
_USD_PER_GB = 0.10  # a month in ECR: https://aws.amazon.com/ecr/pricing/
_TAIL = 15
_BUILDSPEC = """\
version: 0.2
phases:
  pre_build:
    commands:
      - aws ecr get-login-password | docker login --username AWS --password-stdin "${IMAGE%%/*}"
  build:
    commands:
      - docker build -f launchers/deploy/image/Dockerfile -t "$IMAGE" .
      - docker push "$IMAGE"
"""


def ensure(settings: DeploySettings, spec: RunSpec, account: str) -> None:
    """Build and push our image if the account does not have it. Raises LaunchError if that fails, with its log."""
    if settings.image != AUTO:
        return
    uri = request.image_uri(settings, spec).replace(request.ACCOUNT, account)
    if _exists(settings.cloud, uri):
        return
    _make_repository(settings.cloud)
    if settings.cloud.bills and _docker_runs():
        _build_here(settings.cloud, uri)
    else:
        _build_there(settings, uri, account)


def stays(cloud: Cloud) -> list[str]:
    """Say what our images cost, which a teardown leaves for the next deployment."""
    from botocore.exceptions import ClientError

    with errors("listing images"):
        try:
            pages = cloud.client("ecr").get_paginator("describe_images").paginate(repositoryName=request.REPOSITORY)
            sizes = [int(each.get("imageSizeInBytes", 0)) for page in pages for each in page["imageDetails"]]
        except ClientError as error:
            if code_of(error) == "RepositoryNotFoundException":
                return []
            raise
    if not sizes:
        return []
    usd = sum(sizes) / 1e9 * _USD_PER_GB
    count = f"{len(sizes)} image{'s' if len(sizes) > 1 else ''}"
    return [f"{count} in the repository {request.REPOSITORY} of Amazon ECR, ${usd:.4f} a month"]


def _exists(cloud: Cloud, uri: str) -> bool:
    from botocore.exceptions import ClientError

    with errors("looking for the endpoint's image"):
        try:
            cloud.client("ecr").describe_images(
                repositoryName=request.REPOSITORY, imageIds=[{"imageTag": uri.rpartition(":")[2]}]
            )
        except ClientError as error:
            if code_of(error) in ("ImageNotFoundException", "RepositoryNotFoundException"):
                return False
            raise
    return True


def _make_repository(cloud: Cloud) -> None:
    from botocore.exceptions import ClientError

    with errors(f"creating the repository {request.REPOSITORY}"):
        try:
            cloud.client("ecr").create_repository(
                repositoryName=request.REPOSITORY,
                imageTagMutability="IMMUTABLE",  # a tag is a digest of what went in
                imageScanningConfiguration={"scanOnPush": True},
            )
        except ClientError as error:
            if code_of(error) != "RepositoryAlreadyExistsException":
                raise


# --- on this machine ---


def _docker_runs() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def _build_here(cloud: Cloud, uri: str) -> None:
    with errors("asking Amazon ECR for a password"):
        answer = cloud.client("ecr").get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(answer["authorizationToken"]).decode().partition(":")
    log.info("Building the endpoint's image with Docker: %s", uri)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "image.zip")
        archive.write_bytes(image.archive(PROJECT))
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(Path(folder, "context"))
        context = Path(folder, "context")
        _run(["docker", "login", "--username", user, "--password-stdin", uri.partition("/")[0]], context, password)
        _run(["docker", "build", "--platform", "linux/amd64", "-f", image.DOCKERFILE, "-t", uri, "."], context)
        _run(["docker", "push", uri], context)


def _run(command: list[str], folder: Path, given: str = "") -> None:
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join(f"  | {line}" for line in (done.stdout + done.stderr).splitlines()[-_TAIL:])
        raise LaunchError(f"`{' '.join(command[:2])}` failed with exit status {done.returncode}.\n{tail}")


# --- in the account ---


def _build_there(settings: DeploySettings, uri: str, account: str) -> None:
    cloud = settings.cloud
    key = f"{settings.prefix}/images/{uri.rpartition(':')[2]}.zip"
    log.info("Building the endpoint's image with AWS CodeBuild, once")
    with errors("uploading what goes into the image"):
        cloud.client("s3").put_object(
            Bucket=settings.bucket, Key=key, Body=image.archive(PROJECT), **settings.encryption
        )
    role = _role(settings, account)
    _make_project(cloud, f"{settings.bucket}/{key}", role)
    client = cloud.client("codebuild")
    with errors("starting the image's build"):
        build = client.start_build(
            projectName=BUILDER,
            sourceLocationOverride=f"{settings.bucket}/{key}",
            buildspecOverride=_BUILDSPEC,  # the project may be of another time, and of other settings
            serviceRoleOverride=role,
            environmentVariablesOverride=[{"name": "IMAGE", "value": uri, "type": "PLAINTEXT"}],
        )["build"]
    end = time.monotonic() + _BUILD_MINUTES * 60
    while build["buildStatus"] == "IN_PROGRESS":
        if time.monotonic() > end:
            raise LaunchError(f"The image's build takes more than {_BUILD_MINUTES} minutes.", Cause.TIME_LIMIT)
        time.sleep(cloud.poll_s)
        with errors("asking for the image's build"):
            build = client.batch_get_builds(ids=[build["id"]])["builds"][0]
    if build["buildStatus"] != "SUCCEEDED":
        raise LaunchError(
            f"The image's build ended as {build['buildStatus'].lower()}.\n{_build_log(cloud, build)}\n"
            "Try: debug=true; or build and push it with Docker, and launcher.image=<its URI>",
            Cause.USER_CODE,
        )


def _role(settings: DeploySettings, account: str) -> str:
    """Return the ARN of the role of the build."""
    where, role = Where(settings.cloud.region or "", account), settings.build_role or role_name("image-build")
    return where.role(role_in_arn("image-build") if role == role_name("image-build") else role)


def _make_project(cloud: Cloud, source: str, role: str) -> None:
    from botocore.exceptions import ClientError

    project = {
        "name": BUILDER,
        "description": "dogbreed: builds the endpoint's image",
        "source": {"type": "S3", "location": source, "buildspec": _BUILDSPEC},
        "artifacts": {"type": "NO_ARTIFACTS"},
        "environment": {
            "type": "LINUX_CONTAINER",
            "image": "aws/codebuild/amazonlinux-x86_64-standard:5.0",
            "computeType": "BUILD_GENERAL1_SMALL",
            "privilegedMode": True,  # Docker inside
        },
        "serviceRole": role,
        "timeoutInMinutes": _BUILD_MINUTES,
    }
    client = cloud.client("codebuild")
    with errors("creating the project that builds the image"):
        try:
            client.create_project(**project)
        except ClientError as error:
            if code_of(error) != "ResourceAlreadyExistsException":
                raise


def _build_log(cloud: Cloud, build: Mapping[str, Any]) -> str:
    """Return why each phase failed, and the last lines of the build's log, if it has one."""
    reasons = [
        f"{phase['phaseType'].lower()}: {context['message']}"
        for phase in build.get("phases", [])
        for context in phase.get("contexts", [])
        if context.get("message")
    ]
    return "\n".join([*reasons, *_build_tail(cloud, build.get("logs") or {})])


def _build_tail(cloud: Cloud, logs: Mapping[str, Any]) -> list[str]:
    """Return the last lines of a build's log, or why they cannot be read."""
    if not logs.get("groupName"):
        return []
    try:
        with errors("reading the build's log"):
            events = cloud.client("logs").get_log_events(
                logGroupName=logs["groupName"], logStreamName=logs["streamName"], startFromHead=False, limit=_TAIL
            )["events"]
    except LaunchError as error:
        return [str(error).partition("\n")[0]]
    return [f"  | {event['message'].rstrip()}" for event in events]
