"""Translate AWS's errors into what happened, why, and what to try."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from dogbreed import commands
from launchers.aws.actions import actions_of
from launchers.aws.policy import name_of_role, role_name
from launchers.aws.shortage import shortage_in
from launchers.status import Cause, LaunchError

_DENIED = re.compile(
    r"(?:User: (?P<who>\S+) is )?not authorized to perform:? (?P<action>[\w-]+:\w+)"
    r'(?: on resource:? "?(?:(?P<kind>role|user|group|policy) )?(?P<resource>[^\s"]+)"?)?'  # of IAM's own: role NAME
)
_S3_URI = re.compile(r"s3://([^/\s]+)\S*")
_STATE_HEADER = "x-dogbreed-rehearsal-state"  # as in launchers/rehearsal/names.py; a test holds them equal
_CREDENTIALS = (
    "Try: aws configure, aws sso login, or AWS_PROFILE=<a profile>; or rehearse without an account: aws=rehearsal"
)
_REACH = "Try: check the network connection and aws.region"
# code -> cause, what it means, what to try. Where AWS's message says more it is shown as well.
_ERRORS: dict[str, tuple[Cause, str, str]] = {
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "RequestExpired"),
        (
            Cause.PERMISSION,
            "The AWS credentials have expired.",
            "Try: aws sso login, or new credentials, and run it again",
        ),
    ),
    "400": (  # S3 answers HEAD, and so has no words
        Cause.PERMISSION,
        "AWS did not accept the request: most likely the credentials have expired.",
        "Try: aws sso login, or new credentials, and run it again",
    ),
    **dict.fromkeys(
        ("InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidAccessKeyId"),
        (Cause.PERMISSION, "AWS does not recognize these credentials.", _CREDENTIALS),
    ),
    **dict.fromkeys(
        ("AccessDenied", "AccessDeniedException", "AccessDeniedError", "UnauthorizedOperation", "403", "Forbidden"),
        (
            Cause.PERMISSION,
            "AWS denied the request.",
            "Try: python -m launchers iam, which prints every permission that is needed",
        ),
    ),
    **dict.fromkeys(
        ("ThrottlingException", "Throttling", "TooManyRequestsException", "SlowDown", "RequestLimitExceeded"),
        (Cause.CAPACITY, "AWS throttled the request; retries exhausted.", "Try: the same command again, later"),
    ),
    "ResourceLimitExceeded": (
        Cause.QUOTA,
        "The account has reached a service quota.",
        "Try: raise it at https://console.aws.amazon.com/servicequotas/home/services/sagemaker/quotas, "
        "or another launcher.instance_type",
    ),
    "CapacityError": (
        Cause.CAPACITY,
        "AWS has no capacity for this instance type.",
        "Try: later, or another launcher.instance_type",
    ),
}


def import_boto3(extra: str = "aws") -> Any:
    """Return boto3. Raises LaunchError if it is not installed. extra: the extra of pyproject.toml that installs it."""
    try:
        import boto3
    except ImportError as error:
        raise LaunchError(f"This needs boto3.\nTry: pip install -e '.[{extra}]'", Cause.BAD_CONFIG) from error
    return boto3


@contextmanager
def errors(doing: str, *, then: str = "", quota: str = "") -> Iterator[None]:
    """Turn botocore's errors in the block into a LaunchError with its Cause.

    doing: what was being done, for the message. then: a further hint. quota: one that is given only where a quota is
    used up.
    """
    import_boto3()
    from boto3.exceptions import S3UploadFailedError as UploadOfClientError
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from s3transfer.exceptions import S3UploadFailedError

    try:
        yield
    except (ClientError, BotoCoreError, ResponseParserError, S3UploadFailedError, UploadOfClientError) as error:
        raise translated(error, doing, then, quota) from error


@contextmanager
def network_errors(doing: str) -> Iterator[None]:
    """Turn errors of the connection into a LaunchError; AWS's own answers pass, for the caller to handle."""
    import_boto3()
    from botocore.exceptions import BotoCoreError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (BotoCoreError, ResponseParserError) as error:
        raise translated(error, doing) from error


def is_refused(error: BaseException, operation: str) -> bool:
    """Return whether AWS has answered that it has not done an operation; False where nobody knows, as after a timeout.

    error: of `errors`. Without credentials or a region AWS was not even asked.
    """
    from botocore.exceptions import ClientError

    if isinstance(error, LaunchError) and error.shortage is not None:
        return True
    cause = error.__cause__
    if isinstance(cause, ClientError):
        status = int(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return cause.operation_name == operation and 400 <= status < 500
    return isinstance(error, LaunchError) and error.cause in (Cause.PERMISSION, Cause.BAD_CONFIG)


def translated(error: Exception, doing: str, then: str = "", quota: str = "") -> LaunchError:
    """Return the LaunchError that explains a botocore or transfer error. doing, then, quota: as for `errors`."""
    code, message = _code_and_message(error)
    cause, meaning, hint = _meaning(error, code)
    denied = denial(message) or (_denied_head(error, doing) if code in ("403", "Forbidden") else None)
    if denied is not None:
        meaning, hint = f"Not permitted: {denied}.", denied.hint(rehearsal_of(error))
        if "explicit deny" in message:
            hint = "A policy denies it explicitly, which no other policy can outweigh.\nTry: have that policy changed"
    first = f"{doing[0].upper()}{doing[1:]} failed. {meaning}".strip()
    shown = "" if denied or message in meaning else message
    shortage = shortage_in(f"{code}: {message}")
    quota = quota if cause is Cause.QUOTA else ""
    return LaunchError("\n".join(line for line in (first, shown, hint, quota, then) if line), cause, shortage)


@dataclass(frozen=True)
class Denial:
    """What AWS did not permit. who: the ARN of the caller. resource: its ARN, or the URI of what was read in S3.

    Both are empty where AWS does not tell.
    """

    action: str
    resource: str = ""
    who: str = ""

    def __str__(self) -> str:
        return self.action + (f" on {self.resource}" if self.resource else "")

    def hint(self, state_dir: str | None = None) -> str:
        """Return how an administrator grants it. state_dir: of a rehearsal cloud, if it was one."""
        if state_dir is None:
            return f"Try: {self._command()}"
        role, ours = name_of_role(self.who), role_name("launch")
        hint = f"Try: {commands.launchers('iam', '--apply', '--state-dir', state_dir)}"
        return hint if role in ("", ours) else f"{hint}\nIt changes {ours}, not {role}. Then: aws.launch_as={ours}"

    def _command(self) -> str:
        kind, _, rest = self.who.rpartition(":")[2].partition("/")
        if kind not in ("user", "assumed-role") or not self.resource:
            bucket = _S3_URI.match(self.resource)
            return commands.launchers("iam", "--apply", *(["--for", f"aws.bucket={bucket[1]}"] if bucket else []))
        of = "user" if kind == "user" else "role"
        name = name_of_role(self.who) or rest.rpartition("/")[2]
        statement = {"Effect": "Allow", "Action": self.action, "Resource": self.resource}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]}, separators=(",", ":"))
        what = ("--policy-name", self.action.replace(":", "-"), "--policy-document", policy)
        return commands.shell("aws", "iam", f"put-{of}-policy", f"--{of}-name", name, *what)


def denial(message: str) -> Denial | None:
    """Return what AWS's message says that is not permitted; None if it does not say that."""
    found = _DENIED.search(message)
    if found is None:
        return None
    resource, who = (found["resource"] or "").rstrip("."), found["who"] or ""
    if found["kind"] and who.startswith("arn:"):
        _, partition, _, _, account, *_ = who.split(":")
        resource = f"arn:{partition}:iam::{account}:{found['kind']}/{resource}"
    return Denial(found["action"], resource, who)


def _denied_head(error: Exception, doing: str) -> Denial | None:
    """Return what is not permitted where S3 answers HEAD, and so has no words. doing: names what was read."""
    operation, uri = getattr(error, "operation_name", ""), _S3_URI.search(doing)
    if operation not in ("HeadBucket", "HeadObject"):
        return None
    return Denial(actions_of("s3", operation)[0], uri[0] if uri else "")


def rehearsal_of(error: BaseException | None) -> str | None:
    """Return the state folder of the rehearsal cloud that answered; None if AWS did."""
    while error is not None:
        headers = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if _STATE_HEADER in headers:
            return unquote(headers[_STATE_HEADER])
        error = error.__cause__ or error.__context__  # a transfer's error has none of its own
    return None


def _named_endpoint() -> str:
    url = os.environ.get("AWS_ENDPOINT_URL")
    return f", or unset AWS_ENDPOINT_URL, which is {url}" if url else ""


def _code_and_message(error: Exception) -> tuple[str, str]:
    from botocore.exceptions import ClientError

    message = str(error)
    if isinstance(error, ClientError):
        return code_of(error), str(error.response.get("Error", {}).get("Message", error))
    found = re.search(r"An error occurred \((\w+)\)", message)  # a transfer's error carries the code in its text
    return found[1] if found else "", message


def _meaning(error: Exception, code: str) -> tuple[Cause, str, str]:
    """Return the cause, what the error means and what to try. code: AWS's own, if it answered."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    match error:
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError() | exceptions.ProfileNotFound():
            return Cause.PERMISSION, f"No AWS credentials were found: {error}.", _CREDENTIALS
        case exceptions.SSOError() | exceptions.TokenRetrievalError() | exceptions.CredentialRetrievalError():
            return _ERRORS["ExpiredToken"]
        case exceptions.NoRegionError():
            return Cause.BAD_CONFIG, "No AWS region is configured.", "Try: aws.region=eu-west-1, or AWS_REGION"
        case exceptions.HTTPClientError() | exceptions.ConnectionError() | ResponseParserError():  # a part of an answer
            return Cause.CAPACITY, "AWS cannot be reached.", _REACH + _named_endpoint()
        case _:
            return _ERRORS.get(code, (Cause.UNKNOWN, "", "Try: debug=true, which shows the call"))


def code_of(error: Exception) -> str:
    """Return AWS's error code of a ClientError; the HTTP status where S3 returns nothing else, as for HEAD."""
    response = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))
