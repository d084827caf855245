"""Searches that SageMaker's own tuner runs: each trial is a training job, in a tuning job that goes on by itself."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dogbreed import commands
from dogbreed.errors import ConfigError, raise_findings
from dogbreed.run_folder import SEARCH_FILE
from launchers.aws import bucket, grants, s3, tags, transfer
from launchers.aws.errors import code_of, errors, is_refused
from launchers.aws.layout import Layout
from launchers.aws.on_aws import OfCloud
from launchers.aws.policy import Identity
from launchers.aws.results import is_of_tuner, read_spec, whole_spec
from launchers.base import Capabilities, CleanupReport, Cloud
from launchers.payload.photos import FEATURES
from launchers.plan import Plan
from launchers.remote.entry import END
from launchers.runs.find import search_again
from launchers.runs.identity import refuse_another_run
from launchers.runs.launched import home_of, remember
from launchers.runs.names import name_findings
from launchers.runs.search_folder import read_search
from launchers.sagemaker import checks, permissions, records, tuning, tuning_limits, tuning_summary
from launchers.sagemaker.logs import Stream, names_of, new_lines
from launchers.sagemaker.submissions import TRIES, name_taken
from launchers.sagemaker.training import SageMakerLauncher
from launchers.sagemaker.tuning_job import TunedTrial, TuningJob, best_of, counted, status_of
from launchers.sagemaker.tuning_submissions import TuningJobs
from launchers.spec import RunSpec
from launchers.status import Cause, Handle, LaunchError, LogLine, Phase, RunResult, Status

if TYPE_CHECKING:
    from dogbreed.training import Watch

log = logging.getLogger("dogbreed")

_STOPPING_S = 300  # until a stopped job's trials have ended


@dataclass(frozen=True)
class Tuner(OfCloud):
    """Runs a search as a tuning job. `jobs_like`: launches the training jobs that its trials are like.

    `python train.py -m hpo=sagemaker_tuner` uses it; conf/hpo/sagemaker_tuner.yaml explains the search's settings, and
    conf/launcher/sagemaker_gpu.yaml those of the machines.
    """

    scheme: ClassVar[str] = "tuner"
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=True,
        multi_node=True,
        follow_logs=True,
        exact_cost=False,
        graceful_cancel=False,  # the image's toolkit passes no signal on
        remote=True,
        sends_code=True,
        whole_search=True,
    )

    jobs_like: SageMakerLauncher
    _specs: dict[str, RunSpec] = field(default_factory=dict, init=False, repr=False, compare=False)  # by job

    @classmethod
    def at(cls, cloud: Cloud, *, runs_dir: str = "runs", bucket: str | None = None) -> Self:
        return cls(SageMakerLauncher.at(cloud, runs_dir=runs_dir, bucket=bucket))

    @property
    def cloud(self) -> Cloud:
        return self.jobs_like.cloud

    @property
    def wait(self) -> bool:
        return self.jobs_like.wait

    @property
    def wait_for_capacity_h(self) -> float | None:
        return self.jobs_like.wait_for_capacity_h

    @property
    def instances(self) -> int:
        return self.jobs_like.instances

    @cached_property
    def jobs(self) -> TuningJobs:
        return TuningJobs(self.cloud)

    def identities(self, config: Mapping[str, Any], day: str, account: str) -> Sequence[Identity]:
        return permissions.identities(self.jobs_like, {**config, "hpo": {"strategy": "Bayesian"}}, day, account)

    # --- before ---

    def plan(self, spec: RunSpec) -> Plan:
        assert spec.tuning is not None
        trials, epochs = tuning.trials_of(spec), spec.config["trainer"].get("max_epochs")
        own = [*tuning.findings(spec.tuning, trials, epochs), *tuning_limits.findings(self.jobs_like, spec)]
        trial = tuning_limits.trial_of(spec)
        raise_findings(ConfigError, [*name_findings(spec), *own, *checks.findings(self.jobs_like, trial)])
        handle = Handle(self.scheme, self.cloud.scope, spec.run_id)
        fitted = tuning_limits.fit(self.jobs_like, spec)
        rows = tuple(tuning_summary.rows(fitted, spec, handle))
        actions = grants.actions(permissions.caller(self.jobs_like, tunes=True))
        return Plan(spec, handle, rows, tuning.requests(fitted.settings, fitted.shortened(spec)), actions)

    def submit(self, plan: Plan, *, watch: "Watch | None" = None) -> Handle:
        """Check the account, upload what is missing, create the tuning job.

        Submitting the same plan again does nothing while its job runs, or once it has had its trials. If the job has
        failed or was stopped, or more trials are wanted, a further job runs those that are missing, and learns from
        the earlier ones.
        """
        spec = plan.spec
        role_arn = self.jobs_like.check_account(spec)
        missing = self._missing(plan)
        if missing > 0:
            self.jobs_like.check_photos(spec)
            self.jobs_like.upload(spec, plan.requests[:-1])
            remember(Path(spec.folder), plan, self.cloud.place)
            try:
                self._create(plan, missing, role_arn)
            except BaseException as error:
                if is_refused(error, "CreateHyperParameterTuningJob"):
                    raise
                # Ctrl-C or a lost connection: the job may or may not have been created
                status = commands.launchers("status", *self.name_of(plan.handle))
                error.add_note(f"The search may have been submitted. Try: {status}")
                raise
        return plan.handle

    def _missing(self, plan: Plan) -> int:
        """Return how many trials a further job is to run; 0 if none is needed.

        Raises LaunchError if a job is running otherwise than the plan asks, or the search has other settings.
        """
        spec, wanted = plan.spec, tuning.trials_of(plan.spec)
        jobs = self.jobs.with_trials(spec.run_id)
        if not jobs:
            return wanted
        latest, _ = jobs[-1]
        refuse_another_run(spec, read_spec(self.cloud, latest.location), plan.handle)
        if not latest.finished:
            planned = tags.from_aws(plan.requests[-1].parameters["Tags"])[tags.PLAN]
            if tags.read(self.cloud, latest.arn).get(tags.PLAN) != planned:
                raise LaunchError(
                    f"The search {spec.run_id} is still running with other machines, code or settings.\n"
                    + self._attach_or_cancel(plan.handle)
                )
            return 0
        ended = [counted(job, trials) for job, trials in jobs]
        if latest.status == "Completed" and wanted <= sum(ended[:-1]) + latest.trials:
            return 0  # it may have ended before its last trial, as the settings asked
        missing = max(0, wanted - sum(ended))
        if 0 < missing < wanted and spec.tuning is not None and spec.tuning.strategy == "Grid":
            raise LaunchError(
                f"A grid of SageMaker's is searched from its beginning or not at all; {missing} of {wanted} trials are "
                f"missing in {spec.run_id}.\nTry: hpo.fresh=true, or hpo=optuna hpo/sampler=grid",
                Cause.BAD_CONFIG,
            )
        return missing

    def _create(self, plan: Plan, missing: int, role_arn: str) -> None:
        client, spec = self.cloud.client("sagemaker"), plan.spec
        assert spec.tuning is not None
        request = {**plan.requests[-1].parameters}
        request["TrainingJobDefinition"] = {**request["TrainingJobDefinition"], "RoleArn": role_arn}
        config = request["HyperParameterTuningJobConfig"]
        parallel = min(missing, config["ResourceLimits"]["MaxParallelTrainingJobs"])
        limits = {**config["ResourceLimits"], "MaxNumberOfTrainingJobs": missing, "MaxParallelTrainingJobs": parallel}
        limits |= tuning_limits.less_spent(request, limits, spec.config, self._spent(spec.run_id))
        request["HyperParameterTuningJobConfig"] = {**config, "ResourceLimits": limits}
        earlier = [each for run in (*spec.tuning.parents, spec.run_id) for each in self.jobs.with_trials(run)]
        drawn = [job.seed for job, trials in earlier if counted(job, trials)]
        request["HyperParameterTuningJobConfig"]["RandomSeed"] = tuning.seed_after(drawn, spec.tuning.seed)
        request.pop("WarmStartConfig", None)  # of the plan, which knows no jobs
        request |= tuning.warm_start(tuple(job.name for job, trials in earlier if best_of(trials, "max") is not None))
        kind = "spot training" if self.jobs_like.spot else "training"
        machine = request["TrainingJobDefinition"]["HyperParameterTuningResourceConfig"]["InstanceType"]
        quota = f"(the quota for these machines: `{machine} for {kind} job usage`)"
        for tries in range(1, TRIES + 1):
            name = request["HyperParameterTuningJobName"] = self.jobs.next_name(spec.run_id)
            with errors("creating the tuning job", quota=quota):
                try:
                    client.create_hyper_parameter_tuning_job(**request)
                    like = self.jobs_like
                    records.begin_search(self.cloud, like.layout, spec.run_id, request, like.encryption)
                    return
                except client.exceptions.ResourceInUse as error:  # another process was faster: with the same plan?
                    if self._missing(plan) == 0:
                        return
                    if tries == TRIES:
                        shown = self.jobs.all(spec.run_id)
                        raise name_taken("tuning job", name, shown, error, search=True) from error
            time.sleep(self.cloud.poll_s)

    def _spent(self, run_id: str) -> float:
        """Return what the jobs of a search have cost."""
        moment = time.time()
        return sum(job.usd(trials, moment) or 0.0 for job, trials in self.jobs.with_trials(run_id))

    # --- afterwards ---

    def trials(self, handle: Handle) -> list[TunedTrial]:
        """Return the trials of all jobs of a search, in the order in which they began."""
        return [trial for _, trials in self.jobs.with_trials(handle.run_id) for trial in trials]

    def spec_of(self, handle: Handle) -> RunSpec:
        """Return the spec of a search. Raises LaunchError for an unknown one."""
        job = self._job(handle)
        return self._spec_of(job) or read_spec(self.cloud, job.location)  # which says why there is none

    def _spec_of(self, job: TuningJob) -> RunSpec | None:
        """Return the spec of a search; None if it was deleted, or is damaged. Raises LaunchError."""
        if job.name not in self._specs and (spec := whole_spec(self.cloud, job.location)) is not None:
            self._specs[job.name] = spec
        return self._specs.get(job.name)

    def status(self, handle: Handle) -> Status:
        return self.look(handle)[0]

    def look(self, handle: Handle) -> tuple[Status, list[TunedTrial]]:
        """Return the status of a search, and its trials."""
        jobs = self.jobs.with_trials(handle.run_id)
        if not jobs:
            return Status(Phase.LOST, Cause.UNKNOWN, self._unknown(handle)), []
        wanted, mode, again = sum(job.trials for job, _ in jobs), "max", "the command that started this search"
        typed: Sequence[str] = ()
        spec = self._spec_of(jobs[-1][0])
        if spec is not None and spec.tuning is not None:
            wanted, mode, typed = tuning.trials_of(spec), spec.tuning.mode, spec.overrides
            left = any(trial.counts for _, trials in jobs for trial in trials)
            fetch = commands.launchers("download", *self.name_of(handle)) if left else ""
            again = search_again(handle, spec, fetch)
        status = status_of(jobs, wanted=wanted, mode=mode, now=time.time(), again=again)
        if status.phase is Phase.FAILED and status.cause is Cause.PERMISSION:
            grant = permissions.how_to_grant(jobs[-1][0].role_arn, typed)
            status = replace(status, next_action=f"{grant}\nThen: {again}")
        return status, [trial for _, trials in jobs for trial in trials]

    def logs(
        self, handle: Handle, *, follow: bool = False, attempt: int | None = None, node: int | None = None
    ) -> Iterator[LogLine]:
        """Yield the log lines of all trials: the number of an attempt is the trial's, plus one."""
        streams: dict[str, Stream] = {}
        while True:
            ended = self._job(handle).finished  # before reading, so that no line is missed
            for trial in self.trials(handle):
                known = [stream for name, stream in streams.items() if name.startswith(f"{trial.name}/")]
                if attempt not in (None, trial.number + 1) or (known and all(stream.ended for stream in known)):
                    continue
                for name in names_of(self.cloud, trial.name):
                    host = int(name.rpartition("/")[2].split("-")[1]) - 1
                    streams.setdefault(name, Stream(name, trial.number + 1, host))
            for stream in sorted(streams.values(), key=lambda each: (each.attempt, each.node)):
                if node not in (None, stream.node) or stream.ended:
                    continue
                for text, at in new_lines(self.cloud, stream):
                    stream.ended = stream.ended or text == END
                    if text != END:
                        yield LogLine(stream.attempt, stream.node, text, at)
            if ended or not follow:
                return
            time.sleep(self.poll_s)

    def cancel(self, handle: Handle, *, grace_s: float = 110) -> Status:
        """Stop the tuning job, and with it the trials that run, and wait for its end."""
        from botocore.exceptions import ClientError

        jobs = self.jobs.all(handle.run_id)
        if not jobs or jobs[-1].finished:
            return self.status(handle)
        with errors("stopping the tuning job"):
            try:
                self.cloud.client("sagemaker").stop_hyper_parameter_tuning_job(
                    HyperParameterTuningJobName=jobs[-1].name
                )
            except ClientError as error:
                if code_of(error) != "ValidationException":  # it has ended just now
                    raise
        until = time.monotonic() + max(grace_s, _STOPPING_S)
        while not (status := self.status(handle)).finished and time.monotonic() < until:
            time.sleep(self.poll_s)
        self.record(handle)
        return status

    def record(self, handle: Handle) -> None:
        """Record what the trials of a search have cost, as far as its jobs have ended."""
        jobs = self.jobs.with_trials(handle.run_id)
        if jobs:
            latest, _ = jobs[-1]
            encryption = s3.encryption(latest.kms_key)
            records.end_search(self.cloud, Layout.around(latest.location), handle.run_id, jobs, encryption)

    def result(self, handle: Handle) -> RunResult:
        """Return the result that is on this machine; `python -m launchers result` and the search's command bring it."""
        folder = home_of(handle, self.spec_of(handle))
        if (folder / SEARCH_FILE).exists():
            return read_search(handle, folder)
        raise LaunchError(
            f"The trials of {handle} are not on this machine.\n"
            f"Try: {commands.launchers('result', *self.name_of(handle))}"
        )

    def download(self, handle: Handle) -> Path:
        return self.result(handle).folder

    def bring(self, trial: TunedTrial, handle: Handle, folder: Path) -> bool:
        """Download what a trial has saved into a folder. Return False if that is nothing."""
        return s3.download(self.cloud, self._uri(trial, handle), folder, lambda name: not name.startswith(FEATURES)) > 0

    def read(self, trial: TunedTrial, handle: Handle, name: str) -> bytes | None:
        """Return a file that a trial has saved, by its name below the trial's folder; None if it saved none."""
        return s3.read(self.cloud, f"{self._uri(trial, handle)}/{name}")

    def uri_of(self, trial: TunedTrial, handle: Handle) -> str:
        return self._uri(trial, handle)

    def _uri(self, trial: TunedTrial, handle: Handle) -> str:
        return f"{self._job(handle).checkpoints_uri}/{trial.name}"

    def share_features(self, trial: TunedTrial, handle: Handle) -> None:
        """Copy the features that a trial has computed to where later trials look for them."""
        job = self._job(handle)
        if job.features_uri is None:
            return
        source = f"{self._uri(trial, handle)}/{FEATURES}"
        try:
            transfer.share_features(self.cloud, source, job.features_uri, s3.encryption(job.kms_key))
        except LaunchError as error:  # the next trial computes them again
            log.warning("%s", error)

    def list(self, *, active_only: bool = True, name: str = "") -> Iterator[tuple[Handle, Status]]:
        """Yield the searches in the account that were launched by this package."""
        for run_id in self.jobs.run_ids(active_only=active_only, name=name):
            handle = Handle(self.scheme, self.cloud.scope, run_id)
            status = replace(self.status(handle), name=self.jobs.names[run_id])
            if not (active_only and status.finished):
                yield handle, status

    def cleanup(self, *, older_than: timedelta | None = None, apply: bool = False) -> CleanupReport:
        """Find, and with `apply` remove, settings of searches without a job, and unfinished uploads."""
        if self.jobs_like.bucket is None:
            raise LaunchError("No bucket is configured for the cleanup.\nTry: --bucket NAME")
        layout = self.jobs_like.layout

        def has_job(run_id: str) -> bool:
            return not is_of_tuner(self.cloud, layout.run(run_id)) or bool(self.jobs.all(run_id))

        return bucket.cleanup(self.cloud, layout, has_job, older_than, apply)

    def fetch(self, handle: Handle, folder: Path | None, *, checkpoints: bool) -> Path:
        raise LaunchError(
            f"{handle} is a search.\nTry: the command that started it, which resumes it; or its best trial, whose run "
            f"folder this brings: {commands.launchers('result', *self.name_of(handle))}"
        )

    def _job(self, handle: Handle) -> TuningJob:
        """Return the latest job of a search. Raises LaunchError if there is none."""
        jobs = self.jobs.all(handle.run_id)
        if not jobs:
            raise LaunchError(self._unknown(handle))
        return jobs[-1]

    def _unknown(self, handle: Handle) -> str:
        return f"Search {handle.run_id} was not found in {self.cloud.describe()}."
