"""Keep the roles, users, groups and policies of the rehearsal's IAM on disk: they survive a restart of the server."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moto.iam.aws_managed_policies import aws_managed_policies_data
from moto.iam.models import AWSManagedPolicy, Group, IAMBackend, Role, User, iam_backends

from dogbreed.run_folder import write_json
from launchers.aws.policy import document
from launchers.rehearsal.names import ACCOUNT, BUCKET, REGION, ROLE, ROLE_PATH
from launchers.rehearsal.principals import text_of

_MANAGED = "AmazonSageMakerFullAccess"
_saving = threading.Lock()  # threads of several requests save at the same time
_TRUST = document(
    [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}]
)
# what SageMaker's console adds to a role for the buckets that one names
_BUCKET_POLICY = document(
    [
        {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": f"arn:aws:s3:::{BUCKET}"},
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            "Resource": f"arn:aws:s3:::{BUCKET}/*",
        },
    ]
)


class IdentityStore:
    """moto answers from memory; the file has a copy of all roles, users, groups and customer managed policies."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @property
    def backend(self) -> IAMBackend:
        return iam_backends[ACCOUNT]["aws"]

    def load(self) -> None:
        """Restore what the file has; without a file, create the role of a new account, as SageMaker's console does."""
        self._add_managed_policy()
        if not self.file.exists():
            self._create(
                {"name": ROLE, "path": ROLE_PATH, "trust": json.dumps(_TRUST), "description": "of training jobs"}
                | {
                    "inline": {"Buckets": json.dumps(_BUCKET_POLICY)},
                    "attached": [f"arn:aws:iam::aws:policy/{_MANAGED}"],
                }
            )
            return
        saved = json.loads(self.file.read_bytes())
        for policy in saved["policies"]:
            self.backend.create_policy("", policy["path"], policy["document"], policy["name"], policy["tags"])
        for role in saved["roles"]:
            self._create(role)
        for user in saved.get("users", []):
            self._create_user(user)
        for group in saved.get("groups", []):
            self._create_group(group)
        for profile in saved.get("profiles", []):
            self.backend.create_instance_profile(profile["name"], profile["path"], profile["roles"], profile["tags"])

    def save(self) -> None:
        with _saving:
            self._save()

    def _save(self) -> None:
        backend = self.backend
        roles = [
            {
                **_common(role),
                "trust": role.assume_role_policy_document,
                "description": role.description,
                "tags": role.tags,
                "boundary": role.permissions_boundary_arn,
            }
            for role in list(backend.get_roles())
        ]
        users = [
            {
                **_common(user),
                "tags": user.tags or [],
                "keys": [[key.access_key_id, key.secret_access_key, key.status] for key in user.access_keys],
            }
            for user in list(backend.users.values())
        ]
        groups = [
            {**_common(group), "users": [user.name for user in group.users]} for group in list(backend.groups.values())
        ]
        policies = [
            {"name": each.name, "path": each.path, "document": text_of(each), "tags": list(each.tags.values())}
            for arn, each in list(backend.managed_policies.items())
            if f"::{ACCOUNT}:" in arn
        ]
        profiles = [
            {"name": each.name, "path": each.path, "roles": [role.name for role in each.roles], "tags": each.tags}
            for each in list(backend.instance_profiles.values())
        ]
        kept = {"roles": roles, "users": users, "groups": groups, "policies": policies, "profiles": profiles}
        write_json(self.file, kept)

    def _create(self, role: dict[str, Any]) -> None:
        backend, name = self.backend, role["name"]
        backend.create_role(
            name,
            role["trust"],
            path=role["path"],
            permissions_boundary=role.get("boundary"),
            description=role["description"],
            tags=role.get("tags", []),
            max_session_duration="3600",
        )
        for policy, text in role["inline"].items():
            backend.put_role_policy(name, policy, text)
        for arn in role["attached"]:
            backend.attach_role_policy(arn, name)

    def _create_user(self, user: Mapping[str, Any]) -> None:
        backend, name = self.backend, user["name"]
        made = backend.create_user(REGION, name, user["path"], user["tags"])
        for policy, text in user["inline"].items():
            backend.put_user_policy(name, policy, text)
        for arn in user["attached"]:
            backend.attach_user_policy(arn, name)
        for identity, secret, status in user["keys"]:
            key = made.create_access_key("AKIA", status)
            key.access_key_id, key.secret_access_key = identity, secret
            backend.access_keys[identity] = key

    def _create_group(self, group: Mapping[str, Any]) -> None:
        backend, name = self.backend, group["name"]
        backend.create_group(name, group["path"])
        for policy, text in group["inline"].items():
            backend.put_group_policy(name, policy, text)
        for arn in group["attached"]:
            backend.attach_group_policy(arn, name)
        for user in group["users"]:
            backend.add_user_to_group(name, user)

    def _add_managed_policy(self) -> None:
        """Add the AWS managed policy of SageMaker's roles; moto would parse all of AWS's, which takes long."""
        mark = f'"{_MANAGED}":'
        start = aws_managed_policies_data.index(mark) + len(mark)
        data, _ = json.JSONDecoder().raw_decode(aws_managed_policies_data, start)
        policy = AWSManagedPolicy.from_data(_MANAGED, ACCOUNT, REGION, data)
        self.backend.managed_policies[policy.arn] = policy


def _common(identity: Role | User | Group) -> dict[str, Any]:
    return {
        "name": identity.name,
        "path": identity.path,
        "inline": dict(identity.policies),
        "attached": sorted(identity.managed_policies),
    }
