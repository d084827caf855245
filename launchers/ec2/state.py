"""Tell how a run is: from what its machines have written in the bucket, and from its group."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

from launchers.aws import s3
from launchers.aws.layout import Layout, RunLocation
from launchers.base import Cloud
from launchers.cost import prices
from launchers.ec2 import groups, names
from launchers.ec2.groups import Group
from launchers.remote.ec2 import ATTEMPTS, RESULT, STOP
from launchers.status import Cause, Phase, Shortage, Status

_CAUSED = re.compile(r"\[(?P<cause>[a-z_]+)\] (?P<detail>.*)", re.S)  # as launchers/remote/entry.py writes it
_ENDED_ITSELF = "the machine ended itself: "  # before it could write to the bucket
# The first text that a group's message contains applies.
_MESSAGES: tuple[tuple[str, Cause, str], ...] = (
    ("MaxSpotInstanceCountExceeded", Cause.QUOTA, "the quota of spot vCPUs is used up"),
    ("VcpuLimitExceeded", Cause.QUOTA, "the quota of vCPUs is used up"),
    ("InsufficientInstanceCapacity", Cause.CAPACITY, "AWS has none of these machines now"),
    ("UnfulfillableCapacity", Cause.CAPACITY, "AWS has none of these machines now"),
    ("no Spot capacity", Cause.CAPACITY, "AWS has none of these machines now"),
    ("capacity", Cause.CAPACITY, "AWS has none of these machines now"),
    ("KMS", Cause.PERMISSION, "the key of the volume cannot be used"),
    (
        "Client.InternalError",
        Cause.PERMISSION,
        "the machine ended at once: may Auto Scaling use the volume's key?",
    ),
    ("not authorized", Cause.PERMISSION, "something is not permitted"),
    ("", Cause.UNKNOWN, "the group cannot start a machine"),
)


@dataclass(frozen=True)
class Attempt:
    """A machine that has claimed an attempt.

    started, ended: UTC; ended is None if it could not record it. ends_at: when its group has ended it at the latest.
    beside_usd_per_hour: of its disk and address.
    """

    number: int
    submission: int
    machine: str
    type: str
    zone: str
    bought: str
    started: datetime
    ended: datetime | None
    why: str
    ends_at: datetime | None = None
    beside_usd_per_hour: float = 0.0

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Attempt":
        ended, ends_at = fields["ended"], fields.get("ends_at")
        return cls(
            int(fields["attempt"]),
            int(fields["submission"]),
            str(fields["machine"]),
            str(fields["type"]),
            str(fields["zone"]),
            str(fields["bought"]),
            datetime.fromisoformat(fields["started"]),
            None if ended is None else datetime.fromisoformat(ended),
            str(fields["why"] or ""),
            None if ends_at is None else datetime.fromisoformat(ends_at),
            float(fields.get("beside_usd_per_hour", 0.0)),
        )


@dataclass(frozen=True)
class Seen:
    """A run as it was found. submission: its latest; None if it has none. result, stop: of this submission."""

    layout: Layout
    run_id: str
    submission: Mapping[str, Any] | None
    created: str = ""
    attempts: tuple[Attempt, ...] = ()
    result: Mapping[str, Any] | None = None
    stop: Mapping[str, Any] | None = None
    group: Group | None = None
    message: str = ""  # of the group, why it has no machine
    started: bool = False  # whether the group has started machines, of which none has claimed an attempt

    @property
    def number(self) -> int:
        return 0 if self.submission is None else int(self.submission["number"])

    @property
    def location(self) -> RunLocation:
        return self.layout.run(self.run_id)

    @property
    def group_name(self) -> str:
        return names.group_name(self.run_id, self.number)

    @property
    def of_this(self) -> tuple[Attempt, ...]:
        """The attempts of the latest submission."""
        return tuple(each for each in self.attempts if each.submission == self.number)


def read(cloud: Cloud, layout: Layout, run_id: str) -> Seen:
    """Read a run from the bucket and from its group."""
    location = layout.run(run_id)
    submissions = dict(s3.objects(cloud, f"{location.uri}/{names.SUBMISSIONS}"))
    numbers = sorted(int(name.removesuffix(".json")) for name in submissions)
    if not numbers:
        return Seen(layout, run_id, None)
    number = numbers[-1]
    submission = _json(cloud, f"{location.uri}/{names.SUBMISSIONS}{number}.json")
    if submission is None:
        return Seen(layout, run_id, None)
    found = [name for name, _ in s3.objects(cloud, f"{location.uri}/{ATTEMPTS}")]
    claims = [_json(cloud, f"{location.uri}/{ATTEMPTS}{name}") for name in sorted(found)]
    group = groups.describe(cloud, names.group_name(run_id, number))
    if group is not None and not groups.is_of(group.tags, location.uri):
        group = None
    attempts = tuple(Attempt.of(each) for each in claims if each is not None)
    waits = group is not None and group.desired > 0 and not group.machines
    silent = group is not None and not group.machines and all(each.submission != number for each in attempts)
    done = groups.activities(cloud, group.name) if group is not None and (waits or silent) else []
    return Seen(
        layout,
        run_id,
        submission,
        submissions[f"{numbers[0]}.json"].astimezone(UTC).isoformat(timespec="milliseconds"),
        attempts,
        _of(number, _json(cloud, f"{location.uri}/{RESULT}")),
        _of(number, _json(cloud, f"{location.uri}/{STOP}")),
        group,
        groups.why_none(done) if waits else "",
        silent and groups.has_started(done),
    )


def _json(cloud: Cloud, uri: str) -> dict[str, Any] | None:
    content = s3.read(cloud, uri)
    return None if content is None else dict(json.loads(content))


def _of(number: int, found: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return found if found is not None and found["submission"] == number else None


# --- what it means ---


def status_of(seen: Seen, now: datetime, again: str = "") -> Status:
    """Return the status of a run that has a submission. again: the command that resumes it."""
    assert seen.submission is not None
    here = Status(
        Phase.RUNNING,
        attempt=max((each.number for each in seen.attempts), default=0),
        started_at=seen.created,
        usd=usd_of(seen, now),
        job=seen.group_name,
        name=str(seen.submission.get("name", "")),
    )
    if seen.result is not None:
        return _ended(seen, here, again)
    if seen.group is None or seen.group.deleting or seen.group.idle:
        return _without_group(seen, here, now, again)
    if seen.stop is not None or seen.group.desired == 0:
        return replace(here, phase=Phase.STOPPING, cause=Cause.BY_USER if seen.stop else Cause.TIME_LIMIT)
    return _in_progress(seen, seen.group, here)


def _in_progress(seen: Seen, group: Group, here: Status) -> Status:
    machines = {machine for machine, state in group.machines if not state.startswith("Terminat")}
    latest = seen.of_this[-1] if seen.of_this else None
    if latest is not None and latest.machine in machines and latest.ended is None:
        return replace(here, detail=f"on {latest.machine}, {latest.type} in {latest.zone}, {latest.bought}")
    if latest is not None:
        text = f"attempt {latest.number} has ended: {latest.why or 'the machine was taken away'}"
        here = replace(here, phase=Phase.RECOVERING, cause=Cause.INTERRUPTED, detail=text)
    else:
        here = replace(here, phase=Phase.PROVISIONING)
    if machines:
        return replace(here, detail=here.detail or f"{', '.join(sorted(machines))} is starting")
    if not seen.message:
        return here
    _, cause, meaning = next(row for row in _MESSAGES if row[0] in seen.message)
    text = "\n".join(filter(None, [here.detail, f"{meaning}: {seen.message}"]))
    return replace(here, cause=cause, detail=text)


def _ended(seen: Seen, here: Status, again: str) -> Status:
    assert seen.result is not None
    outcome, reason = seen.result["outcome"], str(seen.result["reason"])
    if outcome == "succeeded":
        return replace(here, phase=Phase.SUCCEEDED)
    if outcome == "stopped" and seen.stop is not None and seen.stop.get("early"):
        return replace(here, phase=Phase.SUCCEEDED, detail="stopped early: its metrics were sufficient")
    if outcome == "stopped":
        hint = f"Resume it with: {again}"
        return replace(here, phase=Phase.CANCELLED, cause=Cause.BY_USER, detail="stopped on request", next_action=hint)
    found = _CAUSED.fullmatch(reason)
    cause = Cause(found["cause"]) if found and found["cause"] in set(Cause) else Cause.UNKNOWN
    detail = found["detail"].strip() if found else reason
    unbegun = cause is Cause.INTERRUPTED and not seen.of_this  # it was its submission that was interrupted
    hint = f"Resume it with: {again}" if unbegun else _hint(cause, again)
    return replace(here, phase=Phase.FAILED, cause=cause, detail=detail, next_action=hint)


def _hint(cause: Cause, again: str) -> str:
    match cause:
        case Cause.TIME_LIMIT:
            return f"Resume it, for the same time again or with a larger launcher.deadline_h: {again}"
        case Cause.BUDGET:
            return f"Resume it, with a larger limits.max_usd: {again}"
        case Cause.QUOTA:
            return f"The disk is full. Try, with a larger launcher.volume_gb: {again}"
        case Cause.USER_CODE | Cause.UNKNOWN:
            return f"See the log for details. Then resume it with: {again}"
        case Cause.INTERRUPTED:
            return f"Try, with launcher.on_demand=true or a larger limits.max_attempts: {again}"
        case _:
            return f"Resume it with: {again}"


def _without_group(seen: Seen, here: Status, now: datetime, again: str) -> Status:
    """Return the status of a run whose machines could not say how it has ended."""
    assert seen.submission is not None
    if seen.stop is not None:
        hint = f"Resume it with: {again}"
        return replace(here, phase=Phase.CANCELLED, cause=Cause.BY_USER, detail="stopped on request", next_action=hint)
    here = replace(here, phase=Phase.FAILED, next_action=f"Resume it with: {again}")
    limit = str(seen.submission.get("limit", "launcher.deadline_h"))
    # only its scheduled action takes a group's maximum down to 0, by AWS's clock, from which this machine's may differ
    ended_on_time = seen.group is not None and seen.group.maximum == 0
    over = ended_on_time or now.timestamp() > float(seen.submission["deadline"]) - 1
    if over and not seen.of_this and not seen.started:
        return replace(
            here,
            cause=Cause.CAPACITY,
            detail=f"no machine could be had before {limit}, and nothing was trained",
            next_action=f"Try, with further launcher.other_types or launcher.on_demand=true: {again}",
            shortage=Shortage(f"no machine could be had before {limit}"),
        )
    if over:
        progress = "the progress is saved" if seen.of_this else "machines have started, and none has reported"
        return replace(
            here,
            cause=Cause.BUDGET if "max_usd" in limit else Cause.TIME_LIMIT,
            detail=f"{limit} was exceeded; {progress}",
            next_action=_hint(Cause.BUDGET if "max_usd" in limit else Cause.TIME_LIMIT, again),
        )
    if seen.of_this:
        return replace(
            here, cause=Cause.UNKNOWN, detail="its group has no machine any more, and none has said why (see the log)"
        )
    if seen.group is not None and seen.group.idle and not seen.started:
        return replace(
            here,
            cause=Cause.INTERRUPTED,
            detail="submitting it was broken off before a machine was asked for",
        )
    return replace(
        here,
        cause=Cause.UNKNOWN,
        detail="no machine has reported in the bucket: submitting it was broken off, or the machine could not reach S3",
    )


def with_console(status: Status, lines: Sequence[str]) -> Status:
    """Return a status with what the machine printed on its console, if it printed anything."""
    if not lines:
        return status
    said = [line.partition("dogbreed: ")[2] for line in lines if "dogbreed: " in line]
    denied = any("AccessDenied" in line or "(403)" in line for line in lines)
    found = _CAUSED.search(said[-1]) if said else None
    cause = Cause(found["cause"]) if found and found["cause"] in set(Cause) else status.cause
    reason = found["detail"] if found else said[-1] if said else ""
    return replace(
        status,
        cause=Cause.PERMISSION if denied else cause,
        detail=f"{_ENDED_ITSELF}{reason}" if said else status.detail,
        log_tail=tuple(lines),
    )


def denied_to_machine(seen: Seen, status: Status) -> bool:
    """Return whether a run failed because its machine was not permitted something, rather than whoever starts it."""
    told = bool(seen.of_this) or status.detail.startswith(_ENDED_ITSELF)
    return status.phase is Phase.FAILED and status.cause is Cause.PERMISSION and told


def usd_of(seen: Seen, now: datetime) -> float | None:
    """Return what the machines, with disk and address, have cost at most, by list prices; None without a price."""
    total = 0.0
    for each, later in zip_longest(seen.attempts, seen.attempts[1:]):
        row = prices.ec2(each.type)
        if row is None:
            return None
        share = prices.spot_range()[1] if each.bought == "spot" else 1.0
        end = each.ended
        if end is None:  # it could not record it, or has not ended: the latest moment that is possible
            latest = later.started if later is not None else _end_of(seen) or now
            end = min(latest, each.ends_at or now)
        usd_per_hour = row.usd * share + each.beside_usd_per_hour
        total += max(0.0, (end - each.started).total_seconds()) / 3600 * usd_per_hour
    return total


def _end_of(seen: Seen) -> datetime | None:
    ended = (seen.result or {}).get("ended")
    return None if ended is None else datetime.fromisoformat(str(ended))
