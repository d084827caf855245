"""Install the project's requirements that the image of a rented machine lacks.

Uses the standard library and pip alone: launchers/remote/entry.py loads it from the code that was sent.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

_KEPT = ("torch", "torchvision")  # always the image's own version


def install(project: Path, extras: Sequence[str], versions: Mapping[str, str]) -> str:
    """Install missing packages. Return why the machine cannot be used, or an empty string if it can.

    versions: of packages on the machine that sent the run, by name, so that all attempts get the same packages.
    If one of them has no wheel for this machine's Python, any version that the project allows is installed.
    """
    with (project / "pyproject.toml").open("rb") as file:
        about = tomllib.load(file)["project"]
    wanted = [*about["dependencies"], *(text for extra in extras for text in about["optional-dependencies"][extra])]
    lacking = [text for text in wanted if not is_installed(text)]
    if not lacking:
        return ""
    if os.environ.get("DOGBREED_INSTALL") == "no":
        return f"[bad_config] packages cannot be installed without a network, and the image lacks: {', '.join(lacking)}"
    print("Installing packages that the image lacks:", ", ".join(lacking), flush=True)
    present = ((name, version_of(name)) for name in _KEPT)
    kept = {name: version for name, version in present if version}
    pins = {name: version for name, version in versions.items() if version_of(name) is None}
    if not (pins and _pip(lacking, {**pins, **kept}, "--only-binary=:all:")) and not _pip(lacking, kept):
        return f"[bad_config] pip could not install {', '.join(lacking)} (see the log)"
    return ""


def is_installed(text: str) -> bool:
    """Return whether the image meets a requirement, as pyproject.toml writes it."""
    from pip._vendor.packaging.requirements import Requirement  # the parser that pip itself uses

    requirement = Requirement(text)
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    version = version_of(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def version_of(name: str) -> str | None:
    """Return the installed version of a package, or None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _pip(lacking: Sequence[str], versions: Mapping[str, str], *options: str) -> bool:
    """Install packages, constrained to these versions. Return whether pip succeeded."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("".join(f"{name}=={version}\n" for name, version in versions.items()))
        constraints.flush()
        words = ["install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore", *options]
        command = [sys.executable, "-m", "pip", *words, "-c", constraints.name, *lacking]
        return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 0
