"""The deployment package of a function: packages, our code and the model in a ZIP, made without Docker.

The same contents always give the same bytes, with the same version of zlib.
"""

import logging
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dogbreed import artifact
from dogbreed.cache import cache_folder
from dogbreed.run_folder import temporary_path
from launchers.deploy.on_lambda import wheels
from launchers.deploy.on_lambda.target import Target
from launchers.formatting import size
from launchers.payload import package
from launchers.project import PROJECT
from launchers.status import Cause, LaunchError

log = logging.getLogger("dogbreed")

LARGEST_BYTES = 262_144_000  # unpacked, Lambda's own limit
PACKAGES_BYTES = 150_000_000  # unpacked, of all but the model: at most, by which plans decide where the model goes
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = 0o644 << 16  # readable by the user that Lambda runs functions as


@dataclass(frozen=True)
class Package:
    """A package on this machine. zipped, unpacked: bytes."""

    path: Path
    zipped: int
    unpacked: int

    @classmethod
    def read(cls, path: Path) -> "Package":
        with zipfile.ZipFile(path) as archive:
            return cls(path, path.stat().st_size, sum(member.file_size for member in archive.infolist()))


def ensure(key: str, target: Target, *, model: Path | None, installed: bool) -> Package:
    """Return the package, from the cache if it has been made before.

    key: of all that goes into it. model: the artifact that is put into it; None for none. installed: whether to take
    the packages that are installed here, for a function on this machine, and not the wheels of pip's index.
    Raises LaunchError if a wheel is missing or Lambda would not take it, and ArtifactError for a damaged model.
    """
    made_here = "-rehearsed" if installed else ""  # its packages are for this machine, and never deployed to AWS
    path = cache_folder() / "functions" / f"{key}{made_here}.zip"
    if not path.exists():
        log.info("Making the function's package for Python %s on %s", target.python, target.architecture)
        with tempfile.TemporaryDirectory(prefix="dogbreed-function-") as scratch:
            files = wheels.from_here() if installed else wheels.from_index(target, Path(scratch))
            write(path, _all(files, model), quickly=installed)
    found = Package.read(path)
    if found.unpacked > LARGEST_BYTES:
        path.unlink()
        raise LaunchError(
            f"The function's package has {size(found.unpacked)} unpacked, and Lambda takes at most "
            f"{size(LARGEST_BYTES)}.\nTry: launcher.variant=realtime; or a smaller model",
            Cause.BAD_CONFIG,
        )
    return found


def _all(files: Iterable[wheels.Installed], model: Path | None) -> Iterator[tuple[str, bytes | Path]]:
    yield from files
    yield from package.contents(PROJECT)
    if model is not None:
        artifact.read(model)  # raises for a damaged one, and for names that are none of an artifact's
        with tarfile.open(model) as archive:
            for member in archive:
                if member.isreg() and (content := archive.extractfile(member)) is not None:
                    yield f"{package.MODEL}/{member.name.removeprefix('./')}", content.read()


def write(path: Path, contents: Iterable[tuple[str, bytes | Path]], *, quickly: bool = False) -> None:
    """Write a ZIP, whole or not at all: sorted, without times, every file readable by everybody.

    contents: names, with slashes, and bytes or the file that has them. quickly: for one that stays on this machine, in
    a third of the time and a tenth larger.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted(contents, key=lambda item: item[0]):
                member = zipfile.ZipInfo(name, _DATE)
                member.create_system, member.external_attr = 3, _MODE  # Unix, wherever this runs
                data = content if isinstance(content, bytes) else content.read_bytes()
                archive.writestr(member, data, zipfile.ZIP_DEFLATED, 1 if quickly else None)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
