"""Wait for a deployment to settle, and show meanwhile what its containers log."""

import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from dogbreed.errors import Interrupted
from dogbreed.interruption import signal_of_exit
from launchers.aws.errors import code_of, errors
from launchers.base import Cloud, Launcher
from launchers.follow import detached
from launchers.status import Cause, Handle, LaunchError, LogLine, Status

TAIL_LINES = 10
FRONT = "front: "  # what lines begin with of the function in front of an endpoint
_EVER = datetime.min.replace(tzinfo=UTC)
Identity = tuple[int, datetime | None, str]
_REQUEST = re.compile(r"\b(?:GET|POST) '/(?:ping|invocations)' \d{3} ")  # a line for each request, of our own server


def settle(
    launcher: Launcher, handle: Handle, *, deadline_s: float, meanwhile: Callable[[Status], None] | None = None
) -> Status:
    """Print phases and log lines until the deployment settles, and return its status then.

    meanwhile: called after each look at the status. Raises LaunchError after deadline_s seconds, and Interrupted after
    a signal to stop; the deployment then goes on.
    """
    end, shown = time.monotonic() + deadline_s, ""
    seen = Counter(map(_identity, launcher.logs(handle)))  # what earlier containers have logged
    try:
        while True:
            status = launcher.status(handle)
            for line in new_lines(launcher.logs(handle), seen):
                if not (_REQUEST.search(line.text) or line.text.startswith(FRONT)):
                    print(f"  | {line.text}", flush=True)
            words = status.phase.replace("_", " ")
            if words != shown:
                shown = words
                print(f"{handle}: {words}", flush=True)
            if status.settled:
                return status
            if meanwhile is not None:
                meanwhile(status)
            if time.monotonic() > end:
                raise LaunchError(
                    f"{handle} is still {words} after {deadline_s / 60:g} min.\n{detached(launcher, handle)}",
                    Cause.TIME_LIMIT,
                )
            time.sleep(launcher.poll_s)
    except (KeyboardInterrupt, SystemExit) as error:
        signum = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal_of_exit(error)
        if signum is None:
            raise
        raise Interrupted(detached(launcher, handle), signum) from None


def new_lines(found: Iterable[LogLine], seen: Counter[Identity]) -> Iterator[LogLine]:
    """Yield the lines that have come since the last call. seen: how often there was each of them; is updated."""
    counts: Counter[Identity] = Counter()
    for line in found:
        counts[_identity(line)] += 1
        if counts[_identity(line)] > seen[_identity(line)]:
            yield line
    seen |= counts


def _identity(line: LogLine) -> Identity:
    return line.node, line.at, line.text


def lines(cloud: Cloud, group: str, *, front: str = "") -> list[LogLine]:
    """Return what all instances, or processes of a function, have logged, in order of time.

    group: of their streams; the first to start is node 0. front: group of the function in front of them, whose lines
    begin with `FRONT`; empty for none.
    """
    found = list(_of_group(cloud, group))
    if front:
        found += [replace(line, text=f"{FRONT}{line.text}") for line in _of_group(cloud, front)]
    return sorted(found, key=lambda line: line.at or _EVER)


def _of_group(cloud: Cloud, group: str) -> Iterator[LogLine]:
    from botocore.exceptions import ClientError

    client = cloud.client("logs")
    with errors(f"reading the log {group}"):
        try:
            pages = client.get_paginator("describe_log_streams").paginate(logGroupName=group)
            streams = [stream for page in pages for stream in page["logStreams"]]
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":  # nothing has been logged yet
                return
            raise
        streams.sort(key=lambda stream: (stream.get("creationTime", 0), stream["logStreamName"]))
        for node, stream in enumerate(streams):
            for text, at in _events(client, group, stream["logStreamName"]):
                yield LogLine(1, node, text, at)


def _events(client: object, group: str, stream: str) -> Iterator[tuple[str, datetime]]:
    """Yield the lines of a log stream, each with its time."""
    token: dict[str, str] = {}
    while True:
        page = client.get_log_events(  # type: ignore[attr-defined]
            logGroupName=group, logStreamName=stream, startFromHead=True, **token
        )
        for event in page["events"]:
            yield event["message"].rstrip("\n"), datetime.fromtimestamp(event["timestamp"] / 1000, UTC)
        if page["nextForwardToken"] == token.get("nextToken"):
            return
        token = {"nextToken": page["nextForwardToken"]}
