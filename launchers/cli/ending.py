"""`python -m launchers cancel`: ask runs to save and stop, and wait for that."""

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dogbreed import commands
from dogbreed.errors import DogBreedError
from launchers.base import Launcher
from launchers.cli import listing, named
from launchers.cli.listing import Listed
from launchers.cli.questions import agreed, can_ask
from launchers.follow import may_go_on
from launchers.registry import launched_run, launchers_at
from launchers.runs.find import LOCAL, folder_of
from launchers.runs.launched import launched
from launchers.runs.names import search_of
from launchers.runs.released import trial_folders
from launchers.status import Failures, Handle, LaunchError, Phase, Status

HELP = "Ask runs to save and stop, and end deployments."
EPILOG = """\
A run that has ended already is left as it is. The trials of a search that are
jobs in a cloud end with it. With --all, everything that `list` shows is
cancelled, or what it shows at the TARGETs that are given.

  python -m launchers cancel RUN
  python -m launchers cancel NAME ID
  python -m launchers cancel --all --yes
"""

_SHOW_AFTER_S = 1.0  # of waiting, what is waited for
_TICK_S = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", nargs="*", metavar="RUN", help="a folder, a name, an id or its beginning, or a handle")
    add("--grace-s", type=float, default=110, metavar="S", help="seconds until it is killed (default: 110)")
    add("--all", action="store_true", help="all that is in progress; asks first")
    add("--yes", "-y", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    if args.all:
        return _all(args)
    if not args.runs:
        raise LaunchError("Nothing to cancel was named.\nTry: python -m launchers list, and then cancel RUN; or --all")
    worst, runs = 0, []
    for text in args.runs:
        try:
            runs.append(named.found(text, args))
        except DogBreedError as error:
            if len(args.runs) == 1:
                raise
            print(named.message(error), file=sys.stderr)
            worst = 1
    return max(worst, _cancel(runs, args, several=len(args.runs) > 1))


def _all(args: argparse.Namespace) -> int:
    args.targets = args.runs
    found = listing.collect(args, ended=False)
    runs = _with_searches(listing.folded(found.runs, trials=False), args)
    if not runs:
        print("[]" if args.json else "Nothing is in progress.")
        return found.report()
    if not args.yes:
        if args.json or not can_ask():
            raise LaunchError(f"{len(runs)} in progress: cancelling all of them wants a yes.\nTry: --yes")
        listing.show(runs)
        if not agreed("Cancel all of these" if len(runs) > 1 else "Cancel this"):
            print("Nothing was cancelled.")
            return 1
    return max(_cancel([(run.launcher, run.handle) for run in runs], args, several=True), found.report())


def _with_searches(runs: Sequence[Listed], args: argparse.Namespace) -> list[Listed]:
    """Return the runs, with the searches of this machine in place of those that are their trials.

    A search that goes on starts another job for each that is cancelled, or counts it as failed. Says of trials whose
    search is not on this machine, or was not started from this folder, that it is to be ended as well.
    """
    by_handle = {str(run.handle): run for run in runs}
    (local,) = launchers_at(LOCAL, runs_dir=args.runs_dir)
    searches, ending, strangers = list[Listed](), set[str](), set(by_handle)
    for handle, status in local.list(active_only=False):
        trials = {(launched(trial) or {}).get("handle", "") for trial in trial_folders(folder_of(handle))}
        if not status.finished and not trials.isdisjoint(by_handle):
            ending |= trials
            searches += [] if str(handle) in by_handle else [Listed(local, handle, status)]
        strangers -= trials
    kept = [run for handle, run in by_handle.items() if handle not in ending]
    jobs = [run for run in kept if str(run.handle) in strangers and not run.launcher.capabilities.deploys]
    for name in sorted({search_of(run.handle.run_id) for run in jobs} - {""}):
        print(
            f"Jobs of the search {name} are in progress. If the search is too, it starts others in their place.\n"
            f"Try, on the machine and in the folder where it was started, first: {commands.launchers('cancel', name)}",
            file=sys.stderr,
        )
    return [*searches, *kept]


@dataclass
class _Cancelling:
    """A run that is being cancelled, in a thread of its own."""

    launcher: Launcher
    handle: Handle
    grace_s: float
    status: Status | None = None
    error: BaseException | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.status = self.launcher.cancel(self.handle, grace_s=self.grace_s)
        except BaseException as error:  # raised again by the main thread
            self.error = error


def _cancel(runs: Sequence[named.Named], args: argparse.Namespace, *, several: bool) -> int:
    """Cancel runs at once, then jobs of searches among them; print how each has ended. Return the exit status."""
    waiting = [_Cancelling(launcher, handle, args.grace_s) for launcher, handle in runs]
    _wait(waiting)
    named_already = {handle for _, handle in runs}  # the processes of searches have ended: they start no further jobs
    failures = Failures()
    jobs = [job for _, search in runs for job in _jobs(search, failures) if job[1] not in named_already]
    if jobs:
        _wait(further := [_Cancelling(launcher, handle, args.grace_s) for launcher, handle in jobs])
        waiting, several = waiting + further, True
    worst, facts = 0, []
    for each in waiting:
        if each.error is not None:
            if not several or not isinstance(each.error, DogBreedError):
                raise each.error
            failures.errors.append(each.error)
            continue
        assert each.status is not None
        facts.append(Listed(each.launcher, each.handle, each.status).facts())
        if not args.json:
            print(f"{each.handle}: {each.status}" if several else each.status)
        worst = max(worst, int(each.status.phase is Phase.LOST))
    if args.json:
        print(json.dumps(facts if several else facts[0], indent=2))
    sys.stdout.flush()
    for error in failures.errors:
        print(named.message(error), file=sys.stderr)
    return 1 if failures.errors else worst


def _jobs(search: Handle, failures: Failures) -> Iterator[named.Named]:
    """Yield the trials of a search of this machine that are jobs in progress, which outlive its process."""
    if search.launcher != LOCAL:
        return
    for note in filter(None, map(launched, trial_folders(folder_of(search)))):
        if "handle" not in note or note.get("home"):
            continue
        with failures.noted():  # one of an unknown launcher
            launcher, handle = launched_run(note)
            if launcher.answers and may_go_on(launcher, handle):  # cancelling it says why nobody knows
                yield launcher, handle


def _wait(cancelling: Sequence[_Cancelling]) -> None:
    """Wait for all, and show on stderr what is still waited for: on a terminal in one line, elsewhere once."""
    began, live, shown = time.monotonic(), sys.stderr.isatty(), ""
    while left := [each for each in cancelling if each.thread.is_alive()]:
        left[0].thread.join(_TICK_S)
        waited = time.monotonic() - began
        if waited < _SHOW_AFTER_S:
            continue
        which = str(left[0].handle) if len(left) == 1 else f"{len(left)} of {len(cancelling)} runs"
        if live:
            print(f"Waiting for {which} to save and stop, {waited:.0f} s".ljust(79)[:79], end="\r", file=sys.stderr)
        elif not shown:
            print(f"Waiting for {which} to save and stop ...", file=sys.stderr, flush=True)
        shown = which
    if live and shown:
        print(" " * 79, end="\r", file=sys.stderr, flush=True)
