"""Find the tuning jobs of a search by name, and their trials; each time that a search goes on creates a further job."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from launchers.aws import tags
from launchers.aws.errors import code_of, errors
from launchers.base import Cloud
from launchers.sagemaker.submissions import job_name
from launchers.sagemaker.tuning_job import TunedTrial, TuningJob
from launchers.status import Cause, LaunchError

MOST_JOBS = 99  # two digits of a job's name
_PAGE = 100  # the most summaries that AWS returns at once


@dataclass
class TuningJobs:
    """The tuning jobs of searches in one account. They are asked for by name, because AWS's lists lag behind."""

    cloud: Cloud
    _ended: dict[str, TuningJob] = field(default_factory=dict)  # by name: these do not change any more
    _counts: dict[str, int] = field(default_factory=dict)  # of the jobs that were seen, by run id
    names: dict[str, str] = field(default_factory=dict)  # what people called the searches that were listed, by run id

    def all(self, run_id: str) -> list[TuningJob]:
        """Return the jobs of a search, in order."""
        found: list[TuningJob] = []
        while (job := self._describe(job_name(run_id, len(found) + 1))) is not None:
            found.append(job)
        self._counts[run_id] = len(found)
        return found

    def next_name(self, run_id: str) -> str:
        """Return the name for a job after those that `all` returned last. Raises LaunchError after 99."""
        number = self._counts.get(run_id, 0) + 1
        if number > MOST_JOBS:
            raise LaunchError(
                f"Search {run_id} has been submitted {MOST_JOBS} times.\nTry: a new search", Cause.BAD_CONFIG
            )
        return job_name(run_id, number)

    def with_trials(self, run_id: str) -> list[tuple[TuningJob, list[TunedTrial]]]:
        """Return the jobs of a search, in order, each with its trials, which are numbered through all jobs."""
        found: list[tuple[TuningJob, list[TunedTrial]]] = []
        first = 0
        for job in self.all(run_id):
            trials = [TunedTrial.of(first + n, summary, job) for n, summary in enumerate(self._summaries_of(job))]
            found.append((job, trials))
            first += len(trials)
        return found

    def _summaries_of(self, job: TuningJob) -> list[dict[str, Any]]:
        """Return the summaries of a job's training jobs, in the order in which they were created."""
        request = {"HyperParameterTuningJobName": job.name, "SortBy": "CreationTime", "SortOrder": "Ascending"}
        client, found, token = self.cloud.client("sagemaker"), list[dict[str, Any]](), dict[str, str]()
        while True:
            with errors(f"listing the trials of {job.name}"):
                page = client.list_training_jobs_for_hyper_parameter_tuning_job(MaxResults=_PAGE, **request, **token)
            found += page["TrainingJobSummaries"]
            if not page.get("NextToken"):
                return sorted(found, key=lambda each: (each["CreationTime"], each["TrainingJobName"]))
            token = {"NextToken": page["NextToken"]}

    def run_ids(self, *, active_only: bool, name: str = "") -> Iterator[str]:
        """Yield the searches in the account that this package launched, each once, newest first."""
        named = {"NameContains": name} if name else {}
        states = [{"StatusEquals": status} for status in ("InProgress", "Stopping")] if active_only else [{}]
        found = [summary for state in states for summary in self._summaries(**named, **state)]
        seen = set()
        for summary in sorted(found, key=lambda each: each["CreationTime"], reverse=True):
            labels = tags.read(self.cloud, summary["HyperParameterTuningJobArn"])
            run_id = labels.get(tags.RUN_ID)
            if run_id and run_id not in seen:
                seen.add(run_id)
                self.names[run_id] = labels.get(tags.NAME, "")
                yield run_id

    def _summaries(self, **filters: str) -> Iterator[dict[str, Any]]:
        request: dict[str, Any] = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": _PAGE, **filters}
        client = self.cloud.client("sagemaker")
        while True:
            with errors("listing tuning jobs"):
                page = client.list_hyper_parameter_tuning_jobs(**request)
            yield from page["HyperParameterTuningJobSummaries"]
            if not (token := page.get("NextToken")):
                return
            request["NextToken"] = token

    def _describe(self, name: str) -> TuningJob | None:
        from botocore.exceptions import ClientError

        if name in self._ended:
            return self._ended[name]
        with errors(f"describing the tuning job {name}"):
            try:
                client = self.cloud.client("sagemaker")
                job = TuningJob.of(client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name))
            except ClientError as error:
                if code_of(error) in ("ValidationException", "ResourceNotFound"):
                    return None
                raise
        if job.finished:
            self._ended[name] = job
        return job
