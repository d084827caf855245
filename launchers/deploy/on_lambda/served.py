"""A function with the model inside, as Lambda describes it, and what that means."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from launchers.aws import tags
from launchers.aws.errors import code_of, errors
from launchers.base import Cloud
from launchers.deploy import endpoint, expiry, names
from launchers.deploy.function import ALIAS
from launchers.deploy.on_lambda import request
from launchers.payload.package import HANDLER
from launchers.spec import Deployed
from launchers.status import Cause, LaunchError, Phase, Status

_PHASES = {"Pending": Phase.PROVISIONING, "Active": Phase.IN_SERVICE, "Inactive": Phase.IN_SERVICE}
_SETTLED = ("Successful", None)  # of the latest change


@dataclass(frozen=True)
class Served:
    """A function. state, reason: Lambda's own words. live: the version that requests get to; empty if there is none.

    reserved: the most requests at once; None if nothing limits them. modified: ISO 8601.
    """

    name: str
    state: str
    reason: str
    modified: str
    tags: Mapping[str, str]
    live: str
    reserved: int | None

    @property
    def phase(self) -> Phase:
        """A function without its alias is what a command left that was killed while it created it."""
        if not self.live:
            return Phase.FAILED
        return _PHASES.get(self.state, Phase.FAILED)

    def refuse_foreign(self, cloud: Cloud, name: str) -> None:
        if self.tags.get(tags.RUN_ID) != name or self.tags.get(tags.PURPOSE) != "deployment":
            raise LaunchError(
                f"There is a function {self.name}, which this launcher did not create: its tags do not say so.\n"
                "Try: another name=",
                Cause.BAD_CONFIG,
            )

    def overdue(self, cloud: Cloud, now: datetime) -> bool:
        return expiry.is_over(self.tags, now)

    def deployed(self, cloud: Cloud, name: str) -> Deployed:
        found = configuration(cloud, self.name, self.live) or {}
        revision, _ = request.described(str(found.get("Description", "")))
        ends = endpoint.schedule(cloud, names.Names(name).function_schedules["function"])
        return Deployed(
            revision,
            {**request.facts(found, self.reserved), "version": self.live},
            expiry.time_of(ends) if ends else "",
            expiry.ttl_of(ends) if ends else None,
            variant="lambda",
        )

    def status_of(self, cloud: Cloud, name: str) -> Status:
        detail, cause = self.reason, Cause.NONE
        if self.phase is Phase.FAILED:
            detail = self.reason or "The command that creates it has not come to its end."
            cause = Cause.UNKNOWN
        elif self.phase is Phase.IN_SERVICE:
            found = self.deployed(cloud, name)
            url = address(cloud, self.name)
            detail = "\n".join(
                [
                    f"version {self.live}: {found.facts['memory']}, {found.facts['at once']}",
                    *([f"URL {url}, for requests that are signed"] if url else []),
                    expiry.in_words(found.expires_at),
                ]
            )
        return Status(self.phase, cause, detail, attempt=1, started_at=self.modified, job=self.name)


def find(cloud: Cloud, name: str) -> Served | None:
    """Return the function of a deployment; None if there is none, or one that only passes requests on."""
    function = names.Names(name).endpoint
    found = described(cloud, "get_function", FunctionName=function)
    if found is None:
        return None
    about, tagged = found["Configuration"], dict(found.get("Tags") or {})
    if about.get("Handler") != HANDLER and tagged.get(tags.RUN_ID) == name:
        return None
    alias = described(cloud, "get_alias", FunctionName=function, Name=ALIAS) or {}
    return Served(
        function,
        str(about.get("State", "")),
        str(about.get("StateReason") or ""),
        datetime.strptime(str(about["LastModified"]), "%Y-%m-%dT%H:%M:%S.%f%z").isoformat(timespec="seconds"),
        tagged,
        str(alias.get("FunctionVersion", "")),
        (found.get("Concurrency") or {}).get("ReservedConcurrentExecutions"),
    )


def configuration(cloud: Cloud, function: str, version: str) -> dict[str, Any] | None:
    """Return what Lambda says of a version; None if there is no such version. version: or `$LATEST`."""
    return described(cloud, "get_function_configuration", FunctionName=function, Qualifier=version)


def settled(about: Mapping[str, Any]) -> bool:
    """Return whether nothing of a function is being changed. about: its configuration."""
    return about.get("State") != "Pending" and about.get("LastUpdateStatus") in _SETTLED


def address(cloud: Cloud, function: str) -> str:
    """Return the function URL; empty if there is none."""
    found = described(cloud, "get_function_url_config", FunctionName=function, Qualifier=ALIAS)
    return str(found["FunctionUrl"]) if found else ""


def versions(cloud: Cloud, function: str) -> list[str]:
    """Return the numbers of the published versions, the newest first."""
    with errors(f"listing the versions of {function}"):
        pages = cloud.client("lambda").get_paginator("list_versions_by_function").paginate(FunctionName=function)
        found = [str(each["Version"]) for page in pages for each in page["Versions"]]
    return sorted((number for number in found if number.isdigit()), key=int, reverse=True)


def described(cloud: Cloud, method: str, **parameters: str) -> dict[str, Any] | None:
    """Return what Lambda describes; None if there is no such thing. method: as boto3 calls it."""
    from botocore.exceptions import ClientError

    with errors(f"asking for {parameters['FunctionName']}"):
        try:
            found: dict[str, Any] = getattr(cloud.client("lambda"), method)(**parameters)
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":
                return None
            raise
    return found
