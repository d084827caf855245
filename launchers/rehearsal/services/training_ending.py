"""End a training job: the results in S3, and the outcome that DescribeTrainingJob reports."""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.aws.s3 import split_uri
from launchers.rehearsal.access import StoreOfRole
from launchers.rehearsal.services.training_attempt import Outcome
from launchers.rehearsal.services.training_container import ML, Host
from launchers.rehearsal.services.training_record import JobRecord

_FAILURE_MOST = 1024  # characters of a FailureReason


@dataclass(frozen=True)
class Ending:
    """How a job ended. status: Completed, Failed or Stopped. message: of its last step; the reason of a failure."""

    status: str
    secondary: str
    message: str


STOPPED = Ending("Stopped", "Stopped", "Training job stopped")


def failed(message: str) -> Ending:
    return Ending("Failed", "Failed", message)


def ending_of(outcome: Outcome, hosts: Sequence[Host], failed_first: Sequence[Host]) -> Ending:
    match outcome:
        case Outcome.COMPLETED:
            return Ending("Completed", "Completed", "Training job completed")
        case Outcome.STOPPED:
            return STOPPED
        case Outcome.MAX_RUNTIME_EXCEEDED:
            return Ending("Stopped", outcome, "Training job runtime exceeded MaxRuntimeInSeconds provided")
        case Outcome.MAX_WAIT_TIME_EXCEEDED:
            return Ending("Stopped", outcome, "Training job exceeded MaxWaitTimeInSeconds provided")
        case Outcome.CRASHED:
            return failed("InternalServerError: We encountered an internal error. Please try again.")
        case _:
            return failed(_algorithm_error(hosts, failed_first))


def _algorithm_error(hosts: Sequence[Host], failed_first: Sequence[Host]) -> str:
    files = [host.machine.path(f"{ML}/output/failure") for host in [*failed_first, *hosts]]
    failure = next((file for file in files if file.exists()), None)  # of the machine that failed first
    text = failure.read_text(errors="replace")[:_FAILURE_MOST] if failure else "ExecuteUserScriptError:"
    code = next((code for host in hosts if (code := host.machine.exit_code)), 1)
    return f"AlgorithmError: {text}, exit code: {code if code > 0 else 128 - code}"[:_FAILURE_MOST]


def upload(job: JobRecord, host: Host, store: StoreOfRole, *, model: bool) -> None:
    """Upload output.tar.gz to S3 if there is any output, and model.tar.gz if there is a model."""
    ml = host.machine.path(ML)
    bucket, key = split_uri(f"{job.request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{job.name}/output")
    if any((ml / "output" / "data").iterdir()):
        store.put(bucket, f"{key}/output.tar.gz", _tar(ml / "output" / "data"))
    if model:
        store.put(bucket, f"{key}/model.tar.gz", _tar(ml / "model"))
        job.artifacts = f"s3://{bucket}/{key}/model.tar.gz"


def _tar(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, arcname=path.name)
    return buffer.getvalue()
