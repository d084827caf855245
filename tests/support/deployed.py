"""Endpoints in a rehearsal cloud of the tests' own: what they are made of, made with plain boto3 clients."""

import io
import json
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from launchers.rehearsal.cloud import Rehearsal
from launchers.rehearsal.image import Image
from launchers.rehearsal.names import ACCOUNT, REGION
from tests.support.hurry import hurried
from tests.support.launcher_contract import until

CONTAINER = Path(__file__).with_name("container.py")
BUCKET = "dogbreed-rehearsal"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/service-role/DogBreedTraining"
REPOSITORY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/dogs"
KIND = "ml.c7i.large"


def archive(**files: str) -> bytes:
    """Return a model.tar.gz with text files; `answer` is answer.txt."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{name}.txt")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@dataclass
class Hosting:
    """Makes and watches what endpoints need. `ready` first makes the image and an artifact."""

    cloud: Rehearsal

    def __post_init__(self) -> None:
        self.sagemaker, self.runtime = self.cloud.client("sagemaker"), self.cloud.client("sagemaker-runtime")

    def ready(self) -> "Hosting":
        self.cloud.client("ecr").create_repository(repositoryName="dogs")
        self.image("one", Image([sys.executable, str(CONTAINER)]))
        self.data("model", archive(answer="boxer"))
        return self

    def with_faults(self, **faults: Any) -> "Hosting":
        return Hosting(replace(self.cloud, faults=faults, _clients={}))

    def hurried(self) -> "Hosting":
        return Hosting(hurried(self.cloud))

    def image(self, tag: str, image: Image) -> str:
        manifest = image.save(self.cloud.state_folder / "images")
        self.cloud.client("ecr").put_image(repositoryName="dogs", imageManifest=manifest, imageTag=tag)
        return f"{REPOSITORY}:{tag}"

    def data(self, name: str, content: bytes) -> str:
        key = f"dogbreed/models/{name}.tar.gz"
        self.cloud.client("s3").put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"

    def model(self, name: str, *, tag: str = "one", data: str | None = "model", **more: Any) -> str:
        """Create a model. more: variables of the container in lower case, and other parameters as AWS names them."""
        container: dict[str, Any] = {"Image": f"{REPOSITORY}:{tag}"}
        if data is not None:
            container["ModelDataUrl"] = f"s3://{BUCKET}/dogbreed/models/{data}.tar.gz"
        variables = {key.upper(): str(value) for key, value in more.items() if key.islower()}
        given = {key: value for key, value in more.items() if not key.islower()}
        if variables:
            container["Environment"] = variables
        self.sagemaker.create_model(
            ModelName=name, **{"PrimaryContainer": container, "ExecutionRoleArn": ROLE, **given}
        )
        return name

    def config(self, name: str, model: str, count: int = 1, **more: Any) -> str:
        """Create a configuration of one variant. more: members of the variant, and MetricsConfig."""
        metrics = {"MetricsConfig": more.pop("MetricsConfig")} if "MetricsConfig" in more else {}
        kind = {} if "InstancePools" in more else {"InstanceType": KIND}
        variant = {"VariantName": "main", "ModelName": model, "InitialInstanceCount": count, **kind, **more}
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant], **metrics)
        return name

    def deploy(self, name: str, count: int = 1, *, wait: bool = True, **more: Any) -> dict[str, Any]:
        """Create a model, a configuration and an endpoint of one name. more: as `model` takes it."""
        self.config(name, self.model(name, **more), count)
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        return self.settled(name) if wait else self.shown(name)

    def shown(self, name: str) -> dict[str, Any]:
        return dict(self.sagemaker.describe_endpoint(EndpointName=name))

    def settled(self, name: str) -> dict[str, Any]:
        """Return the endpoint once nothing is in progress."""
        until(lambda: self.shown(name)["EndpointStatus"] in ("InService", "Failed"))
        return self.shown(name)

    def ask(self, name: str, body: bytes = b"hello", **more: Any) -> Any:
        answer = self.runtime.invoke_endpoint(EndpointName=name, Body=body, **more)
        return json.loads(answer["Body"].read())

    def delete(self, name: str) -> None:
        self.sagemaker.delete_endpoint(EndpointName=name)
        until(lambda: name not in self.names())

    def names(self) -> list[str]:
        return [each["EndpointName"] for each in self.sagemaker.list_endpoints(MaxResults=100)["Endpoints"]]

    def log(self, name: str) -> list[str]:
        logs, group = self.cloud.client("logs"), f"/aws/sagemaker/Endpoints/{name}"
        streams = logs.describe_log_streams(logGroupName=group)["logStreams"]
        found = []
        for stream in streams:
            events = logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"])["events"]
            found += [f"{stream['logStreamName'].partition('/')[0]}: {event['message']}" for event in events]
        return found


def refusal(call: Any, **parameters: Any) -> tuple[str, str]:
    """Return the code and the message of AWS's refusal; empty if there is none."""
    try:
        call(**parameters)
    except ClientError as error:
        found: Mapping[str, Any] = error.response["Error"]
        return found["Code"], found["Message"]
    return "", ""
