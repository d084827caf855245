"""What an image runs, in a file named after the digest in its manifest. Imports nothing heavy."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from dogbreed.run_folder import write_json

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True)
class Image:
    """What a container of an image runs.

    entrypoint, command, environment, labels: as in a Dockerfile. path: folders where programs are looked up first.
    place: the folder that stands for the image's files, and which the container starts in.
    """

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    path: Sequence[str] = ()
    place: str = ""

    @property
    def config(self) -> bytes:
        """The image's configuration, whose digest the manifest names."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def save(self, folder: Path) -> str:
        """Keep the image in a folder. Returns its manifest, for PutImage."""
        digest = hashlib.sha256(self.config).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{digest}.json", asdict(self))
        part = {"size": len(self.config), "digest": f"sha256:{digest}"}
        layer = {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", **part}
        config = {"mediaType": "application/vnd.docker.container.image.v1+json", **part}
        return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]})

    @classmethod
    def load(cls, folder: Path, digest: str) -> Self | None:
        """Return an image by the digest of its configuration; None if it was not made here."""
        file = folder / f"{digest.removeprefix('sha256:')}.json"
        return cls(**json.loads(file.read_bytes())) if file.exists() else None

    def program(self, word: str) -> str | None:
        """Return the program that a word of the entry point names; None if there is none."""
        return shutil.which(word, path=":".join([*self.path, "/usr/local/bin", "/usr/bin", "/bin"]))
