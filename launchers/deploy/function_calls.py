"""Make the calls of a plan that are about a Lambda function: each waits until the one before has taken effect."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.deploy import front
from launchers.deploy.function import VERSION
from launchers.plan import Request
from launchers.status import Cause, LaunchError

_SETTLES_S = 300.0  # a change of a function, at most
_NEW_ROLE_S = 60.0  # until all of AWS knows a role that has just been created
_CHANGES = ("CreateFunction", "UpdateFunctionCode", "UpdateFunctionConfiguration")


class FunctionCalls:
    """The calls about the front of one deployment. send: makes a call of a plan. version: the one that is published."""

    def __init__(self, cloud: Cloud, function: str, send: Callable[[Request, dict[str, str]], None]) -> None:
        self.cloud, self.function, self._send = cloud, function, send
        self.version = ""

    def make(self, each: Request, filled: dict[str, str]) -> None:
        """Make one call, and wait until it has taken effect. filled: what only the account knows."""
        if each.operation == "PublishVersion":
            with errors("calling PublishVersion"):
                self.version = str(self.cloud.client("lambda").publish_version(**each.parameters)["Version"])
            self._settle(self.version)
            return
        known = {**filled, **({VERSION: self.version} if self.version else {})}
        each = Request(each.service, each.operation, _with_package(each.parameters))
        if each.operation == "CreateFunction":
            self._patiently(each, known)
        else:
            self._send(each, known)
        if each.operation in _CHANGES:
            self._settle("$LATEST")
        elif each.operation == "UpdateAlias":
            self._forget_versions()

    def _patiently(self, each: Request, known: dict[str, str]) -> None:
        """Repeat a call that Lambda refuses because it does not know a new role yet."""
        end = time.monotonic() + _NEW_ROLE_S
        while True:
            try:
                self._send(each, known)
                return
            except LaunchError as error:
                if "cannot be assumed by Lambda" not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(max(1.0, self.cloud.poll_s))

    def _settle(self, version: str) -> None:
        """Wait until nothing of a version is being changed. Raises LaunchError."""
        end = time.monotonic() + _SETTLES_S
        while True:
            with errors(f"asking for the function {self.function}"):
                about = self.cloud.client("lambda").get_function_configuration(
                    FunctionName=self.function, Qualifier=version
                )
            if "Failed" in (about.get("State"), about.get("LastUpdateStatus")):
                reason = about.get("StateReason") or about.get("LastUpdateStatusReason") or "no reason is given"
                raise LaunchError(f"Lambda could not make the function {self.function}: {reason}", Cause.UNKNOWN)
            if about.get("State") == "Active" and about.get("LastUpdateStatus") in ("Successful", None):
                return
            if time.monotonic() > end:
                raise LaunchError(f"The function {self.function} is still being changed.", Cause.TIME_LIMIT)
            time.sleep(self.cloud.poll_s)

    def _forget_versions(self) -> None:
        """Delete the versions that no requests get to any more."""
        client = self.cloud.client("lambda")
        with errors(f"deleting old versions of {self.function}"):
            found = client.list_versions_by_function(FunctionName=self.function)["Versions"]
            for each in found:
                if each["Version"] not in ("$LATEST", self.version):
                    client.delete_function(FunctionName=self.function, Qualifier=each["Version"])


def _with_package(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the package in place of what stands for it in the plan."""
    found = dict(parameters)
    if isinstance(found.get("Code"), Mapping) and "ZipFile" in found["Code"]:
        found["Code"] = {"ZipFile": front.package()}
    if "ZipFile" in found:
        found["ZipFile"] = front.package()
    return found
