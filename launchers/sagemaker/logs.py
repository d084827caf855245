"""A run's log in CloudWatch: every node, every attempt, every submission, as one stream of labelled lines."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launchers.aws.errors import code_of, errors
from launchers.base import Cloud, LogLine
from launchers.remote.entry import END
from launchers.sagemaker.job import attempts

GROUP = "/aws/sagemaker/TrainingJobs"
TAIL_LINES = 10

_STREAM = re.compile(r"(?P<job>.+)/algo-(?P<node>\d+)-(?P<started>\d+)$")
_FINISHED = ("Completed", "Failed", "Stopped")
_LATE_POLLS = 20  # after a job's end, for lines that are not in CloudWatch yet


@dataclass
class _Stream:
    name: str
    attempt: int  # from 1, over all submissions
    node: int  # from 0
    token: str | None = None
    ended: bool = False  # its last line has been seen


def read_job_logs(cloud: Cloud, jobs: Callable[[], Sequence[Mapping[str, Any]]], *, follow: bool) -> Iterator[LogLine]:
    """Lines as they come; with `follow` until the last job has ended and its last line has been seen, or none came for
    a while. jobs: the run's submissions, in order, as DescribeTrainingJob gives them.
    """
    streams: dict[str, _Stream] = {}
    quiet = 0  # looks since the end that found nothing
    while True:
        seen = jobs()  # before reading, so that nothing is missed
        finished = not seen or seen[-1]["TrainingJobStatus"] in _FINISHED
        _find(cloud, seen, streams)
        latest = max((stream.attempt for stream in streams.values()), default=0)
        count = 0
        for stream in sorted(streams.values(), key=lambda stream: (stream.attempt, stream.node)):
            if stream.ended and stream.attempt < latest:
                continue
            for text in _new_lines(cloud, stream):
                count += 1
                stream.ended = stream.ended or text == END
                if text != END:
                    yield LogLine(stream.attempt, stream.node, text)
        if finished:
            begun = bool(seen) and "TrainingStartTime" in seen[-1]
            newest = [stream.ended for stream in streams.values() if stream.attempt == latest]
            complete = all(newest) and bool(newest or not begun) and _all_attempts(seen, latest)
            quiet = 0 if count else quiet + 1
            old = not seen or time.time() - seen[-1]["LastModifiedTime"].timestamp() > 60
            if complete or (not count and (old or not follow or quiet >= _LATE_POLLS)):
                return
        elif not follow:
            return
        time.sleep(cloud.poll_s)


def tail(cloud: Cloud, job: str, reason: str = "") -> tuple[str, ...]:
    """The last lines of a job's newest attempt, of the node that `reason` names, else of the first."""
    named = re.match(r"process \d+ \((algo-\d+)\)", reason)
    found = [name for name in _names(cloud, job) if f"/{named[1] if named else 'algo-1'}-" in name]
    if not found:
        return ()
    newest = max(found, key=lambda name: int(name.rpartition("-")[2]))
    with errors("reading the log"):
        events = cloud.client("logs").get_log_events(
            logGroupName=GROUP, logStreamName=newest, limit=TAIL_LINES + 1, startFromHead=False
        )["events"]
    return tuple(event["message"] for event in events if event["message"] != END)[-TAIL_LINES:]


def _find(cloud: Cloud, jobs: Sequence[Mapping[str, Any]], streams: dict[str, _Stream]) -> None:
    """Add streams that have come since: an attempt after an interruption has its own."""
    before = 0
    for job in jobs:
        by_node: dict[int, list[str]] = {}
        known = _known(job, streams)
        for name in known if known and job is not jobs[-1] else _names(cloud, job["TrainingJobName"]):
            if parsed := _STREAM.match(name):
                by_node.setdefault(int(parsed["node"]) - 1, []).append(name)
        for node, names in by_node.items():
            for number, name in enumerate(sorted(names, key=lambda name: int(name.rpartition("-")[2])), 1):
                streams.setdefault(name, _Stream(name, before + number, node))
        before += max(attempts(job), *(len(names) for names in by_node.values()), 1)


def _all_attempts(jobs: Sequence[Mapping[str, Any]], latest: int) -> bool:
    """Whether the newest attempt that has begun is among those that have streams."""
    begun = sum(attempts(job) for job in jobs[:-1])
    for job in jobs[-1:]:
        begun += sum(step["Status"] == "Training" for step in job.get("SecondaryStatusTransitions", []))
    return latest >= begun


def _known(job: Mapping[str, Any], streams: Mapping[str, _Stream]) -> list[str]:
    return [name for name in streams if name.startswith(f"{job['TrainingJobName']}/")]


def _names(cloud: Cloud, job: str) -> list[str]:
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


def _new_lines(cloud: Cloud, stream: _Stream) -> Iterator[str]:
    """CloudWatch gives the same token back once there is no more."""
    while True:
        token = {"nextToken": stream.token} if stream.token else {}
        with errors("reading the log"):
            page = cloud.client("logs").get_log_events(
                logGroupName=GROUP, logStreamName=stream.name, startFromHead=True, **token
            )
        for event in page["events"]:
            yield event["message"].rstrip("\r\n")
        repeated = page["nextForwardToken"] == stream.token  # an empty page alone is no end (GetLogEvents)
        stream.token = page["nextForwardToken"]
        if repeated:
            return
