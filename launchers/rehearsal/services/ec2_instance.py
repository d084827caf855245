"""The record of an EC2 instance, as DescribeInstances shows it, and what it costs."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from launchers.rehearsal.access import HERE
from launchers.rehearsal.faults import Faults
from launchers.rehearsal.names import ACCOUNT
from launchers.rehearsal.services.ec2_answers import fixed_id, iso, moment, tag_list
from launchers.rehearsal.services.ec2_catalog import IMAGE_OF, spot_usd, types, usd
from launchers.rehearsal.services.ec2_network import VPC
from launchers.rehearsal.services.kept_record import KeptRecord

_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


@dataclass
class Instance(KeptRecord):
    """One instance.

    data: of the launch template or request, with the instance type. number: among its group's instances, from 1.
    faults: those of the client that launched it or made its group. began, ended: on the cloud's clock, the time that is
    billed; left: when its system began to shut down. launched: real seconds since 1970. kms_refused: whether its
    volume's key cannot be used.
    """

    FILE: ClassVar[str] = "instance.json"

    id: str
    type: str
    zone: str
    subnet: str
    address: str
    spot: bool
    data: dict[str, Any]
    launched: float
    tags: dict[str, str] = field(default_factory=dict)
    volume_tags: dict[str, str] = field(default_factory=dict)
    group: str | None = None
    template: tuple[str, int] | None = None
    profile: str | None = None
    role: str | None = None
    number: int = 1
    faults: dict[str, Any] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    kms_refused: bool = False
    price: float = 0.0
    state: str = "pending"
    code: str = ""  # of the reason for the last change of state
    reason: str = ""
    changed: float = 0.0
    impaired: bool = False
    began: float | None = None
    ended: float | None = None
    left: float | None = None

    # --- what it is ---

    @property
    def alive(self) -> bool:
        """Return whether it exists still: it may run, and costs."""
        return self.state not in ("terminated", "stopped")

    @property
    def image(self) -> str:
        return str(self.data["ImageId"])

    @property
    def architecture(self) -> str:
        return IMAGE_OF[self.image].architecture

    @property
    def script(self) -> bytes:
        return base64.b64decode(self.user_data)

    @property
    def user_data(self) -> str:
        return str(self.data.get("UserData", ""))

    @property
    def metadata(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.data.get("MetadataOptions", {})
        return found

    @property
    def host(self) -> str:
        return f"ip-{self.address.replace('.', '-')}.ec2.internal"

    @property
    def public(self) -> str | None:
        """Return its public address, which is no longer its own once it has ended."""
        wanted = [each.get("AssociatePublicIpAddress", True) for each in self.data.get("NetworkInterfaces", ())] or [1]
        return f"54.{self.address.partition('.')[2]}" if wanted[0] and self.alive else None

    @property
    def shutdown_behaviour(self) -> str:
        return str(self.data.get("InstanceInitiatedShutdownBehavior", "stop"))

    @property
    def injected(self) -> Faults:
        return Faults(**self.faults)

    @property
    def denied(self) -> tuple[str, ...]:
        return tuple(self.injected.denied_to_role)

    def volume(self) -> dict[str, Any]:
        """Return the root volume: the image's, as the request changes it."""
        image = IMAGE_OF[self.image]
        asked = [each for each in self.data.get("BlockDeviceMappings", ()) if each.get("DeviceName") == image.root]
        before = image.describe()["BlockDeviceMappings"][0]["Ebs"]
        return {**before, **(asked[0].get("Ebs", {}) if asked else {})}

    # --- changes ---

    def to(self, state: str, at: float, *, code: str = "", reason: str = "") -> None:
        """Change the state, and save. at: real seconds since 1970."""
        self.state, self.changed = state, at
        if code:
            self.code, self.reason = code, reason
        self.save()

    @classmethod
    def load_all(cls, folder: Path) -> list[Self]:
        return sorted(super().load_all(folder), key=lambda instance: instance.launched)

    # --- what it costs ---

    def seconds(self, now: float) -> float:
        """Return how long it has been billed for. now: on the cloud's clock."""
        return 0.0 if self.began is None else max(0.0, (self.ended if self.ended is not None else now) - self.began)

    def bill(self, now: float) -> dict[str, Any]:
        lasted = self.seconds(now)
        return {
            "instance": self.id,
            "type": self.type,
            "zone": self.zone,
            "lifecycle": "spot" if self.spot else "on-demand",
            "group": self.group,
            "tags": self.tags,
            "state": self.state,
            "launched": iso(self.launched),
            "billed": self.ended is None and self.alive,
            "seconds": round(lasted, 1),
            "usd_per_hour": self.price,
            "usd": round(self.price * lasted / 3600, 6),
        }

    def set_price(self, at: float) -> None:
        self.price = spot_usd(self.type, self.zone, at) if self.spot else usd(self.type)

    # --- as EC2 shows it ---

    def describe(self) -> dict[str, Any]:
        image, alive = IMAGE_OF[self.image], self.state != "terminated"
        found: dict[str, Any] = {
            "InstanceId": self.id,
            "ImageId": self.image,
            "InstanceType": self.type,
            "State": {"Code": _CODES[self.state], "Name": self.state},
            "PrivateDnsName": self.host if alive else "",
            "PublicDnsName": f"ec2-{self.public.replace('.', '-')}.compute-1.amazonaws.com" if self.public else "",
            "StateTransitionReason": f"{self.reason} ({iso(self.changed)})" if self.reason else "",
            "AmiLaunchIndex": 0,
            "ProductCodes": [],
            "LaunchTime": moment(self.launched),
            "Placement": {"AvailabilityZone": self.zone, "GroupName": "", "Tenancy": "default"},
            "Monitoring": {"State": "disabled"},
            "Architecture": image.architecture,
            "ClientToken": "",
            "EbsOptimized": bool(self.data.get("EbsOptimized", False)),
            "EnaSupport": True,
            "Hypervisor": "xen",
            "RootDeviceName": image.root,
            "RootDeviceType": "ebs",
            "VirtualizationType": "hvm",
            "PlatformDetails": "Linux/UNIX",
            "Tags": tag_list(self.tags),
            "MetadataOptions": {
                "State": "applied",
                "HttpTokens": self.metadata.get("HttpTokens", "required"),
                "HttpPutResponseHopLimit": self.metadata.get("HttpPutResponseHopLimit", 2),
                "HttpEndpoint": self.metadata.get("HttpEndpoint", "enabled"),
                "InstanceMetadataTags": self.metadata.get("InstanceMetadataTags", "disabled"),
            },
            "CpuOptions": {
                "CoreCount": types()[self.type]["VCpuInfo"].get("DefaultCores", 1),
                "ThreadsPerCore": types()[self.type]["VCpuInfo"].get("DefaultThreadsPerCore", 1),
            },
            "BlockDeviceMappings": [],
            "SecurityGroups": [],
            "NetworkInterfaces": [],
        }
        if self.spot:
            found |= {"InstanceLifecycle": "spot", "SpotInstanceRequestId": fixed_id("sir", self.id)}
        if self.code:
            found["StateReason"] = {"Code": self.code, "Message": f"{self.code}: {self.reason}"}
        if alive:
            found |= self._attached(image.root)
        return found

    def _attached(self, root: str) -> dict[str, Any]:
        """Return what an instance has until it is terminated."""
        volume = {"AttachTime": moment(self.launched), "Status": "attached", "VolumeId": self.volume_id}
        volume["DeleteOnTermination"] = self.volume().get("DeleteOnTermination", True)
        groups = [{"GroupId": each, "GroupName": each} for each in self.groups]
        found: dict[str, Any] = {
            "VpcId": VPC,
            "SubnetId": self.subnet,
            "PrivateIpAddress": self.address,
            "SecurityGroups": groups,
            "BlockDeviceMappings": [{"DeviceName": root, "Ebs": volume}],
        }
        if self.public:
            found["PublicIpAddress"] = self.public
        if self.profile:
            found["IamInstanceProfile"] = {"Arn": self.profile, "Id": "AIPAREHEARSAL"}
        return found

    @property
    def volume_id(self) -> str:
        return fixed_id("vol", self.id)

    @property
    def arn(self) -> str:
        return HERE.arn("ec2", f"instance/{self.id}")

    def describe_volume(self) -> dict[str, Any]:
        volume = self.volume()
        found = {
            "VolumeId": self.volume_id,
            "Size": volume["VolumeSize"],
            "VolumeType": volume["VolumeType"],
            "Encrypted": bool(volume.get("Encrypted", False)),
            "AvailabilityZone": self.zone,
            "State": "in-use",
            "CreateTime": moment(self.launched),
            "SnapshotId": volume.get("SnapshotId", ""),
            "Tags": tag_list(self.volume_tags),
            "Attachments": [{"InstanceId": self.id, "VolumeId": self.volume_id, "State": "attached"}],
        }
        if volume.get("Encrypted"):
            key = (
                volume.get("KmsKeyId") or f"arn:aws:kms:{HERE.region}:{ACCOUNT}:key/{fixed_id('aws-ebs', ACCOUNT)[8:]}"
            )
            found["KmsKeyId"] = key
        return found

    def describe_status(self) -> dict[str, Any]:
        known = self.state == "running"
        status = ("impaired" if self.impaired else "ok") if known else "not-applicable"
        details = [{"Name": "reachability", "Status": "failed" if self.impaired else "passed"}]
        summary = {"Status": status, "Details": details if known else []}
        return {
            "InstanceId": self.id,
            "AvailabilityZone": self.zone,
            "InstanceState": {"Code": _CODES[self.state], "Name": self.state},
            "InstanceStatus": summary,
            "SystemStatus": {**summary, "Status": "ok" if known else status},
        }
