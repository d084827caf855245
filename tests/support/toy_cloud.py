"""A rehearsal cloud with two services of a few lines: `python -m tests.support.toy_cloud STATE_DIR IDLE_S`."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launchers.rehearsal.identity_store import IdentityStore
from launchers.rehearsal.names import ACCOUNT, REGION, Server
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.server import serve
from launchers.rehearsal.service import Answer, Call, Handler, invalid
from launchers.rehearsal.services.sagemaker_tags import kind_and_name, tag_operations

FOUND = "found.json"  # in the state folder: the groups that the follower has found at its end


@dataclass
class Group:
    file: Path
    description: str
    tags: dict[str, str] = field(default_factory=dict)

    def save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps({"description": self.description, "tags": self.tags}))


class ModelPackageGroups:
    """A group described as "runs" stands for something that runs, until it is deleted or the server ends.

    So does a file `held` in the folder, for as long as it is there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.groups: dict[str, Group] = {}
        self.operations: dict[tuple[str, str], Handler] = {
            ("sagemaker", "CreateModelPackageGroup"): self.create,
            ("sagemaker", "DescribeModelPackageGroup"): self.describe,
            ("sagemaker", "DeleteModelPackageGroup"): self.delete,
            **tag_operations(self._of_arn),
        }

    @property
    def active(self) -> bool:
        runs = any(group.description == "runs" for group in list(self.groups.values()))
        return runs or (self.folder / "held").exists()

    def begin(self, server: Server) -> None:
        for file in self.folder.glob("*.json"):
            self.groups[file.stem] = group = Group(file, **json.loads(file.read_bytes()))
            if group.description == "runs":
                group.description = "was killed"

    def end(self) -> None:
        for group in self.groups.values():
            group.description = "ended" if group.description == "runs" else group.description
            group.save()

    def create(self, call: Call) -> Answer:
        name = call.parameters["ModelPackageGroupName"]
        group = Group(self.folder / f"{name}.json", call.parameters.get("ModelPackageGroupDescription", ""))
        self.groups[name] = group
        group.save()
        return {"ModelPackageGroupArn": _arn(name)}

    def describe(self, call: Call) -> Answer:
        name = call.parameters["ModelPackageGroupName"]
        return {"ModelPackageGroupArn": _arn(name), "ModelPackageGroupDescription": self._group(name).description}

    def delete(self, call: Call) -> Answer:
        self.groups.pop(call.parameters["ModelPackageGroupName"]).file.unlink()
        return {}

    def _group(self, name: str) -> Group:
        if name not in self.groups:
            raise invalid(f"There is no group {name}.")
        return self.groups[name]

    def _of_arn(self, arn: str) -> Group | None:
        kind, name = kind_and_name(arn)
        return self._group(name) if kind == "model-package-group" else None


class Follower:
    """Acts on the groups until it ends, as Auto Scaling on machines. It notes in a file how it found them then."""

    active = False
    operations: Mapping[tuple[str, str], Handler] = {}

    def __init__(self, groups: ModelPackageGroups, file: Path) -> None:
        self.groups, self.file = groups, file

    def begin(self, server: Server) -> None: ...

    def end(self) -> None:
        self.file.write_text(json.dumps({name: each.description for name, each in self.groups.groups.items()}))


def _arn(name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:model-package-group/{name}"


if __name__ == "__main__":
    state_dir = Path(sys.argv[1])
    store, identities = ObjectStore(state_dir / "s3"), IdentityStore(state_dir / "iam.json")
    groups = ModelPackageGroups(state_dir / "groups")
    serve(state_dir, [groups, Follower(groups, state_dir / FOUND)], store, identities, float(sys.argv[2]))
    os._exit(0)  # as the cloud's own process ends
