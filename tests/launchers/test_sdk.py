"""The SageMaker SDK's ModelTrainer creates the job that a plan describes, but for differences that are listed here."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launchers.aws.iam import arn_in_plan, role_in_plan
from launchers.plan import Plan
from launchers.sagemaker import sdk
from launchers.sagemaker.training import SageMakerLauncher
from launchers.status import LaunchError
from tests.support import ec2_plans
from tests.support.guides import Guide
from tests.support.plans import planned
from tests.support.project import ROOT

DIFFERENCES = {  # between our CreateTrainingJob and the SDK's, each with its reason
    "TrainingJobName": "the SDK appends the time, and cannot be told not to",
    "AlgorithmSpecification.ContainerEntrypoint": "the SDK always starts a shell with the script of its own channel",
    "AlgorithmSpecification.ContainerArguments": "likewise; the script starts our entry point",
    "InputDataConfig.sm_drivers": "the channel of that script",
    "HyperParameters": "the SDK sends an empty list where there are none",
    "OutputDataConfig.CompressionType": "the SDK spells out SageMaker's own default, GZIP",
    "RoleArn": "a plan that knows a role by its name leaves the ARN to be looked up, as `submit` does",
}
_NAMED = {"InputDataConfig": "ChannelName", "MetricDefinitions": "Name", "Tags": "Key"}  # lists, by what names an item


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """Return the leaves of a request by their paths; an item of a list is named, and its order does not matter."""
    name = at.rpartition(".")[2]
    if isinstance(value, list) and name in _NAMED:
        value = {each[_NAMED[name]]: each for each in value}
    if isinstance(value, dict) and value:
        below = [flat(each, f"{at}.{key}" if at else key) for key, each in value.items()]
        return {path: leaf for each in below for path, leaf in each.items()}
    return {at: value}


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> set[str]:
    one, other = flat(ours), flat(theirs)
    return {path for path in one.keys() | other.keys() if one.get(path, "absent") != other.get(path, "absent")}


def listed(path: str) -> str | None:
    """Return the listed difference that a path belongs to."""
    return next((known for known in DIFFERENCES if path == known or path.startswith(f"{known}.")), None)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment that has the extra `sagemaker`; DOGBREED_SDK_PYTHON names one that is there."""
    if there := os.environ.get("DOGBREED_SDK_PYTHON"):
        return there
    place = tmp_path_factory.mktemp("sdk") / "venv"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    subprocess.run([sys.executable, "-m", "venv", place], check=True, env=env)
    packages = [each for each in extras["sagemaker"] if not each.startswith("dogbreed")]
    pip = [place / "bin/python", "-m", "pip", "install", "--quiet", *packages]
    subprocess.run(pip, check=True, env=env)
    return str(place / "bin/python")


def sent_by_the_sdk(python: str, plan: Plan, folder: Path) -> dict[str, Any]:
    """Return what the SDK asks of AWS for a plan; nothing leaves the process."""
    requests = [vars(each) for each in plan.requests]
    given = {"spec": json.loads(plan.spec.to_json()), "handle": str(plan.handle), "requests": requests}
    (folder / "quiet.yaml").write_text(
        "SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n"
    )
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "AWS_ACCESS_KEY_ID": "a" * 20,
        "AWS_SECRET_ACCESS_KEY": "b" * 40,
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(folder / "quiet.yaml"),
        "SAGEMAKER_VALIDATE_ROLE": "false",
    }
    child = ROOT / "tests/support/children/sdk_request.py"
    done = subprocess.run(
        [python, child], input=json.dumps(given), text=True, capture_output=True, env=env, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow  # installs the SDK, 0.9 GB
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["spot", "guarded"])
def test_the_sdk_creates_the_same_job_but_for_what_is_listed(name: str, python: str, tmp_path: Path) -> None:
    plan = planned(name)
    sent = sent_by_the_sdk(python, plan, tmp_path)
    found = {path: listed(path) for path in differing(dict(plan.requests[-1].parameters), sent["job"])}
    assert [path for path, known in found.items() if known is None] == []
    by_name = name != "guarded"  # whose role is given by its ARN
    assert set(found.values()) == DIFFERENCES.keys() - (set() if by_name else {"RoleArn"})
    assert sent["job"]["RoleArn"] == "arn:aws:iam::123456789012:role/MyRole"
    below = f"/dogbreed/runs/{plan.spec.run_id}/sdk/"  # what the job's role may read, and a cleanup finds
    assert sent["uploads"]
    assert all(path.startswith(below) for path in sent["uploads"])


def test_a_difference_that_is_not_listed_is_found() -> None:
    ours = {"A": {"B": 1}, "Tags": [{"Key": "x", "Value": "1"}, {"Key": "y", "Value": "2"}]}
    theirs = {"A": {"B": 1, "C": None}, "Tags": [{"Key": "y", "Value": "2"}, {"Key": "x", "Value": "3"}]}
    assert differing(ours, theirs) == {"A.C", "Tags.x.Value"}
    assert listed("InputDataConfig.sm_drivers.InputMode") == "InputDataConfig.sm_drivers"
    assert listed("InputDataConfig.code.InputMode") is None


def test_a_role_is_read_back_from_a_plan() -> None:
    for role in ("MyRole", "arn:aws:iam::123456789012:role/path/MyRole"):
        assert role_in_plan(arn_in_plan(role)) == role


def test_a_plan_that_is_not_of_a_training_job_is_refused() -> None:
    with pytest.raises(LaunchError, match=r"this plan is of launcher ec2\.\nTry: launcher=sagemaker_spot"):
        sdk.to_model_trainer(ec2_plans.planned("ec2"))


def test_without_the_sdk_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sagemaker", None)
    with pytest.raises(LaunchError, match=r"Try: pip install 'dogbreed\[sagemaker\]'"):
        sdk.to_model_trainer(planned("spot"))


def test_the_notebook_cell_of_the_guide_sends_what_the_job_reads_and_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    trainer = SimpleNamespace(train=lambda **how: done.append(how))
    monkeypatch.setattr(SageMakerLauncher, "send", lambda self, plan: done.append(plan.spec.run_id))
    monkeypatch.setattr(sdk, "to_model_trainer", lambda plan: done.append(plan.spec.run_id) or trainer)
    (cell,) = Guide(ROOT / "launchers/sagemaker/README.md").python()
    exec(compile(cell, "README.md", "exec"), {})
    assert done == [done[0], done[0], {"wait": False}]
