"""Serve a model as a real-time endpoint of SageMaker: instances that are always there."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.deploy import (
    endpoint,
    front_checks,
    fronted,
    names,
    request,
    revisions,
    settings_checks,
    smoke,
    summary,
    waiting,
)
from launchers.deploy.endpoint import Endpoint
from launchers.deploy.endpoint_change import EndpointChange
from launchers.deploy.settings import DeploySettings
from launchers.plan import Plan, Request
from launchers.spec import RunSpec
from launchers.status import Handle, LogLine, Status

if TYPE_CHECKING:
    from launchers.deploy.launcher import DeployLauncher


class Realtime:
    name: ClassVar[str] = "realtime"
    kind: ClassVar[str] = "endpoint"

    def findings(self, settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
        yield from settings_checks.findings(settings, spec)
        yield from front_checks.findings(settings, spec)

    def rows(self, settings: DeploySettings, spec: RunSpec, handle: Handle) -> Iterator[tuple[str, str]]:
        return summary.rows(settings, spec, handle)

    def requests(self, settings: DeploySettings, spec: RunSpec) -> tuple[Request, ...]:
        return request.requests(settings, spec)

    def make(self, launcher: "DeployLauncher", plan: Plan) -> None:
        EndpointChange(launcher, plan).make()

    def find(self, cloud: Cloud, name: str) -> Endpoint | None:
        return endpoint.find(cloud, name)

    def names(self, cloud: Cloud) -> Iterator[str]:
        with errors("listing endpoints"):
            pages = (
                cloud.client("sagemaker")
                .get_paginator("list_endpoints")
                .paginate(NameContains=names.PREFIX, SortBy="CreationTime", SortOrder="Descending")
            )
            found = [each["EndpointName"] for page in pages for each in page["Endpoints"]]
        yield from filter(None, map(names.deployment_of, found))

    def lines(self, cloud: Cloud, name: str) -> Sequence[LogLine]:
        own = names.Names(name)
        return waiting.lines(cloud, own.log_group, front=own.function_log_group)

    def invoke(self, cloud: Cloud, name: str, picture: bytes) -> dict[str, Any]:
        """Ask through the front where one is."""
        front = fronted.find(cloud, name)
        return fronted.ask(cloud, name, picture) if front and front.url else smoke.invoke(cloud, name, picture)

    def url(self, cloud: Cloud, name: str) -> str:
        front = fronted.find(cloud, name)
        return front.url if front else ""

    def rollback(self, launcher: "DeployLauncher", handle: Handle) -> Status:
        return revisions.rollback(launcher, handle)
