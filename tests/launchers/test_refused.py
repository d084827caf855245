"""What is said after a request that creates something: whether it may exist although nobody has heard of it."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from botocore import exceptions

from launchers.aws.account import Account
from launchers.aws.errors import errors, is_refused
from launchers.sagemaker import training
from launchers.sagemaker.submissions import TRIES
from launchers.sagemaker.training import SageMakerLauncher
from launchers.sagemaker.tuner import Tuner
from launchers.status import LaunchError, Shortage
from tests.support import plans, tuned

CREATE = "CreateTrainingJob"


def answered(code: str, status: int, operation: str = CREATE) -> exceptions.ClientError:
    answer: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(answer, operation)


def of(error: Exception) -> LaunchError:
    with pytest.raises(LaunchError) as raised, errors("creating the training job", quota="(the quota)"):
        raise error
    return raised.value


CASES = [
    (answered("AccessDeniedException", 400), True),
    (answered("ExpiredTokenException", 403), True),
    (answered("ValidationException", 400), True),
    (answered("ResourceLimitExceeded", 400), True),
    (exceptions.NoCredentialsError(), True),
    (exceptions.NoRegionError(), True),
    (answered("InternalFailure", 500), False),
    (answered("AccessDeniedException", 400, "DescribeTrainingJob"), False),  # after the job was created
    (exceptions.ReadTimeoutError(endpoint_url="https://aws"), False),
    (exceptions.EndpointConnectionError(endpoint_url="https://aws"), False),
]


@pytest.mark.parametrize(("error", "refused"), CASES)
def test_only_an_answer_of_aws_says_that_nothing_was_created(error: Exception, refused: bool) -> None:
    assert is_refused(of(error), CREATE) is refused
    assert not is_refused(KeyboardInterrupt(), CREATE)
    assert is_refused(LaunchError("none", shortage=Shortage("none")), CREATE)


def test_a_quota_is_named_only_where_one_is_used_up() -> None:
    named = [error for error, _ in CASES if "(the quota)" in str(of(error))]
    assert named == [CASES[3][0]]


@pytest.mark.parametrize(("error", "refused"), CASES[:1] + CASES[-2:])
def test_a_job_may_have_been_submitted_unless_aws_has_refused_it(
    error: Exception, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def creates(**_: Any) -> None:
        raise error

    client = SimpleNamespace(create_training_job=creates, exceptions=SimpleNamespace(ResourceInUse=KeyError))
    jobs = SimpleNamespace(latest=lambda run_id: None, next_name=lambda run_id: run_id)
    launcher, plan = plans.launched("gpu"), plans.planned("gpu")
    vars(launcher)["jobs"] = jobs
    monkeypatch.setattr(SageMakerLauncher, "check_account", lambda *_: "arn:aws:iam::123456789012:role/MyRole")
    monkeypatch.setattr(SageMakerLauncher, "_send", lambda *_: None)
    monkeypatch.setattr(Account, "client", lambda *_: client)
    monkeypatch.setattr(training, "remember", lambda *_: None)
    with pytest.raises(LaunchError) as raised:
        launcher.submit(plan)
    assert any("may have been submitted" in note for note in getattr(raised.value, "__notes__", [])) is not refused


class Taken(exceptions.ClientError):
    """SageMaker's answer for a name that a job has had."""

    def __init__(self) -> None:
        answer = {"Error": {"Code": "ResourceInUse", "Message": "Job names must be unique."}}
        super().__init__({**answer, "ResponseMetadata": {"HTTPStatusCode": 400}}, CREATE)  # type: ignore[typeddict-item]


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("tunes", [True, False])
def test_a_name_that_stays_taken_ends_the_submission_with_what_was_seen(
    tunes: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of a job that was deleted, which is not shown, and whose name stays taken."""
    asked: list[str] = []

    def taken(**request: Any) -> None:
        asked.append(request.get("TrainingJobName") or request["HyperParameterTuningJobName"])
        raise Taken

    job = SimpleNamespace(name="run--3", status="Failed")
    found = [job] if shown else []
    jobs = SimpleNamespace(latest=lambda run_id: job if shown else None, next_name=lambda run_id: "run--4")
    jobs.all, jobs.with_trials = lambda run_id: found, lambda run_id: []
    client = SimpleNamespace(exceptions=SimpleNamespace(ResourceInUse=Taken))
    client.create_training_job = client.create_hyper_parameter_tuning_job = taken
    monkeypatch.setattr(Account, "client", lambda *_: client)
    monkeypatch.setattr(SageMakerLauncher, "_is_wanted", lambda *_: False)
    monkeypatch.setattr(Tuner, "_missing", lambda *_: 1)
    made = plans.launched("gpu")
    vars(made)["jobs"] = jobs
    tuner = Tuner(made)
    vars(tuner)["jobs"] = jobs
    plan = tuned.planned(tuned.STRATEGIES["random"]) if tunes else plans.planned("gpu")
    waited: list[float] = []
    sleep, here = time.sleep, threading.get_ident()
    monkeypatch.setattr("time.sleep", lambda s: (waited.append if threading.get_ident() == here else sleep)(s))
    with pytest.raises(LaunchError) as raised:
        tuner._create(plan, 1, "arn") if tunes else made._create(plan, plan.requests[-1].parameters)
    assert asked == ["run--4"] * TRIES
    assert len(waited) == TRIES - 1
    assert ("shows run--3, Failed, as the latest" if shown else "shows no job of that run") in str(raised.value)
    assert "Job names must be unique." in str(raised.value)
    assert ("hpo.fresh=true" if tunes else "run_id=") in str(raised.value)
    assert is_refused(raised.value, CREATE)  # so that nobody is told to look for a job
