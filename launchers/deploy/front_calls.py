"""Make the calls of a plan that are about the function in front of an endpoint."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.deploy import front, function_calls
from launchers.deploy.function import VERSION
from launchers.plan import Request


class FrontCalls:
    """The calls about the front of one deployment. send: makes a call of a plan. version: the one that is published."""

    def __init__(self, cloud: Cloud, function: str, send: Callable[[Request, dict[str, str]], None]) -> None:
        self.cloud, self.function, self._send = cloud, function, send
        self.version = ""

    def make(self, each: Request, filled: dict[str, str]) -> None:
        """Make one call, and wait until it has taken effect. filled: what only the account knows."""
        if each.operation == "PublishVersion":
            self.version = function_calls.publish(self.cloud, each.parameters)
            return
        known = {**filled, **({VERSION: self.version} if self.version else {})}
        each = Request(each.service, each.operation, _with_package(each.parameters))
        if each.operation == "CreateFunction":
            function_calls.patiently(partial(self._send, each, known), self.cloud.poll_s)
        else:
            self._send(each, known)
        if each.operation in function_calls.CHANGES:
            function_calls.settle(self.cloud, self.function)
        elif each.operation == "UpdateAlias":
            self._forget_versions()

    def _forget_versions(self) -> None:
        """Delete the versions that no requests get to any more."""
        client = self.cloud.client("lambda")
        with errors(f"deleting old versions of {self.function}"):
            found = client.list_versions_by_function(FunctionName=self.function)["Versions"]
            for each in found:
                if each["Version"] not in (function_calls.LATEST, self.version):
                    client.delete_function(FunctionName=self.function, Qualifier=each["Version"])


def _with_package(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the package in place of what stands for it in the plan."""
    found = dict(parameters)
    if isinstance(found.get("Code"), Mapping) and "ZipFile" in found["Code"]:
        found["Code"] = {"ZipFile": front.package()}
    if "ZipFile" in found:
        found["ZipFile"] = front.package()
    return found
