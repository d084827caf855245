"""Inject faults into the rehearsal cloud: `aws.faults`, as conf/aws/rehearsal.yaml describes them."""

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

FASTEST = 10.0  # rate of the clock
_MOMENT = re.compile(r"(?P<seconds>\d+(?:\.\d+)?)s|(?P<what>epoch|checkpoint|trial) (?P<number>[1-9]\d*)|start")

_AMOUNTS = (
    "reclaims",
    "crashes",
    "no_capacity",
    "throttled",
    "s3_failures",
    "s3_delay_s",
    "log_delay_s",
    "upload_lag_s",
    "start_s",
    "service_s",
    "boot_failures",
)


@dataclass
class Progress:
    """The progress of an attempt, as observed from outside."""

    seconds: float = 0.0
    epoch: int = 0
    checkpoints: int = 0
    trials: int = 0

    def reached(self, moment: str | None) -> bool:
        if moment is None:
            return False
        if moment == "start":
            return True
        found = _MOMENT.fullmatch(moment)
        assert found, moment
        if found["seconds"]:
            return self.seconds >= float(found["seconds"])
        counts = {"epoch": self.epoch, "checkpoint": self.checkpoints, "trial": self.trials}
        return counts[found["what"]] >= int(found["number"])


@dataclass(frozen=True)
class Faults:
    """Faults to inject; none by default. Counts are per session, which is one `aws` object of one process.

    reclaims: how many spot interruptions each job has; reclaim_at: when, one moment for each attempt in turn:
    `12.5s` after its command began, `epoch 2` once the log reports it, `checkpoint 3` once last.ckpt was written that
    often, `trial 4` once the log of a search has reported that many, or `start`; the last one also applies to later
    attempts. In a search the first trial counts as the first epoch. hard: without notice. no_capacity: how many jobs
    find no machine. throttled: how many requests are throttled; s3_failures: how many S3 requests fail with 503;
    s3_delay_s: extra seconds for each S3 request. expires_after: the number of requests after which credentials are
    no longer valid. crash_at: the moment when a node dies, in each of a job's first `crashes` attempts. disk_mb:
    files on a machine cannot grow beyond this. log_delay_s: how late lines are in CloudWatch; upload_lag_s: how late
    files of the checkpoint folder are in S3. quotas: instances that may run at once, by type. no_bucket: a bucket that
    is named is missing; otherwise it is created, in place of one that you have. denied: IAM actions that you may not
    take, as [s3:PutObject]; denied_to_role: those that the job's role may not. no_capacity_of: instance types of which
    no endpoint and no group of EC2 machines finds any. concurrency: how many executions of Lambda functions the account
    may have at once; None leaves it as it is, which is 1,000 at first. start_s: how long an endpoint's instance takes
    until its container starts. service_s: real seconds for which each request keeps one of an endpoint's vCPUs busy; 0:
    as long as this machine needs. clock_rate: how much faster than real time the cloud's clock runs; None leaves it as
    it is.

    Of EC2: `reclaims`, `crashes` and `boot_failures` are of each group of machines, whose faults are those of the
    client that makes it. boot_failures: how many of its machines do not boot. no_capacity_in: zones in which no machine
    is found. rebalance_at: when its first machine gets a rebalance recommendation. clock_skew_s: how far machines'
    clocks are ahead; AWS takes no signature that is more than 15 minutes off. quotas has EC2's own by
    their codes as well, in vCPUs: {L-34B43A08: 0} of standard spot instances.
    """

    reclaims: int = 0
    reclaim_at: Sequence[str] = ("epoch 1",)
    hard: bool = False
    no_capacity: int = 0
    throttled: int = 0
    s3_failures: int = 0
    s3_delay_s: float = 0.0
    expires_after: int | None = None
    crash_at: str | None = None
    crashes: int = 1
    disk_mb: float | None = None
    log_delay_s: float = 0.0
    upload_lag_s: float = 0.4
    quotas: Mapping[str, int] = field(default_factory=dict)
    no_bucket: bool = False
    denied: Sequence[str] = ()
    denied_to_role: Sequence[str] = ()
    no_capacity_of: Sequence[str] = ()
    start_s: float = 0.0
    service_s: float = 0.0
    concurrency: int | None = None
    clock_rate: float | None = None
    boot_failures: int = 0
    no_capacity_in: Sequence[str] = ()
    rebalance_at: str | None = None
    clock_skew_s: float = 0.0

    @classmethod
    def unknown(cls, settings: Mapping[str, Any]) -> str:
        """Return a finding with the unknown keys of `aws.faults`; empty if there are none."""
        known = cls.__dataclass_fields__
        names = ", ".join(sorted(settings.keys() - known.keys()))
        return names and f"Unknown keys in aws.faults: {names}.\nTry: {', '.join(known)}"

    def findings(self) -> Iterator[str]:
        for name in _AMOUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                key = "aws.reclaims" if name == "reclaims" else f"aws.faults.{name}"
                yield f"{key} must be a number of at least 0, got {value!r}.\nTry: leaving it out, or 1"
        for name in ("denied", "denied_to_role"):
            for action in getattr(self, name):
                if not re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", str(action)):
                    yield f"aws.faults.{name}: {action!r} is not an IAM action.\nTry: aws.faults.{name}=[s3:PutObject]"
        if self.concurrency is not None and (isinstance(self.concurrency, bool) or self.concurrency < 1):
            yield f"aws.faults.concurrency must be at least 1, got {self.concurrency!r}.\nTry: leaving it out, or 10"
        if self.clock_rate is not None and not 1 <= self.clock_rate <= FASTEST:
            yield f"aws.clock_rate must be from 1 to {FASTEST:g}, got {self.clock_rate}.\nTry: aws.clock_rate=10"
        moments = [*self.reclaim_at, *(each for each in (self.crash_at, self.rebalance_at) if each)]
        if self.reclaims and not self.reclaim_at:
            yield "aws.faults.reclaim_at is empty.\nTry: [epoch 1]"
        for moment in moments:
            if not _MOMENT.fullmatch(str(moment)):
                yield (
                    f"aws.faults: {moment!r} is not a valid moment.\n"
                    "Try: 12.5s, epoch 2, checkpoint 3, trial 4 or start"
                )

    def to_header(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_header(cls, text: str | None) -> Self:
        return cls(**json.loads(text)) if text else cls()

    def reclaim_moment(self, attempt: int) -> str | None:
        """Return when the spot machines of an attempt (from 1) are interrupted, or None for never."""
        return None if attempt > self.reclaims else self.reclaim_at[min(attempt, len(self.reclaim_at)) - 1]

    def crash_moment(self, attempt: int) -> str | None:
        """Return when a machine of an attempt (from 1) dies, or None for never."""
        return self.crash_at if attempt <= self.crashes else None


class Session:
    """Counts the requests and jobs of one client, for faults that affect only the first ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()

    def among_first(self, most: int, kind: str) -> bool:
        """Count one more of a kind, and return whether it is among the first `most`."""
        with self._lock:
            self._seen[kind] += 1
            return self._seen[kind] <= most
