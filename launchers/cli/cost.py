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
_EVER = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("place", nargs="?", metavar="TARGET", help="sagemaker://REGION (default: your region) or sagemaker://rehearsal")
    add("--month", metavar="YYYY-MM", help="only what that month has cost (default: everything)")
    add("--bucket", metavar="NAME", help="the bucket that the launchers use")
    add("--prefix", default="dogbreed", metavar="TEXT", help="prefix of their keys in it (default: dogbreed)")


@dataclass(frozen=True)
class _Row:
    """What one run, search or deployment has cost. usd: None if a price is not known."""

    name: str
    launcher: str
    state: str
    hours: float
    usd: float | None


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
    live = list(_live(cloud, args))
    rows = [*_rows(found, now, since, until), *_tuned(cloud, args, since, until)]
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
    """Yield the records; for training jobs whose end is not recorded, what SageMaker knows of it."""
    jobs, asked = Submissions(cloud), dict[str, dict[str, Bill]]()
    for bill in found:
        if bill.launcher != "sagemaker" or bill.ended is not None:
            yield bill
            continue
        if bill.name not in asked:
            described = (records.of(layout, bill.name, job) for job in jobs.all(bill.name))
            asked[bill.name] = {each.key: each for each in described}
        yield asked[bill.name].get(bill.key, replace(bill, state="lost"))


# --- what still costs money ---


def _live(cloud: Cloud, args: argparse.Namespace) -> Iterator[tuple[str, str, str, float | None]]:
    """Yield name, launcher, state and cost so far of everything that is still there."""
    for scheme in LAUNCHERS:
        for handle, status in _listed(scheme, cloud, args) if scheme != LOCAL else ():
            if status.phase is not Phase.LOST:
                yield handle.run_id, scheme, status.phase.replace("_", " "), status.usd
    now = datetime.now(UTC).timestamp()
    for job in Submissions(cloud).kept():
        usd = job.usd(now)
        yield job.name, "sagemaker", "machines kept", usd


def _listed(
    scheme: str, cloud: Cloud, args: argparse.Namespace, *, active_only: bool = True
) -> Iterable[tuple[Handle, Status]]:
    place = {"runs_dir": args.runs_dir, "state_dir": args.state_dir, "bucket": args.bucket}
    return launcher_at(f"{scheme}://{cloud.scope}", **place).list(active_only=active_only)


# --- what it has cost ---


def _tuned(cloud: Cloud, args: argparse.Namespace, since: datetime, until: datetime) -> Iterator[_Row]:
    """Yield the searches of SageMaker's tuner that began in that time, of which SageMaker itself has the records."""
    for handle, status in _listed("tuner", cloud, args, active_only=False):
        began = datetime.fromisoformat(status.started_at) if status.started_at else None
        if began is not None and since <= began < until and status.usd:
            yield _Row(handle.run_id, "tuner", status.phase.replace("_", " "), 0.0, status.usd)


def _rows(found: Sequence[Bill], now: datetime, since: datetime, until: datetime) -> list[_Row]:
    """Add up by run, search or deployment; the dearest is first. What cost nothing in that time is left out."""
    groups: dict[tuple[str, str], list[Bill]] = {}
    for bill in found:
        groups.setdefault((bill.launcher, bill.search), []).append(bill)
    rows = []
    for (launcher, name), several in groups.items():
        hours = sum(bill.hours(now, since, until) for bill in several)
        each = [bill.usd(now, since, until) for bill in several]
        usd = None if None in each else sum(amount for amount in each if amount is not None)
        runs = {bill.name for bill in several}
        title = name if runs == {name} else f"{name} ({len(runs)} trial{'s' if len(runs) > 1 else ''})"
        if hours:
            rows.append(_Row(title, launcher, _state(several, now), hours, usd))
    return sorted(rows, key=lambda row: (-(row.usd or 0.0), row.name))


def _state(several: Sequence[Bill], now: datetime) -> str:
    if any(bill.open_at(now) for bill in several):
        return "not ended"
    latest = max(several, key=lambda bill: (bill.started or _EVER[0], bill.key))
    return latest.state or "ended"


# --- as text and as JSON ---


def _facts(live: Sequence[tuple[str, str, str, float | None]], rows: Sequence[_Row]) -> dict[str, Any]:
    names = ("name", "launcher", "state", "usd")
    return {
        "still_costs": [dict(zip(names, each, strict=True)) for each in live],
        "rows": [vars(row) for row in rows],
        "by_launcher": _sums(rows, "launcher"),
        "by_state": _sums(rows, "state"),
        "usd": sum(row.usd or 0.0 for row in rows),
    }


def _sums(rows: Sequence[_Row], field: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in rows:
        sums[getattr(row, field)] = sums.get(getattr(row, field), 0.0) + (row.usd or 0.0)
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _shown(live: Sequence[tuple[str, str, str, float | None]], rows: Sequence[_Row], month: str | None) -> str:
    parts = []
    if live:
        parts.append("Still costs money:")
        columns = ("", "launcher", "state", "so far")
        parts.append(_table(columns, [(name, by, state, _usd(usd)) for name, by, state, usd in live], right=1))
    else:
        parts.append("Nothing costs money now.\n")
    when = f"in {month}" if month else "so far"
    if not rows:
        parts.append(f"No records of anything that has cost money {when}.\n")
        return "\n".join(parts)
    lines = [(row.name, row.launcher, row.state, f"{row.hours:.2f}", _usd(row.usd)) for row in rows]
    total = sum(row.usd or 0.0 for row in rows)
    lines.append(("in all", "", "", f"{sum(row.hours for row in rows):.2f}", _usd(total)))
    parts.append(f"Cost {when}:")
    parts.append(_table(("", "launcher", "state", "hours", "cost"), lines, right=2))
    for title, field in (("launcher", "launcher"), ("state", "state")):
        sums = ", ".join(f"{name} {_usd(usd)}" for name, usd in _sums(rows, field).items())
        parts.append(f"By {title}: {sums}")
    parts.append("List prices on demand, in US dollars; AWS's own bill is authoritative.\n")
    return "\n".join(parts)


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


def _usd(amount: float | None) -> str:
    return "no price" if amount is None else "$0" if amount == 0 else formatting.usd(amount)
