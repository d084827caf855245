"""Read a run's log in CloudWatch: every node, attempt and job of it, as one stream of labelled lines."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from launchers.aws.errors import code_of, errors
from launchers.base import Cloud
from launchers.remote.entry import END
from launchers.sagemaker.job import TrainingJob
from launchers.status import LogLine

GROUP = "/aws/sagemaker/TrainingJobs"
TAIL_LINES = 10

_STREAM = re.compile(r".+/algo-(?P<node>\d+)-(?P<started>\d+)$")
_LATE_POLLS = 20  # after a job's end, for lines that are not in CloudWatch yet
_LATE_S = 60  # then stop waiting


@dataclass
class Stream:
    name: str
    attempt: int  # from 1, over all submissions
    node: int  # from 0
    token: str | None = None
    ended: bool = False  # its last line has been seen


def read_job_logs(cloud: Cloud, jobs: Callable[[], Sequence[TrainingJob]], *, follow: bool) -> Iterator[LogLine]:
    """Yield lines as they come; with `follow` until the last job has ended and its last line has been read, or no line
    has come for a while.

    jobs: returns the run's jobs, in order.
    """
    streams: dict[str, Stream] = {}
    quiet = 0  # polls since the end that found no line
    while True:
        seen = jobs()  # before reading, so that no line is missed
        _find(cloud, seen, streams)
        latest = max((stream.attempt for stream in streams.values()), default=0)
        count = 0
        for line in _read(cloud, streams, latest):
            count += 1
            if line.text != END:
                yield line
        if not follow and not _finished(seen):
            return
        if _finished(seen):
            quiet = 0 if count else quiet + 1
            old = not seen or time.time() - seen[-1].modified.timestamp() > _LATE_S
            given_up = not count and (old or not follow or quiet >= _LATE_POLLS)
            if given_up or _complete(seen, streams, latest):
                return
        time.sleep(cloud.poll_s)


def _read(cloud: Cloud, streams: Mapping[str, Stream], latest: int) -> Iterator[LogLine]:
    """Yield new lines of the streams, by attempt and node; of attempts before the latest only until their end."""
    for stream in sorted(streams.values(), key=lambda stream: (stream.attempt, stream.node)):
        if stream.ended and stream.attempt < latest:
            continue
        for text, at in new_lines(cloud, stream):
            stream.ended = stream.ended or text == END
            yield LogLine(stream.attempt, stream.node, text, at)


def _finished(jobs: Sequence[TrainingJob]) -> bool:
    return not jobs or jobs[-1].finished


def _complete(jobs: Sequence[TrainingJob], streams: Mapping[str, Stream], latest: int) -> bool:
    """Return whether the last line of every node of the newest attempt has been read, if that attempt has any."""
    begun = bool(jobs) and jobs[-1].started is not None
    newest = [stream.ended for stream in streams.values() if stream.attempt == latest]
    return all(newest) and bool(newest or not begun) and _all_attempts(jobs, latest)


def tail(cloud: Cloud, job: str, reason: str = "") -> tuple[str, ...]:
    """Return the last lines of a job's newest attempt, of the node that `reason` names, else of the first."""
    named = re.match(r"process \d+ \((algo-\d+)\)", reason)
    found = [name for name in names_of(cloud, job) if f"/{named[1] if named else 'algo-1'}-" in name]
    if not found:
        return ()
    newest = max(found, key=_started)
    with errors("reading the log"):
        events = cloud.client("logs").get_log_events(
            logGroupName=GROUP, logStreamName=newest, limit=TAIL_LINES + 1, startFromHead=False
        )["events"]
    return tuple(event["message"] for event in events if event["message"] != END)[-TAIL_LINES:]


def _find(cloud: Cloud, jobs: Sequence[TrainingJob], streams: dict[str, Stream]) -> None:
    """Add streams that are new: an attempt after an interruption has its own."""
    before = 0
    for job in jobs:
        by_node: dict[int, list[str]] = {}
        known = [name for name in streams if name.startswith(f"{job.name}/")]
        for name in known if known and job is not jobs[-1] else names_of(cloud, job.name):
            if parsed := _STREAM.match(name):
                by_node.setdefault(int(parsed["node"]) - 1, []).append(name)
        for node, names in by_node.items():
            for number, name in enumerate(sorted(names, key=_started), 1):
                streams.setdefault(name, Stream(name, before + number, node))
        before += max(job.attempts, *(len(names) for names in by_node.values()), 1)


def _started(stream: str) -> int:
    """Return when a stream of that name began; a later attempt's is greater."""
    return int(stream.rpartition("-")[2])


def _all_attempts(jobs: Sequence[TrainingJob], latest: int) -> bool:
    """Return whether the newest attempt that has begun is among those that have streams."""
    begun = sum(job.attempts for job in jobs[:-1]) + sum(job.trainings for job in jobs[-1:])
    return latest >= begun


def names_of(cloud: Cloud, job: str) -> list[str]:
    """List the log streams of a job."""
    from botocore.exceptions import ClientError

    names: list[str] = []
    with errors("listing log streams"):
        try:
            pages = cloud.client("logs").get_paginator("describe_log_streams")
            for page in pages.paginate(logGroupName=GROUP, logStreamNamePrefix=f"{job}/"):
                names += [stream["logStreamName"] for stream in page["logStreams"]]
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":  # nothing has been logged in this account yet
                raise
    return names


def new_lines(cloud: Cloud, stream: Stream) -> Iterator[tuple[str, datetime]]:
    """Yield the lines added since the last call, each with its time. CloudWatch returns the same token once there is no
    more.
    """
    while True:
        token = {"nextToken": stream.token} if stream.token else {}
        with errors("reading the log"):
            page = cloud.client("logs").get_log_events(
                logGroupName=GROUP, logStreamName=stream.name, startFromHead=True, **token
            )
        for event in page["events"]:
            yield event["message"].rstrip("\r\n"), datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
        repeated = page["nextForwardToken"] == stream.token  # an empty page alone does not mean the end (GetLogEvents)
        stream.token = page["nextForwardToken"]
        if repeated:
            return
