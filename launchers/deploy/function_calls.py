"""Calls about a Lambda function: what it says of itself, and how to wait until a change of it has taken effect."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from launchers.aws import tags
from launchers.aws.errors import code_of, errors
from launchers.base import Cloud
from launchers.status import Cause, LaunchError

CHANGES = ("CreateFunction", "UpdateFunctionCode", "UpdateFunctionConfiguration")  # each of which takes a while
_BY_STATUS = {429: Cause.CAPACITY, 503: Cause.CAPACITY, 504: Cause.CAPACITY}
LATEST = "$LATEST"  # the version that changes are made to
_SETTLES_S = 300.0  # a change of a function, at most
_NEW_ROLE_S = 60.0  # until all of AWS knows a role that has just been created
_MISSING = ("ResourceNotFoundException", "ProvisionedConcurrencyConfigNotFoundException")


def cause_of(status: int) -> Cause:
    """Return why a function answers with another status of HTTP than 200."""
    return _BY_STATUS.get(status, Cause.BAD_CONFIG if status < 500 else Cause.USER_CODE)


def described(cloud: Cloud, method: str, **parameters: str) -> dict[str, Any] | None:
    """Return what Lambda describes; None if there is no such thing. method: as boto3 calls it."""
    from botocore.exceptions import ClientError

    with errors(f"asking for {parameters['FunctionName']}"):
        try:
            found: dict[str, Any] = getattr(cloud.client("lambda"), method)(**parameters)
        except ClientError as error:
            if code_of(error) in _MISSING:
                return None
            raise
    return found


def configuration(cloud: Cloud, function: str, version: str) -> dict[str, Any] | None:
    """Return what Lambda says of a version; None if there is no such version. version: or the alias, or `LATEST`."""
    return described(cloud, "get_function_configuration", FunctionName=function, Qualifier=version)


def modified(about: Mapping[str, Any]) -> datetime:
    """Return when a function was changed last. about: its configuration."""
    return datetime.strptime(str(about["LastModified"]), "%Y-%m-%dT%H:%M:%S.%f%z")


def settle(cloud: Cloud, function: str, version: str = LATEST) -> None:
    """Wait until nothing of a version is being changed. Raises LaunchError."""
    end = time.monotonic() + _SETTLES_S
    while True:
        about = configuration(cloud, function, version) or {"State": "Pending"}
        if "Failed" in (about.get("State"), about.get("LastUpdateStatus")):
            reason = about.get("StateReason") or about.get("LastUpdateStatusReason") or "no reason is given"
            raise LaunchError(f"Lambda could not make the function {function}: {reason}", Cause.UNKNOWN)
        if about.get("State") != "Pending" and about.get("LastUpdateStatus") in ("Successful", None):
            return
        if time.monotonic() > end:
            raise LaunchError(
                f"The function {function} is still being changed after {_SETTLES_S:g} s.\nTry: the same command again",
                Cause.TIME_LIMIT,
            )
        time.sleep(cloud.poll_s)


def publish(cloud: Cloud, parameters: Mapping[str, Any]) -> str:
    """Publish a version, wait until it can be called, and return its number. parameters: of PublishVersion."""
    with errors("calling PublishVersion"):
        version = str(cloud.client("lambda").publish_version(**parameters)["Version"])
    settle(cloud, str(parameters["FunctionName"]), version)
    return version


def patiently(call: Callable[[], None], poll_s: float) -> None:
    """Repeat a call that Lambda refuses because it does not know a new role yet."""
    end = time.monotonic() + _NEW_ROLE_S
    while True:
        try:
            call()
            return
        except LaunchError as error:
            if "cannot be assumed by Lambda" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(max(1.0, poll_s))


def tag_end(cloud: Cloud, function: str, at: datetime | None) -> None:
    """Let a function's tag say when the deployment ends; nothing where there is no function. at: None if it stays."""
    found = described(cloud, "get_function_configuration", FunctionName=function)
    if found is None:
        return
    client, arn = cloud.client("lambda"), str(found["FunctionArn"])
    with errors(f"tagging {function}"):
        if at is not None:
            client.tag_resource(Resource=arn, Tags=tags.expiry(at))
        else:
            client.untag_resource(Resource=arn, TagKeys=[tags.EXPIRES_AT])
