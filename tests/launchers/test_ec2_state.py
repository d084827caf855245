"""How a run on EC2 is, from what its machines wrote and from its group."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from launchers.aws.layout import Layout
from launchers.ec2 import state
from launchers.ec2.groups import Activity, Group, has_started, why_none
from launchers.ec2.state import Attempt, Seen
from launchers.ec2.summary import live_lines
from launchers.status import Cause, Phase
from tests.support.ec2_plans import launched

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SUBMISSION = {
    "number": 2, "plan": "p", "deadline": (NOW + timedelta(hours=1)).timestamp(), "features": None, "encryption": {}
}  # fmt: skip
GROUP = Group("dogbreed-r--2", 1, 1, (), {}, NOW, deleting=False)
WITH_MACHINE = replace(GROUP, machines=(("i-0123456789abcdef0", "InService"),))
IDLE = replace(GROUP, desired=0)
AGAIN = "python train.py resume=ec2://eu-west-1/r"


def attempt(number: int, **more: Any) -> Attempt:
    fields = {
        "attempt": number, "submission": 2, "machine": "i-0123456789abcdef0", "type": "m5.large",
        "zone": "eu-west-1a", "bought": "spot", "started": "2026-11-24T11:00:00+00:00", "ended": None, "why": None,
    }  # fmt: skip
    return Attempt.of({**fields, **more})


def result(outcome: str, reason: str = "") -> dict[str, Any]:
    return {"submission": 2, "attempt": 3, "outcome": outcome, "reason": reason, "ended": "2026-11-24T11:30:00+00:00"}


def seen(**parts: Any) -> Seen:
    return Seen(Layout("b", "dogbreed"), "r", SUBMISSION, "2026-11-24T10:00:00+00:00", **parts)


@pytest.mark.parametrize(
    ("found", "phase", "cause"),
    [
        (seen(group=GROUP), Phase.PROVISIONING, Cause.NONE),
        (seen(group=WITH_MACHINE), Phase.PROVISIONING, Cause.NONE),
        (seen(group=WITH_MACHINE, attempts=(attempt(3),)), Phase.RUNNING, Cause.NONE),
        (seen(group=GROUP, attempts=(attempt(3),)), Phase.RECOVERING, Cause.INTERRUPTED),
        (seen(group=WITH_MACHINE, attempts=(attempt(3, machine="i-0aaaaaaaa"),)), Phase.RECOVERING, Cause.INTERRUPTED),
        # attempts of an earlier submission say nothing of this one
        (seen(group=WITH_MACHINE, attempts=(attempt(2, submission=1),)), Phase.PROVISIONING, Cause.NONE),
        (seen(group=GROUP, message="VcpuLimitExceeded: ..."), Phase.PROVISIONING, Cause.QUOTA),
        (seen(group=GROUP, message="There is no Spot capacity available"), Phase.PROVISIONING, Cause.CAPACITY),
        (seen(group=GROUP, attempts=(attempt(3),), message="no Spot capacity"), Phase.RECOVERING, Cause.CAPACITY),
        (seen(group=WITH_MACHINE, attempts=(attempt(3),), stop={"early": False}), Phase.STOPPING, Cause.BY_USER),
        (seen(group=IDLE, stop={"early": False}), Phase.CANCELLED, Cause.BY_USER),
        (seen(stop={"early": False}), Phase.CANCELLED, Cause.BY_USER),
        (seen(group=replace(WITH_MACHINE, desired=0), attempts=(attempt(3),)), Phase.STOPPING, Cause.TIME_LIMIT),
        (seen(group=IDLE), Phase.FAILED, Cause.INTERRUPTED),
        (seen(group=IDLE, started=True), Phase.FAILED, Cause.UNKNOWN),
        (seen(), Phase.FAILED, Cause.UNKNOWN),
        (seen(group=IDLE, attempts=(attempt(3),)), Phase.FAILED, Cause.UNKNOWN),
        (seen(group=WITH_MACHINE, result=result("succeeded")), Phase.SUCCEEDED, Cause.NONE),
        (seen(result=result("stopped")), Phase.CANCELLED, Cause.BY_USER),
        (seen(result=result("stopped"), stop={"early": True}), Phase.SUCCEEDED, Cause.NONE),
        (seen(result=result("failed", "[user_code] it broke")), Phase.FAILED, Cause.USER_CODE),
        (seen(result=result("failed", "[no such cause] x")), Phase.FAILED, Cause.UNKNOWN),
        (seen(result=result("failed", "")), Phase.FAILED, Cause.UNKNOWN),
    ],
)
def test_a_run_s_phase_and_cause(found: Seen, phase: Phase, cause: Cause) -> None:
    status = state.status_of(found, NOW, AGAIN)
    assert (status.phase, status.cause) == (phase, cause)
    if phase in (Phase.FAILED, Phase.CANCELLED):
        assert AGAIN in status.next_action
    if phase is Phase.FAILED and cause is not Cause.UNKNOWN:
        assert status.detail


def test_after_the_deadline_a_run_without_any_machine_lacked_capacity_and_another_lacked_time() -> None:
    later = NOW + timedelta(hours=2)
    never = state.status_of(seen(group=IDLE), later, AGAIN)
    assert (never.phase, never.cause) == (Phase.FAILED, Cause.CAPACITY)
    assert never.shortage is not None
    stopped = state.status_of(seen(group=IDLE, attempts=(attempt(3),)), later, AGAIN)
    assert (stopped.phase, stopped.cause, stopped.shortage) == (Phase.FAILED, Cause.TIME_LIMIT, None)


def test_a_run_whose_machines_started_and_never_reported_lacked_no_capacity() -> None:
    status = state.status_of(seen(group=IDLE, started=True), NOW + timedelta(hours=2), AGAIN)
    assert (status.cause, status.shortage) == (Cause.TIME_LIMIT, None)
    assert "machines have started, and none has reported" in status.detail
    failed = Activity("Failed", "no Spot capacity", "Launching a new EC2 instance.  Status Reason: no Spot capacity")
    assert has_started([failed, Activity("Successful", "", "Launching a new EC2 instance: i-0123456789abcdef0")])
    assert not has_started([failed])
    unhealthy = "Launching a new EC2 instance: i-0123456789abcdef0.  Status Reason: Instance became unhealthy"
    assert has_started([Activity("Failed", "Instance became unhealthy", unhealthy)])


def test_a_submission_that_was_broken_off_says_so_before_and_after_it_is_cancelled() -> None:
    before = state.status_of(seen(group=IDLE), NOW, AGAIN)
    assert before.detail == "submitting it was broken off before a machine was asked for"
    assert before.next_action == f"Resume it with: {AGAIN}"
    recorded = {**result("failed", f"[{before.cause}] {before.detail}"), "attempt": None}  # as `cancel` does
    after = state.status_of(seen(result=recorded), NOW, AGAIN)
    assert (after.cause, after.detail, after.next_action) == (Cause.INTERRUPTED, before.detail, before.next_action)
    other = result("failed", "[interrupted] limits.max_attempts=4 attempts were interrupted")
    assert "limits.max_attempts" in state.status_of(seen(result=other, attempts=(attempt(3),)), NOW, AGAIN).next_action


def test_a_group_that_its_scheduled_action_has_ended_tells_so_to_a_machine_whose_clock_is_late() -> None:
    ended = replace(IDLE, maximum=0)
    assert state.status_of(seen(group=ended), NOW, AGAIN).cause is Cause.CAPACITY
    assert state.status_of(seen(group=ended, attempts=(attempt(3),)), NOW, AGAIN).cause is Cause.TIME_LIMIT


def test_what_a_machine_said_on_its_console_is_the_reason_of_a_run_that_wrote_nothing() -> None:
    status = state.status_of(seen(group=IDLE), NOW, AGAIN)
    lines = ["boot", "botocore ... (403) AccessDenied", "dogbreed: the code cannot be fetched from s3://b/x"]
    shown = state.with_console(status, lines)
    assert shown.cause is Cause.PERMISSION
    assert shown.detail == "the machine ended itself: the code cannot be fetched from s3://b/x"
    assert state.with_console(status, ()) == status


def test_the_console_of_a_machine_tells_no_permission_by_a_time_and_no_reason_by_the_interpreter() -> None:
    status = state.status_of(seen(group=IDLE), NOW, AGAIN)
    lines = [
        "[   12.403] boot",
        "Python 3.12.3 in /opt/x",
        "dogbreed: No attempt: failed, [bad_config] s3://b/k is not",
    ]
    shown = state.with_console(status, lines)
    assert (shown.cause, shown.detail) == (Cause.BAD_CONFIG, "the machine ended itself: s3://b/k is not")
    assert state.with_console(status, lines[:2]).detail == status.detail


def test_the_cost_counts_every_attempt_once_and_no_time_without_a_machine() -> None:
    ended = attempt(1, ended="2026-11-24T11:30:00+00:00", bought="on-demand")
    lost = attempt(2, started="2026-11-24T11:40:00+00:00", bought="on-demand")  # until the next one began, at most
    now = attempt(3, started="2026-11-24T11:50:00+00:00", bought="on-demand")
    usd = state.status_of(seen(group=WITH_MACHINE, attempts=(ended, lost, now)), NOW).usd
    assert usd == pytest.approx(0.096 * (30 + 10 + 10) / 60)
    assert state.status_of(seen(attempts=(attempt(1, type="x9.large"),)), NOW).usd is None


def test_a_machine_that_could_not_record_its_end_costs_until_its_group_has_ended_it_at_most() -> None:
    ends_at = "2026-11-24T11:30:00+00:00"
    lost = attempt(3, ends_at=ends_at, bought="on-demand", beside_usd_per_hour=0.004)
    later = NOW + timedelta(days=30)
    assert state.usd_of(seen(attempts=(lost,)), later) == pytest.approx(0.1 / 2)
    late = {**result("failed"), "ended": later.isoformat()}  # as whoever asked for the result has written it
    assert state.usd_of(seen(attempts=(lost,), result=late), later) == pytest.approx(0.1 / 2)
    early = {**result("failed"), "ended": "2026-11-24T11:15:00+00:00"}
    assert state.usd_of(seen(attempts=(lost,), result=early), later) == pytest.approx(0.1 / 4)
    following = attempt(4, started=later.isoformat(), ended=later.isoformat())
    assert state.usd_of(seen(attempts=(lost, following)), later) == pytest.approx(0.1 / 2)
    assert state.usd_of(seen(attempts=(lost,)), NOW - timedelta(minutes=45)) == pytest.approx(0.1 / 4)


def test_a_group_of_another_run_of_the_same_name_is_not_this_run_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def group(bucket: str) -> Group | None:
        found = replace(WITH_MACHINE, tags={"dogbreed:files": f"s3://{bucket}/dogbreed/runs/r"})
        monkeypatch.setattr(state.groups, "describe", lambda cloud, name: found)
        cloud: Any = None
        return state.read(cloud, Layout("b", "dogbreed"), "r").group

    written = {"submissions/2.json": SUBMISSION}
    monkeypatch.setattr(state.s3, "objects", lambda cloud, uri: [("2.json", NOW)] if "submissions" in uri else [])
    monkeypatch.setattr(state, "_json", lambda cloud, uri: written.get(uri.partition("/r/")[2]))
    assert group("b") is not None
    assert group("another") is None


def test_only_the_newest_activity_of_a_group_tells_why_it_has_no_machine() -> None:
    failed, done = Activity("Failed", "no capacity", ""), Activity("Successful", "", "")
    assert why_none([failed, done]) == "no capacity"
    assert why_none([done, failed]) == ""
    assert why_none([]) == ""


def test_spot_that_hardly_saves_is_said_to() -> None:
    lines = live_lines(launched("ec2"), {("m5.large", "a"): 0.03, ("m5.large", "b"): 0.095, ("x9.large", "a"): 1.0})
    assert lines[0] == "m5.large in a: $0.03 an hour, 69% below on demand"
    assert "1% below on demand: hardly worth the interruptions" in lines[1]
    assert lines[2] == "x9.large in a: $1.00 an hour"
    assert live_lines(launched("ec2"), {}) == ["AWS lists no spot price for m5.large"]
