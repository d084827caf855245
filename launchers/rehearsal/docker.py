"""The programs `docker` and `aws` of a rehearsed build: login, build, tag and push to the rehearsal's ECR.

`python -m launchers.rehearsal.docker docker build -t NAME .`; a build finds them as `docker` and `aws`.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dogbreed.run_folder import write_json
from launchers.rehearsal.dockerfile import BuildError, build
from launchers.rehearsal.image import MANIFEST, Image

IMAGES = "DOGBREED_REHEARSAL_IMAGES"  # the folder of the images; unset where a build may not use docker
_NO_DAEMON = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


def main(argv: Sequence[str]) -> int:
    program, *words = argv
    try:
        return _aws(words) if program == "aws" else _docker(words)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1


def _docker(words: Sequence[str]) -> int:
    if IMAGES not in os.environ:
        raise BuildError(f"ERROR: {_NO_DAEMON}")
    words = [*words[1:]] if words[:1] == ["buildx"] else list(words)
    commands: Mapping[str, Callable[[Sequence[str]], None]] = {
        "login": _login,
        "build": _build,
        "tag": _tag,
        "push": lambda rest: _push(rest[-1]),
    }
    if not words or words[0] not in commands:
        raise BuildError(f"docker: the rehearsal cloud has {', '.join(commands)} alone, got {' '.join(words[:1])!r}")
    commands[words[0]](words[1:])
    return 0


def _aws(words: Sequence[str]) -> int:
    """`aws ecr get-login-password`, the one command of AWS's own that a build of an image needs."""
    if list(words[:2]) != ["ecr", "get-login-password"]:
        raise BuildError(
            f"aws: the rehearsal cloud has `aws ecr get-login-password` alone, got {' '.join(words[:2])!r}"
        )
    import base64

    found = _called("get_authorization_token")["authorizationData"][0]["authorizationToken"]
    print(base64.b64decode(found).decode().partition(":")[2])
    return 0


def _login(words: Sequence[str]) -> None:
    if not sys.stdin.read().strip():
        raise BuildError("Error: Password Required")
    write_json(_known("logins.json"), {**_read("logins.json"), words[-1].partition("/")[0]: True})
    print("Login Succeeded")


def _build(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="docker build", exit_on_error=True)
    parser.add_argument("context")
    parser.add_argument("-f", "--file")
    parser.add_argument("-t", "--tag", action="append", default=[])
    parser.add_argument("--build-arg", action="append", default=[])
    parser.add_argument("--push", action="store_true")
    for ignored in ("--platform", "--progress", "--provenance", "--sbom", "--output", "--network"):
        parser.add_argument(ignored)
    for ignored in ("--pull", "--load", "--no-cache", "-q"):
        parser.add_argument(ignored, action="store_true")
    given = parser.parse_args(words)
    context = Path(given.context)
    arguments = dict(text.partition("=")[::2] for text in given.build_arg)
    file = Path(given.file) if given.file else context / "Dockerfile"
    image = build(file, context, Path(os.environ[IMAGES]), arguments, lambda text: print(text, flush=True))
    image.save(Path(os.environ[IMAGES]))
    digest = hashlib.sha256(image.config).hexdigest()
    write_json(_known("tags.json"), {**_read("tags.json"), **{_named(tag): digest for tag in given.tag}})
    print(f"writing image sha256:{digest}", flush=True)
    for tag in given.tag if given.push else ():
        _push(tag)


def _tag(words: Sequence[str]) -> None:
    source, target = words
    write_json(_known("tags.json"), {**_read("tags.json"), _named(target): _local(source)})


def _push(name: str) -> None:
    """Push an image as docker does: what is missing of it, then its manifest."""
    digest = _local(name)
    registry, _, path = _named(name).partition("/")
    repository, _, tag = path.rpartition(":")
    if registry not in _read("logins.json"):
        raise BuildError("no basic auth credentials")
    image = Image.load(Path(os.environ[IMAGES]), digest)
    assert image is not None, digest
    layer = f"sha256:{digest}"
    checked = _called("batch_check_layer_availability", repositoryName=repository, layerDigests=[layer])
    if not any(each["layerAvailability"] == "AVAILABLE" for each in checked["layers"]):
        upload = _called("initiate_layer_upload", repositoryName=repository)["uploadId"]
        part = {"partFirstByte": 0, "partLastByte": len(image.config) - 1, "layerPartBlob": image.config}
        _called("upload_layer_part", repositoryName=repository, uploadId=upload, **part)
        _called("complete_layer_upload", repositoryName=repository, uploadId=upload, layerDigests=[layer])
    manifest = image.save(Path(os.environ[IMAGES]))
    _called(
        "put_image", repositoryName=repository, imageManifest=manifest, imageManifestMediaType=MANIFEST, imageTag=tag
    )
    print(f"{tag}: digest: {layer} size: {len(manifest)}", flush=True)


def _called(operation: str, **parameters: Any) -> Mapping[str, Any]:
    """Call ECR under the build's role. Raises BuildError for what it refuses."""
    import botocore.session
    from botocore.exceptions import BotoCoreError, ClientError

    client = botocore.session.get_session().create_client("ecr", region_name=os.environ["AWS_REGION"])
    try:
        found: Mapping[str, Any] = getattr(client, operation)(**parameters)
    except (ClientError, BotoCoreError) as error:
        if getattr(error, "response", {}).get("Error", {}).get("Code") == "ImageAlreadyExistsException":
            return {}
        raise BuildError(f"denied: {error}") from None
    return found


def _local(name: str) -> str:
    digest: str | None = _read("tags.json").get(_named(name))
    if digest is None:
        raise BuildError(f"An image does not exist locally with the tag: {name.partition(':')[0]}")
    return digest


def _named(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _known(name: str) -> Path:
    """Return a file of what this build's docker knows."""
    folder = Path(os.environ["HOME"], ".docker")
    folder.mkdir(exist_ok=True)
    return folder / name


def _read(name: str) -> dict[str, Any]:
    file = _known(name)
    return dict(json.loads(file.read_bytes())) if file.exists() else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
