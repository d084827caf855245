"""Find the jobs of a run by name; each time that a run is resumed creates a further job."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from launchers.aws import tags
from launchers.aws.errors import code_of, errors
from launchers.base import Cause, Cloud, LaunchError
from launchers.sagemaker.job import TrainingJob

_MOST_JOBS = 99  # two digits of a job's name


def job_name(run_id: str, number: int) -> str:
    """Return the name of a run's `number`th job, from 1."""
    return run_id if number == 1 else f"{run_id}--{number}"


@dataclass
class Submissions:
    """The jobs of runs in one account. They are asked for by name, because AWS's lists lag behind."""

    cloud: Cloud
    _counts: dict[str, int] = field(default_factory=dict)  # of the jobs that were seen, by run id

    def latest(self, run_id: str) -> TrainingJob | None:
        """Return the newest job of a run, or None if it has none."""
        number = self._counts.get(run_id, 0)
        job = self._describe(job_name(run_id, number)) if number else None
        while (later := self._describe(job_name(run_id, number + 1))) is not None:
            number, job = number + 1, later
        self._counts[run_id] = number
        return job

    def earlier(self, run_id: str) -> list[TrainingJob]:
        """Return the jobs of a run before the one that `latest` returned last, in order."""
        found = [self._describe(job_name(run_id, number)) for number in range(1, self._counts.get(run_id, 0))]
        return [job for job in found if job is not None]

    def all(self, run_id: str) -> list[TrainingJob]:
        latest = self.latest(run_id)
        return [] if latest is None else [*self.earlier(run_id), latest]

    def next_name(self, run_id: str) -> str:
        """Return the name for a job after the one that `latest` returned last. Raises LaunchError after 99."""
        number = self._counts.get(run_id, 0) + 1
        if number > _MOST_JOBS:
            raise LaunchError(f"Run {run_id} has been submitted {_MOST_JOBS} times.\nTry: a new run", Cause.BAD_CONFIG)
        return job_name(run_id, number)

    def run_ids(self, *, active_only: bool) -> Iterator[str]:
        """Yield the runs of the account's newest 100 jobs that this package launched, each once, newest first."""
        request: dict[str, Any] = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": 100}
        with errors("listing training jobs"):
            summaries = self.cloud.client("sagemaker").list_training_jobs(**request)["TrainingJobSummaries"]
        seen = set()
        for summary in summaries:
            if active_only and summary["TrainingJobStatus"] not in ("InProgress", "Stopping"):
                continue
            run_id = tags.read(self.cloud, summary["TrainingJobArn"]).get(tags.RUN_ID)
            if run_id and run_id not in seen:
                seen.add(run_id)
                yield run_id

    def _describe(self, name: str) -> TrainingJob | None:
        from botocore.exceptions import ClientError

        with errors(f"describing the job {name}"):
            try:
                return TrainingJob.of(self.cloud.client("sagemaker").describe_training_job(TrainingJobName=name))
            except ClientError as error:
                if code_of(error) in ("ValidationException", "ResourceNotFound"):
                    return None
                raise
