"""What EC2 offers in the rehearsal's region: zones, instance types, images, prices, and quotas of vCPUs.

Instance types and their zones are AWS's own answers, as moto has recorded them. Prices are on demand in us-east-1 as
public price lists showed them in November 2026; spot prices are drawn from a seed.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from moto.utilities.utils import load_resource

from launchers.rehearsal.names import REGION
from launchers.rehearsal.services.ec2_answers import fixed_id

ZONES = {f"{REGION}{letter}": f"use1-az{number}" for letter, number in zip("abcdef", (1, 2, 4, 6, 3, 5), strict=True)}
_USD = {  # on demand in us-east-1, per hour, Linux
    "m5.large": 0.096, "m5.xlarge": 0.192, "m5.2xlarge": 0.384, "m5.4xlarge": 0.768, "m5a.large": 0.086,
    "m5a.xlarge": 0.172, "m6i.large": 0.096, "m6i.xlarge": 0.192, "m6a.large": 0.0864, "m7i.large": 0.1008,
    "c5.large": 0.085, "c5.xlarge": 0.17, "c5.2xlarge": 0.34, "c6i.large": 0.085, "c6i.xlarge": 0.17,
    "c7i.large": 0.08925, "r5.large": 0.126, "t3.large": 0.0832, "t3.medium": 0.0416, "m7g.large": 0.0816,
    "g4dn.xlarge": 0.526, "g4dn.2xlarge": 0.752, "g4dn.4xlarge": 1.204, "g4dn.12xlarge": 3.912, "g5.xlarge": 1.006,
    "g5.2xlarge": 1.212, "g5.4xlarge": 1.624, "g6.xlarge": 0.8048, "g6.2xlarge": 0.9776, "p3.2xlarge": 3.06,
}  # fmt: skip
_SCARCE = ("g5", "g6", "p3", "p4d", "p5")  # families whose spot price is hardly lower
_STEP_S = 6 * 3600.0  # between two changes of a spot price


@dataclass(frozen=True)
class Image:
    """An AMI. parameter: its public parameter in Systems Manager. torch: whether PyTorch is at /opt/pytorch."""

    name: str
    parameter: str
    architecture: str
    root: str
    torch: bool
    gigabytes: int

    @property
    def id(self) -> str:
        return fixed_id("ami", self.name)

    def describe(self) -> dict[str, Any]:
        volume = {"DeleteOnTermination": True, "VolumeSize": self.gigabytes, "VolumeType": "gp3", "Encrypted": False}
        ebs = {**volume, "SnapshotId": fixed_id("snap", self.name), "Iops": 3000, "Throughput": 125}
        return {
            "ImageId": self.id,
            "Name": self.name,
            "Description": self.name,
            "Architecture": self.architecture,
            "CreationDate": "2026-11-20T08:00:00.000Z",
            "DeprecationTime": "2028-11-20T08:00:00.000Z",
            "ImageLocation": f"amazon/{self.name}",
            "ImageType": "machine",
            "Public": True,
            "OwnerId": "898082745236" if "Deep Learning" in self.name else "137112412989",
            "ImageOwnerAlias": "amazon",
            "State": "available",
            "RootDeviceName": self.root,
            "RootDeviceType": "ebs",
            "BlockDeviceMappings": [{"DeviceName": self.root, "Ebs": ebs}],
            "VirtualizationType": "hvm",
            "Hypervisor": "xen",
            "EnaSupport": True,
            "SriovNetSupport": "simple",
            "PlatformDetails": "Linux/UNIX",
            "BootMode": "uefi-preferred",
        }


_DLAMI, _LINUX = "/aws/service/deeplearning/ami/{}/{}/latest/ami-id", "/aws/service/ami-amazon-linux-latest/{}"


def _dlami(architecture: str, framework: str, system: str, *, torch: bool = True) -> Image:
    spelled = "Ubuntu " + system[7:] if system.startswith("ubuntu") else "Amazon Linux 2023"
    what = f"OSS Nvidia Driver AMI GPU PyTorch {framework}" if torch else "Base OSS Nvidia Driver GPU AMI"
    arm = "ARM64 " if architecture == "arm64" else ""
    line = f"oss-nvidia-driver-gpu-pytorch-{framework}-{system}" if torch else f"base-oss-nvidia-driver-gpu-{system}"
    root = "/dev/sda1" if system.startswith("ubuntu") else "/dev/xvda"
    name = f"Deep Learning {arm}{what} ({spelled}) 20261120"
    return Image(name, _DLAMI.format(architecture, line), architecture, root, torch, 75 if torch else 60)


IMAGES = (
    _dlami("x86_64", "2.13", "ubuntu-26.04"),
    _dlami("x86_64", "2.13", "amazon-linux-2023"),
    _dlami("x86_64", "2.12", "ubuntu-24.04"),
    _dlami("x86_64", "2.11", "amazon-linux-2023"),
    _dlami("x86_64", "2.10", "ubuntu-24.04"),
    _dlami("x86_64", "2.10", "amazon-linux-2023"),
    _dlami("x86_64", "", "ubuntu-24.04", torch=False),
    _dlami("x86_64", "", "amazon-linux-2023", torch=False),
    _dlami("arm64", "2.12", "ubuntu-24.04"),
    _dlami("arm64", "2.11", "amazon-linux-2023"),
    *(
        Image(
            f"al2023-ami-2023.9.20261120.0-kernel-6.1-{architecture}",
            _LINUX.format(f"al2023-ami-kernel-default-{architecture}"),
            architecture,
            "/dev/xvda",
            False,
            8,
        )
        for architecture in ("x86_64", "arm64")
    ),
)
IMAGE_OF = {image.id: image for image in IMAGES}
PARAMETERS = {image.parameter: image.id for image in IMAGES}


@lru_cache
def types() -> Mapping[str, Mapping[str, Any]]:
    """Return what DescribeInstanceTypes says of each type."""
    found: Mapping[str, Mapping[str, Any]] = load_resource("ec2/resources/instance_types.json")
    return found


@lru_cache
def offerings() -> frozenset[tuple[str, str]]:
    """Return the instance types of each zone, as (type, zone)."""
    rows = load_resource(f"ec2/resources/instance_type_offerings/availability-zone/{REGION}.json")
    return frozenset((row["InstanceType"], row["Location"]) for row in rows)


def vcpus(kind: str) -> int:
    return int(types()[kind]["VCpuInfo"]["DefaultVCpus"])


def architectures(kind: str) -> list[str]:
    return list(types()[kind]["ProcessorInfo"]["SupportedArchitectures"])


# --- prices ---


def usd(kind: str) -> float:
    """Return the price on demand per hour. A type without a known price costs what its size suggests."""
    if kind in _USD:
        return _USD[kind]
    memory = types()[kind]["MemoryInfo"]["SizeInMiB"] / 1024
    gpus = sum(gpu["Count"] for gpu in types()[kind].get("GpuInfo", {}).get("Gpus", ()))
    return float(round(0.031 * vcpus(kind) + 0.0042 * memory + 0.42 * gpus, 4))


def spot_usd(kind: str, zone: str, at: float) -> float:
    """Return the spot price per hour at a moment: by type and zone, changing a little every few hours."""
    least, most = (0.88, 1.0) if kind.partition(".")[0] in _SCARCE else (0.3, 0.5)
    share = least + (most - least) * _drawn(f"{kind} {zone}")
    wave = 0.03 * math.sin(at / _STEP_S / 3 + 6 * _drawn(f"{zone} {kind}")) + 0.01 * _drawn(f"{kind}{zone}{_step(at)}")
    return round(usd(kind) * min(1.0, share + wave), 4)


def spot_history(kind: str, zone: str, start: float, end: float) -> Iterator[tuple[float, float]]:
    """Yield (moment, price): the changes from start to end, the latest first, and the last one before them."""
    step = _step(end)
    while True:
        at = step * _STEP_S
        yield at, spot_usd(kind, zone, at)
        if at <= start:
            return
        step -= 1


def _step(at: float) -> int:
    return int(at // _STEP_S)


def _drawn(seed: str) -> float:
    return int(hashlib.sha256(seed.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


# --- quotas: vCPUs that run at once ---


@dataclass(frozen=True)
class Quota:
    """A quota of EC2's. families: first letters of the families that it counts."""

    code: str
    name: str
    families: tuple[str, ...]
    spot: bool
    vcpus: int


_STANDARD, _GRAPHICS = ("a", "c", "d", "h", "i", "m", "r", "t", "z"), ("g", "vt")
QUOTAS = (
    Quota("L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", _STANDARD, True, 256),
    Quota("L-3819A6DF", "All G and VT Spot Instance Requests", _GRAPHICS, True, 64),
    Quota("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests", ("p",), True, 64),
    Quota("L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", _STANDARD, False, 256),
    Quota("L-DB2E81BA", "Running On-Demand G and VT instances", _GRAPHICS, False, 64),
    Quota("L-417A185B", "Running On-Demand P instances", ("p",), False, 64),
)


def quota_of(kind: str, *, spot: bool) -> Quota | None:
    """Return the quota that an instance of a type counts for."""
    family = "vt" if kind.startswith("vt") else kind[0]
    return next((each for each in QUOTAS if each.spot is spot and family in each.families), None)
