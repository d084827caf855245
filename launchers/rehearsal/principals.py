"""Who calls the rehearsal cloud: the administrator of its account, a user or a role of moto's IAM; signatures."""

import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.iam.models import Group, IAMBackend, ManagedPolicy, User, iam_backends
from moto.sts.models import sts_backends

from launchers.rehearsal.names import ACCOUNT, REGION
from launchers.rehearsal.service import Refused

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/\d+/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request, ?"
    r"SignedHeaders=(?P<headers>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
Policies = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Principal:
    """Who calls. policies: None for the administrator, who may do everything. boundary: a further limit.

    denied: actions that a fault takes away.
    """

    arn: str
    secret: str
    token: str | None = None
    policies: Policies | None = None
    boundary: Policies | None = None
    denied: tuple[str, ...] = ()


@dataclass(frozen=True)
class Signature:
    """What a request's Authorization header says. service: the name that the request is signed with."""

    key: str
    region: str
    service: str
    headers: str
    signature: str

    @classmethod
    def of(cls, environ: Mapping[str, Any]) -> "Signature | None":
        found = _AUTHORIZATION.match(environ.get("HTTP_AUTHORIZATION", ""))
        return None if found is None else cls(**found.groupdict())


def caller_of(signature: Signature, key: str) -> Principal:
    """Return who a request says that it is from. Raises Refused for an unknown one.

    key: of the administrator, both as id and as secret.
    """
    if hmac.compare_digest(signature.key, key):
        return Principal(f"arn:aws:iam::{ACCOUNT}:root", key)
    found = _of_access_key(signature.key)
    if found is None:
        raise Refused(_UNKNOWN_KEY.get(signature.service, "UnrecognizedClientException"), _UNKNOWN_KEY_TEXT, 403)
    return found


_SKEW_MOST_S = 900.0  # between the time of a signature and AWS's
_UNKNOWN_KEY = {"s3": "InvalidAccessKeyId", "iam": "InvalidClientTokenId", "sts": "InvalidClientTokenId"}
_UNKNOWN_KEY_TEXT = "The AWS Access Key Id you provided does not exist in our records."


def check_signature(environ: Mapping[str, Any], body: bytes, signature: Signature, principal: Principal) -> None:
    """Raise Refused if the principal has not signed the request. body: empty if a header has its digest."""
    if (environ.get("HTTP_X_AMZ_SECURITY_TOKEN") or None) != principal.token:
        raise Refused("InvalidClientTokenId", "The security token included in the request is invalid", 403)
    if not hmac.compare_digest(_computed(environ, body, signature, principal), signature.signature):
        text = "The request signature we calculated does not match the signature you provided."
        raise Refused("SignatureDoesNotMatch", f"{text} Check your key and signing method.", 403)
    if abs(_skewed.get(signature.key, 0.0)) > _SKEW_MOST_S:
        if signature.service == "s3":
            text = "The difference between the request time and the current time is too large."
            raise Refused("RequestTimeTooSkewed", text, 403)
        raise Refused("InvalidSignatureException", "Signature not yet current: its time is off.", 403)


def _computed(environ: Mapping[str, Any], body: bytes, signature: Signature, principal: Principal) -> str:
    headers = {}
    for name in signature.headers.split(";"):
        variable = name.upper().replace("-", "_")
        headers[name] = environ.get(f"HTTP_{variable}", environ.get(variable, ""))
    url = f"http://{environ['HTTP_HOST']}{environ.get('RAW_URI') or environ['REQUEST_URI']}"
    request = AWSRequest(environ["REQUEST_METHOD"], url, headers, body)
    request.context["timestamp"] = environ.get("HTTP_X_AMZ_DATE", "")
    kind = S3SigV4Auth if signature.service == "s3" else SigV4Auth
    credentials = Credentials(signature.key, principal.secret, principal.token)
    auth = kind(credentials, signature.service, signature.region)
    signed: str = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    return signed


def _of_access_key(key: str) -> Principal | None:
    role = sts_backends[ACCOUNT]["aws"].get_assumed_role_from_access_key(key)
    if role is not None:
        name = role.role_arn.rpartition("/")[2]
        arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/{role.session_name}"
        denied = _denied.get(key, ())
        return Principal(arn, role.secret_access_key, role.session_token, *_policies(name), denied=denied)
    for user in _iam().list_users("/", None, None):
        for each in user.access_keys:
            if each.access_key_id == key and each.status == "Active":
                arn = f"arn:aws:iam::{ACCOUNT}:user/{user.name}"
                return Principal(arn, each.secret_access_key, None, _of_user(user.name))
    return None


_denied: dict[str, tuple[str, ...]] = {}  # by access key of a session: actions that a fault takes away
_skewed: dict[str, float] = {}  # by access key of a session: how far the clock is ahead of what uses it, in seconds


def role_session(role_arn: str, session: str, denied: Sequence[str] = (), skew_s: float = 0.0) -> dict[str, str]:
    """Return temporary credentials of a role, as environment variables: AWS hands them to what runs as the role.

    denied: actions that a fault takes away. skew_s: how far the clock is ahead of what uses them.
    """
    found = sts_backends[ACCOUNT]["aws"].assume_role(REGION, session, role_arn, "", 3600 * 12, "")
    _denied[found.access_key_id] = tuple(denied)
    _skewed[found.access_key_id] = skew_s
    return {
        "AWS_ACCESS_KEY_ID": found.access_key_id,
        "AWS_SECRET_ACCESS_KEY": found.secret_access_key,
        "AWS_SESSION_TOKEN": found.session_token,
    }


def of_role(role_arn: str, session: str, denied: Sequence[str] = ()) -> Principal:
    """Return a role as a service takes it. denied: actions that a fault takes away."""
    name = role_arn.rpartition("/")[2]
    arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/{session}"
    return Principal(arn, "", None, *_policies(name), denied=tuple(denied))


def caller_named(arn: str, denied: Sequence[str] = ()) -> Principal:
    """Return a caller by its ARN as `Call.caller` has it. denied: actions that a fault takes away."""
    kind, _, rest = arn.rpartition(":")[2].partition("/")
    if kind == "assumed-role":
        name, _, session = rest.partition("/")
        return of_role(f"arn:aws:iam::{ACCOUNT}:role/{name}", session, denied)
    policies = _of_user(rest.rpartition("/")[2]) if kind == "user" else None
    return Principal(arn, "", None, policies, denied=tuple(denied))


def principal_of(arn: str) -> Principal | None:
    """Return a role or a user by its ARN; None if it does not exist."""
    kind, _, rest = arn.rpartition(":")[2].partition("/")
    name = rest.rpartition("/")[2]
    if kind == "role" and any(role.arn == arn for role in _iam().get_roles()):
        return of_role(arn, "simulation")
    if kind == "user" and name in _iam().users:
        return Principal(arn, "", None, _of_user(name))
    return None


def _policies(role: str) -> tuple[Policies, Policies | None]:
    """Return the policies of a role, and of its permissions boundary."""
    found = next((each for each in _iam().get_roles() if each.name == role), None)
    if found is None:
        return (), None
    attached = map(text_of, found.managed_policies.values())
    documents = tuple(parsed(text) for text in (*found.policies.values(), *attached))
    bound = _iam().managed_policies.get(found.permissions_boundary_arn or "")
    return documents, None if bound is None else (parsed(text_of(bound)),)


def _of_user(name: str) -> Policies:
    """Return the policies of a user and of the groups that the user is in."""
    holders: list[User | Group] = [_iam().users[name], *_iam().get_groups_for_user(name)]
    inline = [text for holder in holders for text in holder.policies.values()]
    attached = [text_of(policy) for holder in holders for policy in holder.managed_policies.values()]
    return tuple(map(parsed, [*inline, *attached]))


def text_of(policy: ManagedPolicy) -> str:
    """Return the version of a managed policy that holds."""
    return next(version.document for version in policy.versions if version.is_default)


def _iam() -> IAMBackend:
    return iam_backends[ACCOUNT]["aws"]


@lru_cache(maxsize=256)
def parsed(text: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(text)
    return found
