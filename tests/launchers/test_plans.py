"""What plans say: recorded, the same each time, made without a network, without boto3 and at once.

`DOGBREED_RECORD=1 python -m pytest tests/launchers/test_plans.py` records them anew; look at the difference before
committing it.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from dogbreed.workload import Workload
from launchers.cost import estimate, prices
from launchers.rehearsal.validation import findings
from launchers.sagemaker.training import SageMakerLauncher
from tests.support.plans import COMMANDS, planned
from tests.support.project import ROOT

RECORD = "DOGBREED_RECORD=1 python -m pytest tests/launchers/test_plans.py"
PLANS = Path(__file__).parent / "plans"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_plan_equals_the_recorded_one(name: str) -> None:
    plan, file = planned(name), PLANS / f"{name}.txt"
    if os.environ.get("DOGBREED_RECORD"):
        PLANS.mkdir(exist_ok=True)
        file.write_text(f"{plan}\n")
    assert f"{plan}\n" == file.read_text(), f"To accept this change: {RECORD}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_planned_job_is_one_that_sagemaker_accepts(name: str) -> None:
    model = botocore.session.get_session().get_service_model("sagemaker").operation_model("CreateTrainingJob")
    request = dict(planned(name).requests[-1].parameters)
    if "<" in request["RoleArn"]:  # only the account knows it
        request["RoleArn"] = "arn:aws:iam::123456789012:role/service-role/MyRole"
    assert not list(findings(model.input_shape, request))


@pytest.mark.parametrize("name", COMMANDS)
def test_no_request_holds_credentials_and_everything_billable_is_tagged(name: str) -> None:
    plan = planned(name)
    text = json.dumps([asdict(request) for request in plan.requests]).lower()
    assert "secret" not in text
    assert "access_key" not in text
    keys = {tag["Key"] for tag in plan.requests[-1].parameters["Tags"]}
    assert {"dogbreed:run-id", "dogbreed:owner", "dogbreed:expires-at", "dogbreed:purpose"} <= keys


def started(script: str, *, words: list[str] | None = None) -> Any:
    """Return what a separate process prints; only loopback resolves there, as everywhere in the tests."""
    done = subprocess.run(
        [sys.executable, "-c", script, *(words or [])], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


HEAVY = ("torch", "lightning", "boto3", "botocore", "sagemaker", "moto", "optuna", "plotly", "pandas")


@pytest.mark.parametrize("name", ["gpu", "spot", "rehearsal"])
def test_planning_loads_neither_torch_nor_boto3(name: str) -> None:
    script = f"""
import contextlib, io, json, runpy, sys
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    runpy.run_path("train.py", run_name="__main__")
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""
    assert started(script, words=[*COMMANDS[name], "dry_run=true"]) == []


def test_the_command_for_runs_loads_neither_torch_nor_boto3_nor_hydra() -> None:
    script = f"""
import contextlib, io, json, sys
from launchers.__main__ import main
for words in (["--help"], ["images", "--help"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(words)
print(json.dumps([name for name in {(*HEAVY, "hydra", "omegaconf")} if name in sys.modules]))
"""
    assert started(script) == []


def test_dry_run_prints_the_plan_and_leaves_nothing(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "train.py"), *COMMANDS["spot"], "dry_run=true"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "sagemaker CreateTrainingJob {" in done.stdout
    assert "expected" in done.stdout
    assert not list(tmp_path.rglob("*.json"))


def test_the_cost_grows_with_the_work_and_never_exceeds_its_limit() -> None:
    workload = Workload.of(planned("spot").spec.config)
    row = prices.instance("ml.m5.large")
    assert row is not None
    frozen = estimate.seconds_expected(workload, row)
    tuned = estimate.seconds_expected(replace(workload, trainable="all"), row)
    assert frozen is not None
    assert tuned is not None
    assert frozen < tuned
    spot, demand = (estimate.estimate(workload, row, instances=1, spot=way, max_run_s=3600) for way in (True, False))
    assert spot.expected is not None
    assert demand.expected is not None
    assert spot.expected[0] < demand.expected[0] == demand.expected[1] <= demand.worst == spot.worst == row.usd
    assert spot.expected[1] == demand.expected[1]  # spot machines may cost as much


def test_every_option_of_the_launcher_is_in_its_yaml() -> None:
    from inspect import signature

    from omegaconf import OmegaConf

    keys = OmegaConf.load(ROOT / "conf/launcher/sagemaker_gpu.yaml").keys() - {"_target_"}
    assert keys == {name for name in signature(SageMakerLauncher).parameters if not name.startswith("_")}
