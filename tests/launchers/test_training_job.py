"""DescribeTrainingJob's answers, as users' logs and public repositories show them, and what they mean for a run."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from launchers.sagemaker.job import TrainingJob, status_of
from launchers.status import Cause, Phase, Status

CREATED = datetime(2026, 1, 15, 9, 0, tzinfo=UTC)
AGAIN = "python train.py resume=sagemaker://eu-west-1/a-run"


def answer(status: str, *steps: str, **more: Any) -> dict[str, Any]:
    """What DescribeTrainingJob answers for a job with these secondary statuses, the latest last."""
    passed = [
        {"Status": step, "StartTime": CREATED + timedelta(minutes=n), "StatusMessage": step}
        for n, step in enumerate(steps)
    ]
    return {
        "TrainingJobName": "a-run",
        "TrainingJobArn": "arn:aws:sagemaker:eu-west-1:123456789012:training-job/a-run",
        "TrainingJobStatus": status,
        "SecondaryStatus": steps[-1],
        "SecondaryStatusTransitions": passed,
        "RoleArn": "arn:aws:iam::123456789012:role/service-role/AmazonSageMaker-ExecutionRole-20240101T000000",
        "CreationTime": CREATED,
        "ResourceConfig": {"InstanceType": "ml.g4dn.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 50},
        "OutputDataConfig": {"KmsKeyId": "", "S3OutputPath": "s3://b/dogbreed/runs/a-run/output"},
        **more,
    }


def seen(status: str, *steps: str, **more: Any) -> Status:
    job = TrainingJob.of(answer(status, *steps, **more))
    return status_of(job, again=AGAIN, ended_early=False, now=CREATED.timestamp() + 3600)


BEGAN = ("Starting", "Downloading", "Training")
FAILURES = [
    # with the text of /opt/ml/output/failure, as launchers/remote/entry.py writes it
    ("AlgorithmError: [user_code] ZeroDivisionError: here, exit code: 1", Cause.USER_CODE, "ZeroDivisionError: here"),
    ("AlgorithmError: [quota] No space left on device, exit code: 1", Cause.QUOTA, "has disks of a fixed size"),
    # without a text
    ("AlgorithmError: , exit code: 1", Cause.USER_CODE, "exit code: 1"),
    ('AlgorithmError: ExecuteUserScriptError:\nExitCode 1\nErrorMessage ""', Cause.USER_CODE, "ExitCode 1"),
    (
        "AccessDeniedException: User: arn:aws:sts::123456789012:assumed-role/MyRole/SageMaker is not authorized to "
        'perform: s3:ListBucket on resource: "arn:aws:s3:::my-bucket"',
        Cause.PERMISSION,
        "Grant this permission to the job's role",
    ),
    (
        "ClientError: Data download failed:PermanentRedirect (301): The bucket is in this region: us-east-1",
        Cause.BAD_CONFIG,
        "PermanentRedirect",
    ),
    (
        "ClientError: Artifact upload failed:Error 7: The credentials received have been expired",
        Cause.BAD_CONFIG,
        "Artifact upload failed",
    ),
    (
        "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance "
        "type.",
        Cause.CAPACITY,
        "launcher.instance_type",
    ),
    (
        "ResourceLimitExceeded: The account-level service limit 'ml.g4dn.xlarge for spot training job usage' is 0 "
        "Instances, with current utilization of 0 Instances and a request delta of 1 Instances.",
        Cause.QUOTA,
        "Raise the quota of ml.g4dn.xlarge",
    ),
    ("InternalServerError: We encountered an internal error. Please try again.", Cause.INTERRUPTED, "Resume it with"),
    ("", Cause.UNKNOWN, "The log may have details"),
]


@pytest.mark.parametrize(("reason", "cause", "text"), FAILURES)
def test_a_failure_s_text_says_whose_fault_it_was(reason: str, cause: Cause, text: str) -> None:
    more = {"FailureReason": reason} if reason else {}
    status = seen("Failed", *BEGAN, "Failed", **more)
    assert (status.phase, status.cause) == (Phase.FAILED, cause)
    assert text in f"{status.detail} {status.next_action}"


@pytest.mark.parametrize(
    ("last", "phase", "cause", "text"),
    [
        ("Stopped", Phase.CANCELLED, Cause.BY_USER, "Resume it with"),
        ("MaxRuntimeExceeded", Phase.FAILED, Cause.TIME_LIMIT, AGAIN),
        ("MaxWaitTimeExceeded", Phase.FAILED, Cause.TIME_LIMIT, "launcher.max_wait_s"),
    ],
)
def test_a_stop_on_request_and_by_a_limit_are_told_apart(last: str, phase: Phase, cause: Cause, text: str) -> None:
    status = seen("Stopped", *BEGAN, "Stopping", "Uploading", last)
    assert (status.phase, status.cause) == (phase, cause)
    assert text in status.next_action


@pytest.mark.parametrize(
    ("steps", "attempts"),
    [
        (("Starting",), 1),
        (("Starting", "Pending", *BEGAN[1:]), 1),
        ((*BEGAN, "Interrupted"), 2),
        ((*BEGAN, "Interrupted", *BEGAN, "Interrupted", "Starting"), 3),
        ((*BEGAN, "Interrupted", "Restarting", "Downloading", "Training"), 2),
        ((*BEGAN, *BEGAN), 2),  # repeated by a RetryStrategy: nothing says Interrupted
        ((*BEGAN, "Interrupted", *BEGAN, *BEGAN[:1]), 3),
    ],
)
def test_attempts_are_counted_whoever_repeats_them(steps: tuple[str, ...], attempts: int) -> None:
    job = TrainingJob.of(answer("InProgress", *steps))
    assert job.attempts == attempts
    status = status_of(job, again=AGAIN, ended_early=False, now=CREATED.timestamp())
    assert status.attempt == attempts
    assert (status.phase is Phase.RECOVERING) == (attempts > 1 and steps[-1] != "Training")


def test_what_a_spot_job_was_billed_is_what_it_cost() -> None:
    more = {"EnableManagedSpotTraining": True, "TrainingTimeInSeconds": 3600, "BillableTimeInSeconds": 1200}
    status = seen("Completed", *BEGAN, "Uploading", "Completed", **more)
    assert status.phase is Phase.SUCCEEDED
    assert status.usd == pytest.approx(0.7364 / 3)
