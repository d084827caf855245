"""AWS's errors, translated into what happened, why, and what to try."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from launchers.base import Cause, LaunchError

_DENIED = re.compile(r"not authorized to perform:? (\S+)(?: on resource:? (\S+))?")
_CREDENTIALS = (
    "Try: aws configure, aws sso login, or AWS_PROFILE=<a profile>; or rehearse without an account: aws=rehearsal"
)
# code -> cause, what it means, what to try. Where AWS's message says more it is shown as well.
_ERRORS: dict[str, tuple[Cause, str, str]] = {
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "RequestExpired"),
        (Cause.PERMISSION, "The AWS credentials have expired.", "Try: aws sso login, or new credentials; then again"),
    ),
    **dict.fromkeys(
        ("InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidAccessKeyId"),
        (Cause.PERMISSION, "AWS does not know these credentials.", _CREDENTIALS),
    ),
    **dict.fromkeys(
        ("AccessDenied", "AccessDeniedException", "AccessDeniedError", "403", "Forbidden"),
        (
            Cause.PERMISSION,
            "AWS refuses this.",
            "Try: have this permission added; dry_run=true lists all that are needed",
        ),
    ),
    **dict.fromkeys(
        ("ThrottlingException", "Throttling", "TooManyRequestsException", "SlowDown", "RequestLimitExceeded"),
        (Cause.CAPACITY, "AWS asks for fewer requests, and did so for minutes.", "Try: the same again, later"),
    ),
    "ResourceLimitExceeded": (
        Cause.QUOTA,
        "A quota of the account is used up.",
        "Try: raise it at https://console.aws.amazon.com/servicequotas/home/services/sagemaker/quotas, "
        "or another launcher.instance_type",
    ),
    "CapacityError": (Cause.CAPACITY, "AWS has no such machine free.", "Try: later, or another launcher.instance_type"),
}


def import_boto3(extra: str = "aws") -> Any:
    """extra: of pyproject.toml, that brings it."""
    try:
        import boto3
    except ImportError as error:
        raise LaunchError(f"This needs boto3.\nTry: pip install -e '.[{extra}]'", Cause.BAD_CONFIG) from error
    return boto3


@contextmanager
def errors(doing: str, *, then: str = "") -> Iterator[None]:
    """botocore's errors in here become a LaunchError with its Cause. doing: for the message; then: a further hint."""
    import_boto3()
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import S3UploadFailedError

    try:
        yield
    except (ClientError, BotoCoreError, S3UploadFailedError) as error:
        raise translated(error, doing, then) from error


@contextmanager
def network_errors(doing: str) -> Iterator[None]:
    """The same for what is no answer of AWS's at all; its answers pass, for the caller to look at."""
    import_boto3()
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except BotoCoreError as error:
        raise translated(error, doing) from error


def translated(error: Exception, doing: str, then: str = "") -> LaunchError:
    from botocore import exceptions

    known: tuple[Cause, str, str] | None
    message = str(error)
    if isinstance(error, exceptions.ClientError):
        code, message = code_of(error), str(error.response.get("Error", {}).get("Message", error))
    else:  # a transfer's error carries the code in its text
        found = re.search(r"An error occurred \((\w+)\)", message)
        code = found[1] if found else ""
    if isinstance(
        error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError | exceptions.ProfileNotFound
    ):
        known = (Cause.PERMISSION, f"There are no AWS credentials: {error}.", _CREDENTIALS)
        message = ""
    elif isinstance(error, exceptions.SSOError | exceptions.TokenRetrievalError | exceptions.CredentialRetrievalError):
        known = _ERRORS["ExpiredToken"]
    elif isinstance(error, exceptions.NoRegionError):
        known = (Cause.BAD_CONFIG, "It is not said in which region.", "Try: aws.region=eu-west-1, or AWS_REGION")
    elif isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        known = (Cause.CAPACITY, "AWS cannot be reached.", "Try: is the network there, is aws.region right?")
    else:
        known = _ERRORS.get(code)
    if known is None:
        known = (Cause.UNKNOWN, "", "Try: debug=true shows the call")
    cause, meaning, hint = known
    if denied := _DENIED.search(message):
        meaning = f"Not permitted: {denied[1]}" + (f" on {denied[2]}" if denied[2] else "") + "."
        message = ""
    lines = [f"{doing[0].upper()}{doing[1:]} failed. {meaning}".strip(), *([message] if message else []), hint]
    return LaunchError("\n".join([*lines, *([then] if then else [])]), cause)


def code_of(error: Exception) -> str:
    """AWS's own code of a ClientError; its HTTP status where S3 gives no more, as for HEAD."""
    response = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))
