"""Runs on EC2, on a spot machine or on demand; conf/launcher/ec2_spot.yaml explains each key."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dogbreed import commands
from dogbreed.errors import ConfigError, raise_findings
from dogbreed.run_folder import write_text
from launchers.aws import bills, bucket, grants, iam, s3, sent, tags, transfer
from launchers.aws.errors import code_of, errors
from launchers.aws.layout import Layout, archive_uri
from launchers.aws.on_aws import OnAws
from launchers.aws.policy import Identity
from launchers.aws.results import download_results, download_search, download_to_resume, is_of_another, read_spec
from launchers.base import Capabilities, CleanupReport
from launchers.cost.limits import Limits
from launchers.ec2 import account, checks, fitting, fleet, groups, leftovers, logs, names, permissions, state, summary
from launchers.ec2.fleet import Found
from launchers.ec2.settings import Ec2Settings
from launchers.ec2.state import Seen
from launchers.follow import ask_after_each_epoch
from launchers.plan import Plan
from launchers.remote.ec2 import RESULT, STOP
from launchers.runs.collect import read_downloaded
from launchers.runs.find import resume_command, search_again
from launchers.runs.identity import refuse_another_run
from launchers.runs.launched import folder_here, remember
from launchers.runs.names import name_findings
from launchers.runs.state import refuse_if_alive_here
from launchers.spec import JOB_LOG, RunSpec
from launchers.status import Cause, Failures, Handle, LaunchError, LogLine, Phase, RunResult, Status

if TYPE_CHECKING:
    from dogbreed.training import Watch

log = logging.getLogger("dogbreed")

_UPLOADING_S = 60.0  # besides the time that a run has for its last checkpoint
_IN_CREATION = timedelta(hours=1)  # for which parts without a machine are spared


@dataclass(frozen=True)
class Ec2Launcher(Ec2Settings, OnAws):
    """Runs `train.py` on a plain EC2 machine, which its Auto Scaling group replaces if it is taken away."""

    scheme: ClassVar[str] = "ec2"
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=True,
        multi_node=False,
        follow_logs=True,
        exact_cost=False,
        graceful_cancel=True,
        remote=True,
        sends_code=True,
        whole_search=True,
    )

    wait: bool = True

    @property
    def wait_for_capacity_h(self) -> float | None:
        return 0.0  # the group itself waits for a machine, until the deadline

    def identities(self, config: Mapping[str, Any], day: str, account: str) -> Sequence[Identity]:
        return permissions.identities(self, config, account)

    # --- before ---

    def plan(self, spec: RunSpec) -> Plan:
        """Return what `submit` would do. With `live` it asks AWS for today's spot prices, and is pure otherwise."""
        raise_findings(ConfigError, [*name_findings(spec), *checks.findings(self, spec)])
        handle = Handle(self.scheme, self.cloud.scope, spec.run_id)
        today = account.spot_prices(self.cloud, self.types) if self.live else None
        fitted = fitting.fit(self, spec)
        rows = tuple(summary.rows(fitted, spec, handle, today))
        actions = grants.actions(permissions.caller(self))
        return Plan(spec, handle, rows, fleet.requests(fitted, spec), actions, summary.costs(fitted, spec))

    def submit(self, plan: Plan, *, watch: "Watch | None" = None) -> Handle:
        """Check the account, upload what is missing, create the group; with `watch`, stay until the run ends.

        Submitting the same plan again does nothing while its group has a machine or waits for one, and once the run
        has succeeded; if it has failed or was stopped, a further submission resumes it from its checkpoint.
        """
        spec = plan.spec
        if (fitted := fitting.fit(self, spec)) != self:
            return fitted.submit(plan, watch=watch)
        refuse_if_alive_here(Path(spec.folder))
        assert self.bucket is not None
        caller = iam.caller(self.cloud)
        raise_findings(LaunchError, bucket.bucket_findings(self.cloud, self.bucket, caller.account))
        seen = state.read(self.cloud, self.layout, spec.run_id)
        if seen.submission is None or not self._is_wanted(seen, plan):
            left_h = fitting.fit(self, spec, spent_usd=self._spent_usd(seen, spec)).deadline_h
            if self.cloud.makes_buckets:  # a rehearsal, which stands for an account that is set up
                account.set_up(self, spec, caller)
            found = account.look_up(self, spec, caller)
            if warning := permissions.warning(self, spec, caller):
                log.warning("%s", warning)
            self.check_photos(spec)
            self._clear(seen)
            self.upload(spec, sent.requests(self.layout, spec, self.encryption))
            if spec.going_on is not None or spec.output.same_command_resumes:
                checkpoints_uri = self.layout.run(spec.run_id).checkpoints_uri
                transfer.send_checkpoints(self.cloud, spec, checkpoints_uri, self.encryption)
            remember(Path(spec.folder), plan, self.cloud.place)
            after = max((each.number for each in seen.attempts), default=0)
            deadline = int(time.time() + 3600 * left_h)  # from now on, as uploads may take hours
            limit = fitting.limit_of(self, spec, left_h)
            self._create(plan, replace(found, number=seen.number + 1, after=after, deadline=deadline, limit=limit))
        if watch is not None and ask_after_each_epoch(self, plan.handle, watch):
            self._stop(state.read(self.cloud, self.layout, spec.run_id), early=True)
        return plan.handle

    def _spent_usd(self, seen: Seen, spec: RunSpec) -> float:
        """Return what earlier submissions of the run have cost, at most, by other launchers too."""
        if Limits.of(spec.config).max_usd is None:
            return 0.0
        own = state.usd_of(seen, datetime.now(UTC)) or 0.0
        return own + bills.spent_elsewhere(self.cloud, self.layout, spec.run_id, self.scheme)

    def _create(self, plan: Plan, found: Found) -> None:
        """Create what the plan says. What fails half-way is removed; a killed client leaves nothing that bills."""
        uploads = len(sent.requests(self.layout, plan.spec, self.encryption))
        submission, *calls = fleet.requests(self, plan.spec, found)[uploads:]
        name = names.group_name(plan.spec.run_id, found.number)
        if not self._put_if_new(submission.parameters):
            raise LaunchError(
                f"Run {plan.spec.run_id} is being submitted by another process.\n"
                f"Try: {commands.launchers('status', *self.name_of(plan.handle))}"
            )
        try:
            for call in calls:
                groups.make(self.cloud, call)
        except LaunchError as error:
            try:
                other = self._undo(plan.spec, name, submission.parameters)
            except LaunchError:  # the first error is the one to be shown
                error.add_note(f"What was made may still be there. Try: {self._command('cancel', plan.handle)}")
                raise error from error.__cause__
            if other:
                raise LaunchError(other, Cause.BAD_CONFIG) from error
            raise
        except BaseException as error:  # Ctrl-C: the group may or may not have a machine
            error.add_note(f"The run may have been submitted. Try: {self._command('cancel', plan.handle)}")
            raise

    def _undo(self, spec: RunSpec, name: str, submission: Mapping[str, Any]) -> str:
        """Remove what a submission has made. Return why it failed, if another run has its name; empty if none has."""
        groups.remove(self.cloud, name, self.layout.run(spec.run_id).uri)
        with errors("removing what was submitted"):
            self.cloud.client("s3").delete_object(Bucket=submission["Bucket"], Key=submission["Key"])
        if not (files := groups.files_of(self.cloud, name)):
            return ""
        again = "hpo.study" if spec.output.same_command_resumes else "run_id"
        return f"The account has another run {spec.run_id}, whose files are in {files}.\nTry: {again}=<another name>"

    def _put_if_new(self, parameters: Mapping[str, Any]) -> bool:
        """Put an object, unless it exists already; return whether it was put."""
        from botocore.exceptions import ClientError

        with errors(f"uploading {parameters['Key']}"):
            try:
                self.cloud.client("s3").put_object(**{**parameters, "Body": str(parameters["Body"]).encode()})
            except ClientError as error:
                if code_of(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409"):
                    return False
                raise
        return True

    def _is_wanted(self, seen: Seen, plan: Plan) -> bool:
        """Return whether the run's latest submission is that of the plan; if not, a further one is needed.

        Raises LaunchError if the run is running otherwise than the plan asks, or has other settings.
        """
        spec = plan.spec
        assert seen.submission is not None
        resumed = spec.going_on is not None
        if not resumed:
            refuse_another_run(spec, read_spec(self.cloud, seen.location), plan.handle)
        nothing_new = resumed and not sent.command(spec, resumes=True).typed
        same = seen.submission["plan"] == fleet.digest(self, spec) or nothing_new
        status = state.status_of(seen, datetime.now(UTC))
        if status.phase is Phase.SUCCEEDED:
            return same or not (resumed or spec.output.same_command_resumes)  # either may ask for more
        if status.finished:
            return False
        if not same:
            other = "machine, code or number of trials" if spec.output.same_command_resumes else "machine or code"
            raise LaunchError(
                f"Run {spec.run_id} is still running with another {other}.\n" + self._attach_or_cancel(plan.handle)
            )
        return True

    def _clear(self, seen: Seen) -> None:
        """Remove what an earlier submission has left."""
        if seen.submission is not None:
            groups.remove(self.cloud, seen.group_name, seen.location.uri)

    # --- afterwards ---

    def status(self, handle: Handle) -> Status:
        seen = self._seen(handle)
        if seen.submission is None:
            return Status(Phase.LOST, Cause.UNKNOWN, self._unknown(handle))
        return self._described(seen, handle)

    def _described(self, seen: Seen, handle: Handle) -> Status:
        again = self._again(seen, handle)
        status = state.status_of(seen, datetime.now(UTC), again)
        if status.phase in (Phase.FAILED, Phase.CANCELLED):
            status = replace(status, log_tail=logs.tail(self.cloud, seen.location))
            if seen.group is not None and not seen.of_this:  # no machine could write to the bucket
                status = state.with_console(status, groups.console_tail(self.cloud, seen.group.name))
            if state.denied_to_machine(seen, status):
                status = replace(status, next_action=f"{self._how_to_grant(seen)}\nThen: {again}")
            left = self._command("download", handle)
            if seen.attempts and left not in status.next_action:  # without attempts it has left nothing
                status = replace(status, next_action=f"{status.next_action}\nFetch what it has left: {left}")
        elif status.phase is Phase.RUNNING and self.cloud.bills:
            look = ("start-session", "--target", seen.of_this[-1].machine, "--region", str(self.cloud.region))
            status = replace(status, next_action=f"Look inside: {commands.shell('aws', 'ssm', *look)}")
        return status

    def logs(
        self, handle: Handle, *, follow: bool = False, attempt: int | None = None, node: int | None = None
    ) -> Iterator[LogLine]:
        seen = self._known(handle)
        lines = logs.read_logs(self.cloud, seen.location, lambda: self.status(handle).finished, follow=follow)
        return (line for line in lines if attempt in (None, line.attempt) and node in (None, line.node))

    def cancel(self, handle: Handle, *, grace_s: float = 110) -> Status:
        """Ask the machine to save and to end the run; after `grace_s` end it. Nothing is left but the run's files."""
        seen = self._seen(handle)
        if seen.submission is None:
            return self.status(handle)
        if not self._described(seen, handle).finished:
            try:
                self._stop(seen)
            except LaunchError as error:  # whatever it is, a machine must not stay
                groups.remove(self.cloud, seen.group_name, seen.location.uri)
                error.add_note("The run was ended all the same. What its machine had not saved by then may be lost.")
                raise
            until = time.monotonic() + grace_s + _UPLOADING_S
            while (seen := self._seen(handle)).result is None and time.monotonic() < until:
                if seen.group is None or not any(at == "InService" for _, at in seen.group.machines):
                    break  # there is nothing that could save
                if not seen.of_this or seen.of_this[-1].ended is not None:
                    break
                time.sleep(self.cloud.poll_s)
            if seen.group is not None:
                groups.end(self.cloud, seen.group_name)
        self._settle(handle)
        return self.status(handle)

    def _stop(self, seen: Seen, *, early: bool = False) -> None:
        """Ask the machine to stop, whichever it is. early: its metrics are sufficient."""
        content = {"submission": seen.number, "early": early}
        with errors("asking the run to stop"):
            s3.write_json(self.cloud, f"{seen.location.uri}/{STOP}", content, self.encryption)

    def _settle(self, handle: Handle) -> None:
        """Remove what is left in AWS of a run that has ended, and write how it ended if no machine could."""
        seen = self._known(handle)
        status = self._described(seen, handle)
        if status.phase is Phase.STOPPING:
            groups.remove(self.cloud, seen.group_name, seen.location.uri)
            seen = self._known(handle)  # a machine may have written until then
            status = self._described(seen, handle)
        if not status.finished:
            return
        if seen.result is None:
            self._record(seen, status)
        groups.remove(self.cloud, seen.group_name, seen.location.uri)

    def _record(self, seen: Seen, status: Status) -> None:
        result = {
            "submission": seen.number,
            "attempt": status.attempt or None,
            "outcome": "stopped" if status.phase is Phase.CANCELLED else "failed",
            "reason": f"[{status.cause}] {status.detail}",
            "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        with errors("recording how the run has ended"):
            s3.write_json(self.cloud, f"{seen.location.uri}/{RESULT}", result, self.encryption)

    def result(self, handle: Handle) -> RunResult:
        """Download the run's folder, if it is not here yet, and read it. Of a run that has ended nothing is left."""
        status = self.status(handle)
        if status.finished and status.phase is not Phase.LOST:
            self._settle(handle)
        if status.phase is not Phase.SUCCEEDED:
            raise LaunchError(f"Run {handle} has no result: {status}", status.cause, status.shortage)
        seen = self._known(handle)
        self._share_features(seen)
        name = seen.group_name
        archive = archive_uri(seen.location.output_uri, name)
        return read_downloaded(handle, download_results(self.cloud, handle, seen.location, name, archive))

    def _share_features(self, seen: Seen) -> None:
        """Copy the features that the run computed to where the next run on its photos looks for them."""
        assert seen.submission is not None
        if (key := seen.submission["features"]) is None:
            return
        try:
            target, encryption = seen.layout.uri(key), seen.submission["encryption"]
            transfer.share_features(self.cloud, seen.location.features_uri, target, encryption)
        except LaunchError as error:  # the next run computes them again; this run's results are still valid
            log.warning("%s", error)

    def fetch(self, handle: Handle, folder: Path | None, *, checkpoints: bool) -> Path:
        seen = self._known(handle)
        if checkpoints and not self.status(handle).finished:
            raise LaunchError(f"Run {handle} is still running remotely.\n" + self._attach_or_cancel(handle))
        return download_to_resume(self.cloud, handle, seen.location, folder, checkpoints=checkpoints)

    def download(self, handle: Handle) -> Path:
        """Download the files that the run saved to S3, and the log of all its machines as job.log."""
        seen, status = self._known(handle), self.status(handle)
        if not status.finished:
            raise LaunchError(f"Run {handle} is still running remotely.\n" + self._attach_or_cancel(handle))
        if status.phase is Phase.SUCCEEDED:
            folder = self.result(handle).folder
        elif read_spec(self.cloud, seen.location).output.same_command_resumes:
            folder = download_search(self.cloud, handle, seen.location, seen.group_name)
        else:
            folder = download_to_resume(self.cloud, handle, seen.location, None, checkpoints=True)
        lines = [f"{line.attempt} | {line.text}\n" for line in self.logs(handle)]
        write_text(folder / JOB_LOG, "".join(lines))
        return folder

    def list(self, *, active_only: bool = True, name: str = "") -> Iterator[tuple[Handle, Status]]:
        """Yield the runs that have a group in the account and, without `active_only`, those in the bucket."""
        alive = groups.find(self.cloud)
        found = dict.fromkeys(run for group in alive if (run := names.run_of(group.name)))
        called = {names.run_of(group.name): group.tags.get(tags.NAME, "") for group in alive}
        bucket_name = None if active_only else self.bucket or account.bucket_of_profile(self.cloud, self.machine_role)
        layout = Layout(bucket_name or "", self.prefix)
        if bucket_name is not None:
            submitted = (key for key, _ in s3.objects(self.cloud, layout.uri(layout.runs)))
            runs = {key.partition("/")[0] for key in submitted if f"/{names.SUBMISSIONS}" in key}
            found |= dict.fromkeys(sorted(runs - found.keys(), reverse=True))
        for run_id in found:
            if name not in run_id:
                continue
            handle = Handle(self.scheme, self.cloud.scope, run_id)
            status = self.status(handle)
            if status.phase is not Phase.LOST and not (active_only and status.finished):
                if run_id not in called:
                    called[run_id] = self._name_of_ended(layout, run_id)
                yield handle, replace(status, name=called[run_id])

    def _name_of_ended(self, layout: Layout, run_id: str) -> str:
        """Return what a person called a run of which only its files are left."""
        try:
            return str(read_spec(self.cloud, layout.run(run_id)).config.get("name") or "")
        except LaunchError:  # its settings were deleted
            return ""

    def cleanup(self, *, older_than: timedelta | None = None, apply: bool = False) -> CleanupReport:
        """Find, and with `apply` remove, groups and templates without a machine, and leftovers in the bucket.

        Files that a run has saved are never touched.
        """
        if self.bucket is None:
            raise LaunchError("No bucket is configured for the cleanup.\nTry: --bucket NAME")
        before = datetime.now(UTC) - (_IN_CREATION if older_than is None else older_than)
        failures, left = Failures(), list[str]()
        with failures.noted():
            left.extend(leftovers.unused(self.cloud, self.layout, before, failures))
        lines = {f"group {name}, with its template and deadline": name for name in left}
        in_bucket = bucket.cleanup(self.cloud, self.layout, self._has_submission, older_than, apply)
        gone = []
        for line, name in lines.items() if apply else ():
            with failures.noted():
                self._remove(name)
                gone.append(line)
        problems = (*failures.errors, *in_bucket.errors)
        return CleanupReport((*lines, *in_bucket.found), (*gone, *in_bucket.removed), problems)

    def _remove(self, name: str) -> None:
        """Remove a group, after writing how its run has ended if no machine could."""
        run_id = names.run_of(name)
        if state.read(self.cloud, self.layout, run_id).group_name == name:
            self._settle(Handle(self.scheme, self.cloud.scope, run_id))
        groups.remove(self.cloud, name)

    def _has_submission(self, run_id: str) -> bool:
        others = is_of_another(self.cloud, self.layout.run(run_id), self)
        return others or state.read(self.cloud, self.layout, run_id).submission is not None

    def _seen(self, handle: Handle) -> Seen:
        return state.read(self.cloud, self._layout_of(handle), handle.run_id)

    def _layout_of(self, handle: Handle) -> Layout:
        """Return where the run is: as its group says, or else in the configured bucket, or in the one of our machines.

        Raises LaunchError if none of them tells.
        """
        for group in groups.find(self.cloud, handle.run_id):
            if place := group.tags.get(names.FILES):
                found, key = s3.split_uri(place)
                return Layout(found, key.removesuffix(f"/runs/{handle.run_id}"))
        name = self.bucket or account.bucket_of_profile(self.cloud, self.machine_role)
        if name is None:
            raise LaunchError(
                f"The group of run {handle.run_id} is gone, and no bucket is configured.\n"
                f"Try: {commands.launchers('iam', '--apply', '--bucket', 'BUCKET', '--for', 'launcher=ec2_spot')}, "
                "which notes the bucket in the account"
            )
        return Layout(name, self.prefix)

    def _known(self, handle: Handle) -> Seen:
        """Return what is known of a run. Raises LaunchError if it was never submitted."""
        seen = self._seen(handle)
        if seen.submission is None:
            raise LaunchError(self._unknown(handle))
        return seen

    def _again(self, seen: Seen, handle: Handle) -> str:
        """Return the command that resumes a run or a search."""
        if (folder := folder_here(handle)) is not None:
            return resume_command(folder)
        try:
            spec = read_spec(self.cloud, seen.location)
        except LaunchError as error:  # its settings were deleted, or may not be read
            return f"the command that started it. {error}"
        if not spec.output.same_command_resumes:
            return commands.train(commands.override("resume", str(handle)), *self.cloud.overrides)
        return search_again(handle, spec, self._command("download", handle) if seen.attempts else "")

    def _how_to_grant(self, seen: Seen) -> str:
        """Return how the role of the machines gets what the run needs."""
        try:
            return permissions.how_to_grant(read_spec(self.cloud, seen.location).overrides)
        except LaunchError as error:  # its settings were deleted, or may not be read
            return f"{permissions.how_to_grant(())}\n{error}"

    def _command(self, verb: str, handle: Handle) -> str:
        return commands.launchers(verb, *self.name_of(handle))

    def _unknown(self, handle: Handle) -> str:
        where = f"EC2 in {self.cloud.region}" if self.cloud.bills else self.cloud.describe()
        return f"Run {handle.run_id} was not found in {where}."
