"""Carry out the plan of a deployment: check the account, make its calls, and undo what fails.

What both variants have in common; `EndpointChange` and `FunctionChange` say how each of them does it.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dogbreed import commands
from dogbreed.errors import raise_findings
from launchers.aws import bucket, iam, roles
from launchers.aws.actions import SCHEDULER
from launchers.base import Cloud
from launchers.deploy import calls, parts, permissions, request
from launchers.plan import Plan, Request
from launchers.status import LaunchError

if TYPE_CHECKING:
    from launchers.deploy.launcher import DeployLauncher

log = logging.getLogger("dogbreed")


class Change(ABC):
    """One change of a deployment. keeps: what stays of a new one that is undone."""

    keeps = "the files in S3"

    def __init__(self, launcher: "DeployLauncher", plan: Plan) -> None:
        self.launcher, self.plan, self.spec = launcher, plan, plan.spec
        self.cloud: Cloud = launcher.cloud
        self.name = plan.spec.run_id

    @property
    def creates(self) -> bool:
        return request.deployment(self.spec).before is None

    @property
    @abstractmethod
    def roles(self) -> tuple[tuple[str, str], ...]:
        """The settings that name the roles that it needs, and the services that take them."""

    @property
    def _sends_model(self) -> bool:
        """Whether a revision is made; otherwise only what is around it changes."""
        return self.plan.requests[0].operation == "PutObject"

    def _check_account(self) -> dict[str, str]:
        """Return the account's number and the ARNs of the roles, by what stands for them in the plan.

        Warns of permissions that are lacking. Raises LaunchError listing every problem of the bucket and the roles.
        """
        settings = self.launcher
        assert settings.bucket is not None
        caller = iam.caller(self.cloud)
        if self.cloud.makes_buckets:
            self._make_roles(caller)
        findings = list(bucket.bucket_findings(self.cloud, settings.bucket, caller.account))
        filled, taken = dict[str, str](), dict[str, str]()
        for setting, service in self.roles:
            role = getattr(settings, setting)
            if role is None or (service == SCHEDULER and settings.ttl_hours is None):
                continue
            found = iam.find_role(self.cloud, role, service, caller, f"launcher.{setting}")
            findings += found.findings
            filled[iam.arn_in_plan(role)] = taken[f"launcher.{setting}"] = found.arn
        if self._sends_model:
            findings += self._quota_findings()
        raise_findings(LaunchError, findings)
        if warning := permissions.warning(settings, self.spec, caller, self.plan.requests, taken):
            log.warning("%s", warning)
        return {request.ACCOUNT: caller.account, **filled}

    def _quota_findings(self) -> list[str]:
        """Return what is wrong if the account may not have what a revision needs."""
        return []

    def _make_roles(self, caller: iam.Caller) -> None:
        """Create the roles that are missing, in a cloud that only stands for an account."""
        for identity in permissions.identities(self.launcher, caller.account):
            if identity.service and not roles.exists(self.cloud, identity):
                for each in roles.changes(self.cloud, [identity], caller):
                    roles.make(each)

    # --- the calls ---

    def _send(self, each: Request, filled: dict[str, str]) -> None:
        if each.operation == "PutObject":
            self._upload(calls.fill(each.parameters, filled))
        else:
            calls.send(self.cloud, each, filled, self._hint(each))

    @abstractmethod
    def _upload(self, parameters: Mapping[str, Any]) -> None:
        """Upload what a plan names, unless S3 has it."""

    def _hint(self, each: Request) -> str:
        """Return what to add to the error of a call."""
        return ""

    # --- after a failure ---

    def _undo(self, error: BaseException) -> None:
        """Remove what a failed change has made, and say in the error what could not be removed."""
        try:
            if not self.creates:
                self._take_back()
                return
            left = parts.remove_all(self.cloud, self.name)
        except Exception as failure:  # the error that is on its way matters more
            left = [str(failure)]
        if left:
            error.add_note(f"Still there: {'; '.join(left)}\nTry: {self._verb('cancel')}")
        else:
            error.add_note(f"What it had made was removed, except for {self.keeps}.")

    @abstractmethod
    def _take_back(self) -> None:
        """Remove what an update has made, and leave in service what was there before."""

    def _verb(self, verb: str) -> str:
        return commands.launchers(verb, *self.launcher.name_of(self.plan.handle))
