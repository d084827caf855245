"""SageMaker's models: an image, an artifact and a role under a name. Kept on disk; nothing runs."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dogbreed.run_folder import write_json
from launchers.aws.actions import SAGEMAKER, Need
from launchers.aws.s3 import split_uri
from launchers.rehearsal.access import HERE, authorize, check_trust
from launchers.rehearsal.images import ImageStore, is_ecr
from launchers.rehearsal.names import ACCOUNT, REGION, Server
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.principals import of_role
from launchers.rehearsal.service import Answer, Call, Handler, Refused, invalid
from launchers.rehearsal.services.sagemaker_lists import page
from launchers.rehearsal.services.sagemaker_tags import check_tags, from_list, kind_and_name, tag_operations
from launchers.rehearsal.services.training_record import now


@dataclass
class Resource:
    """A model or an endpoint configuration, which never change: what was asked for, in a file of its own."""

    file: Path
    kind: str  # as in its ARN
    name: str
    request: dict[str, Any]
    created: float
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        return HERE.arn("sagemaker", f"{self.kind}/{self.name}")

    def save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        saved = {"kind": self.kind, "name": self.name, "request": self.request, "created": self.created}
        write_json(self.file, {**saved, "tags": self.tags})

    @classmethod
    def load_all(cls, folder: Path) -> dict[str, Self]:
        found = [cls(file, **json.loads(file.read_bytes())) for file in sorted(folder.glob("*.json"))]
        return {each.name: each for each in found}

    @classmethod
    def of(cls, folder: Path, kind: str, name: str, parameters: Mapping[str, Any]) -> Self:
        """Make one of a request to create it, and save it."""
        request = {key: value for key, value in parameters.items() if key != "Tags"}
        tags = from_list(parameters.get("Tags", []))
        made = cls(folder / f"{name}.json", kind, name, request, now(), tags)
        made.save()
        return made

    def described(self, noun: str) -> Answer:
        return {**self.request, f"{noun}Arn": self.arn, "CreationTime": self.created}

    def summary(self, noun: str) -> Answer:
        return {f"{noun}Name": self.name, f"{noun}Arn": self.arn, "CreationTime": self.created}


class Models:
    """All models. folder: contains a file for each of them."""

    active = False

    def __init__(self, folder: Path, store: ObjectStore, images: ImageStore) -> None:
        self.folder, self.store, self.images = folder, store, images
        self._models: dict[str, Resource] = {}
        self.operations: dict[tuple[str, str], Handler] = {
            ("sagemaker", "CreateModel"): self.create,
            ("sagemaker", "DescribeModel"): self.describe,
            ("sagemaker", "DeleteModel"): self.delete,
            ("sagemaker", "ListModels"): self.list,
            **tag_operations(self._of_arn),
        }

    def begin(self, server: Server) -> None:
        self._models = Resource.load_all(self.folder)

    def end(self) -> None:
        """Do nothing: nothing is running."""

    def request_of(self, name: str) -> dict[str, Any]:
        """Return what a model was created with. Raises Refused if it does not exist."""
        return self._model(name).request

    def create(self, call: Call) -> Answer:
        asked = call.parameters
        name = asked["ModelName"]
        check_tags(asked.get("Tags", []), {})
        containers = containers_of(asked)
        if name in self._models:
            raise invalid(f'Cannot create already existing model "{self._models[name].arn}".')
        _check_role(asked)
        for container in containers:
            self._check_image(container)
            self._check_data(container, asked["ExecutionRoleArn"])
        self._models[name] = made = Resource.of(self.folder, "model", name, asked)
        return {"ModelArn": made.arn}

    def describe(self, call: Call) -> Answer:
        found = self._model(call.parameters["ModelName"]).described("Model")
        return {"EnableNetworkIsolation": False, **found}

    def delete(self, call: Call) -> Answer:
        """Delete a model, also one in use: its endpoints go on."""
        found = self._model(call.parameters["ModelName"])
        found.file.unlink()
        del self._models[found.name]
        return {}

    def list(self, call: Call) -> Answer:
        return page(call.parameters, "Models", list(self._models.values()), lambda each: each.summary("Model"))

    def _model(self, name: str) -> Resource:
        if name not in self._models:
            raise invalid(f'Could not find model "{HERE.arn("sagemaker", f"model/{name}")}".')
        return self._models[name]

    def _of_arn(self, arn: str) -> Resource | None:
        kind, name = kind_and_name(arn)
        return self._model(name) if kind == "model" else None

    def _check_image(self, container: Mapping[str, Any]) -> None:
        image = container["Image"]
        if not is_ecr(image):
            raise invalid(f'Using non-ECR image "{image}" without Vpc repository access mode is not supported.')
        if self.images.find(image) is None:
            raise invalid(f"Requested image {image} not found.")

    def _check_data(self, container: Mapping[str, Any], role: str) -> None:
        uri = data_of(container)
        if uri is None:
            return
        bucket, key = split_uri(uri)
        try:
            authorize(of_role(role, "SageMaker"), [Need("s3:GetObject", HERE.bucket(bucket, key))])
        except Refused:
            raise invalid(
                f'Could not access model data at {uri}. Please ensure that the role "{role}" exists and that its trust '
                'relationship policy allows the action "sts:AssumeRole" for the service principal '
                f'"{SAGEMAKER}". Also ensure that the role has "s3:GetObject" permissions and that the object is '
                f"located in {REGION}."
            ) from None
        if self.store.get(bucket, key) is None:
            raise invalid(f"Could not find model data at {uri}.")


def containers_of(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the containers of a CreateModel request. Raises Refused for what the rehearsal has not."""
    primary, several = model.get("PrimaryContainer"), model.get("Containers")
    if (primary is None) == (several is None):
        raise invalid("Either PrimaryContainer or Containers must be specified, and not both.")
    found: list[Mapping[str, Any]] = [primary] if primary is not None else list(several or ())
    if len(found) != 1 or found[0].get("Mode", "SingleModel") != "SingleModel" or "Image" not in found[0]:
        raise invalid("The rehearsal cloud runs models of one container with an image and one artifact alone.")
    source = found[0].get("ModelDataSource", {}).get("S3DataSource", {})
    if source and (source["S3DataType"], source["CompressionType"]) != ("S3Object", "Gzip"):
        raise invalid("The rehearsal cloud unpacks model data that is one object, a model.tar.gz, alone.")
    return found


def data_of(container: Mapping[str, Any]) -> str | None:
    """Return the URI of a container's artifact; None if it has none."""
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    uri: str | None = container.get("ModelDataUrl") or source.get("S3Uri")
    return uri


def _check_role(asked: Mapping[str, Any]) -> None:
    arn = asked.get("ExecutionRoleArn")
    if arn is None:
        raise invalid("ExecutionRoleArn must be specified.")
    source = HERE.arn("sagemaker", f"model/{asked['ModelName']}")
    try:
        check_trust(arn, {"Service": [SAGEMAKER]}, {"aws:SourceAccount": [ACCOUNT], "aws:SourceArn": [source]})
    except Refused:
        raise invalid(
            f'The execution role ARN "{arn}" is invalid. Please ensure that the role exists and that its trust '
            f'relationship policy allows the action "sts:AssumeRole" for the service principal "{SAGEMAKER}".'
        ) from None


def names_of(variants: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the models that variants of an endpoint configuration name, those of their instance pools included."""
    found = []
    for variant in variants:
        found.append(variant["ModelName"])
        found += [pool["ModelNameOverride"] for pool in variant.get("InstancePools", ()) if "ModelNameOverride" in pool]
    return found
