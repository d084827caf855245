"""SageMaker training jobs: on demand or managed spot, one class; what differs is in conf/launcher/sagemaker_*.yaml."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dogbreed import commands
from dogbreed.errors import ConfigError, raise_findings
from dogbreed.run_folder import write_text
from launchers import formatting
from launchers.aws import bills, bucket, grants, iam, s3, saved, sent, tags, transfer
from launchers.aws.actions import SAGEMAKER
from launchers.aws.errors import code_of, errors, is_refused
from launchers.aws.layout import Layout
from launchers.aws.on_aws import OnAws
from launchers.aws.policy import Identity
from launchers.aws.results import (
    download_results,
    download_search,
    download_to_resume,
    is_of_another,
    is_of_tuner,
    read_spec,
)
from launchers.base import Capabilities, CleanupReport
from launchers.cost.limits import Limits
from launchers.follow import ask_after_each_epoch
from launchers.plan import Plan
from launchers.runs.collect import read_downloaded
from launchers.runs.find import resume_command, search_again
from launchers.runs.identity import refuse_another_run
from launchers.runs.launched import folder_here, remember
from launchers.runs.names import name_findings
from launchers.runs.state import refuse_if_alive_here
from launchers.sagemaker import checks, fitting, permissions, records, request, summary
from launchers.sagemaker.fitting import STOPPING_S, UPLOADING_S
from launchers.sagemaker.job import TrainingJob, status_of
from launchers.sagemaker.logs import read_job_logs, tail
from launchers.sagemaker.settings import JobSettings
from launchers.sagemaker.submissions import TRIES, Submissions, name_taken
from launchers.spec import JOB_LOG, RunSpec
from launchers.status import Cause, Failures, Handle, LaunchError, LogLine, Phase, RunResult, Status

if TYPE_CHECKING:
    from dogbreed.training import Watch

log = logging.getLogger("dogbreed")


@dataclass(frozen=True)
class SageMakerLauncher(JobSettings, OnAws):
    """Runs `train.py` as a training job. conf/launcher/sagemaker_gpu.yaml explains each key."""

    scheme: ClassVar[str] = "sagemaker"
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=True,
        multi_node=True,
        follow_logs=True,
        exact_cost=False,
        graceful_cancel=True,
        remote=True,
        sends_code=True,
        whole_search=True,
    )

    wait: bool = True

    @cached_property
    def jobs(self) -> Submissions:
        return Submissions(self.cloud)

    def identities(self, config: Mapping[str, Any], day: str, account: str) -> Sequence[Identity]:
        return permissions.identities(self, config, day, account)

    # --- before ---

    def plan(self, spec: RunSpec) -> Plan:
        raise_findings(ConfigError, [*name_findings(spec), *checks.findings(self, spec)])
        handle = Handle(self.scheme, self.cloud.scope, spec.run_id)
        fitted = fitting.fit(self, spec)
        rows = tuple(summary.rows(fitted, spec, handle))
        requests = request.requests(fitted.settings, spec, fitted.limit)
        actions = grants.actions(permissions.caller(self))
        return Plan(spec, handle, rows, requests, actions, fitted.costs(spec))

    def submit(self, plan: Plan, *, watch: "Watch | None" = None) -> Handle:
        """Check the account, upload what is missing, create the job; with `watch`, stay until it ends.

        Submitting the same plan again does nothing while its job runs or once it has succeeded; if the job has failed
        or was stopped, a further job resumes it from its checkpoint.
        """
        spec = plan.spec
        refuse_if_alive_here(Path(spec.folder))
        create = {**plan.requests[-1].parameters, "RoleArn": self.check_account(spec)}
        job = self.jobs.latest(spec.run_id)
        if job is None or not self._is_wanted(job, plan):
            self._send(plan)
            create = self._within_limits(plan, create)
            remember(Path(spec.folder), plan, self.cloud.place)
            try:
                self._create(plan, create)
            except BaseException as error:
                if is_refused(error, "CreateTrainingJob"):
                    raise
                # Ctrl-C or a lost connection: the job may or may not have been created
                status = commands.launchers("status", *self.name_of(plan.handle))
                error.add_note(f"The job may have been submitted. Try: {status}")
                raise
        if watch is not None and ask_after_each_epoch(self, plan.handle, watch):
            self._end_early(plan.handle)
        return plan.handle

    def send(self, plan: Plan) -> None:
        """Check the account and upload what the job of a plan reads, for somebody else to create it.

        `launchers.sagemaker.sdk.to_model_trainer` makes what creates it with the SageMaker SDK. Raises LaunchError.
        """
        self.check_account(plan.spec)
        self._send(plan)

    def _send(self, plan: Plan) -> None:
        spec = plan.spec
        self.check_photos(spec)
        self.upload(spec, plan.requests[:-1])
        if spec.going_on is not None or spec.output.same_command_resumes:
            checkpoints_uri = self.layout.run(spec.run_id).checkpoints_uri
            transfer.send_checkpoints(self.cloud, spec, checkpoints_uri, self.encryption)
            saved.give_own_names(self.cloud, checkpoints_uri, self.encryption)

    def check_account(self, spec: RunSpec) -> str:
        """Return the role's ARN, and warn of permissions that it lacks.

        Raises LaunchError listing every problem of the bucket and the role.
        """
        assert self.bucket is not None
        assert self.role is not None
        caller = iam.caller(self.cloud)
        findings = bucket.bucket_findings(self.cloud, self.bucket, caller.account)
        role = iam.find_role(self.cloud, self.role, SAGEMAKER, caller, "aws.role")
        raise_findings(LaunchError, [*findings, *role.findings])
        if warning := permissions.warning(self, spec, caller, role.arn):
            log.warning("%s", warning)
        return role.arn

    def _within_limits(self, plan: Plan, create: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request, shortened by what the run has spent of limits.max_usd, by other launchers too.

        Raises LaunchError if what is left is too little.
        """
        limits, run_id, spent = Limits.of(plan.spec.config), plan.spec.run_id, 0.0
        if limits.max_usd is not None:
            now = time.time()
            spent = sum((job.usd(now) or 0.0) + job.to_come_usd(now) for job in self.jobs.all(run_id))
            spent += bills.spent_elsewhere(self.cloud, self.layout, run_id, self.scheme)
        if not spent:
            return dict(create)
        shorter = fitting.less_spent(create, limits, spent)
        log.info(
            "Earlier jobs of the run have cost %s of limits.max_usd=%g, machines that are kept included: this one may "
            "run %s.",
            formatting.usd(spent),
            limits.max_usd,
            formatting.duration(shorter["StoppingCondition"]["MaxRuntimeInSeconds"]),
        )
        return shorter

    def _create(self, plan: Plan, create: Mapping[str, Any]) -> None:
        client, run_id = self.cloud.client("sagemaker"), plan.spec.run_id
        kind = "spot training" if self.spot else "training"
        machine = create["ResourceConfig"]["InstanceType"]
        quota = f"(the quota for this machine: `{machine} for {kind} job usage`, 0 in new accounts)"
        for tries in range(1, TRIES + 1):
            name = self.jobs.next_name(run_id)
            with errors("creating the training job", quota=quota):
                try:
                    client.create_training_job(**{**create, "TrainingJobName": name})
                    records.begin(self.cloud, self.layout, run_id, {**create, "TrainingJobName": name}, self.encryption)
                    return
                except client.exceptions.ResourceInUse as error:  # another process was faster: with the same plan?
                    job = self.jobs.latest(run_id)
                    if job is not None and self._is_wanted(job, plan):
                        return
                    if tries == TRIES:
                        is_search = plan.spec.output.same_command_resumes
                        raise name_taken("training job", name, [job] if job else [], error, search=is_search) from error
            time.sleep(self.cloud.poll_s)

    def _is_wanted(self, job: TrainingJob, plan: Plan) -> bool:
        """Return whether `job`, the run's latest, is the job of the plan; if not, a further job is needed.

        Raises LaunchError if the job is running otherwise than the plan asks, or its run has other settings.
        """
        spec, found = plan.spec, tags.read(self.cloud, job.arn)
        resumed = spec.going_on is not None
        if not resumed:
            refuse_another_run(spec, read_spec(self.cloud, job.location), plan.handle)
        nothing_new = resumed and not sent.command(spec, resumes=True).typed
        wanted = tags.from_aws(plan.requests[-1].parameters["Tags"])[tags.PLAN]
        same = found.get(tags.PLAN) == wanted or nothing_new
        status = status_of(job, ended_early=tags.ENDED_EARLY in found, now=time.time())
        if status.phase is Phase.SUCCEEDED:
            return same or not (resumed or spec.output.same_command_resumes)  # either may ask for more
        if job.finished:
            return False
        if not same:
            other = "machine, code or number of trials" if spec.output.same_command_resumes else "machine or code"
            raise LaunchError(
                f"Run {spec.run_id} is still running with another {other}.\n" + self._attach_or_cancel(plan.handle)
            )
        return True

    def _end_early(self, handle: Handle) -> None:
        """Stop a run whose metrics are already sufficient, and mark its job so that it does not count as failed."""
        job = self.jobs.latest(handle.run_id)
        if job is not None and not job.finished:
            tags.add(self.cloud, job.arn, {tags.ENDED_EARLY: "yes"})
            self.cancel(handle)

    # --- afterwards ---

    def status(self, handle: Handle) -> Status:
        job = self.jobs.latest(handle.run_id)
        if job is None:
            return Status(Phase.LOST, Cause.UNKNOWN, self._unknown(handle))
        marks = tags.read(self.cloud, job.arn) if job.stopped_on_request or job.reached_limit else {}
        earlier = self.jobs.earlier(handle.run_id)
        again = self._again(job, handle) if job.finished and job.status != "Completed" else ""
        status = status_of(
            job,
            ended_early=tags.ENDED_EARLY in marks,
            now=time.time(),
            earlier=earlier,
            again=again,
            limit=marks.get(tags.LIMIT, ""),
        )
        if kept := self._kept([*earlier, job], handle):
            status = replace(status, detail="\n".join(filter(None, [status.detail, kept])))
        if status.phase is Phase.FAILED and status.cause is Cause.PERMISSION:
            status = replace(status, next_action=f"{self._how_to_grant(job)}\nThen: {again}")
        if status.phase in (Phase.FAILED, Phase.CANCELLED):
            status = replace(status, log_tail=tail(self.cloud, job.name, status.detail))
            if any(each.trainings for each in (*earlier, job)):  # otherwise it has left nothing
                left = self._download_command(handle)
                if left not in status.next_action:
                    status = replace(status, next_action=f"{status.next_action}\nFetch what it has left: {left}")
        return status

    def _kept(self, jobs: Sequence[TrainingJob], handle: Handle) -> str:
        """Say until when machines of the jobs are kept; empty if none are."""
        ends = [job.ended + timedelta(seconds=job.keep_alive_s) for job in jobs if job.keeps_machines and job.ended]
        if not ends:
            return ""
        cancel = commands.launchers("cancel", *self.name_of(handle))
        return f"its machines are kept, and paid, until {max(ends).astimezone(UTC):%H:%M:%S} UTC; earlier: {cancel}"

    def logs(
        self, handle: Handle, *, follow: bool = False, attempt: int | None = None, node: int | None = None
    ) -> Iterator[LogLine]:
        self._job(handle)
        lines = read_job_logs(self.cloud, lambda: self.jobs.all(handle.run_id), follow=follow)
        return (line for line in lines if attempt in (None, line.attempt) and node in (None, line.node))

    def cancel(self, handle: Handle, *, grace_s: float = 110) -> Status:
        """Stop the job and wait for its end; give back machines that are kept for the next one.

        SageMaker waits 120 s after SIGTERM, whatever grace_s is.
        """
        job = self.jobs.latest(handle.run_id)
        if job is None or (job.finished and not self._keeping(handle)):
            return self.status(handle)
        if not job.finished:
            self._stop(job)
        until = time.monotonic() + max(grace_s, STOPPING_S) + UPLOADING_S
        while not (status := self.status(handle)).finished and time.monotonic() < until:
            time.sleep(self.cloud.poll_s)
        if self._release(handle):
            status = self.status(handle)
        self._record(handle)
        return status

    def _release(self, handle: Handle) -> bool:
        """Give back machines that are kept for the next job. Return whether there were any."""
        keeping, failures = self._keeping(handle), Failures()
        for job in keeping:
            with failures.noted():
                self._give_back(job)
        failures.raise_first()
        return bool(keeping)

    def _keeping(self, handle: Handle) -> Sequence[TrainingJob]:
        return [job for job in self.jobs.all(handle.run_id) if job.keeps_machines]

    def _give_back(self, job: TrainingJob) -> None:
        from botocore.exceptions import ClientError

        with errors("giving back the machines of the warm pool"):
            try:
                self.cloud.client("sagemaker").update_training_job(
                    TrainingJobName=job.name, ResourceConfig={"KeepAlivePeriodInSeconds": 0}
                )
            except ClientError as error:
                if code_of(error) != "ValidationException":  # its time has ended just now
                    raise

    def _stop(self, job: TrainingJob) -> None:
        from botocore.exceptions import ClientError

        with errors("stopping the job"):
            try:
                self.cloud.client("sagemaker").stop_training_job(TrainingJobName=job.name)
            except ClientError as error:
                if code_of(error) != "ValidationException":  # it has ended just now
                    raise

    def result(self, handle: Handle) -> RunResult:
        """Download the run's folder, if it is not here yet, and read it."""
        status = self.status(handle)
        if status.phase is not Phase.SUCCEEDED:
            raise LaunchError(f"Run {handle} has no result: {status}", status.cause, status.shortage)
        job = self._job(handle)
        self._share_features(job)
        self._record(handle)
        return read_downloaded(handle, download_results(self.cloud, handle, job.location, job.name, job.archive_uri))

    def _record(self, handle: Handle) -> None:
        """Record what the jobs of a run have cost, once they have ended."""
        jobs = self.jobs.all(handle.run_id)
        if jobs:
            encryption = s3.encryption(jobs[-1].kms_key)
            records.end(self.cloud, Layout.around(jobs[-1].location), handle.run_id, jobs, encryption)

    def _share_features(self, job: TrainingJob) -> None:
        """Copy the features that the job computed to where the next run on its photos looks for them."""
        if job.features_uri is None:
            return
        try:
            transfer.share_features(self.cloud, job.location.features_uri, job.features_uri, s3.encryption(job.kms_key))
        except LaunchError as error:  # the next run computes them again; this run's results are still valid
            log.warning("%s", error)

    def fetch(self, handle: Handle, folder: Path | None, *, checkpoints: bool) -> Path:
        job = self._job(handle)
        if checkpoints and not job.finished:
            raise LaunchError(f"Run {handle} is still running remotely.\n" + self._attach_or_cancel(handle))
        if job.finished:
            self._record(handle)  # for limits.max_usd, if it goes on by another launcher
        return download_to_resume(self.cloud, handle, job.location, folder, checkpoints=checkpoints)

    def download(self, handle: Handle) -> Path:
        """Download the files that the run saved to S3, and the log of all its jobs as job.log."""
        job = self._job(handle)
        if not job.finished:
            raise LaunchError(f"Run {handle} is still running remotely.\n" + self._attach_or_cancel(handle))
        if self.status(handle).phase is Phase.SUCCEEDED:
            folder = self.result(handle).folder
        elif job.study is None:
            folder = download_to_resume(self.cloud, handle, job.location, None, checkpoints=True)
        else:
            folder = download_search(self.cloud, handle, job.location, job.name)
        try:
            # to its end: the last lines, which say why it ended, come late
            lines = [f"{line.attempt} | {line.text}\n" for line in self.logs(handle, follow=True)]
            write_text(folder / JOB_LOG, "".join(lines))
        except LaunchError as error:  # it may not be permitted, and the files are here
            log.warning("%s", error)
        return folder

    def list(self, *, active_only: bool = True, name: str = "") -> Iterator[tuple[Handle, Status]]:
        """Yield the runs in the account that were launched by this package."""
        for run_id in self.jobs.run_ids(active_only=active_only, name=name):
            handle = Handle(self.scheme, self.cloud.scope, run_id)
            status = replace(self.status(handle), name=self.jobs.names[run_id])
            if not (active_only and status.finished):
                yield handle, status

    def cleanup(self, *, older_than: timedelta | None = None, apply: bool = False) -> CleanupReport:
        """Find, and with `apply` remove, settings of runs without a job, and unfinished uploads, which cost money.

        Files that a run has saved are never touched.
        """
        if self.bucket is None:
            raise LaunchError("No bucket is configured for the cleanup.\nTry: --bucket NAME")

        def has_job(run_id: str) -> bool:
            location = self.layout.run(run_id)
            others = is_of_tuner(self.cloud, location) or is_of_another(self.cloud, location, self)
            return others or self.jobs.latest(run_id) is not None

        return bucket.cleanup(self.cloud, self.layout, has_job, older_than, apply)

    def _job(self, handle: Handle) -> TrainingJob:
        """Return the run's latest job. Raises LaunchError if there is none."""
        job = self.jobs.latest(handle.run_id)
        if job is None:
            raise LaunchError(self._unknown(handle))
        return job

    def _again(self, job: TrainingJob, handle: Handle) -> str:
        """Return the command that resumes a run or a search."""
        if job.study is None:
            folder = folder_here(handle)
            if folder is not None:
                return resume_command(folder)
            return commands.train(commands.override("resume", str(handle)), *self.cloud.overrides)
        try:
            spec = read_spec(self.cloud, job.location)
        except LaunchError as error:  # its settings were deleted, or may not be read
            return f"the command that started this search. {error}"
        return search_again(handle, spec, self._download_command(handle) if job.trainings else "")

    def _how_to_grant(self, job: TrainingJob) -> str:
        """Return how the job's role gets what the job needs."""
        try:
            return permissions.how_to_grant(job.role_arn, read_spec(self.cloud, job.location).overrides)
        except LaunchError as error:  # its settings were deleted, or may not be read
            return f"{permissions.how_to_grant(job.role_arn, ())}\n{error}"

    def _download_command(self, handle: Handle) -> str:
        return commands.launchers("download", *self.name_of(handle))

    def _unknown(self, handle: Handle) -> str:
        return f"Run {handle.run_id} was not found in {self.cloud.describe()}."
