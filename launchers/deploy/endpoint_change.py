"""Carry out the plan of an endpoint: create or update it, watch it, and test it."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogbreed.errors import DogBreedError, raise_findings
from launchers.aws import quotas, s3, tags
from launchers.aws.actions import LAMBDA, SAGEMAKER, SCHEDULER
from launchers.aws.errors import errors
from launchers.cost import prices
from launchers.deploy import (
    autoscaling,
    calls,
    doctor,
    endpoint,
    fronted,
    function_calls,
    function_kinds,
    images,
    names,
    parts,
    request,
    revisions,
    smoke,
    waiting,
)
from launchers.deploy.change import Change
from launchers.deploy.checks import MEMORY_MB
from launchers.deploy.endpoint import Endpoint
from launchers.deploy.front_calls import FrontCalls
from launchers.deploy.scaling import Scaled
from launchers.plan import Plan, Request
from launchers.runs.launched import remember
from launchers.status import Cause, LaunchError, Phase

if TYPE_CHECKING:
    from launchers.deploy.launcher import DeployLauncher

log = logging.getLogger("dogbreed")

_BRINGS = ("CreateEndpoint", "UpdateEndpoint")


class EndpointChange(Change):
    """One change of a deployment that is an endpoint, with or without a function in front of it."""

    keeps = "the model in S3"

    def __init__(self, launcher: "DeployLauncher", plan: Plan) -> None:
        super().__init__(launcher, plan)
        self._known: frozenset[str] = frozenset()  # configurations of earlier revisions
        self._scaled: Scaled | None = None  # as it was before, if this change ends it
        self._found: Endpoint | None = None  # what is in service, with its tags
        self._noted: Mapping[str, str] = {}
        self._front = FrontCalls(self.cloud, names.Names(self.name).endpoint, self._send)

    def make(self) -> None:
        """Do what the plan says; with `wait`, stay until the endpoint answers. Raises LaunchError."""
        if not self.plan.requests:
            remember(Path(self.spec.folder), self.plan, self.cloud.place)
            return
        filled = self._check_account()
        if self._sends_model:
            self._examine()
        self._clear()
        if self._sends_model:
            images.ensure(self.launcher, self.spec, filled[request.ACCOUNT])
        remember(Path(self.spec.folder), self.plan, self.cloud.place)
        self.launcher.record(self.spec)
        try:
            self._send_all(filled)
        except BaseException as error:
            self._undo(error)
            raise
        if self.launcher.wait and self._sends_model:
            self._verify(filled)
        elif self.launcher.wait and self._front.version:
            raise_findings(LaunchError, self._findings_of_front())
        if self.launcher.wait and any(each.operation == request.RESIZES for each in self.plan.requests):
            self._settle()
        self._send_later(filled)

    @property
    def roles(self) -> tuple[tuple[str, str], ...]:
        fronts = (("front_role", LAMBDA),) if self.launcher.front else ()
        return ("role", SAGEMAKER), ("expiry_role", SCHEDULER), *fronts

    def _examine(self) -> None:
        """Serve a model that has not been uploaded yet on this machine first. Raises LaunchError with what is wrong."""
        model, upload = Path(request.deployment(self.spec).model.path), self.plan.requests[0].parameters
        with errors("looking for the model in S3"):
            if s3.head(self.cloud, str(upload["Bucket"]), str(upload["Key"])) is not None:
                return
        log.info("Examining the model as the endpoint would serve it")
        of_types = (prices.hosting(name) for name in request.types_of(self.launcher))
        memory_mb = min((row.memory_mb for row in of_types if row is not None), default=MEMORY_MB)
        larger = "another launcher.instance_type, with more memory"
        doctor.examine(model, memory_mb=memory_mb, larger=larger).raise_findings()

    def _quota_findings(self) -> list[str]:
        """Return what is wrong if the account may not have the instances. An update may need both fleets at once."""
        settings, fleets = self.launcher, 2 if self._runs_twice else 1
        why = "an update, which runs the old and the new instances at once," if self._runs_twice else "this deployment"
        found = quotas.endpoint_finding(self.cloud, settings.instance_type, fleets * settings.most, why)
        return [found] if found else []

    @property
    def _runs_twice(self) -> bool:
        return request.runs_twice(self.launcher, request.deployment(self.spec).before)

    def _clear(self) -> None:
        """Remove an endpoint that has failed, and a front that is not complete.

        Raises LaunchError if the account is not as it was planned for.
        """
        self._clear_front()
        found, before = endpoint.find(self.cloud, self.name), request.deployment(self.spec).before
        if found is None:
            if before is not None:
                raise LaunchError(f"The deployment {self.name} is gone since then.\nTry: the same command again")
            return
        self._noted = found.own_tags(self.cloud, self.name)
        if found.phase is Phase.FAILED:
            log.info("Removing the endpoint %s, which has failed", found.name)
            parts.remove(self.cloud, parts.Part("endpoint", found.name, self.name))
        elif found.changing or found.phase is Phase.STOPPING:
            raise LaunchError(
                f"The deployment {self.name} is being changed: its status is {found.status}.\n"
                f"Try: {self._verb('attach')}"
            )
        elif before is None:
            raise LaunchError(f"The deployment {self.name} was created since then.\nTry: the same command again")
        else:
            self._found = found

    def _clear_front(self) -> None:
        """Remove what a killed command left of a front. Raises LaunchError if it is not ours."""
        before, found = request.deployment(self.spec).before, fronted.find(self.cloud, self.name)
        if found is not None:
            found.refuse_foreign(self.name)
            if before is None or not before.front:
                parts.remove(self.cloud, parts.Part(fronted.KIND.name, found.name, self.name))

    # --- the calls ---

    @property
    def _later(self) -> list[Request]:
        """The calls that wait until the endpoint is in service: AWS lets no other one scale."""
        operations = [each.operation for each in self.plan.requests]
        sent = next((n for n, name in enumerate(operations, 1) if name in _BRINGS), len(operations))
        return [each for each in self.plan.requests[sent:] if each.service != "scheduler"]

    def _send_all(self, filled: dict[str, str]) -> None:
        """Make the calls of the plan. A change of when the deployment ends is one of all its revisions."""
        if not self.creates:
            self._known = frozenset(revisions.revisions(self.cloud, self.name))
        of_schedules = [each for each in self.plan.requests if each.service == "scheduler"]
        later = self._later
        for each in self.plan.requests:
            if each in later:
                continue
            if each.operation == "DeregisterScalableTarget":
                self._scaled = autoscaling.present(self.cloud, self.name)
            if each.operation == "UpdateEndpoint" and self._found is not None:
                revisions.note_served(self.cloud, self.name, self._found, self._noted)
            if each.operation == request.RESIZES:
                self._settle()  # AWS refuses it while a change is in progress that the scaling has begun
            if each.service == "lambda":
                self._front.make(each, filled)
            else:
                self._send(each, filled)
            if each in of_schedules[-1:] and not self.creates:
                self._end_all_together()

    def _settle(self) -> None:
        """Wait until the number of instances stays."""
        waiting.settle(self.launcher, self.plan.handle, deadline_s=revisions.PROVISIONING_S)

    def _end_all_together(self) -> None:
        """Let the earlier revisions and the endpoint's tag follow the deployment's own schedule."""
        revisions.end_together(self.cloud, self.name, [*self._known, self._config])
        if (found := endpoint.find(self.cloud, self.name)) is None:
            return
        at = request.ends_at(self.launcher, self.spec)
        if at is not None:
            tags.add(self.cloud, found.arn, tags.expiry(at))
        else:
            tags.remove(self.cloud, found.arn, tags.EXPIRES_AT)
        function_calls.tag_end(self.cloud, names.Names(self.name).endpoint, at)

    def _send_later(self, filled: dict[str, str]) -> None:
        """Make the calls for which the endpoint must be in service."""
        try:
            for each in self._later:
                self._send(each, filled)
            if self._found is not None and tags.SCALED in self._noted:  # of a rollback that was interrupted
                tags.remove(self.cloud, self._found.arn, tags.SCALED)
        except BaseException as error:
            if self.creates:
                self._undo(error)
            else:
                error.add_note("It is in service, and scales as before at most.\nTry: the same command again")
            raise

    def _upload(self, parameters: Mapping[str, Any]) -> None:
        sent = request.deployment(self.spec).model
        where, key = str(parameters["Bucket"]), str(parameters["Key"])
        with errors(f"uploading the model to s3://{where}"):
            if s3.head(self.cloud, where, key) is None:
                options = dict(self.launcher.encryption)
                self.cloud.client("s3").upload_file(sent.path, where, key, ExtraArgs=options)

    def _hint(self, each: Request) -> str:
        if each.operation not in _BRINGS:
            return ""
        twice = ", which an update needs twice" if self._runs_twice else ""
        return f"(the quota for this machine: `{self.launcher.instance_type} for endpoint usage`{twice})"

    # --- afterwards ---

    def _verify(self, filled: dict[str, str]) -> None:
        """Wait until the endpoint settles, and test it. Raises LaunchError after undoing what failed."""
        settings = self.launcher
        watched_s = 0 if self.creates else request.watched_s(settings, settings.count)
        deadline_s = revisions.PROVISIONING_S + settings.start_s + watched_s
        meanwhile = None if self.creates else revisions.traffic(self.cloud, self.name)
        try:
            status = waiting.settle(settings, self.plan.handle, deadline_s=deadline_s, meanwhile=meanwhile)
        except DogBreedError as stopped:  # it goes on without this process
            if self._later:
                stopped.add_note("To let it scale, which it does not: the same command again, once it is in service")
            raise
        found = endpoint.find(self.cloud, self.name)
        if status.phase is not Phase.IN_SERVICE or found is None:
            problem, cause = f"The deployment {self.name} failed: {status.detail or 'it is gone'}", status.cause
            problem += f"\n{endpoint.what_next(cause)}"
        elif found.config != self._config:
            self._forget_revision()
            self._scale_again()
            cause = endpoint.cause_of(found.reason)
            cause = Cause.USER_CODE if cause is Cause.UNKNOWN else cause  # an alarm has brought it back
            raise LaunchError(
                f"SageMaker rolled the update of {self.name} back; the revision before is in service.\n{found.reason}\n"
                f"{endpoint.what_next(cause)}",
                cause,
            )
        else:
            model = Path(request.deployment(self.spec).model.path)
            answers = smoke.findings(partial(smoke.invoke, self.cloud, self.name), model)
            problem, cause = "\n".join(answers), Cause.USER_CODE
            if self.launcher.front and not problem:
                problem = "\n".join(self._findings_of_front())
        if not problem:
            revisions.forget_old(self.cloud, self.name, {self._config, self._config_before})
            return
        lines = [problem, *(f"  | {line}" for line in status.log_tail)]
        error = LaunchError("\n".join(lines), cause, status.shortage)
        if self.creates:
            self._undo(error)
        else:
            if status.phase is Phase.IN_SERVICE:
                self._send_later(filled)
                error.add_note(f"To bring back the revision before: {self._verb('rollback')}")
            else:
                error.add_note(f"Try: {self._verb('cancel')}, and then the same command")
        raise error

    def _take_back(self) -> None:
        self._forget_unused_revision()
        self._scale_again()
        self._forget_new_front()

    def _scale_again(self) -> None:
        """Let the revision before scale as it did, if this change has ended that."""
        found = endpoint.find(self.cloud, self.name)
        if self._scaled is not None and found is not None and found.phase is Phase.IN_SERVICE:
            calls.scale(self.cloud, self.name, self._scaled, found.arn)

    def _forget_unused_revision(self) -> None:
        """Remove the parts of the revision, unless AWS has taken the update although its answer did not arrive."""
        found = endpoint.find(self.cloud, self.name)
        if found is None or self._config not in (found.config, found.pending):
            self._forget_revision()

    def _findings_of_front(self) -> list[str]:
        """Return what is wrong with the answers that come through the front."""
        model = Path(request.deployment(self.spec).model.path)
        return list(smoke.findings(partial(fronted.ask, self.cloud, self.name), model))

    def _forget_new_front(self) -> None:
        """Remove a front that this change was to add."""
        before, common = request.deployment(self.spec).before, names.Names(self.name)
        if before is None or before.front or not self.launcher.front:
            return
        own = {common.endpoint, common.function_log_group, *common.function_schedules.values()}
        own |= {common.watching["throttled"]}
        kinds = (fronted.KIND.name, function_kinds.LOG_GROUP.name, "schedule", "alarm")
        for part in parts.of_deployment(self.cloud, self.name):
            if part.name in own and part.kind in kinds:
                parts.remove(self.cloud, part)

    @property
    def _config_before(self) -> str:
        """The configuration that this change replaces; one that does not exist if there is none."""
        before = request.deployment(self.spec).before
        return names.RevisionNames(self.name, before.revision if before is not None else "").config

    @property
    def _config(self) -> str:
        return names.RevisionNames(self.name, request.revision(self.launcher, self.spec)).config

    def _forget_revision(self) -> None:
        """Remove the parts of a revision that did not come into service, unless it is an earlier one, which is kept."""
        if self._config not in self._known:
            parts.remove_revision(self.cloud, self.name, request.revision(self.launcher, self.spec))
