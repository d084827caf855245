"""Grants that several launchers need, and how a plan shows who needs which. Pure: no network."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from launchers.aws.actions import Where
from launchers.aws.policy import Grant, Identity
from launchers.aws.s3 import split_uri

_KMS = ("kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey")


def photos(config: Mapping[str, Any], where: Where) -> Iterator[Grant]:
    """Grant reading photos that are elsewhere in S3."""
    root = str((config.get("data") or {}).get("root") or "")
    if root.startswith("s3://"):
        bucket, key = split_uri(root.rstrip("/"))
        yield Grant(("s3:GetObject",), (where.bucket(bucket, f"{key}/*" if key else "*"),))
        yield Grant(("s3:ListBucket",), (where.bucket(bucket),))


def kms(key: str | None, where: Where) -> Iterator[Grant]:
    """Grant what encrypting with a key of one's own needs. key: its id, alias or ARN; None for AWS's own keys."""
    if not key:
        return
    name = key.rpartition(":")[2]  # of an ARN
    if name.startswith("alias/"):  # an alias is no resource of these actions
        conditions, resource = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": name}}, where.arn("kms", "key/*")
    else:
        conditions, resource = {}, key if key.startswith("arn:") else where.arn("kms", f"key/{key}")
    yield Grant(_KMS, (resource,), conditions)
    # the disk of the machine is encrypted by a grant, which AWS alone may use
    yield Grant(("kms:CreateGrant",), (resource,), {**conditions, "Bool": {"kms:GrantIsForAWSResource": "true"}})


def actions(identity: Identity) -> tuple[str, ...]:
    """Return the IAM actions that a person or role needs."""
    return tuple(sorted({action for grant in identity.grants for action in grant.actions}))


def rows(launch: Identity, role: Identity, words: str, note: str = "") -> Iterator[tuple[str, str]]:
    """Yield the rows of a plan: what both need, and the role's policy, ready to paste.

    words: what people call the role. note: on what the role may lack.
    """
    yield "permissions", _wrapped(", ".join(actions(launch)))
    yield words, _wrapped(", ".join(actions(role)))
    if note:
        yield "", _wrapped(note)
    policy = role.policy()
    statements = ",\n".join(_wrapped(json.dumps(each)) for each in policy["Statement"])
    yield "its policy", f'{{"Version": "{policy["Version"]}", "Statement": [\n{statements}\n]}}'


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 64, break_on_hyphens=False, break_long_words=False)
