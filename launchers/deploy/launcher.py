"""Deploy a model: create what serves it, update it, roll it back, and take it down."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dogbreed import commands
from dogbreed.errors import ConfigError, raise_findings
from dogbreed.load import Sign
from launchers.aws.policy import Identity
from launchers.base import Capabilities, CleanupReport, Cloud
from launchers.deploy import (
    fronted,
    images,
    limited,
    names,
    parts,
    permissions,
    records,
    settings_checks,
    signing,
    variants,
    waiting,
)
from launchers.deploy.settings import DeploySettings
from launchers.deploy.variants import VARIANTS
from launchers.plan import Plan
from launchers.runs.find import DEPLOYMENTS_DIR
from launchers.runs.launched import launched
from launchers.spec import Deployed, RunSpec
from launchers.status import Cause, Failures, Handle, LaunchError, LogLine, Phase, RunResult, Status

if TYPE_CHECKING:
    from dogbreed.training import Watch

log = logging.getLogger("dogbreed")

_IN_CREATION = timedelta(hours=1)  # in which nothing serves yet, and parts are no leftovers


@dataclass(frozen=True)
class InService(RunResult):
    """A deployment that answers. lines: what to tell people about it."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(["", *self.lines])


@dataclass(frozen=True)
class DeployLauncher(DeploySettings):
    """Serves a model in the way that launcher.variant names. conf/launcher/deploy.yaml explains each key."""

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
        return permissions.identities(self, account, str(config.get("name") or ""))

    # --- before ---

    def deployed(self, name: str) -> Deployed | None:
        """Return what is served under a name now; None if nothing is, or if what is there has failed.

        Raises LaunchError for something of that name which is not ours.
        """
        found = variants.find(self.cloud, name)
        if found is None:
            return None
        found.serving.refuse_foreign(self.cloud, name)
        return None if found.serving.phase is Phase.FAILED else found.serving.deployed(self.cloud, name)

    def plan(self, spec: RunSpec) -> Plan:
        raise_findings(ConfigError, list(settings_checks.type_findings(self)))  # all that follows relies on them
        fitted = limited.fit(self, spec)
        raise_findings(ConfigError, [*variants.findings(fitted, spec), *limited.findings(self, spec)])
        variant = VARIANTS[self.variant]
        handle = Handle(self.scheme, self.cloud.scope, spec.run_id)
        rows = (*variant.rows(fitted, spec, handle), *limited.rows(fitted, spec))
        actions = permissions.actions(permissions.caller(self))
        return Plan(spec, handle, rows, variant.requests(fitted, spec), actions, limited.costs(fitted, spec))

    def submit(self, plan: Plan, *, watch: "Watch | None" = None) -> Handle:
        """Check the account, then create or update the deployment; with `wait`, stay until it answers.

        A deployment that fails while this waits is taken down. After an update that sets off an alarm, and a version of
        a function that answers wrongly, the revision before is in service. A new revision of an endpoint that sets off
        none but answers wrongly stays, and the error says how to bring back the one before.
        """
        fitted = limited.fit(self, plan.spec)
        try:
            VARIANTS[self.variant].make(fitted, plan)
        finally:
            self._settle(fitted, plan)
        return plan.handle

    def record(self, spec: RunSpec) -> None:
        """Record what a change costs, before it costs anything."""
        if (kept := records.Records.of(self, spec.run_id)) is not None:
            kept.begin(self, spec)

    def _settle(self, fitted: DeploySettings, plan: Plan) -> None:
        """Record what has come of a change, so that what it costs from now on is known."""
        kept = records.Records.of(self, plan.spec.run_id) if plan.requests else None
        if kept is None:
            return
        try:
            found = variants.find(self.cloud, plan.spec.run_id)
            gone = found is None or found.serving.phase is Phase.FAILED
            deployed = None if gone or found is None else found.serving.deployed(self.cloud, plan.spec.run_id)
        except LaunchError as error:
            log.warning("What %s costs from now on is not recorded. %s", plan.spec.run_id, error)
            return
        changing = not gone and found is not None and found.serving.phase is not Phase.IN_SERVICE
        kept.settle(fitted, plan.spec, deployed, changing=changing)

    def spent_usd(self, name: str) -> float | None:
        kept = records.Records.of(self, name)
        return None if kept is None else kept.spent_usd(datetime.now(UTC))

    # --- afterwards ---

    def status(self, handle: Handle) -> Status:
        found = variants.find(self.cloud, handle.run_id)
        if found is None:
            return Status(Phase.LOST, Cause.UNKNOWN, self.unknown(handle))
        status = found.serving.status_of(self.cloud, handle.run_id)
        tail = self._tail(handle) if status.phase is Phase.FAILED else ()
        return replace(status, log_tail=tail, next_action=self._next(status.phase, handle))

    def _next(self, phase: Phase, handle: Handle) -> str:
        name = self.name_of(handle)
        if phase is Phase.FAILED:
            return f"Try: {commands.launchers('cancel', *name)}, which removes it, and then a new deployment"
        if phase is Phase.IN_SERVICE:
            return f"Ask it:  {commands.launchers('invoke', *name, 'PHOTO')}\nEnd it:  " + commands.launchers(
                "cancel", *name
            )
        return ""

    def _tail(self, handle: Handle) -> tuple[str, ...]:
        """Return the last lines of the log; why instead if it cannot be read."""
        try:
            return tuple(line.text for line in self.logs(handle))[-waiting.TAIL_LINES :]
        except LaunchError as error:
            return (str(error).partition("\n")[0],)

    def logs(
        self, handle: Handle, *, follow: bool = False, attempt: int | None = None, node: int | None = None
    ) -> Iterator[LogLine]:
        found = self._found(handle)
        return self._lines(found.variant, handle, follow=follow, attempt=attempt, node=node)

    def _found(self, handle: Handle) -> variants.Found:
        """Return what serves under the handle's name. Raises LaunchError if nothing does."""
        found = variants.find(self.cloud, handle.run_id)
        if found is None:
            raise LaunchError(self.unknown(handle))
        return found

    def _lines(
        self, variant: variants.Variant, handle: Handle, *, follow: bool, attempt: int | None, node: int | None
    ) -> Iterator[LogLine]:
        seen: Counter[waiting.Identity] = Counter()
        while True:
            settled = not follow or self.status(handle).settled
            for line in waiting.new_lines(variant.lines(self.cloud, handle.run_id), seen):
                if attempt in (None, line.attempt) and node in (None, line.node):
                    yield line
            if settled:
                return
            time.sleep(self.poll_s)

    def cancel(self, handle: Handle, *, grace_s: float = 110) -> Status:
        """Remove the whole deployment, and say what stays. Waits for an endpoint that is being created or updated."""
        name = handle.run_id
        found = variants.find(self.cloud, name)
        if found is not None:
            found.serving.refuse_foreign(self.cloud, name)
        existed = parts.of_deployment(self.cloud, name) if names.is_name(name) else []
        if not existed:
            return self.status(handle)
        left = parts.remove_all(self.cloud, name)
        if (kept := records.Records.of(self, name)) is not None and not left:
            kept.end()
        if left:
            again = commands.launchers("cancel", *self.name_of(handle))
            raise LaunchError("Not everything could be removed:\n" + "\n".join(left) + f"\nTry: {again}")
        stays = [] if self.bucket is None else parts.stays(self.cloud, self.bucket, f"{self.prefix}/models/{name}/")
        stays += images.stays(self.cloud)
        lines = [
            f"Removed: {', '.join(sorted({part.kind for part in existed}))}.",
            *(f"Stays: {text}" for text in stays),
        ]
        return Status(Phase.CANCELLED, Cause.BY_USER, "\n".join(lines))

    def rollback(self, handle: Handle) -> Status:
        found = self._found(handle)
        found.serving.refuse_foreign(self.cloud, handle.run_id)
        began, before = datetime.now(UTC), found.serving.deployed(self.cloud, handle.run_id)
        try:
            return found.variant.rollback(self, handle)
        finally:
            self._record_rollback(handle.run_id, began, before)

    def _record_rollback(self, name: str, began: datetime, before: Deployed) -> None:
        kept = records.Records.of(self, name)
        try:
            found = None if kept is None else variants.find(self.cloud, name)
            after = None if found is None else found.serving.deployed(self.cloud, name)
        except LaunchError as error:
            log.warning("What %s costs from now on is not recorded. %s", name, error)
            return
        if kept is not None and after is not None:
            kept.rolled_back(began, before, after, both=after.variant == "realtime")

    def reservable(self, name: str) -> int | None:
        has_function = self.front is not None or self.variant == "lambda"
        asked = self.reserved is not None and has_function and names.is_name(name)
        return fronted.reservable(self.cloud, name) if asked else None

    def url(self, handle: Handle) -> str:
        found = self._found(handle)
        url = found.variant.url(self.cloud, handle.run_id)
        if not url:
            add = "launcher.front=lambda, which puts a function with a URL in front of it"
            ask = commands.launchers("invoke", *self.name_of(handle), "PHOTO")
            raise LaunchError(f"The deployment {handle.run_id} has no URL.\nTry: {add}; or {ask}", Cause.BAD_CONFIG)
        return url

    def entrance(self, handle: Handle) -> tuple[str, Sign]:
        """Return where it takes pictures with POST, and what signs them: its URL, or SageMaker's own address."""
        url = self._found(handle).variant.url(self.cloud, handle.run_id)
        return (url, signing.signer(self.cloud)) if url else signing.of_endpoint(self.cloud, handle.run_id)

    def invoke(self, handle: Handle, picture: bytes) -> dict[str, Any]:
        """Return the answer to one picture. Raises LaunchError."""
        return self._found(handle).variant.invoke(self.cloud, handle.run_id, picture)

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
        for deployment in (each for variant in VARIANTS.values() for each in variant.names(self.cloud)):
            if name in deployment:
                handle = Handle(self.scheme, self.cloud.scope, deployment)
                status = self.status(handle)
                if not (active_only and status.finished):
                    yield handle, status

    def cleanup(self, *, older_than: timedelta | None = None, apply: bool = False) -> CleanupReport:
        """Find, and with `apply` remove, parts of deployments of which nothing serves any more, or whose time is over.

        older_than: an hour by default, because of a deployment that is being created nothing serves at first.
        """
        now, failures = datetime.now(UTC), Failures()
        latest = now - (_IN_CREATION if older_than is None else older_than)
        everything, kinds = parts.everything(self.cloud), {variant.kind for variant in VARIANTS.values()}
        serving = {part.deployment for part in everything if part.kind in kinds}
        new = {part.deployment for part in everything if part.created is not None and part.created > latest}
        kept, overdue = new - serving, set[str]()
        for name in serving:
            with failures.noted():  # one about which AWS cannot be asked is kept
                overdue |= {name} if self._is_overdue(name, now) else set()
        kept |= serving - overdue
        found = [part for part in everything if part.deployment not in kept]
        left = set(found)
        if apply and found:
            for name in dict.fromkeys(part.deployment for part in found):
                with failures.noted():
                    self._remove(name)
            with failures.noted():
                left = set(parts.everything(self.cloud))
        gone = tuple(str(part) for part in found if part not in left)
        return CleanupReport(tuple(map(str, found)), gone, tuple(failures.errors))

    def _remove(self, name: str) -> None:
        """Remove all parts of a deployment. Raises LaunchError with those that resist."""
        if left := parts.remove_all(self.cloud, name):
            raise LaunchError(f"Not all of the deployment {name} could be removed:\n" + "\n".join(left))

    def _is_overdue(self, name: str, now: datetime) -> bool:
        """Return whether a deployment of ours should have been deleted by its schedules."""
        found = variants.find(self.cloud, name)
        if found is None:
            return False
        try:
            overdue = found.serving.overdue(self.cloud, now)
        except LaunchError:
            if variants.find(self.cloud, name) is None:  # another command has removed it meanwhile
                return False
            raise
        try:
            found.serving.refuse_foreign(self.cloud, name)
        except LaunchError:
            return False
        return overdue

    def name_of(self, handle: Handle) -> Sequence[str]:
        if (launched(self._folder(handle)) or {}).get("handle") == str(handle):
            return [handle.run_id]  # its folder here says the rest
        return [str(handle), *self.cloud.option]

    def folder(self, handle: Handle) -> Path | None:
        return None

    def _folder(self, handle: Handle) -> Path:
        return commands.working_folder() / DEPLOYMENTS_DIR / handle.run_id

    def unknown(self, handle: Handle) -> str:
        listed = f"Try: {commands.launchers('list', *self.cloud.option)}"
        if not names.is_name(handle.run_id):
            return f"{handle.run_id!r} cannot be the name of a deployment: {names.RULE}.\n{listed}"
        return f"There is no deployment {handle.run_id} in {self.cloud.describe()}.\n{listed}"
