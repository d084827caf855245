"""Deployment packages of Lambda functions: checked by Lambda's limits, unpacked, and the runtime that they find there.

Source: "Lambda quotas" and "Working with .zip file archives for Python Lambda functions" in the Lambda developer guide.
"""

import base64
import hashlib
import io
import platform
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from launchers.rehearsal.service import Refused
from launchers.rehearsal.services.function_record import wrong

LARGEST_UPLOAD = 69_905_067  # characters of a package in a request, base64: 50 MB
LARGEST_UNPACKED = 262_144_000
RUNTIMES = ("python3.10", "python3.11", "python3.12", "python3.13", "python3.14")  # that can be created
_MACHINES = {62: "x86_64", 183: "arm64"}  # e_machine of an ELF file
_HERE = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "")
_TAG = re.compile(r"\.cpython-3(\d+)-")
_IN_RUNTIME = ("awslambdaric", "boto3")  # and what they need


class Packages:
    """Unpacked packages by digest. folder: contains a folder for each, and `runtime`, which functions find as well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def unpack(self, content: bytes) -> str:
        """Unpack a package and return its digest, hexadecimal. Raises Refused for one that Lambda does not accept."""
        digest = hashlib.sha256(content).hexdigest()
        place = self.of(digest)
        if place.is_dir():
            return digest
        self.folder.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=self.folder, prefix=".new-"))
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                _check(archive)
                archive.extractall(new)
            new.chmod(0o755)
            if not place.is_dir():
                new.rename(place)
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError):
            text = "Could not unzip uploaded file. Please check your file, then try to upload again."
            raise wrong(text) from None
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return digest

    def of(self, digest: str) -> Path:
        return self.folder / digest

    def keep(self, digests: set[str]) -> None:
        """Delete all packages but these."""
        for place in self.folder.glob("[0-9a-f]*"):
            if place.name not in digests:
                shutil.rmtree(place, ignore_errors=True)

    def runtime(self) -> Path:
        """Return the folder with what Lambda's Python has besides the standard library. Raises Refused."""
        place = self.folder / f"runtime-{sys.version_info.major}.{sys.version_info.minor}"
        place.mkdir(parents=True, exist_ok=True)
        for name, real in _runtime_files():
            link = place / name
            if not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(real)
        return place


def sha256_of(content: bytes) -> str:
    """Return the digest as Lambda shows it."""
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def _check(archive: zipfile.ZipFile) -> None:
    """Raise Refused for a package that is too large, or that would write outside of its folder."""
    if sum(member.file_size for member in archive.infolist()) > LARGEST_UNPACKED:
        raise wrong(f"Unzipped size must be smaller than {LARGEST_UNPACKED} bytes")
    for member in archive.infolist():
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts:
            raise wrong(f"The package has a file outside of its folder: {member.filename}")


def check_here(place: Path) -> None:
    """Raise Refused for a package with compiled modules that this machine cannot run."""
    for path, machine, minor in _compiled(place):
        of_python = minor in (None, sys.version_info.minor)
        if machine != _HERE or not of_python:
            raise wrong(
                f"The rehearsal cloud runs functions with Python 3.{sys.version_info.minor} on {_HERE}, and "
                f"{path.relative_to(place)} is compiled for {machine}" + ("" if of_python else f" and Python 3.{minor}")
            )


def import_problem(place: Path, runtime: str, architecture: str) -> str:
    """Return why Lambda could not import a compiled module of the package; empty if it can."""
    for path, machine, minor in _compiled(place):
        name = path.name.partition(".")[0]
        if machine != architecture:
            return f"{path.name}: invalid ELF header: it is for {machine}"
        if minor is not None and runtime != f"python3.{minor}":
            return f"No module named '{name}'"
    return ""


def _compiled(place: Path) -> Iterator[tuple[Path, str, int | None]]:
    """Yield the compiled modules of a package: file, architecture, and Python's minor version if it is for one only."""
    for path in sorted(place.rglob("*.so")):
        with path.open("rb") as file:
            head = file.read(20)
        if head[:4] == b"\x7fELF":
            tag = _TAG.search(path.name)
            machine = int.from_bytes(head[18:20], "little")
            yield path, _MACHINES.get(machine, f"machine {machine}"), int(tag[1]) if tag else None


def _runtime_files() -> Iterator[tuple[str, Path]]:
    """Yield name and path of each module that Lambda's runtime brings along, as they are installed here."""
    wanted, seen = list(_IN_RUNTIME), set(_IN_RUNTIME)
    while wanted:
        try:
            found: Distribution = distribution(wanted.pop())
        except PackageNotFoundError as error:
            text = f"The rehearsal cloud runs functions with the package {error.name}: pip install -e '.[rehearsal]'"
            raise Refused("ServiceException", text, 500, Type="Service") from error
        tops = {file.parts[0] for file in found.files or ()}
        for top in sorted(tops):
            if top not in ("..", "__pycache__") and not top.endswith((".dist-info", ".egg-info")):
                yield top, Path(str(found.locate_file(top)))
        for line in found.requires or ():
            name = re.split(r"[^\w.-]", line)[0]
            if "extra ==" not in line and name not in seen:
                seen.add(name)
                wanted.append(name)
