"""`python -m launchers cleanup`: find what nothing uses any more and what has expired, with its price; remove it."""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Literal, cast

from dogbreed.commands import is_address
from launchers.aws.layout import Layout
from launchers.aws.stored import Kept, Stored
from launchers.aws.tags import KEPT_DAYS
from launchers.base import Deploys, Launcher
from launchers.cli import named
from launchers.cli.questions import agreed, can_ask
from launchers.cost.serving import usd_per_month
from launchers.formatting import size, usd
from launchers.registry import cloud_of, launchers_at, targets
from launchers.runs.find import LOCAL
from launchers.status import Failures, Handle, LaunchError

HELP = "List what nothing uses any more and what has expired, with its price; remove it with --apply."
EPILOG = f"""\
Found by tags and names: deployments whose time is over, parts of deployments
and machines without a use, broken uploads, and files in the bucket that are {KEPT_DAYS}
days old: runs, and the features, photos, code and models that nothing in
progress reads. What is in use and costs money is listed too, and never removed:
`cancel` ends it. Records of what runs have cost stay. Before files of runs are
deleted, you are asked.

  python -m launchers cleanup
  python -m launchers cleanup rehearsal
  python -m launchers cleanup rehearsal --apply --yes
"""

_MACHINES = re.compile(r"(\d+) x (ml\.[\w.]+)")
_WIDTH = 80
_PREFIX = "dogbreed"  # of keys, as conf/launcher/*.yaml has it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("place", nargs="?", default=LOCAL, metavar="TARGET", help=f"what to inspect: {targets()} (default: local)")
    add("--apply", action="store_true", help="remove it, and check that it is gone")
    add("--yes", "-y", action="store_true", help="do not ask before files of runs are deleted")
    add("--older-than-h", type=float, metavar="H", help="leftovers of this age; in a cloud at least 24 by default")
    add(
        "--keep-days", type=float, default=KEPT_DAYS, metavar="N", help=f"of files in the bucket (default: {KEPT_DAYS})"
    )
    add("--bucket", metavar="NAME", help="the bucket that the launchers use, for a cloud")


@dataclass(frozen=True)
class Item:
    """Something that was found. state: what became of it; `in use` is never removed."""

    name: str
    state: Literal["in use", "left over", "expired", "removed"]
    detail: str = ""
    usd_per_month: float | None = None


def run(args: argparse.Namespace) -> int:
    launchers = launchers_at(args.place, runs_dir=args.runs_dir, state_dir=args.state_dir, bucket=args.bucket)
    if not launchers[0].answers:
        print(f"{args.place} is not running, and nothing is left over in it.", file=sys.stderr)
        if args.json:
            print("[]")
        return 0
    bucket, failures = None if args.place == LOCAL else _bucket(args), Failures()
    active = [] if bucket is None else list(_active(args, failures))
    old: list[Stored] = []
    unlisted = bucket is not None and bool(failures.errors)  # it is not known what is in use
    if bucket is not None and not unlisted:
        with failures.noted():
            old = bucket.expired([handle.run_id for _, handle in active], args.keep_days)
    if args.apply and not _agreed(args, old):
        return 1
    items = list(_in_use(active, failures))
    older_than = None if args.older_than_h is None else timedelta(hours=args.older_than_h)
    for launcher in launchers:
        with failures.noted():
            report, known = launcher.cleanup(older_than=older_than, apply=args.apply), {item.name for item in items}
            failures.errors += report.errors
            new = [name for name in report.found if name not in known]
            items += [Item(name, "removed" if name in report.removed else "left over") for name in new]
    if bucket is not None:
        gone = bucket.remove(old, failures) if args.apply else []
        items += [_item(each, gone=each in gone) for each in old]
    if args.json:
        print(json.dumps([asdict(item) for item in items], indent=2))
    elif items or not failures.errors:
        print("\n".join(_shown(items, args, whole=not failures.errors)), flush=True)
    for message in dict.fromkeys(map(named.message, failures.errors)):  # launchers share the bucket, and what resists
        print(message, file=sys.stderr)
    if unlisted:
        print("Files in the bucket were not examined: it is not known which of them are in use.", file=sys.stderr)
    left = any(item.state in ("left over", "expired") for item in items)
    return 1 if (left and args.apply) or failures.errors else 0


def _bucket(args: argparse.Namespace) -> Kept | None:
    """Return the bucket of the target; None if it is not known and the target does without."""
    cloud = cloud_of(_scope(args), {"state_dir": args.state_dir} if args.state_dir else {})
    name = args.bucket or cloud.default_bucket
    if name is None and not is_address(args.place):
        raise LaunchError("No bucket is configured for the cleanup.\nTry: --bucket NAME")
    return None if name is None else Kept(cloud, Layout(name, _PREFIX))


def _scope(args: argparse.Namespace) -> str:
    return str(args.place).rpartition("://")[2].rstrip("/")


def _active(args: argparse.Namespace, failures: Failures) -> Iterator[tuple[Launcher, Handle]]:
    """Yield what is in progress in the target's region, of all launchers: they share the bucket."""
    for launcher in launchers_at(_scope(args), runs_dir=args.runs_dir, state_dir=args.state_dir):
        with failures.noted():
            for handle, _ in launcher.list():
                yield launcher, handle


def _item(each: Stored, *, gone: bool) -> Item:
    detail = f"{size(each.size)}, last written {each.latest:%Y-%m-%d}"
    return Item(str(each), "removed" if gone else "expired", detail, each.usd_per_month)


def _agreed(args: argparse.Namespace, old: Sequence[Stored]) -> bool:
    """Return whether files of runs may be deleted. Raises LaunchError if nobody can be asked."""
    runs = [each for each in old if each.kind == "run"]
    if not runs or args.yes:
        return True
    question = f"Delete the files of {len(runs)} run{'s' if len(runs) > 1 else ''} for good"
    if args.json or not can_ask():
        raise LaunchError(f"{question}? That wants a yes.\nTry: --yes, or a larger --keep-days")
    for each in runs:
        print(f"  {each.name}  {size(each.size)}, last written {each.latest:%Y-%m-%d}")
    if agreed(question):
        return True
    print("Nothing was removed.")
    return False


def _in_use(active: Sequence[tuple[Launcher, Handle]], failures: Failures) -> Iterator[Item]:
    """Yield what is in progress: a deployment with its price of a month, a run without, because it ends by itself."""
    for launcher, handle in active:
        if not launcher.capabilities.deploys:
            yield Item(str(handle), "in use", "a run in progress")
            continue
        found = None
        with failures.noted():
            found = cast(Deploys, launcher).deployed(handle.run_id)
        machines = _MACHINES.search("" if found is None else found.facts.get("machines", ""))
        price = None if machines is None else usd_per_month(machines[2], int(machines[1]))
        ends = "" if found is None or not found.expires_at else f", until {found.expires_at[:16].replace('T', ' ')}"
        yield Item(str(handle), "in use", f"a deployment{ends}", price)


def _shown(items: Sequence[Item], args: argparse.Namespace, *, whole: bool) -> Iterator[str]:
    """Yield lines of at most 80 characters, but for names that are longer, which have a line of their own.

    whole: whether everything could be examined.
    """
    if not items:
        yield "Nothing is left over."
        return
    for item in items:
        price = "" if item.usd_per_month is None else f"{usd(item.usd_per_month)} a month"
        line = f"{item.state:<9}  {item.name}  {item.detail}".rstrip()
        if len(line) + 2 + len(price) > _WIDTH and (item.detail or price):
            yield f"{item.state:<9}  {item.name}"
            line = f"{'':11}{item.detail}"
        yield f"{line:<{_WIDTH - len(price)}}{price}".rstrip()
    total = sum(item.usd_per_month or 0 for item in items if item.state != "removed")
    if total:
        yield f"Together {usd(total)} a month, by list price."
    if any(item.state in ("left over", "expired") for item in items):
        if not args.apply:
            yield "To remove them, add --apply to the same command."
    elif whole and not any(item.state == "removed" for item in items):
        yield "Nothing is left over."
