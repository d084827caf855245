"""Plans of runs on EC2, as a process of its own prints them."""

from dataclasses import replace
from functools import lru_cache

from launchers import prepare
from launchers.ec2.spot import Ec2Launcher
from launchers.plan import Plan
from tests.support.plans import CODE

REAL = ["aws.region=eu-west-1", "aws.bucket=my-bucket", "launcher.owner=me"]
COMMANDS = {
    "ec2": ["experiment=quickstart", "launcher=ec2_spot", *REAL],
    "ec2-guarded": [
        "launcher=ec2_spot",
        *REAL,
        "data=folder",
        "data.root=s3://my-photos/dogs",
        "launcher.instance_type=m5.xlarge",
        "launcher.other_types=[c5.xlarge]",
        "launcher.on_demand=true",
        "launcher.image=amazon-linux-2023",
        "launcher.kms_key=alias/mine",
        "launcher.subnets=[subnet-0a1b2c3d]",
        "launcher.security_groups=[sg-0a1b2c3d]",
        "launcher.public_ip=false",
        "launcher.deadline_h=2",
        "limits.max_attempts=3",
        "model.weights=null",
    ],
}


@lru_cache
def launched(name: str) -> Ec2Launcher:
    launcher, _ = prepare([*COMMANDS[name], "run_id=20261124-120000-abcd", "hydra.run.dir=/runs/abcd"])
    assert isinstance(launcher, Ec2Launcher)
    return launcher


@lru_cache
def planned(name: str) -> Plan:
    launcher, plan = prepare([*COMMANDS[name], "run_id=20261124-120000-abcd", "hydra.run.dir=/runs/abcd"])
    spec = replace(plan.spec, created_at="2026-11-24T12:00:00+00:00", commit="f" * 40, dirty=False, code=CODE)
    return launcher.plan(spec)
