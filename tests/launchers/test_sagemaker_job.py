"""What DescribeTrainingJob's answers mean for a run: phases, causes, next actions, attempts and cost."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest

from launchers.aws import tags
from launchers.cost import prices
from launchers.sagemaker import training
from launchers.sagemaker.job import TrainingJob, status_of
from launchers.sagemaker.training import SageMakerLauncher
from launchers.status import Cause, Handle, Phase, Status
from tests.support import plans

HANDLE = Handle("sagemaker", "eu-west-1", "20261124-120000-abcd")
AGAIN = f"python train.py resume={HANDLE}"
CREATED = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ROOT = "s3://my-bucket/dogbreed/runs/20261124-120000-abcd"
TYPE = "ml.m5.large"
HOUR = 3600.0


def answer(status: str = "InProgress", secondary: str = "Training", *steps: str, **more: Any) -> dict[str, Any]:
    history = [{"Status": step, "StatusMessage": f"{step} it"} for step in steps or [secondary]]
    return {
        "TrainingJobName": HANDLE.run_id,
        "TrainingJobArn": f"arn:aws:sagemaker:eu-west-1:123456789012:training-job/{HANDLE.run_id}",
        "TrainingJobStatus": status,
        "SecondaryStatus": secondary,
        "SecondaryStatusTransitions": history,
        "CreationTime": CREATED,
        "LastModifiedTime": CREATED + timedelta(minutes=5),
        "ResourceConfig": {"InstanceType": TYPE, "InstanceCount": 2, "VolumeSizeInGB": 50},
        "OutputDataConfig": {"S3OutputPath": f"{ROOT}/output/"},
        "CheckpointConfig": {"S3Uri": f"{ROOT}/checkpoints"},
        **more,
    }


def status(described: Mapping[str, Any], *, ended_early: bool = False, now: float = 0.0) -> Status:
    return status_of(TrainingJob.of(described), again=AGAIN, ended_early=ended_early, now=now)


@pytest.mark.parametrize(
    ("described", "phase", "cause", "detail"),
    [
        (answer(secondary="Starting"), Phase.PROVISIONING, Cause.NONE, "Starting it"),
        (answer(secondary="Downloading"), Phase.PROVISIONING, Cause.NONE, "Downloading it"),
        (answer(), Phase.RUNNING, Cause.NONE, "Training it"),
        (answer(secondary="Uploading"), Phase.RUNNING, Cause.NONE, "Uploading it"),
        (answer("InProgress", "Interrupted"), Phase.RECOVERING, Cause.INTERRUPTED, "Interrupted it"),
        (
            answer("InProgress", "Starting", "Interrupted", "Starting"),
            Phase.RECOVERING,
            Cause.INTERRUPTED,
            "Starting it",
        ),
        (answer("InProgress", "Training", "Interrupted", "Training"), Phase.RUNNING, Cause.NONE, "Training it"),
        (answer("Stopping", "Stopping"), Phase.STOPPING, Cause.BY_USER, "Stopping it"),
        (answer("Completed", "Completed"), Phase.SUCCEEDED, Cause.NONE, ""),
        (answer("Stopped", "Stopped"), Phase.CANCELLED, Cause.BY_USER, "stopped on request"),
        (answer("Stopped", "MaxRuntimeExceeded"), Phase.FAILED, Cause.TIME_LIMIT, "launcher.max_run_s was exceeded"),
        (
            answer("Stopped", "MaxWaitTimeExceeded", "Starting", "Training", "MaxWaitTimeExceeded"),
            Phase.FAILED,
            Cause.TIME_LIMIT,
            "launcher.max_wait_s was exceeded",
        ),
        (
            answer("Stopped", "MaxWaitTimeExceeded"),
            Phase.FAILED,
            Cause.CAPACITY,
            "no spot machine was free",
        ),
    ],
)
def test_a_status_of_sagemaker_s_is_a_phase_with_its_cause(
    described: dict[str, Any], phase: Phase, cause: Cause, detail: str
) -> None:
    found = status(described)
    assert (found.phase, found.cause) == (phase, cause)
    assert found.detail.startswith(detail)
    assert found.finished == TrainingJob.of(described).finished
    assert bool(found.next_action) == (phase in (Phase.FAILED, Phase.CANCELLED))


@pytest.mark.parametrize(
    ("reason", "cause", "detail", "hint"),
    [
        ("AlgorithmError: [user_code] KeyError: 'x', exit code: 1", Cause.USER_CODE, "KeyError: 'x'", "See the log"),
        ("AlgorithmError: [quota] no space, exit code: 1", Cause.QUOTA, "no space", "launcher.volume_gb"),
        ("AlgorithmError: ExecuteUserScriptError:\n[bad_config] a\nb", Cause.BAD_CONFIG, "a\nb", "Resume"),
        ("AlgorithmError: [of_no_kind] x", Cause.UNKNOWN, "x", "Resume"),
        ("CapacityError: none left", Cause.CAPACITY, "CapacityError: none left", "launcher=sagemaker_gpu"),
        ("ClientError: ResourceLimitExceeded: 0", Cause.QUOTA, "ClientError: R", f"the quota of {TYPE}"),
        ("ClientError: Access denied to s3", Cause.PERMISSION, "ClientError: A", "the job's role"),
        ("ClientError: No S3 objects found under s3://x", Cause.BAD_CONFIG, "ClientError: N", "data.root"),
        ("InternalServerError: sorry", Cause.INTERRUPTED, "InternalServerError", "an internal error of SageMaker"),
        ("AlgorithmError: exit code 1", Cause.USER_CODE, "AlgorithmError", "See the log for details"),
        ("Something new", Cause.UNKNOWN, "Something new", "The log may have details"),
        ("", Cause.UNKNOWN, "", "The log may have details"),
    ],
)
def test_a_failure_has_a_cause_and_a_next_action(reason: str, cause: Cause, detail: str, hint: str) -> None:
    found = status(answer("Failed", "Failed", FailureReason=reason))
    assert (found.phase, found.cause) == (Phase.FAILED, cause)
    assert found.detail.startswith(detail)
    assert hint in found.next_action
    assert found.next_action.endswith(AGAIN)


def test_a_job_that_was_marked_and_stopped_has_succeeded_unless_its_time_was_over() -> None:
    assert status(answer("Stopped", "Stopped"), ended_early=True).phase is Phase.SUCCEEDED
    assert status(answer("Stopped", "MaxRuntimeExceeded"), ended_early=True).phase is Phase.FAILED


def test_a_run_s_attempts_and_cost_are_those_of_all_its_jobs() -> None:
    later = CREATED + timedelta(days=1)
    first = TrainingJob.of(answer("Failed", "Failed", "Interrupted", "Failed", BillableTimeInSeconds=1800))
    second = TrainingJob.of(answer("Completed", "Completed", BillableTimeInSeconds=3600, CreationTime=later))
    found = status_of(second, again=AGAIN, ended_early=False, now=0.0, earlier=[first])
    row = prices.instance(TYPE)
    assert row is not None
    assert found.attempt == 3
    assert found.usd == pytest.approx(1.5 * 2 * row.usd)
    assert found.started_at == "2026-11-24T12:00:00.000+00:00"


def test_a_job_costs_what_is_billed_and_until_then_what_the_time_since_its_start_would() -> None:
    row = prices.instance(TYPE)
    assert row is not None
    hour_later = CREATED.timestamp() + HOUR

    def usd(**more: Any) -> float | None:
        return TrainingJob.of(answer(**more)).usd(hour_later)

    assert usd() == 0.0  # it waits for its machines
    assert usd(TrainingStartTime=CREATED) == pytest.approx(2 * row.usd)
    spot = usd(TrainingStartTime=CREATED, EnableManagedSpotTraining=True)
    assert spot == pytest.approx(2 * row.usd)  # it may cost less, which only its end tells
    assert usd(TrainingStartTime=CREATED, TrainingEndTime=CREATED) == 0.0  # not billed yet
    assert usd(TrainingStartTime=CREATED, BillableTimeInSeconds=36) == pytest.approx(0.02 * row.usd)
    assert usd(ResourceConfig={"InstanceType": "ml.new.large", "InstanceCount": 1}) is None


def test_a_job_says_where_its_run_lies() -> None:
    features = {"S3DataSource": {"S3Uri": "s3://my-bucket/dogbreed/features/0/"}}
    job = TrainingJob.of(answer(InputDataConfig=[{"ChannelName": "features", "DataSource": features}]))
    assert job.location.uri == ROOT
    assert job.archive_uri == f"{ROOT}/output/{job.name}/output/output.tar.gz"
    assert job.features_uri == "s3://my-bucket/dogbreed/features/0/"
    assert TrainingJob.of(answer()).features_uri is None


def test_a_job_that_was_not_launched_from_here_can_be_read() -> None:
    """With the members that AWS always sends, and no more."""
    shape = botocore.session.get_session().get_service_model("sagemaker").shape_for("DescribeTrainingJobResponse")
    always = {name: value for name, value in answer().items() if name in shape.required_members}
    job = TrainingJob.of(always)
    assert job.usd(0.0) is None
    assert status_of(job, again=AGAIN, ended_early=False, now=0.0).phase is Phase.RUNNING


class Recorded(Mapping[str, Any]):
    """An answer, and which of its members were asked for."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members, self.asked = members, set[str]()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def test_what_is_read_of_an_answer_is_what_aws_documents() -> None:
    shape = botocore.session.get_session().get_service_model("sagemaker").shape_for("DescribeTrainingJobResponse")
    recorded = Recorded(answer())
    TrainingJob.of(recorded)
    assert recorded.asked <= shape.members.keys()


# --- machines that earlier jobs of a run keep ---


def keeping(name: str, pool: str = "Available") -> TrainingJob:
    """A job of two machines that has ended after an hour, and keeps them for half an hour."""
    resources = {"InstanceType": TYPE, "InstanceCount": 2, "KeepAlivePeriodInSeconds": 1800}
    times = {
        "TrainingStartTime": CREATED,
        "TrainingEndTime": CREATED + timedelta(hours=1),
        "BillableTimeInSeconds": 3600,
    }
    described = answer("Stopped", "Stopped", ResourceConfig=resources, WarmPoolStatus={"Status": pool}, **times)
    return TrainingJob.of({**described, "TrainingJobName": name})


def launcher_with(monkeypatch: pytest.MonkeyPatch, *jobs: TrainingJob) -> SageMakerLauncher:
    launcher = plans.launched("gpu")
    found = {"latest": lambda run_id: jobs[-1], "all": lambda run_id: list(jobs), "earlier": lambda run_id: jobs[:-1]}
    vars(launcher)["jobs"] = SimpleNamespace(**found)
    monkeypatch.setattr(tags, "read", lambda *_: {})
    monkeypatch.setattr(training, "tail", lambda *_: ())
    monkeypatch.setattr(SageMakerLauncher, "_again", lambda *_: AGAIN)
    return launcher


@pytest.mark.parametrize("pool", ["Available", "Terminated"])
def test_what_kept_machines_may_still_cost_is_spent(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = launcher_with(monkeypatch, keeping("a", pool))
    monkeypatch.setattr(training.bills, "spent_elsewhere", lambda *_: 0.0)
    monkeypatch.setattr(training.time, "time", lambda: CREATED.timestamp() + HOUR + 60)
    plan = plans.planned("gpu")
    plan = replace(plan, spec=replace(plan.spec, config={**plan.spec.config, "limits": {"max_usd": 1.0}}))
    create = plan.requests[-1].parameters
    run_s = launcher._within_limits(plan, create)["StoppingCondition"]["MaxRuntimeInSeconds"]
    hours = 1.5 if pool == "Available" else 1.0
    assert run_s == pytest.approx((1.0 - hours * 2 * 0.115) / 0.7364 * HOUR - 180, abs=1)


def test_cancelling_gives_back_the_machines_of_every_job(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [keeping("a"), keeping("b", "Reused"), keeping("c", "Terminated")]
    launcher = launcher_with(monkeypatch, *jobs)
    assert "its machines are kept, and paid, until 13:30:00 UTC" in launcher.status(HANDLE).detail
    given_back: list[str] = []
    monkeypatch.setattr(SageMakerLauncher, "_give_back", lambda self, job: given_back.append(job.name))
    monkeypatch.setattr(SageMakerLauncher, "_record", lambda *_: None)
    launcher.cancel(HANDLE)
    assert given_back == ["a"]
