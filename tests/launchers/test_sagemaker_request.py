"""What settings and a RunSpec come to, without a launcher: findings, commands and the request."""

from dataclasses import replace
from typing import Any

import pytest

from launchers.aws import grants, sent, tags
from launchers.aws.account import Account
from launchers.sagemaker import checks, permissions, request
from launchers.sagemaker.settings import JobSettings
from launchers.spec import RunSpec, SearchOutput
from tests.support.plans import planned

MINE = JobSettings(Account("eu-west-1"), bucket="my-bucket", role="MyRole")
SPEC = planned("gpu").spec
SEARCH = replace(SPEC, output=SearchOutput("mine", 30), overrides=("hpo=optuna", "hpo.n_trials=30", "hpo.study=x"))


def asked_for(**changes: Any) -> JobSettings:
    return replace(MINE, **changes)


@pytest.mark.parametrize(
    ("asked", "spec", "text"),
    [
        (asked_for(bucket=None), SPEC, "No bucket is configured"),
        (asked_for(role="not a role"), SPEC, "neither a role name nor a role ARN"),
        (asked_for(prefix="/x"), SPEC, "launcher.prefix='/x'"),
        (asked_for(instance_type="m5.large"), SPEC, "launcher.instance_type=m5.large"),
        (asked_for(instances=2), SEARCH, "A search in one job runs on one machine"),
        (asked_for(max_run_s=0), SPEC, "launcher.max_run_s must be between"),
        (asked_for(volume_gb=0, instance_type="ml.m5.large"), SPEC, "launcher.volume_gb must be between"),
        (asked_for(security_groups=["sg-1"]), SPEC, "A VPC needs both"),
        (MINE, replace(SPEC, code=None), "The run has no code to send"),
        (MINE, replace(SPEC, overrides=("x=AKIA" + "IOSFODNN7EXAMPL2",)), "an AWS access key"),
    ],
)
def test_each_mistake_is_one_finding(asked: JobSettings, spec: RunSpec, text: str) -> None:
    (finding,) = checks.findings(asked, spec)
    assert text in finding
    assert "\nTry: " in finding


def test_good_settings_have_no_findings() -> None:
    assert not list(checks.findings(MINE, SPEC))
    assert not list(checks.findings(MINE, SEARCH))


def test_the_machine_runs_what_was_typed_but_for_what_stays_here() -> None:
    spec = replace(SPEC, overrides=("model.lr=1", "launcher=sagemaker_gpu", "data.root=/home/me", "aws.region=x"))
    fresh = sent.command(spec, resumes=False)
    assert fresh.typed == ["model.lr=1"]
    assert fresh.own[:3] == ["launcher=local", f"run_id={spec.run_id}", "hydra.run.dir=/opt/ml/checkpoints"]
    resumed = sent.command(replace(spec, going_on=("trainer.max_epochs=9",)), resumes=True)
    assert resumed.typed == ["trainer.max_epochs=9"]
    assert resumed.own[:2] == ["launcher=local", "resume=/opt/ml/checkpoints"]


def test_a_search_takes_its_settings_along_and_has_one_command() -> None:
    command = sent.command(SEARCH, resumes=False)
    assert command.typed == ["-m", "hpo=optuna", "hpo.n_trials=30"]
    assert "hpo.study=mine" in command.own
    assert "hydra.sweep.dir=/opt/ml/checkpoints" in command.own
    assert sent.settings_file(SEARCH, None)["again"] is None


def digest(asked: JobSettings, spec: RunSpec) -> str:
    return tags.from_aws(request.training_job(asked, spec)["Tags"])[tags.PLAN]


def test_a_plan_is_known_by_all_but_its_time_and_owner() -> None:
    known = digest(MINE, SPEC)
    assert digest(MINE, replace(SPEC, created_at="2026-11-25T12:00:00+00:00")) == known
    assert digest(asked_for(owner="somebody else"), SPEC) == known
    assert digest(asked_for(max_run_s=60), SPEC) != known
    assert digest(asked_for(subnets=["subnet-1"], security_groups=["sg-1"]), SPEC) != known
    assert digest(MINE, replace(SPEC, overrides=("model.lr=1",))) != known
    assert digest(MINE, replace(SPEC, going_on=())) != known


def test_a_disk_that_is_encrypted_as_it_is_gets_no_key() -> None:
    def keys(instance_type: str) -> set[str]:
        job = request.training_job(asked_for(kms_key="alias/mine", instance_type=instance_type), SPEC)
        return {name for name in ("VolumeKmsKeyId",) if name in job["ResourceConfig"]}

    assert keys("ml.m5.large") == {"VolumeKmsKeyId"}
    assert not keys("ml.g4dn.xlarge")
    assert "kms:GenerateDataKey" in grants.actions(permissions.caller(asked_for(kms_key="alias/mine")))
