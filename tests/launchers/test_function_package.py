"""The package of a Lambda function with the model: which packages and wheels, the same bytes, within the limits."""

import functools
import hashlib
import http.server
import io
import json
import re
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dogbreed.errors import ArtifactError
from dogbreed.inference import Predictor
from launchers.deploy.on_lambda import package, target, wheels
from launchers.deploy.on_lambda.target import ARCHITECTURES, Target
from launchers.payload.package import MODEL, PACKAGES, contents
from launchers.project import PROJECT
from launchers.status import LaunchError
from tests.support.odd_pictures import saved, upright
from tests.support.serving import tiny_model

SERVER_PINS = PROJECT / "launchers" / "deploy" / "image" / "serve-constraints.txt"


# --- which packages ---


def test_the_packages_are_the_extra_lambda_and_all_that_it_needs() -> None:
    extra = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["lambda"]
    pins, found = wheels.pins(), set()
    wanted = list(map(Requirement, extra))
    while wanted:
        requirement = wanted.pop()
        name = requirement.name.replace("-", "_").lower()
        if name in found or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        assert requirement.specifier.contains(pins[name]), requirement
        found.add(name)
        wanted += map(Requirement, distribution(name).requires or ())
    assert found == pins.keys()


def test_the_function_and_the_server_are_of_the_same_versions() -> None:
    server = dict(line.split("==") for line in SERVER_PINS.read_text().splitlines() if not line.startswith("#"))
    assert {name: pin for name, pin in wheels.pins().items() if server.get(name, pin) != pin} == {}


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("numpy/__init__.py", True),
        ("numpy/_core/_multiarray_umath.cpython-313-x86_64-linux-gnu.so", True),
        ("numpy.libs/libscipy_openblas64_-32a4b2a6.so", True),
        ("mangum-0.22.0.dist-info/METADATA", True),
        ("mangum-0.22.0.dist-info/licenses/LICENSE", True),
        ("mangum-0.22.0.dist-info/RECORD", False),
        ("numpy/_core/tests/test_api.py", False),
        ("numpy/__init__.pyi", False),
        ("numpy/f2py/crackfortran.py", False),
        ("onnxruntime/transformers/optimizer.py", False),
        ("onnxruntime/capi/libonnxruntime_providers_shared.so", True),
        ("bin/onnxruntime_test", False),
    ],
)
def test_what_only_developers_need_is_left_out(name: str, needed: bool) -> None:
    assert wheels.needed(name) == needed


# --- from an index, for another machine than this one ---


def elf(machine: int) -> bytes:
    """The beginning of a compiled file. machine: 62 for x86_64, 183 for aarch64."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + machine.to_bytes(2, "little") + bytes(40)


def wheel(name: str, version: str, tag: str) -> tuple[str, bytes]:
    """A wheel with a module that says what it is for, and a compiled one if it is for a processor."""
    info, buffer = f"{name}-{version}.dist-info", io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr(f"{name}/__init__.py", f"TAG = {tag!r}\n")
        packed.writestr(f"{name}/tests/test_it.py", "")
        if machine := {"x86_64": 62, "aarch64": 183}.get("_".join(tag.split("_")[3:])):
            packed.writestr(f"{name}/_fast.cpython-313-{tag[-7:]}-linux-gnu.so", elf(machine))
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        packed.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        packed.writestr(f"{info}/RECORD", "")
    return f"{name}-{version}-{tag}.whl", buffer.getvalue()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An index on loopback, the only one that pip knows, with a compiled package and a plain one."""
    found = tmp_path / "index"
    for name, tags in {
        "fast": ("cp313-cp313-manylinux_2_28_x86_64", "cp313-cp313-manylinux_2_28_aarch64", "cp311-cp311-win_amd64"),
        "plain": ("py3-none-any",),
    }.items():
        folder = found / name
        folder.mkdir(parents=True)
        files = dict(wheel(name, "1.0", tag) for tag in tags)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        links = (f'<a href="{file}#sha256={hashlib.sha256(files[file]).hexdigest()}">{file}</a>' for file in files)
        (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{'<br>'.join(links)}</body></html>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=found))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/")
    (tmp_path / "packages.txt").write_text("fast==1.0\nplain==1.0\n")
    yield tmp_path
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("architecture", "machine"), [("x86_64", "x86_64"), ("arm64", "aarch64")])
def test_wheels_are_those_of_lambdas_python_and_processor(architecture: str, machine: str, index: Path) -> None:
    target = Target("3.13", architecture)
    found = dict(wheels.from_index(target, index / "tree", index / "packages.txt"))
    assert f"manylinux_2_28_{machine}" in found["fast/__init__.py"].read_text()
    assert "plain/__init__.py" in found
    assert not [name for name in found if "tests" in name or name.endswith(("RECORD", "INSTALLER"))]


@pytest.mark.parametrize(
    ("name", "machine", "fits"),
    [
        ("fast/_fast.cpython-313-aarch64-linux-gnu.so", 183, True),
        ("fast/_fast.cpython-313-aarch64-linux-gnu.so", 62, False),
        ("fast/_fast.cpython-311-aarch64-linux-gnu.so", 183, False),
        ("fast/_fast.abi3.so", 183, True),
        ("fast.libs/libgomp-0a1b.so.1.0.0", 183, True),
        ("fast.libs/libgomp-0a1b.so.1.0.0", 62, False),
    ],
)
def test_a_compiled_file_is_for_the_target_by_its_header_and_its_name(
    name: str, machine: int, fits: bool, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(elf(machine))
    assert wheels.fits(wheels.Installed(name, tmp_path / "file"), Target("3.13", "arm64")) == fits
    (tmp_path / "text").write_text("no ELF file")
    assert wheels.fits(wheels.Installed("fast/__init__.py", tmp_path / "text"), Target("3.13", "arm64"))


def test_wheels_that_are_not_what_they_are_called_are_refused(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wheels._ELF_MACHINES, "arm64", 62)
    with pytest.raises(LaunchError, match=r"not for Python 3\.13 on arm64: fast/_fast\.cpython-313-"):
        wheels.from_index(Target("3.13", "arm64"), index / "tree", index / "packages.txt")


def test_a_package_without_a_wheel_for_the_target_is_named(index: Path) -> None:
    with pytest.raises(LaunchError, match=r"pip finds no wheel of fast==1\.0 for Python 3\.12 on arm64") as caught:
        wheels.from_index(Target("3.12", "arm64"), index / "tree", index / "packages.txt")
    assert "Try: another launcher.architecture" in str(caught.value)


def test_another_failure_of_pip_is_shown(index: Path) -> None:
    (index / "packages.txt").write_text("fast=1.0\n")
    with pytest.raises(LaunchError, match="pip could not install the function's packages") as caught:
        wheels.from_index(Target("3.13", "x86_64"), index / "tree", index / "packages.txt")
    assert "fast=1.0" in str(caught.value)


# --- the ZIP ---


def test_the_same_contents_are_the_same_bytes_in_any_order_and_from_any_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a" * 1000)
    (tmp_path / "a.txt").chmod(0o600)
    package.write(tmp_path / "one.zip", [("b", b"b"), ("a/a.txt", tmp_path / "a.txt")])
    package.write(tmp_path / "two.zip", [("a/a.txt", b"a" * 1000), ("b", b"b")])
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        assert packed.namelist() == ["a/a.txt", "b"]
        assert {member.external_attr >> 16 & 0o777 for member in packed.infolist()} == {0o644}


def test_what_fails_leaves_no_half_package(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        package.write(tmp_path / "one.zip", [("a", tmp_path / "missing")])
    assert not list(tmp_path.iterdir())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Packages of one file, so that a package is made in no time."""
    (tmp_path / "module.py").write_text("")
    monkeypatch.setattr(wheels, "from_here", lambda: [wheels.Installed("module.py", tmp_path / "module.py")])
    monkeypatch.setenv("DOGBREED_CACHE", str(tmp_path / "cache"))
    return tiny_model(tmp_path / "model.tar.gz")


HERE = Target("3.11", "x86_64")


def test_a_package_has_our_code_the_entry_and_the_models_files(few: Path) -> None:
    found = package.ensure("key", HERE, model=few, installed=True)
    with zipfile.ZipFile(found.path) as packed:
        names = set(packed.namelist())
    assert {"module.py", "lambda_function.py", "dogbreed/serving/function.py", "dogbreed/serving/page/page.js"} <= names
    assert {f"{MODEL}/model.onnx", f"{MODEL}/labels.json", f"{MODEL}/manifest.json"} <= names
    assert not [name for name in names if name.startswith(("launchers", "tests")) or "__pycache__" in name]
    assert found.zipped == found.path.stat().st_size < found.unpacked
    before = found.path.stat().st_mtime_ns
    assert package.ensure("key", HERE, model=few, installed=True).path.stat().st_mtime_ns == before  # from the cache


def test_a_package_of_what_is_installed_here_is_never_taken_for_aws(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        wheels, "from_index", lambda target, folder: [wheels.Installed("wheel.py", few.parent / "module.py")]
    )
    packed = [package.ensure("key", HERE, model=None, installed=installed).path for installed in (True, False)]
    names = [set(zipfile.ZipFile(path).namelist()) & {"module.py", "wheel.py"} for path in packed]
    assert names == [{"module.py"}, {"wheel.py"}]


def test_a_package_that_lambda_would_not_take_is_refused_and_not_kept(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "LARGEST_BYTES", 100_000)
    with pytest.raises(LaunchError, match="unpacked, and Lambda takes at most") as caught:
        package.ensure("key", HERE, model=few, installed=True)
    assert "launcher.variant=realtime" in str(caught.value)
    assert not list((few.parent / "cache" / "functions").iterdir())


def test_a_damaged_model_is_refused(few: Path) -> None:
    few.write_bytes(few.read_bytes()[:-2000])
    with pytest.raises(ArtifactError, match="not a complete"):
        package.ensure("key", HERE, model=few, installed=True)
    assert not list((few.parent / "cache" / "functions").iterdir())


def test_a_package_that_is_not_installed_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "pins", lambda: {"no_such_package": "1"})
    with pytest.raises(LaunchError, match=r"no_such_package is not.\nTry: pip install -e '\.\[lambda\]'"):
        list(wheels.from_here())


def test_all_that_is_installed_here_is_found() -> None:
    names = {each.name for each in wheels.from_here()}
    assert {"numpy/__init__.py", "mangum/adapter.py", "typing_extensions.py", "onnxruntime/__init__.py"} <= names
    assert any(re.fullmatch(r"onnxruntime/capi/onnxruntime_pybind11_state.*\.so", name) for name in names)


def test_the_list_of_packages_is_in_the_project() -> None:
    assert (PROJECT / PACKAGES).is_file()
    assert next(contents(PROJECT))[0] == "lambda_function.py"


ASKS = """\
import base64, json, sys
from types import SimpleNamespace

import lambda_function

photo = base64.b64encode(open(sys.argv[1], "rb").read()).decode()
answer = lambda_function.handler({"image": photo}, SimpleNamespace(aws_request_id="1"))
print(answer["body"])
"""


@pytest.mark.slow  # installs packages from the index, half a minute or so
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_package_of_the_indexs_wheels_is_within_the_limits_and_runs(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOGBREED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", "")  # pip may reach its index
    model, here = tiny_model(tmp_path / "model.tar.gz"), target.here()
    for python in {target.PYTHON, here.python}:
        found = package.ensure(python, Target(python, architecture), model=model, installed=False)
        print(f"Python {python} on {architecture}: {found.zipped / 1e6:.1f} MB, {found.unpacked / 1e6:.1f} MB unpacked")
        assert found.unpacked < package.PACKAGES_BYTES
    if architecture != here.architecture:
        return
    with zipfile.ZipFile(tmp_path / "cache" / "functions" / f"{here.python}.zip") as packed:
        packed.extractall(tmp_path / "task")
    (tmp_path / "photo.png").write_bytes(saved(upright(), "PNG"))
    command = [sys.executable, "-S", "-P", "-c", ASKS, str(tmp_path / "photo.png")]  # nothing else that is installed
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "task")}, capture_output=True, text=True, check=True
    )
    expected = Predictor.from_artifact(model).probabilities([tmp_path / "photo.png"])[0]
    assert json.loads(done.stdout)["probabilities"] == pytest.approx(list(expected), abs=1e-4)
