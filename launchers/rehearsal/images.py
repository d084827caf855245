"""Images in the rehearsal's ECR: moto keeps their manifests, a folder keeps what they run."""

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moto.ecr.models import Image as MotoImage
from moto.ecr.models import ecr_backends

from dogbreed.run_folder import write_json
from launchers.rehearsal.image import Image
from launchers.rehearsal.names import ACCOUNT, REGION

_URI = re.compile(
    r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/([^:@]+)(?::([\w.-]+))?(?:@(sha256:\w+))?"
)


@dataclass(frozen=True)
class Found:
    """An image that ECR has. repository: its ARN. image: None if it was made elsewhere, so that nobody can run it."""

    repository: str
    digest: str
    image: Image | None


class ImageStore:
    """A folder with a file for each image that was made here, named as the configuration's digest in its manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, uri: str) -> Found | None:
        """Return the image of a URI with a tag or a digest; None if this account's ECR does not have it."""
        parts = _URI.fullmatch(uri)
        if parts is None or (parts[1], parts[2]) != (ACCOUNT, REGION):
            return None
        repository = ecr_backends[ACCOUNT][REGION].repositories.get(parts[3])
        tag, digest = parts[4], parts[5]
        if repository is None:
            return None
        for each in repository.images:
            if each.get_image_digest() == digest or (digest is None and (tag or "latest") in each.image_tags):
                return Found(repository.arn, each.get_image_digest(), self._made_here(each))
        return None

    def _made_here(self, found: MotoImage) -> Image | None:
        config = json.loads(found.image_manifest).get("config", {}).get("digest", "")
        return Image.load(self.folder, config) if config else None


def is_ecr(uri: str) -> bool:
    return _URI.fullmatch(uri) is not None


class Repositories:
    """moto's ECR; the file has a copy of its repositories and manifests."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._saving = threading.Lock()  # threads of several requests save at the same time

    def load(self) -> None:
        backend = ecr_backends[ACCOUNT][REGION]
        for saved in json.loads(self._file.read_bytes()) if self._file.exists() else ():
            backend.create_repository(
                saved["name"], None, saved["encryption"], saved["scan"], saved["mutability"], saved["tags"]
            )
            repository = backend.repositories[saved["name"]]
            repository.policy, repository.lifecycle_policy = saved["policy"], saved["lifecycle"]
            for image in saved["images"]:
                made = MotoImage(ACCOUNT, None, image["manifest"], saved["name"], image["type"], image["digest"])  # type: ignore[arg-type]
                for tag in image["tags"]:
                    made.update_tag(tag)
                made.image_pushed_at = image["pushed"]
                repository.images.append(made)

    def save(self) -> None:
        backend = ecr_backends[ACCOUNT][REGION]
        with self._saving:
            write_json(self._file, [self._saved(each, backend) for each in list(backend.repositories.values())])

    def _saved(self, repository: Any, backend: Any) -> dict[str, Any]:
        return {
            "name": repository.name,
            "encryption": repository.encryption_configuration,
            "scan": repository.image_scanning_configuration,
            "mutability": repository.image_tag_mutability,
            "tags": as_list(backend.tagger.get_tag_dict_for_resource(repository.arn)),
            "policy": repository.policy,
            "lifecycle": repository.lifecycle_policy,
            "images": [
                {
                    "manifest": image.image_manifest,
                    "type": image.image_manifest_media_type,
                    "digest": image.get_image_digest(),
                    "tags": image.image_tags,
                    "pushed": image.image_pushed_at,
                }
                for image in repository.images
            ],
        }


def as_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
