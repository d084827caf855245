"""Serve a model inside an AWS Lambda function: it is paid by the request, and answers at a function URL."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from launchers.base import Cloud
from launchers.deploy import function_kinds, names, waiting
from launchers.deploy.on_lambda import asking, change, checks, request, served, summary
from launchers.deploy.settings import DeploySettings
from launchers.plan import Plan, Request
from launchers.spec import RunSpec
from launchers.status import Handle, LogLine, Status

if TYPE_CHECKING:
    from launchers.deploy.launcher import DeployLauncher


class OnLambda:
    name: ClassVar[str] = "lambda"
    kind: ClassVar[str] = function_kinds.FUNCTION.name

    def findings(self, settings: DeploySettings, spec: RunSpec) -> Iterator[str]:
        return checks.findings(settings, spec)

    def rows(self, settings: DeploySettings, spec: RunSpec, handle: Handle) -> Iterator[tuple[str, str]]:
        return summary.rows(settings, spec, handle)

    def requests(self, settings: DeploySettings, spec: RunSpec) -> tuple[Request, ...]:
        return request.requests(settings, spec)

    def make(self, launcher: "DeployLauncher", plan: Plan) -> None:
        change.FunctionChange(launcher, plan).make()

    def find(self, cloud: Cloud, name: str) -> served.Served | None:
        return served.find(cloud, name)

    def names(self, cloud: Cloud) -> Iterator[str]:
        listed = (
            function_kinds.FUNCTION.owner(name) for name, _ in function_kinds.FUNCTION.listed(cloud, names.PREFIX)
        )
        yield from filter(None, listed)

    def lines(self, cloud: Cloud, name: str) -> Sequence[LogLine]:
        return waiting.lines(cloud, names.Names(name).function_log_group)

    def invoke(self, cloud: Cloud, name: str, picture: bytes) -> dict[str, Any]:
        return asking.ask(cloud, name, picture)

    def url(self, cloud: Cloud, name: str) -> str:
        return served.address(cloud, names.Names(name).endpoint)

    def rollback(self, launcher: "DeployLauncher", handle: Handle) -> Status:
        return change.rollback(launcher, handle)
