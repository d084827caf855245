"""Find the jobs of a run by name; each time that a run is resumed creates a further job."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from typing import Any

from launchers.aws import tags
from launchers.aws.errors import code_of, errors
from launchers.base import Cloud
from launchers.sagemaker.job import TrainingJob
from launchers.sagemaker.tuning_job import TuningJob
from launchers.status import Cause, LaunchError

TUNING = "tuning"  # purpose of tuning jobs, whose tags their training jobs have as well
TRIES = 10  # to create a job of whose name AWS says that it is taken
_MOST_JOBS = 99  # two digits of a job's name
_PAGE = 100  # the most summaries that AWS returns at once
_AT_ONCE = 8  # requests for tags


def job_name(run_id: str, number: int) -> str:
    """Return the name of a run's `number`th job, from 1."""
    return run_id if number == 1 else f"{run_id}--{number}"


def name_taken(
    kind: str, name: str, jobs: Sequence[TrainingJob] | Sequence[TuningJob], said: Exception, *, search: bool
) -> LaunchError:
    """Return the error for a job that cannot be created, because AWS says that there is one of this name.

    kind: such as `training job`. jobs: of the run, that AWS shows. said: AWS's error. search: whether it is one.
    """
    other = "a new search, with hpo.fresh=true" if search else "a new run, with another run_id="
    shown = f"shows {jobs[-1].name}, {jobs[-1].status}, as the latest" if jobs else "shows no job of that run"
    return LaunchError(
        f"AWS says that there is a {kind} {name} already, and {shown}, also after {TRIES} tries: {said}\n"
        f"Try: the same command again, later; or {other}"
    )


@dataclass
class Submissions:
    """The jobs of runs in one account. They are asked for by name, because AWS's lists lag behind."""

    cloud: Cloud
    _counts: dict[str, int] = field(default_factory=dict)  # of the jobs that were seen, by run id
    names: dict[str, str] = field(default_factory=dict)  # what people called the runs that were listed, by run id

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

    def run_ids(self, *, active_only: bool, name: str = "") -> Iterator[str]:
        """Yield the runs in the account that this package launched, each once, newest first.

        name: a part of the names of their jobs. AWS filters by name and status; only the tags tell whose a job is, and
        they are a request for each job that is left.
        """
        named = {"NameContains": name} if name else {}
        summaries: Iterator[dict[str, Any]]
        if active_only:  # others' jobs that have ended may be thousands
            pages = [self._summaries(**named, StatusEquals=status) for status in ("InProgress", "Stopping")]
            summaries = merge(*pages, key=lambda summary: summary["CreationTime"], reverse=True)
        else:
            summaries = self._summaries(**named)
        seen = set()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for some in _batches(summary["TrainingJobArn"] for summary in summaries):
                for found in pool.map(lambda arn: tags.read(self.cloud, arn), some):
                    run_id = found.get(tags.RUN_ID)
                    if run_id and run_id not in seen and found.get(tags.PURPOSE) != TUNING:  # not a trial
                        seen.add(run_id)
                        self.names[run_id] = found.get(tags.NAME, "")
                        yield run_id

    def kept(self) -> Iterator[TrainingJob]:
        """Yield the jobs whose machines are kept for the next one, and cost money."""
        for summary in self._summaries(WarmPoolStatusEquals="Available"):
            job = self._describe(summary["TrainingJobName"])
            if job is not None and job.keeps_machines and tags.RUN_ID in tags.read(self.cloud, job.arn):
                yield job

    def _summaries(self, **filters: str) -> Iterator[dict[str, Any]]:
        """Yield the summaries of all jobs that pass the filters, newest first. They are read page by page."""
        request = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": _PAGE, **filters}
        client = self.cloud.client("sagemaker")
        while True:
            with errors("listing training jobs"):
                page = client.list_training_jobs(**request)
            yield from page["TrainingJobSummaries"]
            if not (token := page.get("NextToken")):
                return
            request["NextToken"] = token

    def _describe(self, name: str) -> TrainingJob | None:
        from botocore.exceptions import ClientError

        with errors(f"describing the job {name}"):
            try:
                return TrainingJob.of(self.cloud.client("sagemaker").describe_training_job(TrainingJobName=name))
            except ClientError as error:
                if code_of(error) in ("ValidationException", "ResourceNotFound"):
                    return None
                raise


def _batches(items: Iterable[str]) -> Iterator[list[str]]:
    """Yield as many items as are asked for at once, so that the first are known before the last page is read."""
    iterator = iter(items)
    while some := list(islice(iterator, _AT_ONCE)):
        yield some
