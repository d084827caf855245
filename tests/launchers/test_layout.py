"""Imports keep their directions and modules their size: pyproject.toml's rules, and those that the linter lacks."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import ROOT, TRAIN

MOST_LINES = 450
FILES = {  # by module
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("dogbreed", "launchers")
    for path in sorted((ROOT / package).rglob("*.py"))
}
PACKAGES = [name for name, path in FILES.items() if path.name == "__init__.py"]
FACES = ("launchers", "dogbreed", "dogbreed.training", "dogbreed.drawn", "dogbreed.report")  # imported from by name
HEAVY = ("torch", "lightning", "torchvision", "timm", "boto3", "botocore", "moto")
# The rehearsal cloud's process is built on moto. Its client, which commands import, is cloud, process and faults.
_SERVER = (
    "access", "bucket_settings", "gateway", "identity_store", "images", "logs", "object_store", "principals",
    "rest_calls", "s3_calls", "server", "service_models", "services",
)  # fmt: skip
SERVER = tuple(f"launchers.rehearsal.{name}" for name in _SERVER)


def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


# --- directions ---


def test_imports_keep_their_directions() -> None:
    linter = "from importlinter.cli import lint_imports_command as main; main(['--no-cache', '--no-logo'])"
    done = subprocess.run([sys.executable, "-c", linter], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[done.stdout.find("Broken contracts") :]


def test_train_py_imports_launchers() -> None:
    at_its_top = set(imported(ast.parse(TRAIN.read_text()).body))
    allowed = ("launchers", "dogbreed.distributed", "hydra", "omegaconf")
    assert {name for name in at_its_top if not f"{name}.".startswith(tuple(f"{each}." for each in allowed))} == set()


def imported(body: list[ast.stmt]) -> Iterator[str]:
    for statement in body:
        match statement:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module):
                assert module is not None
                yield module


def test_only_the_registry_names_modules_as_text() -> None:
    """The linter cannot see such imports."""
    named = {module: others_in(module) for module in FILES}
    assert {"launchers.rehearsal.cloud", "launchers.local"} <= set(named.pop("launchers.registry"))
    assert {module: others for module, others in named.items() if others} == {}


def others_in(module: str) -> list[str]:
    """List the modules of launchers that a module names in its strings, those of its own package left out."""
    room = ".".join(module.split(".")[:2])
    named = (name for text in texts(tree(module)) for name in modules_in(text))
    return [name for name in named if not f"{name}.".startswith(f"{room}.")]


def texts(module: ast.Module) -> Iterator[str]:
    """Yield the strings of a module but for docstrings, which are statements of their own."""
    said = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


def modules_in(text: str) -> Iterator[str]:
    """Yield the longest module of launchers that each dotted name in a text begins with."""
    for name in re.findall(r"\blaunchers(?:\.\w+)+", text):
        parts = name.split(".")
        found = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
        yield from [module for module in found if module in FILES][:1]


# --- what commands load ---


@pytest.mark.ordinary_start
def test_no_launcher_loads_torch_or_boto3_before_a_run_is_submitted(tmp_path: Path) -> None:
    modules = [name for name in FILES if name.startswith("launchers") and not name.startswith(SERVER)]
    modules.remove("launchers.__main__")
    modules.remove("launchers.deploy.lambda_handler")  # which runs in Lambda
    account = ["aws.region=eu-west-1", "aws.bucket=my-bucket", "aws.role=MyRole"]
    names = sorted(path.stem for path in (ROOT / "conf" / "launcher").glob("*.yaml"))
    names.remove("deploy")  # which asks the account what is served under its name
    runs = [[f"launcher={name}", *account] for name in names]
    runs.append(["launcher=sagemaker_spot", "aws=rehearsal", f"aws.state_dir={tmp_path}/cloud"])
    script = f"""
import json, sys
from importlib import import_module
for name in {modules}:
    import_module(name)
imported = sorted({set(HEAVY)} & sys.modules.keys())
from launchers import prepare
for number, words in enumerate({runs}):
    prepare([*words, f"hydra.run.dir={tmp_path}/{{number}}"])
print(json.dumps([imported, sorted({set(HEAVY)} & sys.modules.keys())]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], []]
    assert not list(tmp_path.iterdir())


# --- form ---


def test_a_module_has_one_topic() -> None:
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in FILES.items()}
    assert {module: count for module, count in lines.items() if count > MOST_LINES} == {}


def test_a_package_only_has_a_docstring_unless_it_is_public() -> None:
    trees = {package: tree(package) for package in PACKAGES}
    assert [package for package, module in trees.items() if not ast.get_docstring(module)] == []
    assert [package for package, module in trees.items() if len(module.body) > 1 and package not in FACES] == []


@pytest.mark.parametrize("package", FACES)
def test_no_public_name_is_also_a_submodule(package: str) -> None:
    """The name would refer to the module as soon as somebody imports that."""
    names = {
        alias.asname or alias.name
        for node in tree(package).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not [name for name in names if f"{package}.{name}" in FILES]


def test_no_test_file_imports_another() -> None:
    written = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for found in re.finditer(r"^(?:from|import) tests\.\w+\.test_\w+", path.read_text(), re.MULTILINE)
        if found[0].rpartition(".")[2] != path.stem  # a script of its own, as text
    ]
    assert written == []
