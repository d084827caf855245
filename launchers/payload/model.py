"""The model that a deployment sends: a model.tar.gz of this machine."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

MODEL_FILE = "model.tar.gz"


@dataclass(frozen=True)
class SentModel:
    """Describes an artifact, as far as a plan needs it.

    path: of the file on this machine. digest: SHA-256 of its bytes, hexadecimal. size: bytes. classes: how many.
    source: what the person named, such as a run folder. metrics: of its manifest, such as test/acc.
    """

    path: str
    digest: str
    size: int
    version: str
    classes: int
    backbone: str
    image_px: int
    source: str
    metrics: Mapping[str, float]

    @classmethod
    def scan(cls, path: Path, source: str) -> Self:
        """Read and check an artifact. Raises ArtifactError, listing all that is wrong with it."""
        from dogbreed import artifact

        found = artifact.read(path)
        content = path.read_bytes()
        return cls(
            str(path.absolute()),
            hashlib.sha256(content).hexdigest(),
            len(content),
            found.version,
            len(found.labels),
            found.manifest.backbone,
            found.preprocess.image_px,
            source,
            dict(found.manifest.metrics),
        )

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        return cls(**fields)
