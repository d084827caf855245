"""Carry out the plan of a function: make its package, create or update it, test a version before requests get to it."""

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogbreed import commands
from launchers.aws import s3, tags
from launchers.aws.actions import LAMBDA, SCHEDULER
from launchers.aws.errors import errors
from launchers.deploy import doctor, function_calls, names, parts, smoke, waiting
from launchers.deploy.change import Change
from launchers.deploy.function import VERSION, moved
from launchers.deploy.on_lambda import asking, package, request, served, sizing
from launchers.deploy.request import deployment, end_of
from launchers.formatting import size
from launchers.plan import Plan, Request
from launchers.runs.launched import remember
from launchers.status import Cause, Handle, LaunchError, Phase, Status

if TYPE_CHECKING:
    from launchers.deploy.launcher import DeployLauncher

log = logging.getLogger("dogbreed")

_ASKED_EVERY_S = 2.0  # while a new version gets few requests


class FunctionChange(Change):
    """One change of a deployment that is a function."""

    def __init__(self, launcher: "DeployLauncher", plan: Plan) -> None:
        super().__init__(launcher, plan)
        self.function = names.Names(self.name).endpoint
        self._model = Path(deployment(self.spec).model.path)
        self._package: package.Package | None = None
        self._published = ""  # the number of the new version, once there is one
        self._found: served.Served | None = None  # what is in service

    @property
    def roles(self) -> tuple[tuple[str, str], ...]:
        return ("lambda_role", LAMBDA), ("expiry_role", SCHEDULER)

    def make(self) -> None:
        """Do what the plan says, and test what answers. Raises LaunchError after undoing what failed."""
        if not self.plan.requests:
            remember(Path(self.spec.folder), self.plan, self.cloud.place)
            return
        filled = self._check_account()
        if self._sends_model:
            self._prepare()
        self._clear()
        remember(Path(self.spec.folder), self.plan, self.cloud.place)
        self.launcher.record(self.spec)
        try:
            for each in self.plan.requests:
                self._send(each, filled)
        except BaseException as error:
            self._undo(error)
            raise
        if not self.creates:
            if any(each.service == "scheduler" for each in self.plan.requests):
                function_calls.tag_end(self.cloud, self.function, end_of(self.launcher, self.spec))
            self._forget_old_versions()

    def _prepare(self) -> None:
        """Make the package, and serve the model on this machine first, before anything is uploaded."""
        settings, where = self.launcher, request.target_of(self.launcher)
        sent = deployment(self.spec).model
        self._package = package.ensure(
            request.package_digest(settings, self.spec),
            where,
            model=self._model if sizing.is_inside(sent) else None,
            installed=not self.cloud.bills,
        )
        log.info("The package has %s, %s unpacked", size(self._package.zipped), size(self._package.unpacked))
        log.info("Examining the model as the function would serve it")
        memory_mb = sizing.memory_mb(sent, settings.memory_mb)
        doctor.examine(self._model, memory_mb=memory_mb, larger="a larger launcher.memory_mb").raise_findings()

    def _clear(self) -> None:
        """Remove a function that has failed. Raises LaunchError if the account is not as it was planned for."""
        found, before = served.find(self.cloud, self.name), deployment(self.spec).before
        if found is None:
            if before is not None:
                raise LaunchError(f"The deployment {self.name} is gone since then.\nTry: the same command again")
            return
        found.refuse_foreign(self.cloud, self.name)
        if found.phase is Phase.FAILED:
            log.info("Removing the function %s, whose creation has failed", found.name)
            parts.remove(self.cloud, parts.Part("function", found.name, self.name))
        elif before is None:
            raise LaunchError(f"The deployment {self.name} was created since then.\nTry: the same command again")
        else:
            self._found = found

    # --- the calls ---

    def _send(self, each: Request, filled: dict[str, str]) -> None:
        """Make one call of the plan, and wait until it has taken effect."""
        known = {**filled, **({VERSION: self._published} if self._published else {})}
        if each.operation == "UpdateAlias" and self._found is not None:
            served.note_served(self.cloud, self._found)
            self._found = None  # once is enough
        if each.operation == "CreateFunction":
            function_calls.patiently(partial(super()._send, each, known), self.cloud.poll_s)
        elif each.operation == "PublishVersion":
            self._publish(each.parameters)
        else:
            super()._send(each, known)
        if each.operation in function_calls.CHANGES:
            function_calls.settle(self.cloud, self.function)
        elif each.operation == "UpdateAlias" and self._weighted(each):
            self._watch()

    def _upload(self, parameters: Mapping[str, Any]) -> None:
        where, key = str(parameters["Bucket"]), str(parameters["Key"])
        assert self._package is not None, "a plan that uploads has prepared what it uploads"
        path = self._model if key == request.model_key(self.launcher, self.spec) else self._package.path
        with errors(f"uploading {path.name} to s3://{where}"):
            if s3.head(self.cloud, where, key) is None:
                self.cloud.client("s3").upload_file(str(path), where, key, ExtraArgs=dict(self.launcher.encryption))

    def _publish(self, parameters: Mapping[str, Any]) -> None:
        """Publish a version, and ask it for a few pictures before it gets anybody's requests."""
        self._published = function_calls.publish(self.cloud, parameters)
        log.info("Testing version %s of the function", self._published)
        ask = partial(asking.ask, self.cloud, self.name, qualifier=self._published)
        if found := "\n".join(smoke.findings(ask, self._model)):
            raise LaunchError("\n".join([found, *self._tail()]), Cause.USER_CODE)

    # --- a canary ---

    @staticmethod
    def _weighted(each: Request) -> bool:
        return bool(each.parameters["RoutingConfig"]["AdditionalVersionWeights"])

    def _watch(self) -> None:
        """Watch the alarm while a share of the requests get to the new version, and send a few. Raises LaunchError."""
        alarm = names.Names(self.name).alarms["errors"]
        log.info("Sending %.0f%% of the requests to version %s", 100 * request.CANARY, self._published)
        end, picture = time.monotonic() + self.launcher.bake_s, next(smoke.pictures())
        while time.monotonic() < end:
            asking.ask(self.cloud, self.name, picture)
            with errors(f"asking for the alarm {alarm}"):
                (found,) = self.cloud.client("cloudwatch").describe_alarms(AlarmNames=[alarm])["MetricAlarms"]
            if found["StateValue"] == "ALARM":
                raise LaunchError(
                    f"The alarm {alarm} went off, and all requests get to the version before again.\n"
                    f"{found.get('StateReason', '')}",
                    Cause.USER_CODE,
                )
            time.sleep(min(_ASKED_EVERY_S, self.cloud.poll_s))

    # --- after a failure, and afterwards ---

    def _take_back(self) -> None:
        """Send all requests to the version before, and remove the new one, unless it has all of them already."""
        before, found = deployment(self.spec).before, served.find(self.cloud, self.name)
        if before is None or found is None or not self._published or found.live == self._published:
            return
        client = self.cloud.client("lambda")
        with errors("sending all requests to the version before"):
            client.update_alias(**moved(self.function, found.live))
            self.cloud.client("cloudwatch").delete_alarms(AlarmNames=[names.Names(self.name).alarms["errors"]])
            client.delete_function(FunctionName=self.function, Qualifier=self._published)

    def _forget_old_versions(self) -> None:
        """Delete all versions but the one that requests get to now and the one before, if another one came."""
        before, found = deployment(self.spec).before, served.find(self.cloud, self.name)
        kept = {"" if found is None else found.live, "" if before is None else before.facts.get("version", "")}
        if len(kept - {""}) < 2:
            return
        client = self.cloud.client("lambda")
        for number in served.versions(self.cloud, self.function):
            if number not in kept:
                with errors(f"deleting version {number} of {self.function}"):
                    client.delete_function(FunctionName=self.function, Qualifier=number)

    def _tail(self) -> list[str]:
        try:
            lines = list(self.launcher.logs(self.plan.handle))
        except LaunchError as error:
            return [str(error).partition("\n")[0]]
        return [f"  | {line.text}" for line in lines[-waiting.TAIL_LINES :]]


def rollback(launcher: "DeployLauncher", handle: Handle) -> Status:
    """Send all requests to the version before. Raises LaunchError if there is none."""
    cloud, name = launcher.cloud, handle.run_id
    found = served.find(cloud, name)
    if found is None:
        raise LaunchError(launcher.unknown(handle))
    if found.phase is not Phase.IN_SERVICE:
        raise LaunchError(
            f"The deployment {name} is not in service, and only one in service can be rolled back.\n"
            f"Try: {commands.launchers('status', *launcher.name_of(handle))}"
        )
    target = served.version_before(served.versions(cloud, found.name), found.live, tags.served(found.tags))
    if not target:
        raise LaunchError(
            f"The deployment {name} has no revision before this one.\nTry: deploying another model under this name",
            Cause.BAD_CONFIG,
        )
    served.note_served(cloud, found)
    with errors("rolling back"):
        cloud.client("lambda").update_alias(**moved(found.name, target))
    try:
        asking.ask(cloud, name, next(smoke.pictures()))
    except LaunchError as error:  # a second rollback would undo the first
        error.add_note(f"All requests get to version {target} now.")
        raise
    return launcher.status(handle)
