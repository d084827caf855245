"""`python -m launchers list`: runs, searches and deployments of all launchers in one table, newest first.

Without a target no server is started, and only the clouds of what was launched from here are asked.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from dogbreed.commands import shown_path
from launchers.base import Launcher
from launchers.cli.ages import age
from launchers.formatting import usd
from launchers.registry import LAUNCHERS, launched_run, launchers_at, targets
from launchers.runs.find import DEPLOYMENTS_DIR, LOCAL, SWEEPS_DIR, name_in
from launchers.runs.launched import folder_here, launched
from launchers.runs.searches import is_search, spent
from launchers.spec import LAUNCHED_FILE, SPEC_FILE, RunSpec
from launchers.status import Handle, LaunchError, Phase, Status

HELP = "List the runs, searches and deployments in progress, newest first."
EPILOG = """\
Without a TARGET: those of this machine, and those that were launched from this
folder, wherever they are. A region, or rehearsal, lists all that is ours there.
The cost is by list price, so far. The trials of a search are one row.

  python -m launchers list
  python -m launchers list --all --newer-than 2d
  python -m launchers list --state failed,cancelled --name base
  python -m launchers list rehearsal --launcher sagemaker,ec2
"""

SEARCH = "search"  # the kind of one whose trials were started on this machine
_WIDTH = 80
_SECOND, _MINUTE = 19, 16  # characters of an ISO date
_STYLES = {
    Phase.RUNNING: "cyan",
    Phase.IN_SERVICE: "green",
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.LOST: "red",
    Phase.RECOVERING: "yellow",
    Phase.STOPPING: "yellow",
    Phase.CANCELLED: "dim",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("targets", nargs="*", metavar="TARGET", help=f"what to list: {targets()} (default: see below)")
    add("--all", action="store_true", help="include what has ended")
    add("--state", metavar="STATE,...", help="only in these states, such as running or failed; implies --all")
    add("--name", default="", metavar="TEXT", help="only those whose id or name contains this")
    add("--launcher", metavar="KIND,...", help=f"only of these: {', '.join([*LAUNCHERS, SEARCH])}")
    add("--newer-than", type=age, metavar="AGE", help="only those started within 10m, 6h or 2d")
    add("--older-than", type=age, metavar="AGE", help="only those started before that")
    add("--trials", action="store_true", help="a row for each trial of a search as well")


@dataclass(frozen=True)
class Listed:
    """A run and its status, for people and for programs. here: its folder, if it was launched from here."""

    launcher: Launcher
    handle: Handle
    status: Status
    here: Path | None = None

    @property
    def name(self) -> str:
        folder = self.folder
        return str(self.handle) if folder is None else shown_path(folder)

    @property
    def called(self) -> str:
        """What a person called it with name=; empty for nothing, and for a deployment, whose id that is."""
        if self.launcher.capabilities.deploys:
            return ""
        return self.status.name or ("" if self.folder is None else name_in(self.folder))

    @property
    def kind(self) -> str:
        """Of launcher."""
        return (
            SEARCH
            if self.handle.launcher == LOCAL and self.status.detail.startswith("search: ")
            else self.handle.launcher
        )

    @property
    def phase(self) -> str:
        tries = f", try {self.status.attempt}" if self.status.attempt > 1 else ""
        return f"{self.status.phase.replace('_', ' ')}{tries}"

    @cached_property
    def folder(self) -> Path | None:
        """Its folder on this machine, if there is one."""
        return self.here or self.launcher.folder(self.handle) or folder_here(self.handle)

    @property
    def search(self) -> Path | None:
        """The folder of the search of which it is a trial; None for any other."""
        if self.folder is None or self.folder.parent.parent.name != SWEEPS_DIR:
            return None
        return self.folder.parent.absolute() if _is_search(self.folder.parent) else None

    def facts(self) -> dict[str, Any]:
        folder = self.folder
        here = {} if folder is None else {"folder": str(folder.absolute())}
        return {"handle": str(self.handle), **here, **asdict(self.status), "name": self.called}


@cache
def _is_search(folder: Path) -> bool:
    return is_search(folder)


@dataclass
class Found:
    """What was found. problems: why something is missing, each with what is missing."""

    runs: list[Listed] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def add(self, runs: Iterable[Listed], what: str) -> None:
        """Add runs until one cannot be had."""
        known = {str(run.handle) for run in self.runs}
        try:
            for run in runs:
                if str(run.handle) not in known:
                    self.runs.append(run)
        except LaunchError as error:
            self.missing(error, what)

    def missing(self, error: LaunchError, what: str) -> None:
        self.problems.setdefault(str(error), []).append(what)

    def report(self) -> int:
        """Print what is missing, and return the exit status."""
        for problem, missing in self.problems.items():
            shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} others" if len(missing) > 3 else "")
            print(f"Not shown, or not all of it: {shown}\nerror: {problem}", file=sys.stderr)
        return 1 if self.problems else 0


def run(args: argparse.Namespace) -> int:
    wanted = _Wanted.of(args)
    found = collect(args, wanted.all, wanted.launchers)
    runs = sorted(filter(wanted, folded(found.runs, args.trials)), key=lambda run: run.status.started_at, reverse=True)
    if args.json:
        print(json.dumps([each.facts() for each in runs], indent=2))
    elif runs:
        show(runs)
    elif not found.problems:
        print(_nothing(args, wanted))
    sys.stdout.flush()
    return found.report()


def collect(args: argparse.Namespace, ended: bool, kinds: frozenset[str] | None = None) -> Found:
    """Find what is at the targets of a command, or what this folder knows if it names none.

    kinds: the launchers to ask; None for all.
    """
    found = Found()
    for target in args.targets or [LOCAL]:
        places = launchers_at(target, runs_dir=args.runs_dir, state_dir=args.state_dir)
        for launcher in places:
            if (
                kinds is not None
                and launcher.scheme not in kinds
                and not (launcher.scheme == LOCAL and SEARCH in kinds)
            ):
                continue
            if launcher.answers:
                listed = launcher.list(active_only=not ended)
                found.add((Listed(launcher, *each) for each in listed), f"{launcher.scheme} in {target}")
            elif launcher is places[0]:
                print(f"{target} is not running, and neither are its runs.", file=sys.stderr)
    if not args.targets:
        found.add(launched_from_here(args.runs_dir, ended=ended, kinds=kinds, found=found), "what was launched here")
    return found


def folded(runs: Sequence[Listed], trials: bool) -> list[Listed]:
    """Count what the trials of a search cost to the search, and leave them out unless `trials`.

    A trial whose job goes on although its search has ended, or is not among the runs, stays.
    """
    searches = {run.folder: run for run in runs if run.kind == SEARCH and run.folder is not None}
    costs = {folder: spent(folder) for folder in searches}
    for run in runs:
        if run.search is not None and run.search in costs and run.folder is not None and run.status.usd is not None:
            costs[run.search][run.folder.absolute()] = run.status.usd
    kept = []
    for run in runs:
        over = searches.get(run.search) if run.search is not None else None
        if over is not None and not trials and (run.status.finished or not over.status.finished):
            continue
        if run.kind == SEARCH and run.folder is not None and (its := costs[run.folder]):
            run = replace(run, status=replace(run.status, usd=sum(its.values())))
        kept.append(run)
    return kept


@dataclass(frozen=True)
class _Wanted:
    """The filters of a command."""

    all: bool
    phases: frozenset[Phase]
    name: str
    launchers: frozenset[str] | None
    after: str
    before: str

    @classmethod
    def of(cls, args: argparse.Namespace) -> "_Wanted":
        phases = _chosen(args.state, [str(phase) for phase in Phase], "--state")
        now = datetime.now(UTC)
        return cls(
            args.all or bool(phases),
            frozenset(Phase(phase) for phase in phases),
            args.name,
            _chosen(args.launcher, [*LAUNCHERS, SEARCH], "--launcher") or None,
            _at(now, args.newer_than),
            _at(now, args.older_than),
        )

    def __call__(self, run: Listed) -> bool:
        status = run.status
        return (
            (self.all or not status.finished)
            and (not self.phases or status.phase in self.phases)
            and (self.name in run.handle.run_id or self.name in run.called or self.name in run.name)
            and (self.launchers is None or run.kind in self.launchers)
            and (not self.after or status.started_at >= self.after)
            and (not self.before or status.started_at < self.before)
        )


def _chosen(text: str | None, known: Sequence[str], option: str) -> frozenset[str]:
    """Read a list of words with commas between them. Raises LaunchError for one that is not known."""
    words = [word.strip().replace(" ", "_") for word in (text or "").split(",") if word.strip()]
    if unknown := [word for word in words if word not in known]:
        raise LaunchError(f"{option} {','.join(unknown)} is unknown.\nTry: {', '.join(known)}")
    return frozenset(words)


def _at(now: datetime, ago: timedelta | None) -> str:
    return "" if ago is None else (now - ago).isoformat()


def _nothing(args: argparse.Namespace, wanted: _Wanted) -> str:
    where = " or ".join(args.targets) if args.targets else f"{args.runs_dir} or {SWEEPS_DIR}"
    narrowed = args.name or args.state or args.launcher or args.newer_than or args.older_than
    such = "such runs" if narrowed else "runs"
    if wanted.all:
        return f"No {such} in {where}."
    return f"No {such} in progress in {where}. To include ended ones: python -m launchers list --all"


def show(runs: Sequence[Listed]) -> None:
    """Print the table, with colours on a terminal."""
    if not sys.stdout.isatty():
        print(table(runs))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for lines, run in zip(_rows(runs), [None, *runs], strict=True):
        console.print(Text(lines, style="dim" if run is None else _STYLES.get(run.status.phase, "")))


def table(runs: Sequence[Listed]) -> str:
    """Return the runs as lines of at most 80 characters; a longer name has a line of its own."""
    return "\n".join(_rows(runs))


def _rows(runs: Sequence[Listed]) -> list[str]:
    """Return the head of the table and a row for each run, which may have two lines."""
    rows = [("run", "launcher", "state", "started (UTC)", "cost"), *(_cells(run) for run in runs)]
    priced = any(cost for *_, cost in rows[1:])
    kinds, phases, costs = (max(len(row[number]) for row in rows) for number in (1, 2, 4))
    longest = max(len(row[0]) for row in rows)
    others = 2 + kinds + 2 + phases + 2 + (2 + costs if priced else 0)
    date = _SECOND if longest + others + _SECOND <= _WIDTH else _MINUTE
    names = min(longest, _WIDTH - others - date)
    shown = []
    for name, kind, phase, started, cost in rows:
        above, beside = (f"{name}\n", "") if len(name) > names else ("", name)
        row = f"{beside:<{names}}  {kind:<{kinds}}  {phase:<{phases}}  {started[:date]:<{date}}"
        shown.append(above + (f"{row}  {cost:>{costs}}" if priced else row).rstrip())
    return shown


def _cells(run: Listed) -> tuple[str, str, str, str, str]:
    cost = "" if run.status.usd is None else usd(run.status.usd)
    name = f"{run.name}  {run.called}".rstrip()
    return name, run.kind, run.phase, run.status.started_at.replace("T", " "), cost


def launched_from_here(
    runs_dir: str, *, ended: bool, kinds: frozenset[str] | None = None, found: Found | None = None
) -> Iterator[Listed]:
    """Yield remote runs that were submitted from this folder and whose results have not been downloaded.

    ended: whether to include those that have ended. found: what is told of those that cannot be asked about.
    """
    sweeps = (Path(SWEEPS_DIR).glob(f"{below}/{LAUNCHED_FILE}") for below in ("*", "*/*"))  # one-job searches; trials
    deployments = Path(DEPLOYMENTS_DIR).glob(f"*/{LAUNCHED_FILE}")
    launchers: dict[str, Launcher] = {}  # by place: each has its own connections
    for file in (file for files in (Path(runs_dir).glob(f"*/{LAUNCHED_FILE}"), deployments, *sweeps) for file in files):
        note = launched(file.parent) or {}
        if "handle" not in note or "home" in note or (kinds is not None and _scheme(note) not in kinds):
            continue
        try:
            launcher, handle = launched_run(note)
            place = json.dumps({**note, "handle": f"{handle.launcher}://{handle.scope}"}, sort_keys=True)
            launcher = launchers.setdefault(place, launcher)
            status = launcher.status(handle) if launcher.answers else _stopped(file.parent)
        except LaunchError as error:  # an unknown launcher or an unreachable cloud must not hide the other runs
            if found is not None:
                found.missing(error, note["handle"])
            continue
        if not status.started_at:
            status = replace(status, started_at=_created_at(file.parent))
        if ended or not status.finished:
            yield Listed(launcher, handle, status, file.parent)


def _scheme(note: Mapping[str, str]) -> str:
    return note["handle"].partition("://")[0]


def _stopped(folder: Path) -> Status:
    """Return what is known of a run whose cloud is not running: it is not running either, and `status` tells how it
    ended.
    """
    return Status(Phase.LOST, detail="its rehearsal cloud is not running", started_at=_created_at(folder))


def _created_at(folder: Path) -> str:
    try:
        return RunSpec.from_json((folder / SPEC_FILE).read_text()).created_at
    except (OSError, ValueError, KeyError, TypeError):
        return ""
