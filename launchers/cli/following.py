"""`python -m launchers status`, `logs` and `attach`: how runs stand, what they log, and staying until one has ended."""

import argparse
import contextlib
import io
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast

from dogbreed.errors import DogBreedError
from launchers.base import Launcher, Tunes
from launchers.cli import named
from launchers.cli.ages import age
from launchers.cli.listing import Listed
from launchers.status import Handle, LaunchError, LogLine, Phase, RunResult, Status

STATUS_HELP = "Show how runs stand, what they cost so far, and what to do next."
STATUS_EPILOG = """\
The exit status is 1 if a run is unknown.

  python -m launchers status runs/RUN
  python -m launchers status NAME ID --json
  python -m launchers status --watch RUN
"""
LOGS_HELP = "Print the logs of runs, each line with its attempt."
LOGS_EPILOG = """\
Times are in UTC. On EC2 lines have no times, so --since is refused there.

  python -m launchers logs RUN --tail 20
  python -m launchers logs RUN --since 10m --timestamps
  python -m launchers logs --follow RUN
"""
ATTACH_HELP = "Follow a run until it has ended, then show its result."
ATTACH_EPILOG = """\
Ctrl-C leaves a run in a cloud alone.

  python -m launchers attach RUN
"""

_WATCH_S = 1.0  # at least, between two looks


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", "-w", action="store_true", help="show it again whenever it changes, until the end")


def add_logs_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--follow", "-f", action="store_true", help="keep printing until the run has ended")
    add("--attempt", type=int, metavar="N", help="print only this attempt")
    add("--tail", type=_count, metavar="N", help="print only the last N lines of what there is, then follow")
    add("--since", type=age, metavar="AGE", help="print only lines of the last 30s, 10m or 2h")
    add("--timestamps", "-t", action="store_true", help="print the time of each line, in UTC, where it is known")


def status(args: argparse.Namespace) -> int:
    return _watch(args) if args.watch else named.each(args, _answer, heads=True)


def _answer(launcher: Launcher, handle: Handle) -> tuple[dict[str, Any], str, int]:
    found = launcher.status(handle)
    return Listed(launcher, handle, found).facts(), str(found), int(found.phase is Phase.LOST)


def _watch(args: argparse.Namespace) -> int:
    """Show how runs stand whenever that changes, until they stay as they are; with --json one object a line."""
    runs = [named.found(text, args) for text in args.runs]
    seen: dict[Handle, Status] = {}
    while True:
        for launcher, handle in runs:
            if handle in seen and seen[handle].settled:
                continue
            now = launcher.status(handle)
            if now == seen.get(handle):
                continue
            seen[handle] = now
            if args.json:
                print(json.dumps(Listed(launcher, handle, now).facts()), flush=True)
            else:
                head = f"{datetime.now(UTC):%H:%M:%S} UTC  {handle}: "
                print(head + str(now).replace("\n", "\n  "), flush=True)
        if all(each.settled for each in seen.values()):
            return int(any(each.phase is Phase.LOST for each in seen.values()))
        time.sleep(max(_WATCH_S, *(launcher.poll_s for launcher, _ in runs)))


def logs(args: argparse.Namespace) -> int:
    if args.follow and len(args.runs) > 1:
        raise LaunchError("--follow takes one run at a time.\nTry: a terminal for each")
    worst = 0
    for text in args.runs:
        try:
            launcher, handle = named.found(text, args)
            _print_log(launcher, handle, args)
        except DogBreedError as error:
            if len(args.runs) == 1:
                raise
            print(named.message(error), file=sys.stderr)
            worst = 1
    return worst


def _print_log(launcher: Launcher, handle: Handle, args: argparse.Namespace) -> None:
    """Print a run's log, or the part of it that was asked for; with --json one object a line."""
    lines = _chosen(launcher, handle, args)
    if not (args.json or len(args.runs) == 1):
        print(f"{handle}:")
    for line in lines:
        if args.json:
            at = None if line.at is None else line.at.isoformat(timespec="milliseconds")
            fields = {"handle": str(handle), **asdict(line), "at": at}
            print(json.dumps(fields), flush=args.follow)
        else:
            at = "" if not args.timestamps else f"{line.at:%Y-%m-%d %H:%M:%S} | " if line.at else f"{'':19} | "
            print(f"{at}{line.attempt} | {line.text}", flush=args.follow)


def _chosen(launcher: Launcher, handle: Handle, args: argparse.Namespace) -> Iterator[LogLine]:
    """Yield the lines that were asked for. Raises LaunchError if lines have no times by which to choose."""
    if args.tail is None:
        yield from _since(launcher.logs(handle, follow=args.follow, attempt=args.attempt), handle, args)
        return
    before = list(launcher.logs(handle, attempt=args.attempt))
    yield from deque(_since(iter(before), handle, args), args.tail)
    if args.follow:
        known = Counter((line.attempt, line.node) for line in before)  # each of these only grows at its end
        for line in launcher.logs(handle, follow=True, attempt=args.attempt):
            if known[line.attempt, line.node] > 0:
                known[line.attempt, line.node] -= 1
            else:
                yield line


def _since(lines: Iterator[LogLine], handle: Handle, args: argparse.Namespace) -> Iterator[LogLine]:
    if args.since is None:
        yield from lines
        return
    start, timed, count = datetime.now(UTC) - args.since, False, 0
    for line in lines:
        count += 1
        timed = timed or line.at is not None
        if line.at is not None and line.at >= start:
            yield line
    if count and not timed:
        raise LaunchError(f"The lines in the log of {handle} have no times.\nTry: --tail N instead of --since")


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return count


def attach(args: argparse.Namespace) -> int:
    from launchers.cli.download import result_facts
    from launchers.follow import follow

    launcher, handle = named.found(args.run, args)
    with contextlib.redirect_stdout(io.StringIO()) if args.json else contextlib.nullcontext():
        if isinstance(launcher, Tunes):
            from launchers.sweep import tuner

            result: RunResult = tuner.attach(cast(Any, launcher), handle)
        else:
            result = follow(launcher, handle)
    print(json.dumps(result_facts(result), indent=2) if args.json else result)
    return 0
