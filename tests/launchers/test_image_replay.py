"""AWS's PyTorch 2.13 images, replayed from their package lists: what they lack is known and can be installed.

The lists are of docker/pytorch/2.13/{cpu,cuda}/uv.lock of aws/deep-learning-containers (commit e0ecedea), with the
extra `sagemaker`. An image is played by an environment with true metadata of these versions and no code.
"""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from launchers.payload.packages import versions
from launchers.sagemaker import images
from tests.support.project import ROOT

LISTS = Path(__file__).parent / "aws_images"
IMAGES = ("2.13-cpu", "2.13-cuda")


def listed(name: str) -> dict[str, str]:
    lines = (LISTS / f"{name}.txt").read_text().split()
    return dict(line.split("==") for line in lines)


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["dependencies"]]


@pytest.mark.parametrize("name", IMAGES)
def test_what_a_plan_says_that_an_image_lacks_is_what_its_list_lacks(name: str) -> None:
    held = listed(name)
    lacking = [each.name for each in requirements() if not _meets(held.get(each.name), each)]
    assert sorted(lacking) == sorted(images.LACKING)


def _meets(version: str | None, requirement: Requirement) -> bool:
    return version is not None and requirement.specifier.contains(version, prereleases=True)


# --- slow: with AWS's Python, from the package index ---


def python312() -> str | None:
    """An interpreter of the images' version; None if there is none here."""
    found = [shutil.which("python3.12"), *Path("~/.pyenv/versions").expanduser().glob("3.12.*/bin/python3.12")]
    for each in filter(None, found):
        if subprocess.run([each, "--version"], capture_output=True, check=False).returncode == 0:
            return str(each)
    return None


needs_312 = pytest.mark.skipif(python312() is None, reason="needs Python 3.12, as in AWS's images; there is none here")


def outside() -> dict[str, str]:
    """An environment in which pip may reach its index."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def played(place: Path, name: str) -> Path:
    """Return the Python of an environment that says of itself what an image says."""
    interpreter = python312()
    assert interpreter is not None
    subprocess.run([interpreter, "-m", "venv", place], check=True, capture_output=True)
    (packages,) = place.glob("lib/python3.12/site-packages")
    for package, version in listed(name).items():
        if package in ("pip", "setuptools"):
            continue
        about = packages / f"{re.sub(r'[-.]+', '_', package)}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (about / "RECORD").write_text("")
        (about / "INSTALLER").write_text("pip\n")
    return place / "bin/python"


def resolved(python: Path, *, pinned: bool) -> dict[str, str]:
    """What launchers/remote/install.py would install there, by name."""
    script = f"""
import json, runpy, subprocess, sys
from pathlib import Path
found = runpy.run_path({str(ROOT / "launchers/remote/install.py")!r})
run = subprocess.run
def dry(command, **options):
    return run([*command[:4], "--dry-run", "--report", sys.argv[1], *command[4:]], **options)
subprocess.run = dry
sys.exit(found["install"](Path({str(ROOT)!r}), [], json.loads(sys.argv[2])) or 0)
"""
    report = python.parent.parent / "report.json"
    pins = json.dumps(versions(ROOT, []) if pinned else {})
    words = [python, "-c", script, report, pins]
    done = subprocess.run(words, capture_output=True, text=True, env=outside(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [each["metadata"] for each in json.loads(report.read_text())["install"]]
    return {each["name"].lower(): each["version"] for each in found}


@pytest.mark.slow  # asks the package index, half a minute
@needs_312
@pytest.mark.parametrize("name", IMAGES)
def test_what_an_image_lacks_resolves_without_another_torch(name: str, tmp_path: Path) -> None:
    python = played(tmp_path / "image", name)
    for pinned in (False, True):
        found = resolved(python, pinned=pinned)
        print(f"{name}, {'pinned' if pinned else 'not pinned'}: {len(found)} packages: {found}")
        assert set(images.LACKING) <= found.keys()
        assert not found.keys() & {"torch", "torchvision", "triton", "numpy", "onnx", "onnxruntime", "pillow"}


@pytest.mark.slow  # installs torch 2.13.0 and all that AWS's image has of our requirements: gigabytes, minutes
@needs_312
@pytest.mark.timeout(3600)
def test_the_quickstart_runs_on_the_image_s_versions(tmp_path: Path) -> None:
    place, held = tmp_path / "image", listed("2.13-cpu")
    interpreter = python312()
    assert interpreter is not None
    subprocess.run([interpreter, "-m", "venv", place], check=True, capture_output=True)
    names = {each.name for each in requirements()} & held.keys()
    pins = tmp_path / "pins.txt"
    pins.write_text("".join(f"{name}=={version.partition('+')[0]}\n" for name, version in sorted(held.items())))
    pip = [place / "bin/python", "-m", "pip", "install", "--quiet", "-c", pins]
    subprocess.run([*pip, *sorted(names), *images.LACKING], check=True, env=outside())
    command = [place / "bin/python", ROOT / "train.py", "experiment=quickstart", f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(command, capture_output=True, text=True, env=outside(), cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout[-3000:])
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["val/acc"] > 0.75
    assert (tmp_path / "run/model.tar.gz").exists()
