"""Define the settings of a training job and its machines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launchers.aws.on_aws import InBucket
from launchers.base import Cloud
from launchers.sagemaker import images


@dataclass(frozen=True)
class JobSettings(InBucket):
    """The settings of jobs. conf/launcher/sagemaker_gpu.yaml explains each of them.

    The launcher has them as its own fields. A plan follows from them and the RunSpec alone.
    """

    cloud: Cloud
    bucket: str | None = None
    role: str | None = None
    prefix: str = "dogbreed"
    instance_type: str = "ml.g4dn.xlarge"
    needs: Mapping[str, Any] | None = None
    instances: int = 1
    volume_gb: int = 50
    spot: bool = False
    max_run_s: int = 14400
    max_wait_s: int | None = None
    keep_alive_s: int | None = None
    image: str = "auto"
    owner: str = "unknown"
    kms_key: str | None = None
    subnets: Sequence[str] = ()
    security_groups: Sequence[str] = ()
    network_isolation: bool = False
    allow_secrets: Sequence[str] = ()
    secrets: Mapping[str, str] | None = None
    wait_for_capacity_h: float | None = None

    def image_uri(self, day: str) -> str:
        """Return the image that the job runs in. day: of the plan, ISO 8601, because support of images ends."""
        return images.resolve(self.image, self.cloud.region or "", self.instance_type, day)
