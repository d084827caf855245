"""Carry out the plan of a deployment: create or update the endpoint, watch it, test it, and undo what fails."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogbreed import commands
from dogbreed.errors import raise_findings
from launchers.aws import bucket, iam, quotas, roles, s3, tags
from launchers.aws.actions import LAMBDA, SAGEMAKER, SCHEDULER
from launchers.aws.errors import errors
from launchers.base import Cloud
from launchers.cost import serving
from launchers.deploy import (
    autoscaling,
    calls,
    doctor,
    endpoint,
    expiry,
    fronted,
    function_calls,
    function_kinds,
    images,
    names,
    parts,
    permissions,
    request,
    smoke,
    waiting,
)
from launchers.deploy.scaling import Scaled
from launchers.plan import Plan, Request
from launchers.runs.launched import remember
from launchers.status import Cause, Handle, LaunchError, Phase, Status

if TYPE_CHECKING:
    from launchers.deploy.launcher import DeployLauncher

log = logging.getLogger("dogbreed")

KEPT_REVISIONS = 2  # the one in service and the one before
PROVISIONING_S = 1800  # until SageMaker has an instance, at most; start_s comes on top
_BRINGS = ("CreateEndpoint", "UpdateEndpoint")
_SMOKE_EVERY_S = 5.0  # between two requests that give the alarms something to see


class Change:
    """One change of a deployment."""

    def __init__(self, launcher: "DeployLauncher", plan: Plan) -> None:
        self.launcher, self.plan, self.spec = launcher, plan, plan.spec
        self.cloud: Cloud = launcher.cloud
        self.name = plan.spec.run_id
        self._known: frozenset[str] = frozenset()  # configurations of earlier revisions
        self._scaled: Scaled | None = None  # as it was before, if this change ends it
        self._front = function_calls.FunctionCalls(self.cloud, names.Names(self.name).endpoint, self._send)

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
        self._send_later(filled)

    @property
    def creates(self) -> bool:
        return request.deployment(self.spec).before is None

    @property
    def roles(self) -> tuple[tuple[str | None, str], ...]:
        """The roles that it needs, and the services that take them."""
        fronts = ((self.launcher.front_role, LAMBDA),) if self.launcher.front else ()
        return (self.launcher.role, SAGEMAKER), (self.launcher.expiry_role, SCHEDULER), *fronts

    @property
    def _sends_model(self) -> bool:
        """Whether a revision is made; otherwise only the schedules change."""
        return self.plan.requests[0].operation == "PutObject"

    def _examine(self) -> None:
        """Serve a model that has not been uploaded yet on this machine first. Raises LaunchError with what is wrong."""
        model, upload = Path(request.deployment(self.spec).model.path), self.plan.requests[0].parameters
        with errors("looking for the model in S3"):
            if s3.head(self.cloud, str(upload["Bucket"]), str(upload["Key"])) is not None:
                return
        log.info("Examining the model as the endpoint would serve it")
        doctor.examine(model).raise_findings()

    def _check_account(self) -> dict[str, str]:
        """Return the account's number and the ARNs of both roles, by what stands for them in the plan.

        Raises LaunchError listing every problem of the bucket and the roles.
        """
        settings = self.launcher
        assert settings.bucket is not None
        caller = iam.caller(self.cloud)
        if self.cloud.makes_buckets:
            self._make_roles(caller)
        findings, filled = list(bucket.bucket_findings(self.cloud, settings.bucket, caller.account)), {}
        for role, service in self.roles:
            if role is None or (service == SCHEDULER and settings.ttl_hours is None):
                continue
            found = iam.find_role(self.cloud, role, service, caller)
            findings += found.findings
            filled[iam.arn_in_plan(role)] = found.arn
        if self._sends_model:
            findings += filter(None, [self._quota_finding()])
        raise_findings(LaunchError, findings)
        return {request.ACCOUNT: caller.account, **filled}

    def _quota_finding(self) -> str:
        """Return what is wrong if the account may not have the instances. An update needs both fleets at once."""
        settings, fleets = self.launcher, 1 if self.creates else 2
        why = "this deployment" if self.creates else "an update, which runs the old and the new instances at once,"
        return quotas.endpoint_finding(self.cloud, settings.instance_type, fleets * settings.most, why)

    def _make_roles(self, caller: iam.Caller) -> None:
        """Create the roles that are missing, in a cloud that only stands for an account."""
        for identity in permissions.identities(self.launcher, caller.account):
            if identity.service and not roles.exists(self.cloud, identity):
                for each in roles.changes(self.cloud, [identity], caller):
                    roles.make(each)

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
        found.refuse_foreign(self.cloud, self.name)
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
            self._known = frozenset(revisions(self.cloud, self.name))
        of_schedules = [each for each in self.plan.requests if each.service == "scheduler"]
        later = self._later
        for each in self.plan.requests:
            if each in later:
                continue
            if each.operation == "DeregisterScalableTarget":
                self._scaled = autoscaling.present(self.cloud, self.name)
            if each.service == "lambda":
                self._front.make(each, filled)
            else:
                self._send(each, filled)
            if each in of_schedules[-1:] and not self.creates:
                self._end_all_together()

    def _end_all_together(self) -> None:
        """Let the earlier revisions and the endpoint's tag follow the deployment's own schedule."""
        _end_together(self.cloud, self.name, [*self._known, self._config])
        if (found := endpoint.find(self.cloud, self.name)) is None:
            return
        at = request.ends_at(self.launcher, self.spec)
        if at is not None:
            tags.add(self.cloud, found.arn, tags.expiry(at))
        else:
            tags.remove(self.cloud, found.arn, tags.EXPIRES_AT)
        fronted.tag_end(self.cloud, self.name, at)

    def _send_later(self, filled: dict[str, str]) -> None:
        """Make the calls for which the endpoint must be in service."""
        try:
            for each in self._later:
                self._send(each, filled)
        except BaseException as error:
            if self.creates:
                self._undo(error)
            else:
                error.add_note("It is in service, and scales as before at most.\nTry: the same command again")
            raise

    def _send(self, each: Request, filled: dict[str, str]) -> None:
        if each.operation == "PutObject":
            self._upload(calls.fill(each.parameters, filled))
        else:
            calls.send(self.cloud, each, filled, self._hint(each))

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
        twice = ", which an update needs twice" if each.operation == "UpdateEndpoint" else ""
        return f"(the quota for this machine: `{self.launcher.instance_type} for endpoint usage`{twice})"

    # --- afterwards ---

    def _verify(self, filled: dict[str, str]) -> None:
        """Wait until the endpoint settles, and test it. Raises LaunchError after undoing what failed."""
        settings = self.launcher
        deadline_s = PROVISIONING_S + settings.start_s + (0 if self.creates else 2 * settings.bake_s)
        meanwhile = None if self.creates else traffic(self.cloud, self.name)
        status = waiting.settle(settings, self.plan.handle, deadline_s=deadline_s, meanwhile=meanwhile)
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
            problem, cause = (
                "\n".join(smoke.findings(partial(smoke.invoke, self.cloud, self.name), model)),
                Cause.USER_CODE,
            )
            if self.launcher.front and not problem:
                problem = "\n".join(self._findings_of_front())
        if not problem:
            self._forget_old_revisions(found.config if found else "")
            return
        lines = [problem, *(f"  | {line}" for line in status.log_tail)]
        error = LaunchError("\n".join(lines), cause, status.shortage)
        if self.creates:
            self._undo(error)
        else:
            if status.phase is Phase.IN_SERVICE:
                self._send_later(filled)
            error.add_note(f"To bring back the revision before: {self._verb('rollback')}")
        raise error

    def _undo(self, error: BaseException) -> None:
        """Remove what a failed change has made, and say in the error what could not be removed."""
        try:
            if not self.creates:
                self._forget_unused_revision()
                self._scale_again()
                self._forget_new_front()
                return
            left = parts.remove_all(self.cloud, self.name)
        except Exception as failure:  # the error that is on its way matters more
            left = [str(failure)]
        if left:
            error.add_note(f"Still there: {'; '.join(left)}\nTry: {self._verb('cancel')}")
        else:
            error.add_note("What it had made was removed, except for the model in S3.")

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
    def _config(self) -> str:
        return names.RevisionNames(self.name, request.revision(self.launcher, self.spec)).config

    def _forget_revision(self) -> None:
        """Remove the parts of a revision that did not come into service, unless it is an earlier one, which is kept."""
        if self._config not in self._known:
            parts.remove_revision(self.cloud, self.name, request.revision(self.launcher, self.spec))

    def _forget_old_revisions(self, in_service: str) -> None:
        configs = revisions(self.cloud, self.name)
        for config in configs[KEPT_REVISIONS:]:
            if config != in_service and (revision := names.revision_of(config, self.name)) is not None:
                parts.remove_revision(self.cloud, self.name, revision)

    def _verb(self, verb: str) -> str:
        return commands.launchers(verb, *self.launcher.name_of(self.plan.handle))


def revisions(cloud: Cloud, name: str) -> list[str]:
    """Return the endpoint configurations of a deployment, the newest first."""
    with errors("listing the revisions"):
        pages = (
            cloud.client("sagemaker")
            .get_paginator("list_endpoint_configs")
            .paginate(NameContains=names.Names(name).endpoint, SortBy="CreationTime", SortOrder="Descending")
        )
        found = [each["EndpointConfigName"] for page in pages for each in page["EndpointConfigs"]]
    return [config for config in found if names.revision_of(config, name) is not None]


def rollback(launcher: "DeployLauncher", handle: Handle) -> Status:
    """Bring the revision before into service, as an update with alarms. Raises LaunchError if there is none."""
    cloud, name = launcher.cloud, handle.run_id
    found = endpoint.find(cloud, name)
    if found is None:
        raise LaunchError(launcher.unknown(handle))
    if found.phase is not Phase.IN_SERVICE:
        raise LaunchError(
            f"The deployment {name} is {found.status}, and only one in service can be rolled back.\n"
            f"Try: {commands.launchers('status', *launcher.name_of(handle))}"
        )
    others = [config for config in revisions(cloud, name) if config != found.config]
    if not others:
        raise LaunchError(
            f"The deployment {name} has no revision before this one.\nTry: deploying another model under this name",
            Cause.BAD_CONFIG,
        )
    before, now = (_variant(cloud, config) for config in (others[0], found.config))
    scaled, types = autoscaling.present(cloud, name), [request.types_in(before), request.types_in(now)]
    instances = scaled.least if scaled else int(before["InitialInstanceCount"])
    parameters = request.update(launcher, names.Names(name), others[0], instances, keep=scaled is not None)
    _end_together(cloud, name, others[:1])
    if scaled and types[0] != types[1]:  # which AWS does not let scale meanwhile
        for each in autoscaling.deregister(scaled.kind, names.Names(name)):
            calls.send(cloud, each, {})
    with errors("rolling back", then="(an update needs the quota of its machines twice)"):
        cloud.client("sagemaker").update_endpoint(**parameters)
    deadline_s = PROVISIONING_S + 2 * (launcher.start_s + launcher.bake_s)
    status = waiting.settle(launcher, handle, deadline_s=deadline_s, meanwhile=traffic(cloud, name))
    after = endpoint.find(cloud, name)
    if scaled and types[0] != types[1] and after is not None:
        came, gone = (serving.vcpus(each[0]) for each in types)
        calls.scale(cloud, name, scaled.on(came / gone) if after.config == others[0] else scaled, after.arn)
    if after is None or after.config != others[0]:
        raise LaunchError(f"The rollback of {name} did not come into service: {status}", status.cause)
    return status


def _variant(cloud: Cloud, config: str) -> dict[str, Any]:
    """Return the variant of an endpoint configuration, as AWS describes it."""
    found = endpoint.described(cloud, "describe_endpoint_config", EndpointConfigName=config) or {}
    return dict(found["ProductionVariants"][0])


def _end_together(cloud: Cloud, name: str, configs: Iterable[str]) -> None:
    """Let the schedules of revisions run after the deployment's own, which may have become later, or never.

    configs: endpoint configurations of the deployment.
    """
    client, expires = cloud.client("scheduler"), endpoint.expires_at(cloud, name)
    found = {part.name: part for part in parts.of_deployment(cloud, name)}
    owners = {
        schedule: own
        for own in (names.RevisionNames(name, names.revision_of(config, name) or "") for config in configs)
        for schedule in own.schedules.values()
        if schedule in found
    }
    for schedule, own in owners.items():
        if not expires:
            parts.remove(cloud, found[schedule])
            continue
        with errors(f"changing the schedule {schedule}"):
            role = client.get_schedule(Name=schedule)["Target"]["RoleArn"]
            for wanted in expiry.of_revision(own, datetime.fromisoformat(expires), role):
                if wanted["Name"] == schedule:
                    client.update_schedule(**wanted)


def traffic(cloud: Cloud, name: str) -> Callable[[Status], None]:
    """Return what sends a picture now and then during an update, so that its alarms have something to see."""
    last, every_s, picture = 0.0, min(_SMOKE_EVERY_S, 2 * cloud.poll_s), next(smoke.pictures())

    def send(status: Status) -> None:
        nonlocal last
        if status.phase is Phase.UPDATING and time.monotonic() - last >= every_s:
            last = time.monotonic()
            try:
                smoke.invoke(cloud, name, picture)
            except LaunchError:  # that is what the alarms are for
                log.debug("a request during the update failed", exc_info=True)

    return send
