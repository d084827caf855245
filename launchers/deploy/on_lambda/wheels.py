"""The packages inside a function: wheels for Lambda's Python and processor, whatever this machine is."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dogbreed import commands
from dogbreed.scanning.names import listed
from launchers.deploy.on_lambda.target import Target
from launchers.payload.package import PACKAGES
from launchers.project import PROJECT
from launchers.status import Cause, LaunchError

_GLIBC = range(34, 16, -1)  # minor versions that wheels may need: Amazon Linux 2023, under Lambda's Python, has 2.34
_TAIL = 5
_TAG = re.compile(r"\.cpython-(\d+)-[^/]*\.so$")
_ELF_MACHINES = {"x86_64": 62, "arm64": 183}  # e_machine of ELF headers, whose other values are in <elf.h>
# what is in wheels for people who develop with them, and for their installers
_FOLDERS = ("__pycache__", "tests", "bin")
_SUFFIXES = (".pyi", ".h", ".hpp", ".a", ".lib", ".pxd", ".c")
_BELOW = (
    "numpy/f2py",
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
)
_OF_INSTALLER = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


class Installed(NamedTuple):
    """A file of a package. name: in the function's package, with slashes."""

    name: str
    path: Path


def pins() -> dict[str, str]:
    """Return the version of each package."""
    lines = (PROJECT / PACKAGES).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def needed(name: str) -> bool:
    """Return whether a package's file is needed where it only runs. name: with slashes."""
    path = PurePosixPath(name)
    if name.endswith(_SUFFIXES) or not {*path.parts}.isdisjoint(_FOLDERS):
        return False
    if path.parent.name.endswith(".dist-info") and path.name in _OF_INSTALLER:
        return False
    return not any(path.is_relative_to(below) for below in _BELOW)


def from_index(target: Target, folder: Path, packages: Path = PROJECT / PACKAGES) -> list[Installed]:
    """Install packages into an empty folder with pip, from the index that it is configured with.

    packages: a file of pip's requirements, with all that they need. Nothing is compiled: there must be wheels for the
    target. Raises LaunchError.
    """
    platforms = [f"manylinux_2_{minor}_{target.machine}" for minor in _GLIBC] + [f"manylinux2014_{target.machine}"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "--no-compile", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", target.python]
    command += [word for platform in platforms for word in ("--platform", platform)]
    command += ["-r", str(packages)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LaunchError(_problem(done.stderr, target), Cause.BAD_CONFIG)
    files = (path for path in folder.rglob("*") if path.is_file())
    named = (Installed(path.relative_to(folder).as_posix(), path) for path in files)
    found = [each for each in named if needed(each.name)]
    if others := [each.name for each in found if not fits(each, target)]:
        raise LaunchError(
            f"pip installed files that are not for Python {target.python} on {target.architecture}: "
            f"{listed(sorted(others))}.\nTry: another index, since these wheels are not what their names say: "
            "`python -m pip config list`",
            Cause.BAD_CONFIG,
        )
    return found


def fits(each: Installed, target: Target) -> bool:
    """Return whether a compiled file is for the target's processor, and its Python if its name says one."""
    tag = _TAG.search(each.name)
    if tag is not None and tag[1] != target.python.replace(".", ""):
        return False
    with each.path.open("rb") as file:
        head = file.read(20)
    return head[:4] != b"\x7fELF" or int.from_bytes(head[18:20], "little") == _ELF_MACHINES[target.architecture]


def _problem(said: str, target: Target) -> str:
    if "No module named pip" in said:
        return f"The function's packages are installed with pip, which {sys.executable} lacks.\nTry: " + commands.shell(
            sys.executable, "-m", "ensurepip"
        )
    missing = "No matching distribution found for "
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if found := [line.partition(missing)[2].partition(" ")[0] for line in lines if missing in line]:
        return (
            f"pip finds no wheel of {found[0]} for Python {target.python} on {target.architecture}.\n"
            "Try: another launcher.architecture; or an index that has it: `python -m pip config list`"
        )
    tail = "\n".join(f"  | {line}" for line in lines[-_TAIL:])
    return f"pip could not install the function's packages:\n{tail}\nTry: `python -m pip config list`, which names it"


def from_here() -> Iterator[Installed]:
    """Yield the files of the packages as they are installed here, for a function that runs on this machine.

    Raises LaunchError if one is missing.
    """
    for name in pins():
        try:
            found = distribution(name)
        except PackageNotFoundError as error:
            raise LaunchError(
                f"The rehearsed function is made of the packages that are installed here, and {name} is not.\n"
                "Try: pip install -e '.[lambda]'",
                Cause.BAD_CONFIG,
            ) from error
        for file in found.files or ():
            text = file.as_posix()
            path = Path(str(file.locate()))
            if not text.startswith(("/", "..")) and needed(text) and path.is_file():
                yield Installed(text, path)
