"""A function with the model inside, as Lambda describes it, and what that means."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from launchers.aws import tags
from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.deploy import endpoint, expiry, names, watching
from launchers.deploy.function import ALIAS
from launchers.deploy.function_calls import configuration, described, modified
from launchers.deploy.kinds import refuse_foreign
from launchers.deploy.on_lambda import request
from launchers.payload.package import HANDLER
from launchers.spec import Deployed
from launchers.status import Cause, Phase, Status

_PHASES = {"Pending": Phase.PROVISIONING, "Active": Phase.IN_SERVICE, "Inactive": Phase.IN_SERVICE}


@dataclass(frozen=True)
class Served:
    """A function. state, reason: Lambda's own words. live: the version that requests get to; empty if none can.

    reserved: the most requests at once; None if nothing limits them. modified: ISO 8601. canary: the version that a
    share of the requests gets to; empty if there is none.
    """

    name: str
    state: str
    reason: str
    modified: str
    tags: Mapping[str, str]
    live: str
    reserved: int | None
    canary: str = ""
    arn: str = ""

    @property
    def phase(self) -> Phase:
        """A function without its alias or URL is what a command left that was killed while it created it."""
        if not self.live:
            return Phase.FAILED
        return _PHASES.get(self.state, Phase.FAILED)

    def refuse_foreign(self, cloud: Cloud, name: str) -> None:
        refuse_foreign(f"a function {self.name}", self.tags, name)

    def overdue(self, cloud: Cloud, now: datetime) -> bool:
        return expiry.is_over(self.tags, now)

    def deployed(self, cloud: Cloud, name: str) -> Deployed:
        found = configuration(cloud, self.name, self.live) or {}
        revision, _ = request.described(str(found.get("Description", "")))
        ends = endpoint.schedule(cloud, names.Names(name).function_schedules["function"])
        return Deployed(
            revision,
            {**request.facts(found, self.reserved), "version": self.live, "canary": self.canary},
            expiry.time_of(ends) if ends else "",
            expiry.ttl_of(ends) if ends else None,
            variant="lambda",
            alarms=watching.present(cloud, names.Names(name)),
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
                    *([f"a canary: some of the requests get to version {self.canary}"] if self.canary else []),
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
    if alias and not address(cloud, function):
        alias = {}
    return Served(
        function,
        str(about.get("State", "")),
        str(about.get("StateReason") or ""),
        modified(about).isoformat(timespec="seconds"),
        tagged,
        str(alias.get("FunctionVersion", "")),
        (found.get("Concurrency") or {}).get("ReservedConcurrentExecutions"),
        "".join((alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}),
        str(about.get("FunctionArn", "")),
    )


def address(cloud: Cloud, function: str) -> str:
    """Return the function URL; empty if there is none."""
    found = described(cloud, "get_function_url_config", FunctionName=function, Qualifier=ALIAS)
    return str(found["FunctionUrl"]) if found else ""


def note_served(cloud: Cloud, found: Served) -> None:
    """Note in the function's tags that the live version has served, before another one takes its place.

    Only such a version may be brought back: a command may have been killed before another one was tested.
    """
    if also := tags.also_served(found.tags, found.live):
        with errors(f"tagging {found.name}"):
            cloud.client("lambda").tag_resource(Resource=found.arn, Tags=also)


def version_before(numbers: Sequence[str], live: str, served: Collection[str]) -> str:
    """Return the version that was live before: the next older one, or else the next newer one, which was rolled back.

    Empty if there is none. served: the versions that have been live.
    """
    older = [number for number in numbers if int(number) < int(live) and number in served]
    newer = [number for number in numbers if int(number) > int(live) and number in served]
    return max(older, key=int, default="") or min(newer, key=int, default="")


def versions(cloud: Cloud, function: str) -> list[str]:
    """Return the numbers of the published versions, the newest first."""
    with errors(f"listing the versions of {function}"):
        pages = cloud.client("lambda").get_paginator("list_versions_by_function").paginate(FunctionName=function)
        found = [str(each["Version"]) for page in pages for each in page["Versions"]]
    return sorted((number for number in found if number.isdigit()), key=int, reverse=True)
