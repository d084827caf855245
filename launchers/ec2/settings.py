"""Define the settings of a run on EC2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launchers.aws.on_aws import InBucket
from launchers.aws.policy import role_name
from launchers.base import Cloud


@dataclass(frozen=True)
class Ec2Settings(InBucket):
    """The settings of a run. conf/launcher/ec2_spot.yaml explains each of them.

    The launcher has them as its own fields. A plan follows from them and the RunSpec alone.
    """

    cloud: Cloud
    bucket: str | None = None
    machine_role: str = role_name("machine")
    prefix: str = "dogbreed"
    instance_type: str = "m5.large"
    other_types: Sequence[str] = ()
    instances: int = 1
    on_demand: bool = False
    image: str = "auto"
    volume_gb: int = 100
    deadline_h: float = 8
    owner: str = "unknown"
    kms_key: str | None = None
    subnets: Sequence[str] = ()
    security_groups: Sequence[str] = ()
    public_ip: bool = True
    live: bool = False
    allow_secrets: Sequence[str] = ()
    secrets: Mapping[str, str] | None = None

    @property
    def types(self) -> list[str]:
        """All instance types that the run may get, the preferred one first."""
        return list(dict.fromkeys([self.instance_type, *self.other_types]))
