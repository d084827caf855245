"""EC2's networks in the rehearsal: one VPC, the default one, with a subnet in each zone, and security groups."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dogbreed.run_folder import write_json
from launchers.rehearsal.access import HERE
from launchers.rehearsal.names import ACCOUNT, Server
from launchers.rehearsal.service import Answer, Call, Handler, Refused
from launchers.rehearsal.services.ec2_answers import (
    fixed_id,
    handlers,
    matching,
    new_id,
    paged,
    tag_list,
    tags_for,
)
from launchers.rehearsal.services.ec2_catalog import ZONES

VPC = fixed_id("vpc", "default")
_EVERYWHERE = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
_Rules = list[dict[str, Any]]


class Network:
    """VPC, subnets and security groups. file: keeps them. used: the security groups of instances that are not ended."""

    active = False

    def __init__(self, file: Path, used: Callable[[], set[str]]) -> None:
        self.file, self._used = file, used
        self._lock = threading.RLock()
        self.vpcs: dict[str, dict[str, Any]] = {}
        self.subnets: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, dict[str, Any]] = {}

    @property
    def operations(self) -> Mapping[tuple[str, str], Handler]:
        return handlers(
            "ec2",
            {
                "DescribeVpcs": self.describe_vpcs,
                "DescribeSubnets": self.describe_subnets,
                "DescribeSecurityGroups": self.describe_groups,
                "CreateSecurityGroup": self.create_group,
                "DeleteSecurityGroup": self.delete_group,
                "AuthorizeSecurityGroupIngress": lambda call: self.change(call, "IpPermissions", add=True),
                "AuthorizeSecurityGroupEgress": lambda call: self.change(call, "IpPermissionsEgress", add=True),
                "RevokeSecurityGroupIngress": lambda call: self.change(call, "IpPermissions", add=False),
                "RevokeSecurityGroupEgress": lambda call: self.change(call, "IpPermissionsEgress", add=False),
                "DeleteSubnet": self.delete_subnet,
                "DeleteVpc": self.delete_vpc,
                "CreateDefaultVpc": self.create_vpc,
            },
        )

    def begin(self, server: Server) -> None:
        if self.file.exists():
            saved = json.loads(self.file.read_bytes())
            self.vpcs, self.subnets, self.groups = saved["vpcs"], saved["subnets"], saved["groups"]
        else:
            self._furnish()

    def end(self) -> None:
        """All of it is in the file."""

    def subnet(self, identity: str) -> dict[str, Any]:
        if identity not in self.subnets:
            raise Refused("InvalidSubnetID.NotFound", f"The subnet ID '{identity}' does not exist")
        return self.subnets[identity]

    def group(self, identity: str) -> dict[str, Any]:
        if identity not in self.groups:
            raise Refused("InvalidGroup.NotFound", f"The security group '{identity}' does not exist")
        return self.groups[identity]

    def tags_of(self, identity: str) -> dict[str, str] | None:
        """Return the tags of a security group, which can be changed; None if there is no such group."""
        found: dict[str, str] | None = self.groups[identity]["tags"] if identity in self.groups else None
        return found

    # --- VPC and subnets ---

    def describe_vpcs(self, call: Call) -> Answer:
        asked = call.parameters
        for identity in asked.get("VpcIds", ()):
            if identity not in self.vpcs:
                raise Refused("InvalidVpcID.NotFound", f"The vpc ID '{identity}' does not exist")
        found = [vpc for name, vpc in self.vpcs.items() if name in asked.get("VpcIds", self.vpcs)]
        known = {
            "is-default": lambda item: [item["IsDefault"]],
            "isDefault": lambda item: [item["IsDefault"]],
            "vpc-id": lambda item: [item["VpcId"]],
            "state": lambda item: [item["State"]],
        }
        return paged("Vpcs", matching(found, asked, known), asked)

    def describe_subnets(self, call: Call) -> Answer:
        asked = call.parameters
        found = [self.subnet(each) for each in asked.get("SubnetIds", sorted(self.subnets))]
        known = {
            "vpc-id": lambda item: [item["VpcId"]],
            "subnet-id": lambda item: [item["SubnetId"]],
            "availability-zone": lambda item: [item["AvailabilityZone"]],
            "default-for-az": lambda item: [item["DefaultForAz"]],
            "state": lambda item: [item["State"]],
            "map-public-ip-on-launch": lambda item: [item["MapPublicIpOnLaunch"]],
        }
        return paged("Subnets", matching(found, asked, known), asked)

    def delete_subnet(self, call: Call) -> Answer:
        with self._lock:
            del self.subnets[self.subnet(call.parameters["SubnetId"])["SubnetId"]]
            self._save()
        return {}

    def delete_vpc(self, call: Call) -> Answer:
        with self._lock:
            if call.parameters["VpcId"] not in self.vpcs:
                text = f"The vpc ID '{call.parameters['VpcId']}' does not exist"
                raise Refused("InvalidVpcID.NotFound", text)
            if self.subnets or any(each["GroupName"] != "default" for each in self.groups.values()):
                text = f"The vpc '{call.parameters['VpcId']}' has dependencies and cannot be deleted."
                raise Refused("DependencyViolation", text)
            self.vpcs, self.groups = {}, {}
            self._save()
        return {}

    def create_vpc(self, call: Call) -> Answer:
        with self._lock:
            if self.vpcs:
                text = "A Default VPC already exists for this account in this region."
                raise Refused("DefaultVpcAlreadyExists", text)
            self._furnish()
        return {"Vpc": self.vpcs[VPC]}

    def _furnish(self) -> None:
        about = {"CidrBlock": "172.31.0.0/16", "DhcpOptionsId": "default", "InstanceTenancy": "default"}
        self.vpcs = {VPC: {**about, "VpcId": VPC, "State": "available", "IsDefault": True, "OwnerId": ACCOUNT}}
        self.subnets = {}
        for number, (zone, zone_id) in enumerate(ZONES.items()):
            identity = fixed_id("subnet", zone)
            self.subnets[identity] = {
                "SubnetId": identity,
                "SubnetArn": HERE.arn("ec2", f"subnet/{identity}"),
                "VpcId": VPC,
                "AvailabilityZone": zone,
                "AvailabilityZoneId": zone_id,
                "CidrBlock": f"172.31.{16 * number}.0/20",
                "AvailableIpAddressCount": 4091,
                "DefaultForAz": True,
                "MapPublicIpOnLaunch": True,
                "State": "available",
                "OwnerId": ACCOUNT,
                "Tags": [],
            }
        default = self._group(fixed_id("sg", "default"), "default", "default VPC security group", {})
        same = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": default["GroupId"], "UserId": ACCOUNT}]}
        default["IpPermissions"] = [same]
        self._save()

    # --- security groups ---

    def describe_groups(self, call: Call) -> Answer:
        asked = call.parameters
        found = [self.group(each) for each in asked.get("GroupIds", sorted(self.groups))]
        for name in asked.get("GroupNames", ()):
            if not any(each["GroupName"] == name for each in found):
                raise Refused("InvalidGroup.NotFound", f"The security group '{name}' does not exist in default VPC")
        if "GroupNames" in asked:
            found = [each for each in found if each["GroupName"] in asked["GroupNames"]]
        known = {
            "group-name": lambda item: [item["GroupName"]],
            "group-id": lambda item: [item["GroupId"]],
            "vpc-id": lambda item: [item["VpcId"]],
        }
        return paged("SecurityGroups", matching(map(_shown, found), asked, known), asked)

    def create_group(self, call: Call) -> Answer:
        asked = call.parameters
        name, vpc = asked["GroupName"], asked.get("VpcId", VPC)
        with self._lock:
            if vpc not in self.vpcs:
                if "VpcId" in asked:
                    raise Refused("InvalidVpcID.NotFound", f"The vpc ID '{vpc}' does not exist")
                raise Refused("VPCIdNotSpecified", "No default VPC for this user")
            if any(each["GroupName"] == name for each in self.groups.values()):
                text = f"The security group '{name}' already exists for VPC '{vpc}'"
                raise Refused("InvalidGroup.Duplicate", text)
            tags = tags_for(asked.get("TagSpecifications", ()), "security-group")
            group = self._group(new_id("sg"), name, asked["Description"], tags)
            self._save()
        arn = HERE.arn("ec2", f"security-group/{group['GroupId']}")
        return {"GroupId": group["GroupId"], "Tags": tag_list(tags), "SecurityGroupArn": arn}

    def delete_group(self, call: Call) -> Answer:
        with self._lock:
            group = self.group(_group_id(self.groups, call.parameters))
            if group["GroupName"] == "default":
                text = f'the specified group: "{group["GroupId"]}" name: "default" cannot be deleted by a user'
                raise Refused("CannotDelete", text)
            if group["GroupId"] in self._used():
                raise Refused("DependencyViolation", f"resource {group['GroupId']} has a dependent object")
            del self.groups[group["GroupId"]]
            self._save()
        return {"Return": True, "GroupId": group["GroupId"]}

    def change(self, call: Call, direction: str, *, add: bool) -> Answer:
        with self._lock:
            group = self.group(_group_id(self.groups, call.parameters))
            rules: _Rules = group[direction]
            for rule in _rules(call.parameters):
                if add and rule in rules:
                    text = "the specified rule already exists"
                    raise Refused("InvalidPermission.Duplicate", text)
                if not add and rule not in rules:
                    text = "The specified rule does not exist in this security group."
                    raise Refused("InvalidPermission.NotFound", text)
                rules.append(rule) if add else rules.remove(rule)
            self._save()
        return {"Return": True}

    def save(self) -> None:
        """Keep a change of the tags of a group."""
        with self._lock:
            self._save()

    def _group(self, identity: str, name: str, about: str, tags: dict[str, str]) -> dict[str, Any]:
        self.groups[identity] = {
            "GroupId": identity,
            "SecurityGroupArn": HERE.arn("ec2", f"security-group/{identity}"),
            "GroupName": name,
            "Description": about,
            "VpcId": VPC,
            "OwnerId": ACCOUNT,
            "IpPermissions": [],
            "IpPermissionsEgress": [json.loads(json.dumps(_EVERYWHERE))],
            "tags": tags,
        }
        return self.groups[identity]

    def _save(self) -> None:
        write_json(self.file, {"vpcs": self.vpcs, "subnets": self.subnets, "groups": self.groups})


def _shown(group: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: value for key, value in group.items() if key != "tags"}, "Tags": tag_list(group["tags"])}


def _group_id(groups: Mapping[str, Mapping[str, Any]], asked: Mapping[str, Any]) -> str:
    if "GroupId" in asked:
        return str(asked["GroupId"])
    if "GroupName" not in asked:
        raise Refused("MissingParameter", "The request must contain the parameter groupName or groupId")
    named = (identity for identity, group in groups.items() if group["GroupName"] == asked["GroupName"])
    return next(named, asked["GroupName"])


def _rules(asked: Mapping[str, Any]) -> _Rules:
    if "IpPermissions" in asked:
        return [dict(each) for each in asked["IpPermissions"]]
    rule = {key: asked[key] for key in ("IpProtocol", "FromPort", "ToPort") if key in asked}
    return [{**rule, "IpRanges": [{"CidrIp": asked["CidrIp"]}]}] if "CidrIp" in asked else [rule]
