"""The requests that create or change one Lambda function: its log, code, concurrency, versions, alias and URL. Pure.

Requests get to a function by its alias alone, which a change moves last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from launchers.plan import Request

ALIAS = "live"
VERSION = "<the version>"  # whose number only Lambda knows, once it is published
KEPT_DAYS = 14  # of the log


@dataclass(frozen=True)
class Function:
    """A function. configuration, code: as CreateFunction has them. description: of the version that is published.

    reserved: requests at once, at most; None for as many as the account allows. provisioned: processes kept warm.
    """

    name: str
    log_group: str
    configuration: Mapping[str, Any]
    code: Mapping[str, Any]
    description: str
    tags: Mapping[str, str] = field(default_factory=dict)
    architecture: str = "x86_64"
    reserved: int | None = None
    provisioned: int = 0


def create(function: Function) -> list[Request]:
    """Return the calls that create it; its URL takes signed requests alone."""
    name, group = {"FunctionName": function.name}, {"logGroupName": function.log_group}
    made = {
        **name,
        **function.configuration,
        "Code": function.code,
        "Architectures": [function.architecture],
        "Tags": function.tags,
    }
    return [
        Request("logs", "CreateLogGroup", {**group, "tags": function.tags}),
        Request("logs", "PutRetentionPolicy", {**group, "retentionInDays": KEPT_DAYS}),
        Request("lambda", "CreateFunction", made),
        *reserve(function, limited=False),
        publish(function),
        Request("lambda", "CreateAlias", {**name, "Name": ALIAS, "FunctionVersion": VERSION}),
        *provision(function, before=0),
        Request("lambda", "CreateFunctionUrlConfig", {**name, "Qualifier": ALIAS, "AuthType": "AWS_IAM"}),
    ]


def change(function: Function) -> list[Request]:
    """Return the calls that change its code and configuration, in a version that no requests get to yet."""
    name = {"FunctionName": function.name}
    return [
        Request("lambda", "UpdateFunctionCode", {**name, **function.code, "Architectures": [function.architecture]}),
        Request("lambda", "UpdateFunctionConfiguration", {**name, **function.configuration}),
        publish(function),
    ]


def publish(function: Function) -> Request:
    return Request("lambda", "PublishVersion", {"FunctionName": function.name, "Description": function.description})


def reserve(function: Function, *, limited: bool) -> list[Request]:
    """Return the call that sets how many requests there are at once, at most. limited: whether it is limited now."""
    name = {"FunctionName": function.name}
    if function.reserved is not None:
        given = {**name, "ReservedConcurrentExecutions": function.reserved}
        return [Request("lambda", "PutFunctionConcurrency", given)]
    return [Request("lambda", "DeleteFunctionConcurrency", name)] if limited else []


def provision(function: Function, *, before: int) -> list[Request]:
    """Return the call that sets how many processes the alias keeps warm. before: how many it does now."""
    alias = {"FunctionName": function.name, "Qualifier": ALIAS}
    if function.provisioned:
        given = {**alias, "ProvisionedConcurrentExecutions": function.provisioned}
        return [Request("lambda", "PutProvisionedConcurrencyConfig", given)]
    return [Request("lambda", "DeleteProvisionedConcurrencyConfig", alias)] if before else []


def moved(name: str, version: str = VERSION, weights: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return the UpdateAlias request that sends all requests to a version. name: of the function.

    weights: shares of them that go to another version.
    """
    return {
        "FunctionName": name,
        "Name": ALIAS,
        "FunctionVersion": version,
        "RoutingConfig": {"AdditionalVersionWeights": dict(weights or {})},
    }
