"""Record what a deployment costs, for `python -m launchers cost` and for `limits.max_usd` of its updates.

Each change ends the record before and begins another one. It is written before the change, with what that costs at
most, so that a command which is killed leaves it behind; and once more when the change has come to its end.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from launchers.aws import bills, s3
from launchers.aws.bills import Bill
from launchers.aws.layout import Layout
from launchers.base import Cloud
from launchers.deploy import limited, rates
from launchers.deploy.rates import Rate
from launchers.deploy.settings import DeploySettings
from launchers.spec import Deployed, RunSpec
from launchers.status import LaunchError

log = logging.getLogger("dogbreed")

_CHANGING = "changing"  # the state of what is written before a change
_EVER = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


class Records:
    """The records of one deployment. Where they cannot be read or written that is a warning: the deployment is well."""

    def __init__(self, cloud: Cloud, layout: Layout, name: str, encryption: Mapping[str, str]) -> None:
        self.cloud, self.layout, self.name, self.encryption = cloud, layout, name, encryption

    @classmethod
    def of(cls, settings: DeploySettings, name: str) -> "Records | None":
        """Return the records of a deployment; None without a bucket."""
        if settings.bucket is None:
            return None
        return cls(settings.cloud, Layout(settings.bucket, settings.prefix), name, s3.encryption(settings.kms_key))

    def begin(self, settings: DeploySettings, spec: RunSpec) -> None:
        """Record that a deployment is created, or changed, now. settings: as they will be in service."""
        now, wanted = datetime.now(UTC), rates.of(settings, spec)
        open_, before = self._open(now), spec.deployment.before if spec.deployment else None
        lives_s = math.inf if settings.ttl_hours is None else limited.lives_s(settings, spec)
        ends_at = now + timedelta(seconds=lives_s) if math.isfinite(lives_s) else None
        life = open_[-1].life if open_ and before is not None else now.isoformat()
        self._end(open_, now, "" if before is not None else "ended")
        if before is None:
            self._write(self._bill(wanted, life, now, ends_at, _CHANGING))
            return
        present, both_s = rates.in_service(before), limited.overlap_s(settings, spec)
        after = now + timedelta(seconds=both_s)
        if both_s:
            self._write(self._bill(present.plus(wanted), life, now, after, _CHANGING))
        self._write(self._bill(present.or_(wanted), life, after, ends_at, _CHANGING))

    def settle(self, settings: DeploySettings, spec: RunSpec, found: Deployed | None, *, changing: bool) -> None:
        """Record what has come of a change. found: what is there now. changing: whether it goes on.

        Does nothing if it was not begun, because the account is not as it must be.
        """
        now = datetime.now(UTC)
        begun = [bill for bill in self._read() if bill.state == _CHANGING and bill.open_at(now)]
        if not begun or changing:
            return
        if found is None:
            self._end(begun, now, "failed")
            return
        self._end(begun, now, "")
        last, before = begun[-1], spec.deployment.before if spec.deployment else None
        back = before is not None and found.revision == before.revision and limited.replaces(settings, spec)
        rate = rates.in_service(found) if back else rates.of(settings, spec)
        self._write(self._bill(rate, last.life, now, last.ends_at, ""))

    def rolled_back(self, began: datetime, before: Deployed, after: Deployed, *, both: bool) -> None:
        """Record a rollback. began: when. both: whether what was and what is in service now ran beside each other."""
        now = datetime.now(UTC)
        open_ = self._open(now)
        if not open_:
            return
        last, present, rate = open_[-1], rates.in_service(before), rates.in_service(after)
        self._end(open_, began, "")
        during = present.plus(rate) if both else present.or_(rate)
        self._write(replace(self._bill(during, last.life, began, last.ends_at, ""), ended=now))
        self._write(self._bill(rate, last.life, now, last.ends_at, ""))

    def end(self) -> None:
        """Record that a deployment has ended now, if its record is open."""
        now = datetime.now(UTC)
        self._end(self._open(now), now, "ended")

    def spent_usd(self, now: datetime) -> float | None:
        """Return what the deployment has cost since its creation, at most; None if that is not known.

        Raises LaunchError if its records cannot be read.
        """
        found = bills.of_deployment(self.cloud, self.layout, self.name)
        amounts = [bill.usd(now, *_EVER) for bill in found if bill.life == found[-1].life]
        known = [amount for amount in amounts if amount is not None]
        return sum(known) if found and len(known) == len(amounts) else None

    # --- one by one ---

    def _read(self) -> list[Bill]:
        try:
            return bills.of_deployment(self.cloud, self.layout, self.name)
        except LaunchError as error:
            log.warning("%s", error)
            return []

    def _open(self, now: datetime) -> list[Bill]:
        return [bill for bill in self._read() if bill.open_at(now)]

    def _bill(self, rate: Rate, life: str, started: datetime, ends_at: datetime | None, state: str) -> Bill:
        key = bills.key_of_deployment(self.layout, self.name, started)
        return Bill(
            self.name,
            "deploy",
            key,
            rate.most,
            started,
            ends_at=ends_at,
            state=state,
            least_usd_per_hour=rate.least,
            life=life,
        )

    def _end(self, found: list[Bill], now: datetime, state: str) -> None:
        """End open records. One that was to begin later has cost nothing."""
        for bill in found:
            self._write(replace(bill, ended=max(now, bill.started or now), state=state))

    def _write(self, bill: Bill) -> None:
        try:
            bills.write(self.cloud, self.layout, bill, self.encryption)
        except LaunchError as error:
            log.warning("%s", error)
