"""The records of what a deployment costs: through its creation, updates, rollbacks and failures."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from launchers.aws import bills
from launchers.aws.bills import Bill
from launchers.aws.layout import Layout
from launchers.deploy import records, request
from launchers.deploy.launcher import DeployLauncher
from launchers.deploy.on_lambda import request as function_request
from launchers.deploy.records import Records
from launchers.deploy.scaling import Report
from launchers.spec import Deployed, RunSpec
from tests.support import deployments

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
EVER = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
ONE = 0.107  # US dollars an hour: ml.c7i.large


class Ledger(Records):
    """Records of a deployment `dogs` on a clock of the test's, kept in a dictionary."""

    def __init__(self) -> None:
        super().__init__(deployments.launcher().cloud, Layout("my-bucket", "dogbreed"), "dogs", {})
        self.now, self.kept = NOON, dict[str, Bill]()

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)

    def rows(self) -> list[tuple[float, float | None, str]]:
        """Return hours, dollars at most and state of each that has cost anything, the oldest first."""
        found = [(bill.hours(self.now, *EVER), bill.usd(self.now, *EVER), bill.state) for bill in self._read()]
        return [
            (round(hours, 3), None if usd is None else round(usd, 4), state) for hours, usd, state in found if hours
        ]


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    made = Ledger()

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return made.now

    def write(cloud: Any, layout: Any, bill: Bill, encryption: Mapping[str, str]) -> None:
        made.kept[bill.key] = bill

    monkeypatch.setattr(records, "datetime", Clock)
    monkeypatch.setattr(bills, "write", write)
    monkeypatch.setattr(bills, "of_deployment", lambda *args: [made.kept[key] for key in sorted(made.kept)])
    return made


def changed(spec: RunSpec, before: Deployed | None) -> RunSpec:
    assert spec.deployment is not None
    return replace(spec, deployment=replace(spec.deployment, before=before))


def found(settings: DeployLauncher, spec: RunSpec) -> Deployed:
    return Deployed(
        request.revision(settings, spec), request.wanted_facts(settings, spec), scaling=str(settings.scaled or "")
    )


SPEC, LAUNCHER = deployments.spec(), deployments.launcher(ttl_hours=8)


def created(ledger: Ledger, launcher: DeployLauncher = LAUNCHER) -> Deployed:
    """Create a deployment, which takes six minutes, and run it for an hour in all."""
    ledger.begin(launcher, SPEC)
    ledger.later(minutes=6)
    there = found(launcher, SPEC)
    ledger.settle(launcher, SPEC, there, changing=False)
    ledger.later(minutes=54)
    return there


def test_a_deployment_costs_from_its_creation_to_its_end(ledger: Ledger) -> None:
    created(ledger)
    assert ledger.spent_usd(ledger.now) == pytest.approx(ONE)
    ledger.end()
    ledger.later(hours=5)
    assert ledger.rows() == [(0.1, 0.0107, ""), (0.9, 0.0963, "ended")]


def test_a_creation_that_fails_leaves_what_it_has_cost(ledger: Ledger) -> None:
    ledger.begin(LAUNCHER, SPEC)
    ledger.later(minutes=30)
    ledger.settle(LAUNCHER, SPEC, None, changing=False)
    ledger.later(hours=5)
    assert ledger.rows() == [(0.5, 0.0535, "failed")]
    created(ledger)  # the next one has a life of its own
    assert ledger.spent_usd(ledger.now) == pytest.approx(ONE)


def test_an_account_that_is_not_as_it_must_be_leaves_nothing(ledger: Ledger) -> None:
    ledger.settle(LAUNCHER, SPEC, None, changing=False)
    assert not ledger.kept


def test_a_client_that_is_killed_leaves_what_the_creation_costs_at_most(ledger: Ledger) -> None:
    ledger.begin(LAUNCHER, SPEC)
    ledger.later(hours=20)
    assert ledger.rows() == [(8.0, 0.856, "changing")]  # until its schedules have ended it


def test_an_update_costs_both_fleets_and_counts_on(ledger: Ledger) -> None:
    before = created(ledger)
    three = replace(LAUNCHER, instances=3)
    ledger.begin(three, changed(SPEC, before))
    ledger.later(minutes=12)
    ledger.settle(three, changed(SPEC, before), found(three, SPEC), changing=False)
    ledger.later(hours=1)
    assert [usd for _, usd, _ in ledger.rows()[2:]] == [round(0.2 * 4 * ONE, 4), round(3 * ONE, 4)]
    assert ledger.spent_usd(ledger.now) == pytest.approx((1 + 0.2 * 4 + 3) * ONE)


def test_an_update_that_is_rolled_back_costs_as_before_afterwards(ledger: Ledger) -> None:
    before = created(ledger)
    three = replace(LAUNCHER, instances=3)
    ledger.begin(three, changed(SPEC, before))
    ledger.later(minutes=12)
    ledger.settle(three, changed(SPEC, before), before, changing=False)
    ledger.later(hours=1)
    assert ledger.rows()[-1] == (1.0, ONE, "")


def test_an_update_of_a_function_that_fails_its_test_costs_as_before_afterwards(ledger: Ledger) -> None:
    small, large = (deployments.launcher(variant="lambda", reserved=2, memory_mb=mb) for mb in (2048, 4096))

    def there(settings: DeployLauncher) -> Deployed:
        facts = function_request.wanted_facts(settings, SPEC)
        return Deployed(function_request.revision(settings, SPEC), facts, ttl_hours=8, variant="lambda")

    ledger.begin(small, SPEC)
    ledger.settle(small, SPEC, there(small), changing=False)
    present = next(bill.usd_per_hour for bill in ledger.kept.values() if bill.open_at(ledger.now))
    ledger.later(hours=1)
    ledger.begin(large, changed(SPEC, there(small)))
    ledger.later(minutes=3)
    ledger.settle(large, changed(SPEC, there(small)), there(small), changing=False)
    (last,) = (bill for bill in ledger.kept.values() if bill.open_at(ledger.now))
    assert last.usd_per_hour == pytest.approx(present)


def test_a_change_that_leaves_the_end_where_it_is_is_recorded_with_that_end(ledger: Ledger) -> None:
    created(ledger)
    ends = NOON + timedelta(hours=8)
    before = replace(found(LAUNCHER, SPEC), expires_at=ends.isoformat(), ttl_hours=8)
    later = replace(changed(SPEC, before), created_at=ledger.now.isoformat())
    ledger.begin(replace(LAUNCHER, alarm_topic="arn:aws:sns:eu-west-1:123456789012:alarms"), later)
    (last,) = (bill for bill in ledger.kept.values() if bill.open_at(ledger.now))
    assert last.ends_at == ends
    gone = replace(later, deployment=replace(later.deployment, before=replace(before, expires_at="")))
    ledger.begin(LAUNCHER, gone)  # its schedule was deleted by hand
    assert [bill.ends_at for bill in ledger.kept.values() if bill.open_at(ledger.now)] == [None]


def test_an_update_that_nobody_waits_for_costs_both_fleets_as_long_as_it_may_take(ledger: Ledger) -> None:
    before = created(ledger)
    three = replace(LAUNCHER, instances=3)
    ledger.begin(three, changed(SPEC, before))
    ledger.settle(three, changed(SPEC, before), before, changing=True)
    ledger.later(hours=2)
    both_h = (1800 + 300 + 3 * 300) / 3600  # of three instances one is replaced first
    assert [usd for _, usd, _ in ledger.rows()[2:]] == [round(both_h * 4 * ONE, 4), round((2 - both_h) * 3 * ONE, 4)]


def test_a_rollback_changes_the_rate(ledger: Ledger) -> None:
    now, spec = created(ledger, replace(LAUNCHER, instances=3)), SPEC
    began = ledger.now
    ledger.later(minutes=12)
    ledger.rolled_back(began, now, found(LAUNCHER, spec), both=True)
    ledger.later(hours=1)
    assert ledger.rows()[2:] == [(0.2, round(0.2 * 4 * ONE, 4), ""), (1.0, ONE, "")]


def test_what_scales_has_a_least_and_a_most(ledger: Ledger) -> None:
    created(ledger, replace(LAUNCHER, scaling=Report(1, 3)))
    (last,) = (bill for bill in ledger.kept.values() if bill.open_at(ledger.now))
    assert (last.least_usd_per_hour, last.usd_per_hour) == (pytest.approx(0.102), pytest.approx(3 * ONE))


def test_a_function_without_a_limit_has_no_most_and_an_update_cannot_count_it(ledger: Ledger) -> None:
    created(ledger, replace(LAUNCHER, front="lambda"))
    assert ledger.spent_usd(ledger.now) is None
    ledger.kept.clear()
    assert ledger.spent_usd(ledger.now) is None  # nor what has no records
