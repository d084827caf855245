"""A tuning job and its trials as SageMaker describes them, and what that means for the search.

The answers of DescribeHyperParameterTuningJob and ListTrainingJobsForHyperParameterTuningJob are read here alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self

from dogbreed.best_epoch import merit
from launchers.aws.layout import RunLocation
from launchers.aws.shortage import shortage_in
from launchers.cost import prices
from launchers.remote.entry import END
from launchers.sagemaker.job import cause_of
from launchers.status import Cause, Phase, Status

TrialState = Literal["running", "complete", "pruned", "failed", "cut off"]
FINISHED = ("Completed", "Failed", "Stopped")
_CUT_OFF_S = 150  # a trial that was stopped within that time before its job's end was stopped because the job was
# as launchers/remote/entry.py prints it, and the image's toolkit and SageMaker wrap it
_CAUSED = re.compile(r'\[(?P<cause>[a-z_]+)\] (?P<detail>.*?)(?:"\s*(?:ExtraInfo|Command) |, exit code: \d+|$)', re.S)


@dataclass(frozen=True)
class TuningJob:
    """A tuning job. trials: the most that it runs. ended: None before; it may lack in an answer."""

    name: str
    arn: str
    status: str
    reason: str
    created: datetime
    ended: datetime | None
    trials: int
    seed: int
    role_arn: str
    instance_type: str
    instances: int
    checkpoints_uri: str
    kms_key: str | None
    features_uri: str | None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        trial = answer.get("TrainingJobDefinition", {})
        resources = trial.get("HyperParameterTuningResourceConfig") or trial.get("ResourceConfig") or {}
        limits = answer["HyperParameterTuningJobConfig"]["ResourceLimits"]
        inputs = {channel["ChannelName"]: channel for channel in trial.get("InputDataConfig", [])}
        features = inputs.get("features", {}).get("DataSource", {}).get("S3DataSource", {})
        return cls(
            name=answer["HyperParameterTuningJobName"],
            arn=answer["HyperParameterTuningJobArn"],
            status=answer["HyperParameterTuningJobStatus"],
            reason=answer.get("FailureReason", ""),
            created=answer["CreationTime"],
            ended=answer.get("HyperParameterTuningEndTime"),
            trials=int(limits.get("MaxNumberOfTrainingJobs", 0)),
            seed=int(answer["HyperParameterTuningJobConfig"].get("RandomSeed", 0)),
            role_arn=trial.get("RoleArn", ""),
            instance_type=resources.get("InstanceType", ""),
            instances=int(resources.get("InstanceCount", 1)),
            checkpoints_uri=trial.get("CheckpointConfig", {}).get("S3Uri", ""),
            kms_key=trial.get("OutputDataConfig", {}).get("KmsKeyId"),
            features_uri=features.get("S3Uri"),
        )

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    @property
    def location(self) -> RunLocation:
        """The location of the search's files in the bucket."""
        return RunLocation.of_checkpoints(self.checkpoints_uri)

    def usd(self, trials: Sequence["TunedTrial"], now: float) -> float | None:
        """Return the cost of its trials so far by the list price on demand, from their times; None without a price.

        Spot machines cost less. SageMaker lists no billed seconds of trials.
        """
        row = prices.instance(self.instance_type)
        if row is None:
            return None
        return sum(trial.seconds(now) for trial in trials) * row.usd * self.instances / 3600


@dataclass(frozen=True)
class TunedTrial:
    """A trial: one training job of a tuning job.

    number: from 0, over all jobs of the search. values: of its parameters, as text. objective: None if it has printed
    none. created, started, ended: seconds since 1970; started and ended are None before.
    """

    number: int
    name: str
    arn: str
    state: TrialState
    values: Mapping[str, str]
    objective: float | None
    reason: str
    created: float
    started: float | None
    ended: float | None

    @classmethod
    def of(cls, number: int, summary: Mapping[str, Any], job: TuningJob) -> Self:
        started, ended = summary.get("TrainingStartTime"), summary.get("TrainingEndTime")
        metric = summary.get("FinalHyperParameterTuningJobObjectiveMetric")
        objective = None if metric is None else float(metric["Value"])
        return cls(
            number=number,
            name=summary["TrainingJobName"],
            arn=summary["TrainingJobArn"],
            state=_state(summary, objective, job),
            values=dict(summary["TunedHyperParameters"]),
            objective=objective,
            reason=summary.get("FailureReason", ""),
            created=summary["CreationTime"].timestamp(),
            started=None if started is None else started.timestamp(),
            ended=None if ended is None else ended.timestamp(),
        )

    @property
    def finished(self) -> bool:
        return self.state != "running"

    @property
    def counts(self) -> bool:
        """Whether it is one of the trials that a search is to have."""
        return self.state in ("complete", "pruned", "failed")

    @property
    def cause(self) -> str:
        """Why it failed, in words."""
        if self.state != "failed":
            return ""
        found = _CAUSED.search(self.reason)
        detail = found["detail"].strip().removesuffix(END).strip() if found else self.reason.strip()
        return detail or "it printed no value of the objective"

    def seconds(self, now: float) -> float:
        """Return its duration on the machine, so far if it is running."""
        return 0.0 if self.started is None else max(0.0, (now if self.ended is None else self.ended) - self.started)


def counted(job: TuningJob, trials: Sequence[TunedTrial]) -> int:
    """Return how many trials of a job a further job does not repeat.

    It repeats those that failed when none succeeded, and those for which there was no machine.
    """
    return sum(trial.counts and not _is_repeated(job, trial) for trial in trials)


def _is_repeated(job: TuningJob, trial: TunedTrial) -> bool:
    return trial.state == "failed" and (job.status == "Failed" or shortage_in(trial.reason) is not None)


def _state(summary: Mapping[str, Any], objective: float | None, job: TuningJob) -> TrialState:
    match summary["TrainingJobStatus"]:
        case "Completed":
            return "failed" if objective is None else "complete"
        case "Stopped":
            ended, over = summary.get("TrainingEndTime"), job.ended
            with_job = over is not None and (ended is None or (over - ended).total_seconds() < _CUT_OFF_S)
            if job.status in ("Stopping", "Stopped") and (over is None or with_job):
                return "cut off"
            return "failed" if objective is None else "pruned"
        case "Failed":
            return "failed"
        case _:
            return "running"


def best_of(trials: Sequence[TunedTrial], mode: str) -> TunedTrial | None:
    """Return the best complete trial; the first, if several are equal. None if there is none."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.objective is not None]
    return max(complete, key=lambda each: (_merit(each, mode), -each.number), default=None)


def _merit(trial: TunedTrial, mode: str) -> tuple[float, float, float]:
    assert trial.objective is not None
    return merit(trial.objective, loss=0.0, epoch=0, mode=mode)


def status_of(
    jobs: Sequence[tuple[TuningJob, Sequence[TunedTrial]]], *, wanted: int, mode: str, now: float, again: str
) -> Status:
    """Return the status of a search. jobs: one or more, in order, each with its trials.

    wanted: how many trials the search is to have. now: seconds since 1970. again: the command that goes on with it.
    """
    job, all_trials = jobs[-1][0], [trial for _, trials in jobs for trial in trials]
    wanted += sum(_is_repeated(each, trial) for each, trials in jobs[:-1] for trial in trials)
    costs = [each.usd(trials, now) for each, trials in jobs]
    here = Status(
        Phase.RUNNING if any(trial.started for trial in all_trials) else Phase.PROVISIONING,
        detail=_detail(all_trials, wanted, mode),
        attempt=len(jobs),
        started_at=jobs[0][0].created.astimezone(UTC).isoformat(timespec="milliseconds"),
        usd=None if None in costs else sum(cost or 0.0 for cost in costs),
        job=job.name,
    )
    match job.status:
        case "InProgress":
            return here
        case "Stopping":
            return replace(here, phase=Phase.STOPPING, cause=Cause.BY_USER)
        case "Completed":
            return replace(here, phase=Phase.SUCCEEDED)
        case "Stopped":
            hint = f"Go on with the trials that are missing: {again}"
            return replace(here, phase=Phase.CANCELLED, cause=Cause.BY_USER, next_action=hint)
        case _:
            return replace(
                here,
                phase=Phase.FAILED,
                cause=_cause(job.reason, all_trials),
                detail="\n".join(filter(None, [job.reason, _why_trials_failed(all_trials), here.detail])),
                next_action=f"Try, once that is fixed: {again}",
                shortage=shortage_in(job.reason),
            )


def _detail(trials: Sequence[TunedTrial], wanted: int, mode: str) -> str:
    states = [trial.state for trial in trials]
    parts = [f"{sum(trial.counts for trial in trials)} of {wanted} trials have ended"]
    parts += [f"{states.count(state)} {state}" for state in ("running", "pruned", "failed") if state in states]
    best = best_of(trials, mode)
    return ", ".join(parts) + (f"; best {best.objective:.4f} (trial {best.number})" if best else "")


def _why_trials_failed(trials: Sequence[TunedTrial]) -> str:
    causes = list(dict.fromkeys(trial.cause for trial in trials if trial.state == "failed"))
    return f"The latest trial failed: {causes[-1]}" if causes else ""


def _cause(reason: str, trials: Sequence[TunedTrial]) -> Cause:
    """Return why a tuning job failed: for its own reason or, if that is that no trial succeeded, for theirs."""
    if shortage_in(reason) is not None:
        return Cause.CAPACITY
    if (own := cause_of(reason)) is not Cause.UNKNOWN:
        return own
    causes = {_cause_of_trial(trial.reason) for trial in trials if trial.state == "failed"}
    return causes.pop() if len(causes) == 1 else Cause.USER_CODE


def _cause_of_trial(reason: str) -> Cause:
    found = _CAUSED.search(reason)
    if found is not None and found["cause"] in set(Cause):
        return Cause(found["cause"])
    found_by_sagemaker = cause_of(reason)
    return Cause.USER_CODE if found_by_sagemaker is Cause.UNKNOWN else found_by_sagemaker
