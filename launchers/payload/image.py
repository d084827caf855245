"""What goes into the endpoint's image: the Dockerfile and the files that it copies."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

DOCKERFILE = "launchers/deploy/image/Dockerfile"
_FILES = (
    DOCKERFILE,
    "launchers/deploy/image/serve-requirements.txt",
    "launchers/deploy/image/serve-constraints.txt",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
_FOLDER = "dogbreed"
_DATE = (1980, 1, 1, 0, 0, 0)  # of all files, so that the same files always make the same bytes


def digest(project: Path) -> str:
    """Return what identifies the image that would be built: hexadecimal SHA-256 of all names and contents."""
    found = hashlib.sha256()
    for name, content in _contents(project):
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def archive(project: Path) -> bytes:
    """Return the files as a ZIP, from which the image can be built elsewhere."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in _contents(project):
            packed.writestr(zipfile.ZipInfo(name, _DATE), content)
    return buffer.getvalue()


def code(project: Path) -> list[str]:
    """Return the files of the package dogbreed, by name in the project, sorted."""
    return sorted(
        path.relative_to(project).as_posix()
        for path in (project / _FOLDER).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    )


def _contents(project: Path) -> Iterator[tuple[str, bytes]]:
    for name in sorted([*_FILES, *code(project)]):
        yield name, (project / name).read_bytes()
