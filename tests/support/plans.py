"""Plans as a process of its own prints them."""

from dataclasses import replace

from launchers import prepare
from launchers.payload.code import CodeBundle
from launchers.plan import Plan
from launchers.sagemaker.training import SageMakerLauncher

REAL = ["aws.region=eu-west-1", "aws.bucket=my-bucket", "aws.role=MyRole", "launcher.owner=me"]
CODE = CodeBundle("0" * 32, (("train.py", 100, "0" * 64),))

COMMANDS = {
    "gpu": ["launcher=sagemaker_gpu", *REAL],
    "spot": ["experiment=quickstart", "launcher=sagemaker_spot", *REAL],
    "rehearsal": [
        "experiment=quickstart",
        "launcher=sagemaker_spot",
        "aws=rehearsal",
        "aws.state_dir=/rehearsal",
        "launcher.owner=me",
    ],
    "guarded": [
        "launcher=sagemaker_gpu",
        *REAL,
        "data=folder",
        "data.root=s3://my-photos/dogs",
        "aws.role=arn:aws:iam::123456789012:role/MyRole",
        "launcher.kms_key=alias/mine",
        "launcher.subnets=[subnet-0a1b2c3d]",
        "launcher.security_groups=[sg-0a1b2c3d]",
        "launcher.network_isolation=true",
        "launcher.image=123456789012.dkr.ecr.eu-west-1.amazonaws.com/mine:1",
        "launcher.instance_type=ml.m5.xlarge",
        "model.weights=null",
    ],
}


def launched(name: str) -> SageMakerLauncher:
    launcher, _ = prepare([*COMMANDS[name], "run_id=20261124-120000-abcd", "hydra.run.dir=/runs/abcd"])
    assert isinstance(launcher, SageMakerLauncher)
    return launcher


def planned(name: str) -> Plan:
    launcher, plan = prepare([*COMMANDS[name], "run_id=20261124-120000-abcd", "hydra.run.dir=/runs/abcd"])
    spec = replace(plan.spec, created_at="2026-11-24T12:00:00+00:00", commit="f" * 40, dirty=False, code=CODE)
    return launcher.plan(spec)
