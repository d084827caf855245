"""What a principal may do in the rehearsal cloud: IAM's policies, conditions, trust and PassRole.

moto keeps users, roles and policies; it checks neither conditions nor PassRole, and outside of S3 no resources.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moto.iam.models import iam_backends
from moto.s3.models import s3_backends

from launchers.aws.access import Context, Decision, decide
from launchers.aws.actions import Need, Where, needs
from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.rehearsal.object_store import ObjectStore
from launchers.rehearsal.principals import Principal, parsed
from launchers.rehearsal.service import Refused

HERE = Where(REGION, ACCOUNT)
_LOGGING = ("CreateLogGroup", "CreateLogStream", "DescribeLogStreams", "PutLogEvents")
_GLOBAL: Context = {
    "aws:RequestedRegion": [REGION],
    "aws:PrincipalAccount": [ACCOUNT],
    "aws:ResourceAccount": [ACCOUNT],
    "aws:SecureTransport": ["true"],  # loopback stands for TLS
}


def allowed(principal: Principal, need: Need) -> Decision:
    """Return what the principal's own policies say."""
    if any(need.action.lower() == action.lower() for action in principal.denied):  # as if nobody had granted it
        return Decision.IMPLICIT_DENY
    if principal.policies is None:
        return Decision.ALLOWED
    context = {**_GLOBAL, "aws:PrincipalArn": [principal.arn], **need.context}
    decision = decide(principal.policies, need.action, need.resource, context)
    if principal.boundary is not None and decision is Decision.ALLOWED:
        decision = decide(principal.boundary, need.action, need.resource, context)
    return decision


def authorize(principal: Principal, wanted: Iterable[Need]) -> None:
    """Raise Refused, in AWS's words, for the first of these actions that is not allowed."""
    for need in wanted:
        resources = _bucket_policy(need, principal)
        decision = allowed(principal, need)
        if Decision.EXPLICIT_DENY in (decision, resources) or Decision.ALLOWED not in (decision, resources):
            explicit = Decision.EXPLICIT_DENY in (decision, resources)
            because = (
                "with an explicit deny in a policy"
                if explicit
                else f"because no identity-based policy allows the {need.action} action"
            )
            resource = f'"{need.resource}"' if need.action.startswith("s3:") else need.resource  # as S3 writes it
            text = f"{principal.arn} is not authorized to perform: {need.action} on resource: {resource} {because}"
            raise Refused("AccessDeniedException", f"User: {text}", 403)


def _bucket_policy(need: Need, principal: Principal) -> Decision:
    """Return what the policy of the bucket says, if the resource is a bucket or an object in one."""
    if not need.resource.startswith("arn:aws:s3:::"):
        return Decision.IMPLICIT_DENY
    name = need.resource.removeprefix("arn:aws:s3:::").partition("/")[0]
    bucket = s3_backends[ACCOUNT]["aws"].buckets.get(name)
    if bucket is None or not bucket.policy:
        return Decision.IMPLICIT_DENY
    text = bucket.policy.decode() if isinstance(bucket.policy, bytes) else bucket.policy
    who = {"AWS": [principal.arn, ACCOUNT]}
    return decide([parsed(text)], need.action, need.resource, {**_GLOBAL, **need.context}, who)


def needs_of(service: str, operation: str, parameters: Mapping[str, Any]) -> list[Need]:
    """Return what a call needs here. service: the name that the request is signed with."""
    found = needs(service, operation, parameters, HERE)
    if service != "iam":
        return found
    paths = {
        role.name: role.arn for role in iam_backends[ACCOUNT]["aws"].get_roles()
    }  # a call names a role without its path
    arn = paths.get(str(parameters.get("RoleName")))
    return found if arn is None else [Need(need.action, arn, need.context) for need in found]


def check_trust(role_arn: str, principal: Mapping[str, Sequence[str]], context: Context) -> None:
    """Raise Refused if the role does not exist, or its trust policy does not let the principal take it."""
    role = next((each for each in iam_backends[ACCOUNT]["aws"].get_roles() if each.arn == role_arn), None)
    document = None if role is None else parsed(str(role.assume_role_policy_document))
    context = {**_GLOBAL, **context}
    if document is None or decide([document], "sts:AssumeRole", role_arn, context, principal) is not Decision.ALLOWED:
        who = next(iter(principal.values()))[0]
        text = f"User: {who} is not authorized to perform: sts:AssumeRole on resource: {role_arn}"
        raise Refused("AccessDeniedException", text, 403)


def may_log(role: Principal, group: str, actions: Sequence[str] = _LOGGING) -> bool:
    """Return whether a role may write to a group of CloudWatch's logs.

    actions: what a service needs for that, as AWS documents it; by default what SageMaker needs.
    """
    stream = HERE.arn("logs", f"log-group:{group}:log-stream:any")
    wanted = [Need(f"logs:{name}", stream) for name in actions]
    return all(allowed(role, need) is Decision.ALLOWED for need in wanted)


class StoreOfRole:
    """The object store as a role may use it. Raises Refused for what its policies do not allow."""

    def __init__(self, store: ObjectStore, role: Principal) -> None:
        self._store, self.role = store, role

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self._check("s3:PutObject", bucket, key)
        self._store.put(bucket, key, content)

    def delete(self, bucket: str, key: str) -> None:
        self._check("s3:DeleteObject", bucket, key)
        self._store.delete(bucket, key)

    def download(self, bucket: str, prefix: str, folder: Path) -> int:
        authorize(self.role, [Need("s3:ListBucket", HERE.bucket(bucket), {"s3:prefix": [prefix]})])
        for key in self._store.keys(bucket, prefix):
            self._check("s3:GetObject", bucket, key)
        return self._store.download(bucket, prefix, folder)

    def _check(self, action: str, bucket: str, key: str) -> None:
        authorize(self.role, [Need(action, HERE.bucket(bucket, key))])
