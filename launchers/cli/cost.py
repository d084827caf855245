"""`python -m launchers cost`: what runs, searches and deployments have cost, and what still costs money."""

import argparse
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from dogbreed.errors import ConfigError
from launchers import formatting
from launchers.aws import bills
from launchers.aws.account import configured_region
from launchers.aws.bills import Bill
from launchers.aws.layout import Layout
from launchers.base import Cloud
from launchers.registry import LAUNCHERS, launcher_at
from launchers.runs.find import LOCAL
from launchers.sagemaker import records
from launchers.sagemaker.submissions import Submissions
from launchers.sagemaker.tuning_submissions import TuningJobs
from launchers.status import Handle, LaunchError, Phase, Status

HELP = "Show what runs, searches and deployments have cost, and what still costs money."
EPILOG = """\
It adds up the records that launchers leave in the bucket, at list prices of
us-east-1; AWS's own bill is authoritative.

  python -m launchers cost --bucket my-bucket
  python -m launchers cost --bucket my-bucket --month 2026-11
  python -m launchers cost sagemaker://rehearsal
"""
_WIDTH = 80
DEPLOY = "deploy"  # the scheme of deployments
_EVER = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("place", nargs="?", metavar="TARGET", help="sagemaker://REGION (default: your region) or sagemaker://rehearsal")
    add("--month", metavar="YYYY-MM", help="only what that month has cost (default: everything)")
    add("--bucket", metavar="NAME", help="the bucket that the launchers use")
    add("--prefix", default="dogbreed", metavar="TEXT", help="prefix of their keys in it (default: dogbreed)")


@dataclass(frozen=True)
class _Row:
    """What one run, search or deployment has cost. usd: at most; None if that is not known, or nothing limits it.

    least_usd: at least; None if a price is not known.
    """

    name: str
    launcher: str
    state: str
    hours: float
    usd: float | None
    least_usd: float | None


def run(args: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    since, until = _span(args.month, now)
    target = args.place or f"sagemaker://{configured_region() or 'us-east-1'}"
    launcher: Any = launcher_at(target, runs_dir=args.runs_dir, state_dir=args.state_dir, bucket=args.bucket)
    cloud: Cloud = launcher.cloud
    bucket = args.bucket or cloud.default_bucket
    if bucket is None:
        raise LaunchError("No bucket is configured.\nTry: python -m launchers cost --bucket NAME")
    if not launcher.answers:
        raise LaunchError(f"{target} is not running, so its records cannot be read.\nTry: a rehearsal first")
    layout = Layout(bucket, args.prefix)
    found = list(_settled(bills.read(cloud, layout), cloud, layout))
    live = list(_live(cloud, args, found, now))
    found = [_unless_gone(bill, live, now) for bill in found]
    rows = _rows(found, now, since, until)
    if args.json:
        print(json.dumps(_facts(live, rows), indent=2))
    else:
        print(_shown(live, rows, args.month), end="")
    return 0


def _span(text: str | None, now: datetime) -> tuple[datetime, datetime]:
    if text is None:
        return _EVER
    try:
        since, until = bills.month(text, now)
    except ValueError:
        raise ConfigError(f"--month {text} is not a month.\nTry: --month {now:%Y-%m}") from None
    if since > now:
        raise ConfigError(f"--month {text} is in the future.\nTry: --month {now:%Y-%m}")
    return since, until


def _settled(found: Sequence[Bill], cloud: Cloud, layout: Layout) -> Iterator[Bill]:
    """Yield the records; for jobs of SageMaker's whose end is not recorded, what SageMaker knows of it."""
    asked = dict[tuple[str, str], dict[str, Bill]]()
    for bill in found:
        if bill.launcher not in ("sagemaker", "tuner") or bill.ended is not None:
            yield bill
            continue
        run = bill.launcher, bill.name
        if run not in asked:
            asked[run] = {each.key: each for each in _described(cloud, layout, *run)}
        yield asked[run].get(bill.key, replace(bill, state="lost"))


def _described(cloud: Cloud, layout: Layout, launcher: str, run_id: str) -> Iterator[Bill]:
    """Yield the records of all jobs of a run, or of a search by SageMaker's tuner, as SageMaker knows them now."""
    if launcher == "tuner":
        now = datetime.now(UTC).timestamp()
        for tuning_job, trials in TuningJobs(cloud).with_trials(run_id):
            yield records.of_search(layout, run_id, tuning_job, trials, now)
    else:
        for job in Submissions(cloud).all(run_id):
            yield records.of(layout, run_id, job)


# --- what still costs money ---


def _live(cloud: Cloud, args: argparse.Namespace, found: Sequence[Bill], now: datetime) -> Iterator[_Row]:
    """Yield everything that is still there, with what it has cost so far. found: all records."""
    for scheme in LAUNCHERS:
        for handle, status in _listed(scheme, cloud, args) if scheme != LOCAL else ():
            if status.phase is not Phase.LOST:
                amounts = _so_far(found, handle.run_id, now) if scheme == DEPLOY else (status.usd, status.usd)
                yield _Row(handle.run_id, scheme, status.phase.replace("_", " "), 0.0, *amounts)
    for job in Submissions(cloud).kept():
        usd = job.usd(now.timestamp())
        yield _Row(job.name, "sagemaker", "machines kept", 0.0, usd, usd)


def _so_far(found: Sequence[Bill], name: str, now: datetime) -> tuple[float | None, float | None]:
    """Return what a deployment has cost since its creation, at most and at least."""
    own = sorted((bill for bill in found if (bill.launcher, bill.name) == (DEPLOY, name)), key=lambda bill: bill.key)
    own = [bill for bill in own if bill.life == own[-1].life]
    return _sum(bill.usd(now, *_EVER) for bill in own), _sum(bill.least_usd(now, *_EVER) for bill in own)


def _unless_gone(bill: Bill, live: Sequence[_Row], now: datetime) -> Bill:
    """Return the record of a deployment; one whose end nobody has recorded may have cost nothing since it began."""
    if bill.launcher != DEPLOY or not bill.open_at(now) or bill.name in {row.name for row in live}:
        return bill
    return replace(bill, state="gone", ended=now, least_usd_per_hour=0.0)


def _sum(amounts: Iterable[float | None]) -> float | None:
    """Return a sum; None if there is nothing to add, or one of the amounts is not known."""
    several = list(amounts)
    known = [amount for amount in several if amount is not None]
    return sum(known) if several and len(known) == len(several) else None


def _listed(scheme: str, cloud: Cloud, args: argparse.Namespace) -> Iterable[tuple[Handle, Status]]:
    place = {"runs_dir": args.runs_dir, "state_dir": args.state_dir, "bucket": args.bucket}
    return launcher_at(f"{scheme}://{cloud.scope}", **place).list(active_only=True)


# --- what it has cost ---


def _rows(found: Sequence[Bill], now: datetime, since: datetime, until: datetime) -> list[_Row]:
    """Add up by run, search or deployment; the dearest is first. What cost nothing in that time is left out."""
    groups: dict[tuple[str, str], list[Bill]] = {}
    for bill in found:
        groups.setdefault((bill.launcher, bill.search), []).append(bill)
    rows = []
    for (launcher, name), several in groups.items():
        hours = sum(bill.hours(now, since, until) for bill in several)
        usd = _sum(bill.usd(now, since, until) for bill in several)
        least = _sum(bill.least_usd(now, since, until) for bill in several)
        runs = {bill.name for bill in several}
        trials = sum(bill.trials for bill in several) if runs == {name} else len(runs)
        title = f"{name} ({trials} trial{'s' if trials > 1 else ''})" if trials else name
        if hours:
            rows.append(_Row(title, launcher, _state(several, now), hours, usd, least))
    return sorted(rows, key=lambda row: (-(row.usd or row.least_usd or 0.0), row.name))


def _state(several: Sequence[Bill], now: datetime) -> str:
    if any(bill.open_at(now) for bill in several):
        return "not ended"
    latest = max(several, key=lambda bill: (bill.started or _EVER[0], bill.key))
    return latest.state or "ended"


# --- as text and as JSON ---


def _facts(live: Sequence[_Row], rows: Sequence[_Row]) -> dict[str, Any]:
    return {
        "still_costs": [{key: value for key, value in vars(each).items() if key != "hours"} for each in live],
        "rows": [vars(row) for row in rows],
        "by_launcher": {name: _usd_of(own) for name, own in _grouped(rows, "launcher")},
        "by_state": {name: _usd_of(own) for name, own in _grouped(rows, "state")},
        "usd": _usd_of(rows),
    }


def _usd_of(rows: Sequence[_Row]) -> float:
    """Return what they have cost at most, as far as that is known."""
    return sum(row.usd if row.usd is not None else row.least_usd or 0.0 for row in rows)


def _grouped(rows: Sequence[_Row], field: str) -> list[tuple[str, list[_Row]]]:
    """Return the rows by a field of theirs, what has cost most first."""
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(getattr(row, field), []).append(row)
    return sorted(groups.items(), key=lambda item: -_usd_of(item[1]))


def _shown(live: Sequence[_Row], rows: Sequence[_Row], month: str | None) -> str:
    parts = []
    if live:
        parts.append("Still costs money:")
        columns = ("", "launcher", "state", "so far")
        parts.append(_table(columns, [(row.name, row.launcher, row.state, _amount([row])) for row in live], right=1))
    else:
        parts.append("Nothing costs money now.\n")
    when = f"in {month}" if month else "so far"
    if not rows:
        parts.append(f"No records of anything that has cost money {when}.\n")
        return "\n".join(parts)
    lines = [(row.name, row.launcher, row.state, f"{row.hours:.2f}", _amount([row])) for row in rows]
    lines.append(("in all", "", "", f"{sum(row.hours for row in rows):.2f}", _amount(rows)))
    parts.append(f"Cost {when}:")
    parts.append(_table(("", "launcher", "state", "hours", "cost"), lines, right=2))
    for field in ("launcher", "state"):
        sums = ", ".join(f"{name} {_amount(own)}" for name, own in _grouped(rows, field))
        parts.append(f"By {field}: {sums}")
    parts.append("List prices on demand, in US dollars; AWS's own bill is authoritative.")
    if any(row.usd != row.least_usd for row in [*live, *rows]):
        parts.append(_RANGE)
    return "\n".join(parts) + "\n"


_RANGE = """\
Two amounts: with as few instances and requests as possible, and with as many
as the deployment allows. "or more": nothing limits the requests of its
function (launcher.reserved), or a price is not known."""


def _amount(rows: Sequence[_Row]) -> str:
    """Return what they have cost: an amount, or the least and the most."""
    if all(row.least_usd is None for row in rows):
        return "no price"
    least = _usd(sum(row.least_usd or 0.0 for row in rows))
    if any(row.usd is None for row in rows):
        return f"{least} or more"
    most = _usd(sum(row.usd or 0.0 for row in rows))
    return least if least == most else f"{least} to {most}"


def _table(names: Sequence[str], lines: Sequence[Sequence[str]], *, right: int) -> str:
    """right: how many of the last columns are numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(names):
        is_number = number >= len(names) - right
        table.add_column(name, justify="right" if is_number else "left", no_wrap=number > 0, overflow="fold")
    for line in lines:
        table.add_row(*line)
    out = io.StringIO()
    Console(file=out, width=_WIDTH, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _usd(amount: float) -> str:
    return "$0" if amount == 0 else formatting.usd(amount)
