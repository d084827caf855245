"""The endpoint's image, where there is no container engine: linted, and its steps executed in a fresh environment."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from tests.support.launcher_contract import until
from tests.support.odd_pictures import saved, upright
from tests.support.project import ROOT
from tests.support.serving import Served, stopped, tiny_model

DOCKERFILE = ROOT / "launchers" / "deploy" / "image" / "Dockerfile"
REQUIREMENTS = ROOT / "launchers" / "deploy" / "image" / "serve-requirements.txt"
CONSTRAINTS = ROOT / "launchers" / "deploy" / "image" / "serve-constraints.txt"


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def instructions() -> list[tuple[str, str]]:
    text = "\n".join(lines(DOCKERFILE)).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines())]


def test_the_images_requirements_are_the_extra_serve() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert lines(REQUIREMENTS) == extras["serve"]


def test_every_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    from packaging.requirements import Requirement

    pins = dict(line.split("==") for line in lines(CONSTRAINTS))
    for requirement in map(Requirement, lines(REQUIREMENTS)):
        assert requirement.specifier.contains(pins[requirement.name.replace("-", "_")]), requirement


def test_the_dockerfile_has_nothing_that_hadolint_minds() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_is_pinned_small_as_sagemaker_wants_it_and_starts_without_a_shell() -> None:
    found = dict(instructions())
    assert re.fullmatch(r"public\.ecr\.aws/docker/library/python:\d+\.\d+\.\d+-slim-\w+", found["FROM"])
    assert found["USER"] == "0"  # SageMaker's own demand
    assert found["LABEL"] == "com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true"
    assert json.loads(found["ENTRYPOINT"]) == ["serve"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["serve"] == "dogbreed.serving.__main__:serve"


def test_all_that_is_copied_is_sent_to_the_build() -> None:
    sent = [line.removeprefix("!") for line in lines(DOCKERFILE.with_name("Dockerfile.dockerignore")) if line[0] == "!"]
    for word, rest in instructions():
        if word == "COPY":
            for source in rest.split()[:-1]:
                assert any(f"{source}/".startswith(f"{name}/") for name in sent)
                assert (ROOT / source).exists()


@pytest.mark.slow  # installs packages from the index, a minute or so
def test_the_dockerfiles_steps_give_a_server_without_torch(tmp_path: Path) -> None:
    image, workdir = tmp_path / "environment", tmp_path / "workdir"
    venv.create(image, with_pip=True)
    workdir.mkdir()
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # pip may reach its index
    settings: dict[str, str] = {}
    for word, rest in instructions():
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, workdir / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, workdir / target)
        elif word == "ENV":
            settings |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "RUN" and rest.startswith("python "):
            command = [str(image / "bin" / "python"), *shlex.split(rest)[1:]]
            subprocess.run(command, cwd=workdir, env={**outside, **settings}, check=True, capture_output=True)
    listed = subprocess.run(
        [image / "bin" / "python", "-m", "pip", "list"], capture_output=True, text=True, env=outside
    )
    assert "onnxruntime" in listed.stdout
    assert not re.search(r"^(torch|lightning|torchvision|onnx|psutil) ", listed.stdout, re.MULTILINE)
    size_mb = sum(path.stat().st_size for path in image.rglob("*") if path.is_file()) / 1e6
    print(f"environment: {size_mb:.0f} MB")
    assert size_mb < 400

    (tmp_path / "model").mkdir()
    tiny_model(tmp_path / "model.tar.gz")
    subprocess.run(["tar", "-xzf", tmp_path / "model.tar.gz", "-C", tmp_path / "model"], check=True)
    log = tmp_path / "server.log"
    entry = json.loads(dict(instructions())["ENTRYPOINT"])
    with log.open("w") as output:
        process = subprocess.Popen(
            [image / "bin" / entry[0], "serve", "--host", "127.0.0.1"],
            stdout=output,
            stderr=output,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **settings, "SAGEMAKER_BASE_DIR": str(tmp_path), "SAGEMAKER_BIND_TO_PORT": "0"},
        )
    try:
        until(lambda: "Listening on" in log.read_text() or process.poll() is not None)
        served = Served(process, int(log.read_text().split("127.0.0.1:")[1].split()[0]), log)
        until(lambda: served.ask("GET", "/ping").status == 200)
        assert served.classify(saved(upright(), "WEBP")).json["predictions"]
        assert served.ask("GET", "/").status == 200
        predict = [
            image / "bin" / "python",
            "-m",
            "dogbreed.predict",
            tmp_path / "model.tar.gz",
            tmp_path / "photo.png",
        ]
        (tmp_path / "photo.png").write_bytes(saved(upright(), "PNG"))
        assert "%" in subprocess.run(predict, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
        assert stopped(served) == 0
    finally:
        process.kill()
        process.wait()
