"""Deploy a model as a SageMaker endpoint: create it, update it, roll it back, and take it down."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dogbreed import commands
from dogbreed.errors import ConfigError, raise_findings
from launchers.aws.errors import errors
from launchers.aws.policy import Identity
from launchers.base import Capabilities, CleanupReport, Cloud
from launchers.deploy import (
    change,
    endpoint,
    images,
    names,
    parts,
    permissions,
    request,
    settings_checks,
    smoke,
    summary,
    waiting,
)
from launchers.deploy.settings import DeploySettings
from launchers.plan import Plan
from launchers.runs.find import DEPLOYMENTS_DIR
from launchers.runs.launched import launched
from launchers.spec import Deployed, RunSpec
from launchers.status import Cause, Handle, LaunchError, LogLine, Phase, RunResult, Status

if TYPE_CHECKING:
    from dogbreed.training import Watch

_IN_CREATION = timedelta(hours=1)  # for which parts without an endpoint are spared


@dataclass(frozen=True)
class InService(RunResult):
    """A deployment that answers. lines: what to tell people about it."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(["", *self.lines])


@dataclass(frozen=True)
class DeployLauncher(DeploySettings):
    """Serves a model as a real-time endpoint. conf/launcher/deploy.yaml explains each key."""

    scheme: ClassVar[str] = "deploy"
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=False,
        multi_node=False,
        follow_logs=True,
        exact_cost=False,
        graceful_cancel=True,
        remote=True,
        sends_code=False,
        whole_search=False,
        deploys=True,
    )

    wait: bool = True

    @classmethod
    def at(cls, cloud: Cloud, *, runs_dir: str = "runs", bucket: str | None = None) -> Self:
        return cls(cloud, bucket=bucket or cloud.default_bucket)

    @property
    def answers(self) -> bool:
        return self.cloud.answers

    @property
    def poll_s(self) -> float:
        return self.cloud.poll_s

    def identities(self, config: Mapping[str, Any], day: str, account: str) -> Sequence[Identity]:
        return permissions.identities(self, account)

    # --- before ---

    def deployed(self, name: str) -> Deployed | None:
        """Return what is served under a name now; None if nothing is, or if what is there has failed.

        Raises LaunchError for an endpoint of that name which is not ours.
        """
        found = endpoint.find(self.cloud, name)
        if found is None:
            return None
        endpoint.refuse_foreign(self.cloud, found, name)
        return None if found.phase is Phase.FAILED else endpoint.deployed(self.cloud, found, name)

    def plan(self, spec: RunSpec) -> Plan:
        raise_findings(ConfigError, list(settings_checks.findings(self, spec)))
        handle = Handle(self.scheme, self.cloud.scope, spec.run_id)
        rows = tuple(summary.rows(self, spec, handle))
        return Plan(spec, handle, rows, request.requests(self, spec), permissions.actions(permissions.caller(self)))

    def submit(self, plan: Plan, *, watch: "Watch | None" = None) -> Handle:
        """Check the account, then create or update the endpoint; with `wait`, stay until it answers.

        A deployment that fails while this waits is taken down; an update that fails is rolled back by SageMaker.
        """
        change.Change(self, plan).make()
        return plan.handle

    # --- afterwards ---

    def status(self, handle: Handle) -> Status:
        found = endpoint.find(self.cloud, handle.run_id)
        if found is None:
            return Status(Phase.LOST, Cause.UNKNOWN, self.unknown(handle))
        details, cause = [], Cause.NONE
        if found.phase is Phase.FAILED:
            cause = _cause(found.reason)
        if found.reason:
            details.append(found.reason)
        if found.phase is Phase.IN_SERVICE:
            expires = endpoint.expires_at(self.cloud, handle.run_id)
            at = f"{datetime.fromisoformat(expires):%Y-%m-%d %H:%M} UTC" if expires else ""
            details.append(
                f"{found.instances} instance{'s' if found.instances != 1 else ''}, "
                + (f"deleted at {at}" if at else "kept until it is cancelled")
            )
        return Status(
            found.phase,
            cause,
            "\n".join(details),
            attempt=1,
            started_at=found.created.isoformat(timespec="seconds"),
            log_tail=self._tail(handle) if found.phase is Phase.FAILED else (),
            next_action=self._next(found, handle),
            job=found.name,
        )

    def _next(self, found: "endpoint.Endpoint", handle: Handle) -> str:
        name = self.name_of(handle)
        if found.phase is Phase.FAILED:
            return f"Try: {commands.launchers('cancel', *name)}, which removes it, and then a new deployment"
        if found.phase is Phase.IN_SERVICE:
            return f"Ask it:  {commands.launchers('invoke', *name, 'PHOTO')}\nEnd it:  " + commands.launchers(
                "cancel", *name
            )
        return ""

    def _tail(self, handle: Handle) -> tuple[str, ...]:
        try:
            return tuple(line.text for line in self.logs(handle))[-waiting.TAIL_LINES :]
        except LaunchError:
            return ()

    def logs(
        self, handle: Handle, *, follow: bool = False, attempt: int | None = None, node: int | None = None
    ) -> Iterator[LogLine]:
        if endpoint.find(self.cloud, handle.run_id) is None:
            raise LaunchError(self.unknown(handle))
        return self._lines(handle, follow=follow, attempt=attempt, node=node)

    def _lines(self, handle: Handle, *, follow: bool, attempt: int | None, node: int | None) -> Iterator[LogLine]:
        seen: Counter[int] = Counter()
        while True:
            settled = not follow or self.status(handle).settled
            for line in waiting.new_lines(waiting.lines(self.cloud, handle.run_id), seen):
                if attempt in (None, line.attempt) and node in (None, line.node):
                    yield line
            if settled:
                return
            time.sleep(self.poll_s)

    def cancel(self, handle: Handle, *, grace_s: float = 110) -> Status:
        """Remove the whole deployment, and say what stays. Waits for an endpoint that is being created or updated."""
        name = handle.run_id
        found = endpoint.find(self.cloud, name)
        if found is not None:
            endpoint.refuse_foreign(self.cloud, found, name)
        existed = parts.of_deployment(self.cloud, name)
        if not existed:
            return self.status(handle)
        left = parts.remove_all(self.cloud, name)
        stays = [] if self.bucket is None else parts.stays(self.cloud, self.bucket, f"{self.prefix}/models/{name}/")
        stays += images.stays(self.cloud)
        if left:
            again = commands.launchers("cancel", *self.name_of(handle))
            raise LaunchError("Not everything could be removed:\n" + "\n".join(left) + f"\nTry: {again}")
        lines = [
            f"Removed: {', '.join(sorted({part.kind for part in existed}))}.",
            *(f"Stays: {text}" for text in stays),
        ]
        return Status(Phase.CANCELLED, Cause.BY_USER, "\n".join(lines))

    def rollback(self, handle: Handle) -> Status:
        return change.rollback(self, handle)

    def invoke(self, handle: Handle, picture: bytes) -> dict[str, Any]:
        """Return the answer to one picture. Raises LaunchError."""
        return smoke.invoke(self.cloud, handle.run_id, picture)

    def result(self, handle: Handle) -> RunResult:
        status = self.status(handle)
        if status.phase is not Phase.IN_SERVICE:
            raise LaunchError(f"The deployment {handle} is not in service: {status}", status.cause)
        lines = (f"{handle} is in service: {status.detail}", *status.next_action.splitlines())
        return InService(handle, self._folder(handle), {}, {}, lines)

    def download(self, handle: Handle) -> Path:
        raise LaunchError(
            f"{handle} is a deployment, which leaves no files.\n"
            f"Try: {commands.launchers('logs', *self.name_of(handle))}"
        )

    def fetch(self, handle: Handle, folder: Path | None, *, checkpoints: bool) -> Path:
        raise LaunchError(
            f"{handle} is a deployment, and cannot be resumed.\nTry: launcher=deploy with name= and checkpoint="
        )

    def list(self, *, active_only: bool = True, name: str = "") -> Iterator[tuple[Handle, Status]]:
        """Yield the deployments in the account."""
        with errors("listing endpoints"):
            pages = (
                self.cloud.client("sagemaker")
                .get_paginator("list_endpoints")
                .paginate(NameContains=names.PREFIX, SortBy="CreationTime", SortOrder="Descending")
            )
            found = [each["EndpointName"] for page in pages for each in page["Endpoints"]]
        for deployment in filter(None, map(names.deployment_of, found)):
            if name in deployment:
                handle = Handle(self.scheme, self.cloud.scope, deployment)
                status = self.status(handle)
                if not (active_only and status.finished):
                    yield handle, status

    def cleanup(self, *, older_than: timedelta | None = None, apply: bool = False) -> CleanupReport:
        """Find, and with `apply` remove, parts of deployments that have no endpoint any more.

        older_than: an hour by default, because a deployment that is being created has no endpoint at first.
        """
        latest = datetime.now(UTC) - (_IN_CREATION if older_than is None else older_than)
        everything = parts.everything(self.cloud)
        kept = {
            part.deployment
            for part in everything
            if part.kind == "endpoint" or (part.created is not None and part.created > latest)
        }
        found = [part for part in everything if part.deployment not in kept]
        if apply:
            for part in found:
                parts.remove(self.cloud, part)
        left = set(parts.everything(self.cloud)) if apply else set(found)
        return CleanupReport(tuple(map(str, found)), tuple(str(part) for part in found if part not in left))

    def name_of(self, handle: Handle) -> Sequence[str]:
        if (launched(self._folder(handle)) or {}).get("handle") == str(handle):
            return [handle.run_id]  # its folder here says the rest
        return [str(handle), *self.cloud.option]

    def folder(self, handle: Handle) -> Path | None:
        return None

    def _folder(self, handle: Handle) -> Path:
        return commands.working_folder() / DEPLOYMENTS_DIR / handle.run_id

    def unknown(self, handle: Handle) -> str:
        return f"There is no deployment {handle.run_id} in {self.cloud.describe()}."


def _cause(reason: str) -> Cause:
    """Return why an endpoint failed, from SageMaker's words."""
    lower = reason.lower()
    if "capacity" in lower:
        return Cause.CAPACITY
    if "not authorized" in lower or "access denied" in lower or "permission" in lower:
        return Cause.PERMISSION
    return Cause.USER_CODE if "health check" in lower or "container" in lower else Cause.UNKNOWN
