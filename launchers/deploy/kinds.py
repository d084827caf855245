"""What every kind of part of a deployment says of itself: how it is listed, whose a name is, and how it is removed."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from launchers.aws import tags
from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.deploy import names
from launchers.status import Cause, LaunchError

Named = Iterator[tuple[str, datetime | None]]  # names, and when each was created; None where AWS does not tell


@dataclass(frozen=True)
class Kind:
    """A kind of part. `parts.KINDS` lists all of them.

    name: such as `model`. listed: yields what begins with a prefix, and may yield more. owner: returns the deployment
    that a name belongs to; None if it is not one of ours. remove: takes a name, and the most seconds to wait.
    """

    name: str
    listed: Callable[[Cloud, str], Named]
    owner: Callable[[str], str | None]
    remove: Callable[[Cloud, str, float], None]


def owner(pattern: str) -> Callable[[str], str | None]:
    """Return what finds the deployment in a name. pattern: of what follows `dogbreed-` and the deployment's name."""
    expression = re.compile(rf"{names.PREFIX}(.+?){pattern}")

    def find(name: str) -> str | None:
        found = expression.fullmatch(name)
        return found[1] if found and names.is_name(found[1]) else None

    return find


def call(service: str, method: str, key: str) -> Callable[[Cloud, str, float], None]:
    """Return what removes a part by one call. method: as boto3 calls it. key: the parameter that takes the name."""

    def made(cloud: Cloud, name: str, longest_s: float) -> None:
        getattr(cloud.client(service), method)(**{key: name})

    return made


def log_groups(name: str, begins: str) -> Kind:
    """Return a kind of log groups. begins: what their names begin with, up to `dogbreed-`."""

    def listed(cloud: Cloud, prefix: str) -> Named:
        start = begins.removesuffix(names.PREFIX) + prefix
        with errors("listing log groups"):
            pages = cloud.client("logs").get_paginator("describe_log_groups").paginate(logGroupNamePrefix=start)
            for page in pages:
                for group in page["logGroups"]:
                    yield group["logGroupName"], datetime.fromtimestamp(group["creationTime"] / 1000, UTC)

    def owner(group: str) -> str | None:
        return names.deployment_of(group.rpartition("/")[2])

    return Kind(name, listed, owner, call("logs", "delete_log_group", "logGroupName"))


def refuse_foreign(what: str, found: Mapping[str, str], name: str) -> None:
    """Raise LaunchError if something with our name was not made for this deployment. found: its tags."""
    if found.get(tags.RUN_ID) != name or found.get(tags.PURPOSE) != "deployment":
        raise LaunchError(
            f"There is {what}, which this launcher did not create: its tags do not say so.\nTry: another name=",
            Cause.BAD_CONFIG,
        )
