"""Read a run's log, which its machines write to the bucket part by part, as one stream of labelled lines."""

import time
from collections.abc import Callable, Iterator

from launchers.aws import s3
from launchers.aws.layout import RunLocation
from launchers.base import Cloud
from launchers.remote.entry import END
from launchers.remote.sync import LOGS
from launchers.status import LogLine

TAIL_LINES = 10


def read_logs(cloud: Cloud, location: RunLocation, finished: Callable[[], bool], *, follow: bool) -> Iterator[LogLine]:
    """Yield the lines of all attempts in order; with `follow`, until the run has finished. finished: asked before."""
    known: dict[int, bytes] = {}  # by attempt: bytes that have been yielded
    while True:
        over = finished()  # before reading: what was written until then is read
        for attempt, content in sorted(_contents(cloud, location).items()):
            before = known.get(attempt, b"")
            new = content[len(before) :]
            whole = new if over or not follow else new[: new.rfind(b"\n") + 1]
            known[attempt] = before + whole
            for line in whole.decode(errors="replace").splitlines():
                if line.strip() and line != END:
                    yield LogLine(attempt, 0, line.rstrip())
        if over or not follow:
            return
        time.sleep(cloud.poll_s)


def tail(cloud: Cloud, location: RunLocation) -> tuple[str, ...]:
    """Return the last lines of the newest attempt."""
    found = _contents(cloud, location, newest=True)
    if not found:
        return ()
    lines = found[max(found)].decode(errors="replace").splitlines()
    return tuple(line.rstrip() for line in lines if line.strip() and line != END)[-TAIL_LINES:]


def _contents(cloud: Cloud, location: RunLocation, *, newest: bool = False) -> dict[int, bytes]:
    """Return the whole log of each attempt; with `newest`, of the newest alone, its last parts."""
    uri = f"{location.uri}/{LOGS}"
    names = sorted(name for name, _ in s3.objects(cloud, uri))
    if newest and names:
        last = names[-1].partition("/")[0]
        names = [name for name in names if name.startswith(f"{last}/")][-2:]
    found: dict[int, bytes] = {}
    for name in names:
        attempt = int(name.partition("/")[0])
        found[attempt] = found.get(attempt, b"") + (s3.read(cloud, f"{uri}{name}") or b"")
    return found
