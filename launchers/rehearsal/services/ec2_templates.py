"""EC2's launch templates, and the check of what instances are launched from."""

import base64
import binascii
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moto.iam.models import iam_backends

from dogbreed.run_folder import write_json
from launchers.rehearsal.names import ACCOUNT, Server
from launchers.rehearsal.service import Answer, Call, Handler, Refused
from launchers.rehearsal.services.ec2_answers import handlers, matching, moment, new_id, paged, tag_list, tags_for
from launchers.rehearsal.services.ec2_catalog import IMAGE_OF, types
from launchers.rehearsal.services.ec2_network import Network

_USER_DATA_MOST = 16384  # bytes, before base64


class Templates:
    """All launch templates. file: keeps them."""

    active = False

    def __init__(self, file: Path, network: Network) -> None:
        self.file, self.network = file, network
        self._lock = threading.RLock()
        self._templates: dict[str, dict[str, Any]] = {}  # by id

    @property
    def operations(self) -> Mapping[tuple[str, str], Handler]:
        return handlers(
            "ec2",
            {
                "CreateLaunchTemplate": self.create,
                "CreateLaunchTemplateVersion": self.create_version,
                "ModifyLaunchTemplate": self.modify,
                "DescribeLaunchTemplates": self.describe,
                "DescribeLaunchTemplateVersions": self.versions,
                "DeleteLaunchTemplate": self.delete,
            },
        )

    def begin(self, server: Server) -> None:
        if self.file.exists():
            self._templates = json.loads(self.file.read_bytes())

    def end(self) -> None:
        """All of it is in the file."""

    @property
    def ids(self) -> list[str]:
        return list(self._templates)

    def find(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """Return the template that a specification names, by id or by name. Raises Refused."""
        if ("LaunchTemplateId" in named) == ("LaunchTemplateName" in named):
            text = "Exactly one of launchTemplateId and launchTemplateName must be specified."
            raise Refused(
                "MissingParameter" if "LaunchTemplateId" not in named else "InvalidParameterCombination", text
            )
        if "LaunchTemplateId" in named:
            if named["LaunchTemplateId"] not in self._templates:
                text = f"The specified launch template, with template ID {named['LaunchTemplateId']}, does not exist."
                raise Refused("InvalidLaunchTemplateId.NotFound", text)
            return self._templates[named["LaunchTemplateId"]]
        for template in self._templates.values():
            if template["name"] == named["LaunchTemplateName"]:
                return template
        text = f"The specified launch template, with template name {named['LaunchTemplateName']}, does not exist."
        raise Refused("InvalidLaunchTemplateName.NotFoundException", text)

    def data(self, named: Mapping[str, Any]) -> tuple[str, int, dict[str, Any]]:
        """Return a template's id, the number of the version that is named, and its data. Raises Refused."""
        template = self.find(named)
        asked = str(named.get("Version") or "$Default")
        number = {"$Default": template["default"], "$Latest": len(template["versions"])}.get(asked)
        if number is None:
            number = int(asked) if asked.isdigit() else 0
        if not 1 <= number <= len(template["versions"]):
            text = f"Could not find launch template version {asked} for launch template {template['id']}."
            raise Refused("InvalidLaunchTemplateId.VersionNotFound", text)
        return template["id"], number, dict(template["versions"][number - 1]["data"])

    # --- operations ---

    def create(self, call: Call) -> Answer:
        asked = call.parameters
        check(asked["LaunchTemplateData"])
        with self._lock:
            for other in self._templates.values():
                token = asked.get("ClientToken")
                if token and other.get("token") == token:
                    return {"LaunchTemplate": _shown(other)}
                if other["name"] == asked["LaunchTemplateName"]:
                    text = f"Launch template name already in use: {other['name']}."
                    raise Refused("InvalidLaunchTemplateName.AlreadyExistsException", text)
            template = {
                "id": new_id("lt"),
                "name": asked["LaunchTemplateName"],
                "created": time.time(),
                "by": call.caller,
                "default": 1,
                "versions": [_version(asked)],
                "tags": tags_for(asked.get("TagSpecifications", ()), "launch-template"),
                "token": asked.get("ClientToken"),
            }
            self._templates[template["id"]] = template
            self.save()
        return {"LaunchTemplate": _shown(template)}

    def create_version(self, call: Call) -> Answer:
        with self._lock:
            template = self.find(call.parameters)
            source = call.parameters.get("SourceVersion")
            before = self.data({"LaunchTemplateId": template["id"], "Version": source})[2] if source else {}
            data = {**before, **call.parameters["LaunchTemplateData"]}
            check(data)
            template["versions"].append({**_version(call.parameters), "data": data})
            self.save()
        return {"LaunchTemplateVersion": _version_shown(template, len(template["versions"]))}

    def modify(self, call: Call) -> Answer:
        with self._lock:
            template = self.find(call.parameters)
            wanted = {"LaunchTemplateId": template["id"], "Version": call.parameters.get("DefaultVersion")}
            template["default"] = self.data(wanted)[1]
            self.save()
        return {"LaunchTemplate": _shown(template)}

    def describe(self, call: Call) -> Answer:
        asked = call.parameters
        named = [{"LaunchTemplateId": each} for each in asked.get("LaunchTemplateIds", ())]
        named += [{"LaunchTemplateName": each} for each in asked.get("LaunchTemplateNames", ())]
        with self._lock:
            found = [self.find(each) for each in named] if named else list(self._templates.values())
        known = {
            "launch-template-name": lambda item: [item["LaunchTemplateName"]],
            "create-time": lambda item: [item["CreateTime"]],
        }
        return paged("LaunchTemplates", matching(map(_shown, found), asked, known), asked)

    def versions(self, call: Call) -> Answer:
        template = self.find(call.parameters)
        numbers = range(1, len(template["versions"]) + 1)
        if "Versions" in call.parameters:
            numbers = [  # type: ignore[assignment]
                self.data({"LaunchTemplateId": template["id"], "Version": each})[1]
                for each in call.parameters["Versions"]
            ]
        found = [_version_shown(template, number) for number in numbers]
        return paged("LaunchTemplateVersions", found, call.parameters)

    def delete(self, call: Call) -> Answer:
        with self._lock:
            template = self._templates.pop(self.find(call.parameters)["id"])
            self.save()
        return {"LaunchTemplate": _shown(template)}

    def tags_of(self, identity: str) -> dict[str, str] | None:
        """Return the tags of a template, which can be changed; None if there is no such template."""
        found: dict[str, str] | None = self._templates[identity]["tags"] if identity in self._templates else None
        return found

    def save(self) -> None:
        with self._lock:
            write_json(self.file, self._templates)


def check(data: Mapping[str, Any]) -> None:
    """Raise Refused for what EC2 says of a template's data without looking anything up."""
    try:
        user_data = base64.b64decode(data.get("UserData", ""), validate=True)
    except binascii.Error:
        raise Refused("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None
    if len(user_data) > _USER_DATA_MOST:
        raise Refused("InvalidParameterValue", "User data is limited to 16384 bytes")
    for network in data.get("NetworkInterfaces", ()):
        if network.get("Groups") and (data.get("SecurityGroupIds") or data.get("SecurityGroups")):
            text = "Network interfaces and an instance-level security groups may not be specified on the same request"
            raise Refused("InvalidParameterCombination", text)
    kind = data.get("InstanceType")
    if kind is not None and kind not in types():
        raise Refused("InvalidInstanceType", f"Invalid value '{kind}' for InstanceType.")


def check_known(data: Mapping[str, Any], network: Network) -> None:
    """Raise Refused if something that the data names does not exist, or is not of use."""
    image = data.get("ImageId")
    if image is None:
        raise Refused("MissingParameter", "The request must contain the parameter ImageId")
    if image not in IMAGE_OF:
        raise Refused("InvalidAMIID.NotFound", f"The image id '[{image}]' does not exist")
    for identity in groups_of(data):
        network.group(identity)
    if "IamInstanceProfile" in data:
        role_of(data["IamInstanceProfile"])


def groups_of(data: Mapping[str, Any]) -> list[str]:
    return [
        *data.get("SecurityGroupIds", ()),
        *(group for each in data.get("NetworkInterfaces", ()) for group in each.get("Groups", ())),
    ]


def role_of(profile: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the ARN of an instance profile and that of its role, None if it has none. Raises Refused."""
    for name, found in iam_backends[ACCOUNT]["aws"].instance_profiles.items():
        if profile.get("Name") == name or profile.get("Arn") == found.arn:
            return found.arn, found.roles[0].arn if found.roles else None
    kind = "name" if "Name" in profile else "arn"
    value, spelled = profile.get("Name") or profile.get("Arn"), "name" if kind == "name" else "ARN"
    text = f"Value ({value}) for parameter iamInstanceProfile.{kind} is invalid. Invalid IAM Instance Profile {spelled}"
    raise Refused("InvalidParameterValue", text)


def _version(asked: Mapping[str, Any]) -> dict[str, Any]:
    about = {"data": dict(asked["LaunchTemplateData"]), "created": time.time()}
    return {**about, "description": asked.get("VersionDescription", "")}


def _shown(template: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "LaunchTemplateId": template["id"],
        "LaunchTemplateName": template["name"],
        "CreateTime": moment(template["created"]),
        "CreatedBy": template["by"],
        "DefaultVersionNumber": template["default"],
        "LatestVersionNumber": len(template["versions"]),
        "Tags": tag_list(template["tags"]),
    }


def _version_shown(template: Mapping[str, Any], number: int) -> dict[str, Any]:
    version = template["versions"][number - 1]
    return {
        "LaunchTemplateId": template["id"],
        "LaunchTemplateName": template["name"],
        "VersionNumber": number,
        "VersionDescription": version["description"],
        "CreateTime": moment(version["created"]),
        "CreatedBy": template["by"],
        "DefaultVersion": number == template["default"],
        "LaunchTemplateData": version["data"],
    }
