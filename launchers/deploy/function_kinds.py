"""The parts of a deployment that is a function: the function, with its versions, alias and URL, and its log group."""

from datetime import UTC, datetime

from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.deploy import names
from launchers.deploy.kinds import Kind, Named, call
from launchers.payload.package import HANDLER


def _functions(cloud: Cloud, prefix: str) -> Named:
    with errors("listing functions"):
        for page in cloud.client("lambda").get_paginator("list_functions").paginate():
            for each in page["Functions"]:
                if each["FunctionName"].startswith(prefix) and each.get("Handler") == HANDLER:
                    yield each["FunctionName"], datetime.strptime(each["LastModified"], "%Y-%m-%dT%H:%M:%S.%f%z")


def _log_groups(cloud: Cloud, prefix: str) -> Named:
    start = names.Names("").function_log_group.removesuffix(names.PREFIX) + prefix
    with errors("listing log groups"):
        pages = cloud.client("logs").get_paginator("describe_log_groups").paginate(logGroupNamePrefix=start)
        for page in pages:
            for group in page["logGroups"]:
                yield group["logGroupName"], datetime.fromtimestamp(group["creationTime"] / 1000, UTC)


def _owner_of_log_group(group: str) -> str | None:
    return names.deployment_of(group.rpartition("/")[2])


FUNCTION = Kind("function", _functions, names.deployment_of, call("lambda", "delete_function", "FunctionName"))
LOG_GROUP = Kind(
    "function's log group", _log_groups, _owner_of_log_group, call("logs", "delete_log_group", "logGroupName")
)
