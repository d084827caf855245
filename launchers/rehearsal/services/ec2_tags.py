"""Tags of EC2's resources in the rehearsal: instances, launch templates and security groups."""

from collections.abc import Mapping
from typing import Any

from launchers.rehearsal.access import HERE
from launchers.rehearsal.names import Server
from launchers.rehearsal.service import Answer, Call, Handler, Refused
from launchers.rehearsal.services.ec2_answers import handlers, matching, paged, tag_list
from launchers.rehearsal.services.ec2_instances import Instances

_KINDS = {"i": "instance", "lt": "launch-template", "sg": "security-group"}


class Tags:
    """The tags of the resources of other services."""

    active = False

    def __init__(self, instances: Instances) -> None:
        self.instances, self.templates, self.network = instances, instances.templates, instances.network

    @property
    def operations(self) -> Mapping[tuple[str, str], Handler]:
        public = {"CreateTags": self.create, "DeleteTags": self.delete, "DescribeTags": self.describe}
        return {**handlers("ec2", public), ("ec2", "ListTags"): self.of_arn, ("ec2", "ResourceOf"): self.resource}

    def begin(self, server: Server) -> None:
        """The resources keep their tags."""

    def end(self) -> None:
        """The resources keep their tags."""

    def create(self, call: Call) -> Answer:
        found = [self._of(identity) for identity in call.parameters["Resources"]]
        for tags in found:
            tags |= {tag["Key"]: tag.get("Value", "") for tag in call.parameters["Tags"]}
        self._save(call)
        return {}

    def delete(self, call: Call) -> Answer:
        for identity in call.parameters["Resources"]:
            tags = self._of(identity)
            for tag in call.parameters.get("Tags") or tag_list(tags):
                if tag.get("Value") in (None, tags.get(tag["Key"])):
                    tags.pop(tag["Key"], None)
        self._save(call)
        return {}

    def describe(self, call: Call) -> Answer:
        rows: list[dict[str, Any]] = []
        names = [*(each.id for each in self.instances.alive()), *self.templates.ids, *self.network.groups]
        for identity in names:
            about = {"ResourceId": identity, "ResourceType": _KINDS[identity.partition("-")[0]]}
            rows += [{**about, **tag} for tag in tag_list(self._of(identity))]
        known = {
            "resource-id": lambda row: [row["ResourceId"]],
            "resource-type": lambda row: [row["ResourceType"]],
            "key": lambda row: [row["Key"]],
            "value": lambda row: [row["Value"]],
        }
        return paged("Tags", matching(rows, call.parameters, known), call.parameters)

    def resource(self, call: Call) -> Answer | None:
        """Return the ARN of a launch template that a call names; for policies."""
        if call.parameters.get("Operation") not in ("DeleteLaunchTemplate", "ModifyLaunchTemplate"):
            return None
        identity = self.templates.find(call.parameters)["id"]
        return {"ResourceArn": HERE.arn("ec2", f"launch-template/{identity}")}

    def of_arn(self, call: Call) -> Answer | None:
        """Return the tags of a resource by its ARN; for conditions of policies."""
        kind, _, name = str(call.parameters.get("ResourceArn", "")).rpartition(":")[2].partition("/")
        if kind not in _KINDS.values():
            return None
        return {"Tags": tag_list(self._of(name))}

    def _of(self, identity: str) -> dict[str, str]:
        for owner in (self.instances, self.templates, self.network):
            if (tags := owner.tags_of(identity)) is not None:
                return tags
        raise Refused("InvalidID", f"The ID '{identity}' is not valid")

    def _save(self, call: Call) -> None:
        self.templates.save()
        self.network.save()
        for identity in call.parameters["Resources"]:
            if (instance := self.instances.find(identity)) is not None:
                instance.save()
