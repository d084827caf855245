"""Which versions of the project's packages are installed here, so that a rented machine installs the same."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

# the image has its own, for its own CUDA
_OF_THE_IMAGE = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*")


def versions(project: Path, extras: Sequence[str]) -> dict[str, str]:
    """Return the versions of what pyproject.toml requires and all that needs in turn, by name, as far as installed."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    waiting = [*about["dependencies"], *(text for extra in extras for text in about["optional-dependencies"][extra])]
    found: dict[str, str] = {}
    while waiting:
        for name in _needed(waiting.pop()):
            if name in found or _OF_THE_IMAGE.fullmatch(name):
                continue
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
            waiting += metadata.requires(name) or []
    return dict(sorted(found.items()))


def _needed(text: str) -> Iterator[str]:
    """Yield the normalised name of a requirement, unless its marker says that it is not needed here."""
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        yield re.sub(r"[-_.]+", "-", requirement.name).lower()
