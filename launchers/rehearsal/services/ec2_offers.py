"""What EC2 offers, as its interfaces tell it: instance types, zones, images, spot prices, quotas."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from launchers.rehearsal.access import HERE
from launchers.rehearsal.names import REGION, Server
from launchers.rehearsal.service import Answer, Call, Handler, Refused
from launchers.rehearsal.services.ec2_answers import handlers, matching, moment, paged, seconds_of
from launchers.rehearsal.services.ec2_catalog import (
    IMAGE_OF,
    IMAGES,
    PARAMETERS,
    QUOTAS,
    ZONES,
    Quota,
    offerings,
    spot_history,
    types,
)

_HISTORY_S = 90 * 86400.0  # for which spot prices are kept
_AWS_PARAMETERS = ("/aws/", "aws/")


class Offers:
    """Read-only: nothing of it changes."""

    active = False

    def begin(self, server: Server) -> None:
        """There is no state."""

    def end(self) -> None:
        """There is nothing to stop."""

    @property
    def operations(self) -> Mapping[tuple[str, str], Handler]:
        ec2: dict[str, Handler] = {
            "DescribeAvailabilityZones": self.zones,
            "DescribeRegions": self.regions,
            "DescribeInstanceTypes": self.types,
            "DescribeInstanceTypeOfferings": self.offerings,
            "DescribeImages": self.images,
            "DescribeSpotPriceHistory": self.prices,
        }
        systems: dict[str, Handler] = {
            "GetParameter": self.parameter,
            "GetParameters": self.parameters,
            "GetParametersByPath": self.parameters_below,
        }
        quotas: dict[str, Handler] = {
            "GetServiceQuota": self.quota,
            "GetAWSDefaultServiceQuota": self.quota,
            "ListServiceQuotas": self.quotas,
        }
        return {
            **handlers("ec2", ec2),
            **handlers("ssm", systems),
            **handlers("servicequotas", quotas),
        }

    # --- EC2 ---

    def zones(self, call: Call) -> Answer:
        found = [
            {
                "ZoneName": name,
                "ZoneId": identity,
                "State": "available",
                "RegionName": REGION,
                "ZoneType": "availability-zone",
                "GroupName": f"{REGION}-zg-1",
                "NetworkBorderGroup": REGION,
                "OptInStatus": "opt-in-not-required",
                "Messages": [],
            }
            for name, identity in ZONES.items()
            if name in call.parameters.get("ZoneNames", ZONES)
        ]
        known = {"zone-name": lambda item: [item["ZoneName"]], "state": lambda item: [item["State"]]}
        return {"AvailabilityZones": matching(found, call.parameters, known)}

    def regions(self, call: Call) -> Answer:
        here = {"RegionName": REGION, "Endpoint": f"ec2.{REGION}.amazonaws.com", "OptInStatus": "opt-in-not-required"}
        return {"Regions": [here]}

    def types(self, call: Call) -> Answer:
        asked = call.parameters.get("InstanceTypes", ())
        if unknown := [each for each in asked if each not in types()]:
            raise Refused("InvalidInstanceType", f"The following supplied instance types do not exist: {unknown}")
        found = [types()[name] for name in (asked or sorted(types()))]
        known = {
            "instance-type": lambda item: [item["InstanceType"]],
            "current-generation": lambda item: [item["CurrentGeneration"]],
            "processor-info.supported-architecture": lambda item: item["ProcessorInfo"]["SupportedArchitectures"],
            "supported-usage-class": lambda item: item["SupportedUsageClasses"],
            "vcpu-info.default-vcpus": lambda item: [item["VCpuInfo"]["DefaultVCpus"]],
        }
        return paged("InstanceTypes", matching(found, call.parameters, known), call.parameters)

    def offerings(self, call: Call) -> Answer:
        kind = call.parameters.get("LocationType", "region")
        if kind == "region":
            found = [(name, REGION) for name in sorted({name for name, _ in offerings()})]
        elif kind == "availability-zone":
            found = sorted(offerings())
        else:
            raise Refused("InvalidParameterValue", f"The rehearsal cloud has no offerings by {kind}.")
        rows = [{"InstanceType": name, "LocationType": kind, "Location": place} for name, place in found]
        known = {"instance-type": lambda item: [item["InstanceType"]], "location": lambda item: [item["Location"]]}
        return paged("InstanceTypeOfferings", matching(rows, call.parameters, known), call.parameters)

    def images(self, call: Call) -> Answer:
        asked = call.parameters.get("ImageIds", ())
        if missing := [each for each in asked if each not in IMAGE_OF]:
            raise Refused("InvalidAMIID.NotFound", f"The image id '[{', '.join(missing)}]' does not exist")
        owners = call.parameters.get("Owners", ())
        found = [image.describe() for image in IMAGES if image.id in asked or not asked]
        found = [each for each in found if not owners or {"amazon", each["OwnerId"]} & set(owners)]
        known = {
            "name": lambda item: [item["Name"]],
            "architecture": lambda item: [item["Architecture"]],
            "state": lambda item: [item["State"]],
            "image-id": lambda item: [item["ImageId"]],
        }
        return paged("Images", matching(found, call.parameters, known), call.parameters)

    def prices(self, call: Call) -> Answer:
        asked = call.parameters
        if asked.get("ProductDescriptions") and not _linux(asked["ProductDescriptions"]):
            return {"SpotPriceHistory": [], "NextToken": ""}
        now = time.time()
        end = min(now, seconds_of(asked["EndTime"])) if "EndTime" in asked else now
        start = max(now - _HISTORY_S, min(seconds_of(asked.get("StartTime", end)), end))
        kinds = asked.get("InstanceTypes") or sorted({name for name, _ in offerings()})
        found = []
        for kind in kinds:
            for zone in ZONES:
                if (kind, zone) in offerings() and asked.get("AvailabilityZone", zone) == zone:
                    for at, price in spot_history(kind, zone, start, end):
                        row = {"AvailabilityZone": zone, "AvailabilityZoneId": ZONES[zone], "InstanceType": kind}
                        row |= {"ProductDescription": "Linux/UNIX", "SpotPrice": f"{price:.6f}"}
                        found.append({**row, "Timestamp": moment(at)})
        found.sort(key=lambda row: row["Timestamp"], reverse=True)
        known = {
            "instance-type": lambda item: [item["InstanceType"]],
            "availability-zone": lambda item: [item["AvailabilityZone"]],
            "product-description": lambda item: [item["ProductDescription"]],
        }
        return paged("SpotPriceHistory", matching(found, asked, known), asked)

    # --- Systems Manager: AWS's public parameters; moto has the account's own ---

    def parameter(self, call: Call) -> Answer | None:
        name = call.parameters["Name"]
        if not name.startswith(_AWS_PARAMETERS):
            return None
        if name not in PARAMETERS:
            raise Refused("ParameterNotFound", "")
        return {"Parameter": _parameter(name)}

    def parameters(self, call: Call) -> Answer | None:
        names = call.parameters["Names"]
        if not any(name.startswith(_AWS_PARAMETERS) for name in names):
            return None
        found = [_parameter(name) for name in names if name in PARAMETERS]
        return {"Parameters": found, "InvalidParameters": [name for name in names if name not in PARAMETERS]}

    def parameters_below(self, call: Call) -> Answer | None:
        path = call.parameters["Path"]
        if not path.startswith(_AWS_PARAMETERS):
            return None
        prefix, deep = path.rstrip("/") + "/", call.parameters.get("Recursive", False)
        names = [name for name in PARAMETERS if name.startswith(prefix)]
        found = [_parameter(name) for name in names if deep or "/" not in name.removeprefix(prefix)]
        return paged("Parameters", found, call.parameters)

    # --- Service Quotas: those of EC2's vCPUs; moto has others ---

    def quota(self, call: Call) -> Answer | None:
        if call.parameters["ServiceCode"] != "ec2":
            return None
        code = call.parameters["QuotaCode"]
        found = next((each for each in QUOTAS if each.code == code), None)
        if found is None:
            raise Refused("NoSuchResourceException", f"The request failed because the quota {code} does not exist.")
        return {"Quota": _quota(found, call.faults.quotas)}

    def quotas(self, call: Call) -> Answer | None:
        if call.parameters["ServiceCode"] != "ec2":
            return None
        return paged("Quotas", [_quota(each, call.faults.quotas) for each in QUOTAS], call.parameters)


def _linux(products: Iterable[str]) -> bool:
    return any(name.startswith("Linux/UNIX") for name in products)


def _parameter(name: str) -> dict[str, Any]:
    arn = f"arn:aws:ssm:{REGION}::parameter{name}"
    about = {"Name": name, "Type": "String", "Value": PARAMETERS[name], "Version": 42, "ARN": arn}
    return {**about, "DataType": "aws:ec2:image", "LastModifiedDate": 1795161600.0}


def _quota(quota: Quota, given: Mapping[str, int]) -> dict[str, Any]:
    return {
        "ServiceCode": "ec2",
        "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
        "QuotaArn": HERE.arn("servicequotas", f"ec2/{quota.code}"),
        "QuotaCode": quota.code,
        "QuotaName": quota.name,
        "Value": float(given.get(quota.code, quota.vcpus)),
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
        "QuotaAppliedAtLevel": "ACCOUNT",
    }
