"""The settings of a deployment."""

from collections.abc import Sequence
from dataclasses import dataclass

from launchers.aws import s3
from launchers.base import Cloud
from launchers.cost import serving
from launchers.deploy.scaling import Concurrency, Fixed, Scaled, Scaling

AUTO = "auto"


@dataclass(frozen=True)
class DeploySettings:
    """The settings of a deployment. conf/launcher/deploy.yaml explains each of them.

    The launcher has them as its own fields. A plan follows from them and the RunSpec alone.
    """

    cloud: Cloud
    bucket: str | None = None
    role: str | None = None
    expiry_role: str | None = None
    build_role: str | None = None
    variant: str = "realtime"
    lambda_role: str | None = None
    architecture: str = "x86_64"
    memory_mb: int | None = None
    reserved: int | None = None
    canary: bool = False
    front: str | None = None
    front_role: str | None = None
    provisioned: int = 0
    prefix: str = "dogbreed"
    instance_type: str = "ml.c7i.large"
    fallback_type: str | None = "ml.c6i.large"
    instances: int = 1
    scaling: Scaling | None = None
    image: str = AUTO
    ttl_hours: float | None = 8
    start_s: int = 300
    bake_s: int = 300
    max_error_rate: float = 0.05
    max_latency_ms: float = 2000
    alarm_topic: str | None = None
    rps: float = 0.1
    owner: str = "unknown"
    kms_key: str | None = None
    subnets: Sequence[str] = ()
    security_groups: Sequence[str] = ()
    wait_for_capacity_h: float | None = None
    wait: bool = True

    @property
    def encryption(self) -> dict[str, str]:
        """The encryption arguments of each upload."""
        return s3.encryption(self.kms_key)

    @property
    def scaling_chosen(self) -> Scaling:
        """What scales it: by default nothing if it ends by itself, and requests in progress if it stays."""
        if self.scaling is not None:
            return self.scaling
        return Concurrency() if self.ttl_hours is None else Fixed()

    @property
    def scaled(self) -> Scaled | None:
        """How it scales, on instances of this type; None if it does not."""
        chosen, vcpus = self.scaling_chosen, serving.vcpus(self.instance_type)
        if isinstance(chosen, Fixed):
            return None
        return Scaled(chosen.kind, chosen.min, chosen.max, chosen.policy(vcpus))

    @property
    def count(self) -> int:
        """The number of instances at first."""
        chosen = self.scaling_chosen
        return self.instances if isinstance(chosen, Fixed) else chosen.min

    @property
    def most(self) -> int:
        """The largest number of instances."""
        chosen = self.scaling_chosen
        return self.instances if isinstance(chosen, Fixed) else chosen.max
