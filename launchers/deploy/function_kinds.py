"""The parts of a deployment that is a function: the function, with its versions, alias and URL, and its log group."""

from collections.abc import Callable

from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.deploy import function_calls, names
from launchers.deploy.kinds import Kind, Named, call, log_groups
from launchers.payload.package import HANDLER


def functions(name: str, handler: str) -> Kind:
    """Return a kind of functions: those with this handler."""
    return Kind(name, _listed(handler), names.deployment_of, call("lambda", "delete_function", "FunctionName"))


def _listed(handler: str) -> Callable[[Cloud, str], Named]:
    def listed(cloud: Cloud, prefix: str) -> Named:
        with errors("listing functions"):
            for page in cloud.client("lambda").get_paginator("list_functions").paginate():
                for each in page["Functions"]:
                    if each["FunctionName"].startswith(prefix) and each.get("Handler") == handler:
                        yield each["FunctionName"], function_calls.modified(each)

    return listed


FUNCTION = functions("function", HANDLER)
LOG_GROUP = log_groups("function's log group", names.Names("").function_log_group)
