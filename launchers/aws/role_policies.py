"""Keep what a role may do in the account: as one policy inside it, or as managed policies where that is too small.

IAM takes 10,240 characters inside a role, and ten managed policies of 6,144 each beside them:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from launchers.aws import tags
from launchers.aws.errors import code_of, errors
from launchers.aws.policy import ROLE_PATH, Identity, role_name
from launchers.base import Cloud

_INLINE = "dogbreed"  # the name of the one policy inside a role
Policy = Mapping[str, Any]


def documents(cloud: Cloud, role: str) -> list[Policy]:
    """Return what we have allowed a role, as one policy inside it or as several of its own; none if nothing."""
    inside = _inside(cloud, role)
    return [*([] if inside is None else [inside]), *_managed(cloud, role).values()]


def put(cloud: Cloud, identity: Identity) -> None:
    """Let the identity's role do what it needs, and no more. What is new comes first, so that it never may do less."""
    client, role, wanted = cloud.client("iam"), role_name(identity.name), identity.policies()
    before, names = _managed(cloud, role), [] if len(wanted) == 1 else _names(role, len(wanted))
    if not names:
        client.put_role_policy(RoleName=role, PolicyName=_INLINE, PolicyDocument=json.dumps(wanted[0]))
    for name, policy in zip(names, wanted if names else (), strict=True):
        arn = _made(client, name, policy, identity)
        if before.get(arn) != policy:
            client.attach_role_policy(RoleName=role, PolicyArn=arn)
    kept = {arn for arn in before if arn.rpartition("/")[2] in names}
    for arn in before.keys() - kept:
        client.detach_role_policy(RoleName=role, PolicyArn=arn)
        remove(client, arn)
    if names and _inside(cloud, role) is not None:
        client.delete_role_policy(RoleName=role, PolicyName=_INLINE)


def remove(client: Any, arn: str) -> None:
    """Delete a managed policy of ours that nothing uses any more, with its earlier versions."""
    _forget_versions(client, arn)
    client.delete_policy(PolicyArn=arn)


def is_ours(arn: str) -> bool:
    return f":policy{ROLE_PATH}" in arn


def unused(cloud: Cloud) -> list[str]:
    """Return the ARNs of managed policies of ours that no role has: a command that made them was killed."""
    with errors("listing policies"):
        pages = cloud.client("iam").get_paginator("list_policies").paginate(Scope="Local", PathPrefix=ROLE_PATH)
        return [each["Arn"] for page in pages for each in page["Policies"] if not each["AttachmentCount"]]


def parsed(text: Any) -> dict[str, Any]:
    """Return a policy as boto3 hands it over: parsed, or as text that is quoted for URLs."""
    found: dict[str, Any] = json.loads(unquote(text)) if isinstance(text, str) else text
    return found


def _names(role: str, count: int) -> list[str]:
    return [f"{role}-{number}" for number in range(1, count + 1)]


def _inside(cloud: Cloud, role: str) -> Policy | None:
    from botocore.exceptions import ClientError

    with errors(f"reading the policy of {role}"):
        try:
            found = cloud.client("iam").get_role_policy(RoleName=role, PolicyName=_INLINE)["PolicyDocument"]
        except ClientError as error:
            if code_of(error) == "NoSuchEntity":
                return None
            raise
    return parsed(found)


def _managed(cloud: Cloud, role: str) -> dict[str, Policy]:
    """Return the managed policies of ours that a role has, by ARN, in the order of their names."""
    from botocore.exceptions import ClientError

    client = cloud.client("iam")
    with errors(f"reading the policies of {role}"):
        try:
            attached = client.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        except ClientError as error:
            if code_of(error) == "NoSuchEntity":
                return {}
            raise
        arns = sorted(each["PolicyArn"] for each in attached if is_ours(each["PolicyArn"]))
        return {arn: _default(client, arn) for arn in arns}


def _default(client: Any, arn: str) -> Policy:
    version = client.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    return parsed(client.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"])


def _made(client: Any, name: str, policy: Policy, identity: Identity) -> str:
    """Create a managed policy, or give the one of this name another version. Returns its ARN."""
    from botocore.exceptions import ClientError

    text = json.dumps(policy)
    labels = tags.to_aws({tags.PURPOSE: identity.name})
    about = f"dogbreed: {identity.purpose}, a part of what it needs"
    try:
        made = client.create_policy(
            PolicyName=name, Path=ROLE_PATH, PolicyDocument=text, Description=about, Tags=labels
        )
        return str(made["Policy"]["Arn"])
    except ClientError as error:
        if code_of(error) != "EntityAlreadyExists":
            raise
    pages = client.get_paginator("list_policies").paginate(Scope="Local", PathPrefix=ROLE_PATH)
    (arn,) = [str(each["Arn"]) for page in pages for each in page["Policies"] if each["PolicyName"] == name]
    if _default(client, arn) != policy:
        _forget_versions(client, arn)  # IAM keeps five of them
        client.create_policy_version(PolicyArn=arn, PolicyDocument=text, SetAsDefault=True)
    return arn


def _forget_versions(client: Any, arn: str) -> None:
    """Delete all versions of a managed policy but the one that holds."""
    for version in client.list_policy_versions(PolicyArn=arn)["Versions"]:
        if not version["IsDefaultVersion"]:
            client.delete_policy_version(PolicyArn=arn, VersionId=version["VersionId"])
