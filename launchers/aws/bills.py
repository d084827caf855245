"""What runs, searches and deployments have cost, by the records that they leave in the bucket.

PREFIX/runs/RUN/bills/JOB.json        a training job, or a tuning job with all its trials: written when it is submitted,
                                      and again once its end is known
PREFIX/runs/RUN/attempts/N.json       a machine of EC2, as launchers/remote/ec2.py writes it
PREFIX/runs/RUN/result.json           how a run on EC2 has ended
PREFIX/models/NAME/bills/TIME.json    a deployment, between two of its changes
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Any

from launchers.aws import s3
from launchers.aws.errors import errors
from launchers.aws.layout import Layout
from launchers.base import Cloud
from launchers.cost import prices
from launchers.runs.names import search_of

BILLS = "bills/"  # below a run or a model: one object for each job
_MACHINE = re.compile(r"(?P<run>[^/]+)/attempts/\d+\.json")
_JOB = re.compile(r"(?P<name>[^/]+)/bills/[^/]+\.json")
_RESULT = re.compile(r"(?P<run>[^/]+)/result\.json")


@dataclass(frozen=True)
class Bill:
    """One job, machine or deployment.

    name: of its run or deployment. launcher: the scheme of its handles. key: of its record, below the bucket.
    usd_per_hour: at most; None without a price, and if nothing limits it. started, ended: UTC; None if it has not
    started, or its end is not known. ends_at: when it ends at the latest. seconds: that are billed; None for those
    between start and end. least_usd_per_hour: where that depends on the load. life: the same of all records since a
    deployment was created. trials: of a tuning job, which one record has together; 0 for anything else.
    """

    name: str
    launcher: str
    key: str
    usd_per_hour: float | None
    started: datetime | None
    ended: datetime | None = None
    ends_at: datetime | None = None
    seconds: float | None = None
    state: str = ""
    least_usd_per_hour: float | None = None
    life: str = ""
    trials: int = 0

    @property
    def search(self) -> str:
        """The search that it is a trial of; its own name for anything else."""
        return self.name if self.launcher == "deploy" else search_of(self.name) or self.name

    def end(self, now: datetime) -> datetime:
        ends = [each for each in (self.ended, self.ends_at, now) if each is not None]
        return min(ends) if self.ended is None else self.ended

    def open_at(self, now: datetime) -> bool:
        """Whether its end is not known, so that it may still cost money."""
        return self.ended is None and (self.ends_at is None or now < self.ends_at)

    def hours(self, now: datetime, since: datetime, until: datetime) -> float:
        """Return the hours that are billed of a time. One that is billed for less than it ran is divided evenly."""
        if self.started is None:
            return 0.0
        begin, end = self.started, self.end(now)
        whole_s = (end - begin).total_seconds()
        inside_s = (min(end, until) - max(begin, since)).total_seconds()
        if inside_s <= 0 or whole_s <= 0:
            return 0.0
        billed_s = whole_s if self.seconds is None else self.seconds
        return billed_s * inside_s / whole_s / 3600

    def usd(self, now: datetime, since: datetime, until: datetime) -> float | None:
        """Return what a time has cost by list price, at most; None if that is not known."""
        return None if self.usd_per_hour is None else self.hours(now, since, until) * self.usd_per_hour

    def least_usd(self, now: datetime, since: datetime, until: datetime) -> float | None:
        """Return what a time has cost by list price, at least; None without a price."""
        rate = self.usd_per_hour if self.least_usd_per_hour is None else self.least_usd_per_hour
        return None if rate is None else self.hours(now, since, until) * rate


def write(cloud: Cloud, layout: Layout, bill: Bill, encryption: Mapping[str, str]) -> None:
    """Write a record, in place of an earlier one of the same key."""
    fields = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in asdict(bill).items()}
    with errors("recording what is billed"):
        cloud.client("s3").put_object(
            Bucket=layout.bucket, Key=bill.key, Body=json.dumps(fields, indent=2).encode(), **encryption
        )


def key_of_job(layout: Layout, run_id: str, job: str) -> str:
    return f"{layout.runs}{run_id}/{BILLS}{job}.json"


def key_of_deployment(layout: Layout, name: str, started: datetime) -> str:
    return f"{layout.models(name)}{BILLS}{started:%Y%m%dT%H%M%S.%f}.json"


def of_deployment(cloud: Cloud, layout: Layout, name: str) -> list[Bill]:
    """Return the records of a deployment, the oldest first."""
    return sorted(_read(cloud, layout, layout.models(name), f"{name}/"), key=lambda bill: bill.key)


def spent_elsewhere(cloud: Cloud, layout: Layout, run_id: str, launcher: str) -> float:
    """Return what a run has cost by other launchers than this one, by list prices. launcher: the scheme of handles."""
    folder, now = f"{layout.runs}{run_id}/", datetime.now(UTC)
    others = [bill for bill in _read(cloud, layout, folder, f"{run_id}/") if bill.launcher != launcher]
    return sum(bill.usd(now, bill.started or now, now) or 0.0 for bill in others)


def read(cloud: Cloud, layout: Layout) -> list[Bill]:
    """Return all records in the bucket."""
    return [*_read(cloud, layout, layout.runs), *_read(cloud, layout, f"{layout.prefix}/models/")]


def _read(cloud: Cloud, layout: Layout, folder: str, first: str = "") -> list[Bill]:
    """Return the records below a folder of runs or models. first: of the names, if it is the folder of one."""
    below = folder.removesuffix(first) if first else folder
    names = [f"{first}{name}" for name, _ in s3.objects(cloud, layout.uri(folder))]
    wanted = [name for name in names if any(each.fullmatch(name) for each in (_MACHINE, _JOB, _RESULT))]

    def fetched(name: str) -> dict[str, Any]:
        content = s3.read(cloud, layout.uri(f"{below}{name}"))
        try:
            found = json.loads(content or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    with ThreadPoolExecutor(s3.AT_ONCE) as pool:
        found = dict(zip(wanted, pool.map(fetched, wanted), strict=True))
    results = {match["run"]: found[name] for name in wanted if (match := _RESULT.fullmatch(name))}
    bills: list[Bill] = []
    for name, fields in found.items():
        if match := _MACHINE.fullmatch(name):
            bills += _of_machine(f"{below}{name}", match["run"], fields, results.get(match["run"], {}))
        elif _JOB.fullmatch(name):
            bills += _of_job(fields)
    return _ended_by_the_next(bills)


def _of_job(fields: Mapping[str, Any]) -> Iterator[Bill]:
    times = {key: datetime.fromisoformat(fields[key]) for key in ("started", "ended", "ends_at") if fields.get(key)}
    try:
        yield Bill(**{**fields, **{"started": None, "ended": None, "ends_at": None}, **times})
    except TypeError:
        return  # written by another version, or no record


def _of_machine(key: str, run_id: str, fields: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[Bill]:
    if "started" not in fields:
        return
    row = prices.ec2(str(fields.get("type")))
    same = "ended" in result and result.get("submission") == fields.get("submission")  # whose last machine ends with it
    ends = [datetime.fromisoformat(each) for each in (fields.get("ends_at"), result["ended"] if same else None) if each]
    last = result.get("attempt") == fields.get("attempt")
    yield Bill(
        run_id,
        "ec2",
        key,
        None if row is None else row.usd + float(fields.get("beside_usd_per_hour", 0.0)),
        datetime.fromisoformat(fields["started"]),
        datetime.fromisoformat(fields["ended"]) if fields.get("ended") else None,
        min(ends, default=None),
        state=str(result.get("outcome") or "") if last else str(fields.get("why") or "")[:40] and "interrupted",
    )


def _ended_by_the_next(bills: Sequence[Bill]) -> list[Bill]:
    """Return the records; a machine that could not record its end has ended, at the latest, when the next one began."""
    ordered = sorted(bills, key=lambda bill: (bill.launcher, bill.name, bill.key))
    out = []
    for bill, later in zip_longest(ordered, ordered[1:]):
        same = later is not None and (later.launcher, later.name) == (bill.launcher, bill.name)
        if same and later is not None and bill.launcher == "ec2" and bill.ended is None:
            ends = [each for each in (later.started, bill.ends_at) if each is not None]
            bill = replace(bill, ended=min(ends, default=None))
        out.append(bill)
    return out


def month(text: str, now: datetime) -> tuple[datetime, datetime]:
    """Return begin and end of a month such as 2026-11. Raises ValueError for anything else."""
    if not re.fullmatch(r"\d{4}-\d{2}", text):
        raise ValueError(text)
    begin = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    end = (begin + timedelta(days=32)).replace(day=1)
    return begin, end
