"""limits.max_usd and limits.max_hours: what a plan asks the cloud for, and when it refuses, with the arithmetic."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogbreed.errors import ConfigError
from launchers import prepare
from launchers.cost import limits, prices
from launchers.cost.limits import Limits, Overhead
from launchers.deploy.limited import fit as fit_deployment
from launchers.ec2 import fitting as ec2_fitting
from launchers.plan import Plan
from launchers.sagemaker import fitting, tuning_limits
from launchers.status import Cause, LaunchError
from tests.support import deployments, ec2_plans, plans
from tests.support.plans import COMMANDS

G4DN = 0.7364  # US dollars an hour
ENDING_S = 180


def planned(*words: str, of: str = "gpu") -> Plan:
    return prepare([*COMMANDS[of], *words, "run_id=20261124-120000-abcd", "hydra.run.dir=/runs/abcd"])[1]


def job_of(plan: Plan) -> Mapping[str, Any]:
    return plan.requests[-1].parameters


def times_of(plan: Plan) -> Mapping[str, int]:
    times: Mapping[str, int] = job_of(plan)["StoppingCondition"]
    return times


def test_five_cents_on_a_gpu_are_at_most_244_s_with_saving_and_ending() -> None:
    plan = planned("limits.max_usd=0.05")
    run_s = times_of(plan)["MaxRuntimeInSeconds"]
    assert run_s == 64 == int(0.05 / G4DN * 3600) - ENDING_S
    rows = dict(plan.rows)
    assert rows["time"].splitlines()[0] == "at most 64 s (limits.max_usd=0.05)"
    assert "about 4 min are expected, so the limit will probably end it before" in rows["time"]
    assert "$0.0499 at worst" in rows["cost"]
    assert "(64 s + 180 s to save and end) x $0.736 an hour = $0.0499;" in rows["limit"]
    assert {"Key": "dogbreed:limit", "Value": "limits.max_usd=0.05"} in job_of(plan)["Tags"]


def test_a_spot_job_waits_as_long_as_before_and_five_machines_run_a_fifth_as_long() -> None:
    usual, limited = times_of(planned(of="spot")), times_of(planned("limits.max_usd=0.1", of="spot"))
    run_s = int(0.1 / 0.115 * 3600) - ENDING_S
    assert limited["MaxRuntimeInSeconds"] == run_s
    waits = usual["MaxWaitTimeInSeconds"] - usual["MaxRuntimeInSeconds"]
    assert limited["MaxWaitTimeInSeconds"] == run_s + waits
    several = planned("launcher.instance_type=ml.m5.large", "launcher.instances=5", "limits.max_usd=0.1")
    assert times_of(several)["MaxRuntimeInSeconds"] == int(0.1 / (5 * 0.115) * 3600) - ENDING_S


def test_hours_limit_a_job_and_its_wait_and_the_tighter_limit_is_named() -> None:
    limited = planned("limits.max_hours=2", of="spot")
    assert times_of(limited) == {"MaxRuntimeInSeconds": 7200 - ENDING_S, "MaxWaitTimeInSeconds": 7200 - ENDING_S}
    both = planned("limits.max_hours=1", "limits.max_usd=0.7")
    assert times_of(both)["MaxRuntimeInSeconds"] == int(0.7 / G4DN * 3600) - ENDING_S
    assert "(limits.max_usd=0.7)" in dict(both.rows)["time"]


def test_a_generous_limit_changes_nothing() -> None:
    usual, limited = planned(), planned("limits.max_usd=50", "limits.max_hours=24")
    assert times_of(usual) == times_of(limited)
    assert "dogbreed:limit" not in str(job_of(limited)["Tags"])
    assert "limit" in dict(limited.rows)


def test_kept_machines_are_part_of_the_worst_case() -> None:
    plan = planned("limits.max_usd=0.5", "launcher.keep_alive_s=600")
    run_s = times_of(plan)["MaxRuntimeInSeconds"]
    assert run_s == int(0.5 / G4DN * 3600) - ENDING_S - 600
    assert job_of(plan)["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 600
    kept = dict(plan.rows)["kept"]
    assert "10 min for the next job, which then starts in seconds: up to $0.123," in kept
    assert "The quota `ml.g4dn.xlarge for training warm pool usage` is 0 by default" in kept
    assert "s to save and end + 600 s kept) x" in dict(plan.rows)["limit"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["limits.max_usd=0"], "limits.max_usd must be a number above 0, or null, got 0."),
        (["limits.max_usd=-3"], "limits.max_usd must be a number above 0, or null, got -3."),
        (["limits.max_usd=cheap"], "limits.max_usd must be a number above 0, or null, got 'cheap'."),
        (["limits.max_usd=inf"], "limits.max_usd must be a number above 0, or null, got inf."),
        (["limits.max_hours=0"], "limits.max_hours must be a number above 0, or null, got 0."),
        (["limits.max_attempts=0"], "limits.max_attempts must be a whole number of at least 1, got 0."),
        (
            ["limits.max_usd=0.01"],
            "limits.max_usd=0.01 is not enough for ml.g4dn.xlarge. At $0.736 an hour\nit buys 49 s, and "
            "60 s go to starting and 180 s to saving and ending: $0.0491.\nTry: limits.max_usd=0.05",
        ),
        (
            ["limits.max_usd=0.1", "launcher.keep_alive_s=3600"],
            "180 s to saving and ending and 3600 s to keeping the machine (launcher.keep_alive_s): $0.785.\n"
            "Try: limits.max_usd=0.79",
        ),
        (["limits.max_hours=0.05"], "limits.max_hours=0.05 is 3.0 min, and 60 s go to starting and 180 s to saving"),
        (
            ["limits.max_usd=5", "launcher.instance_type=ml.g7.2xlarge"],
            "limits.max_usd=5 cannot be held: launchers/cost/prices.yaml has no price for ml.g7.2xlarge.",
        ),
        (["launcher.keep_alive_s=0"], "launcher.keep_alive_s must be between 1 and 3600 seconds, or null, got 0."),
        (
            ["launcher.keep_alive_s=7200"],
            "launcher.keep_alive_s must be between 1 and 3600 seconds, or null, got 7200.",
        ),
        (["limits.max_dollars=5"], "max_dollars"),
    ],
)
def test_a_limit_that_cannot_be_held_is_refused_in_one_message(words: list[str], said: str) -> None:
    with pytest.raises(Exception, match=r"Try: |max_dollars") as error:
        planned(*words)
    assert said in str(error.value)
    assert "problems found" not in str(error.value)


def test_spot_machines_are_not_kept() -> None:
    with pytest.raises(ConfigError, match="keeps machines on demand, and SageMaker refuses it for spot jobs"):
        planned("launcher.keep_alive_s=600", of="spot")


@given(
    usd=st.floats(0.001, 1e4),
    rate=st.floats(0.01, 100),
    start_s=st.floats(10, 600),
    ending_s=st.floats(0, 600),
    kept_s=st.floats(0, 3600),
    spent=st.floats(0, 100),
)
def test_what_fits_never_costs_more_and_what_does_not_is_refused_with_an_amount_that_fits(
    usd: float, rate: float, start_s: float, ending_s: float, kept_s: float, spent: float
) -> None:
    asked, costs = Limits(max_usd=usd), Overhead(start_s, ending_s, kept_s)
    refused = list(limits.fit_findings(asked, "machines", rate, costs, spent_usd=spent))
    bound = asked.less(spent).bound(rate, costs)
    assert bound is not None
    if not refused:
        assert spent + (max(0, bound.seconds) + ending_s + kept_s) / 3600 * rate <= usd
        assert bound.seconds >= start_s - 1
    else:
        enough = float(refused[0].rpartition("limits.max_usd=")[2])
        assert not list(limits.fit_findings(Limits(max_usd=enough), "machines", rate, costs, spent_usd=spent))
        assert enough <= 1.2 * (spent + costs.least_s / 3600 * rate)


# --- what earlier jobs have spent ---


def test_a_further_job_gets_what_is_left() -> None:
    create = job_of(planned("limits.max_usd=0.5", of="spot"))
    asked = Limits(max_usd=0.5)
    shorter = fitting.less_spent(create, asked, 0.3)
    before, after = create["StoppingCondition"], shorter["StoppingCondition"]
    assert after["MaxRuntimeInSeconds"] == int(0.2 / 0.115 * 3600) - ENDING_S
    waits = before["MaxWaitTimeInSeconds"] - before["MaxRuntimeInSeconds"]
    assert after["MaxWaitTimeInSeconds"] - after["MaxRuntimeInSeconds"] == waits
    assert {key: value for key, value in shorter.items() if key != "StoppingCondition"} == {
        key: value for key, value in create.items() if key != "StoppingCondition"
    }
    assert fitting.less_spent(create, replace(asked, max_usd=5000), 0.3) == create


def test_what_is_spent_is_refused_with_what_it_was() -> None:
    create = job_of(planned("limits.max_usd=0.5", of="spot"))
    with pytest.raises(LaunchError, match="Earlier jobs of the run have cost") as error:
        fitting.less_spent(create, Limits(max_usd=0.5), 0.4999)
    assert error.value.cause is Cause.BUDGET
    assert "what is left buys" in str(error.value)
    assert str(error.value).endswith("Try: limits.max_usd=0.5076")


# --- the other launchers ---

M5 = 0.096 + 100 * 0.08 / 730 + 0.005  # US dollars an hour: EC2's m5.large with 100 GB and an address


def on_ec2(**asked: Any) -> Plan:
    plan = ec2_plans.planned("ec2")
    spec = replace(plan.spec, config={**plan.spec.config, "limits": {"max_attempts": 10, **asked}})
    return ec2_plans.launched("ec2").plan(spec)


def test_on_ec2_the_limit_is_the_deadline_of_the_group_with_ten_minutes_to_end() -> None:
    plan = on_ec2(max_usd=0.2)
    deadline_s = int(0.2 / M5 * 3600) - 600
    (action,) = (each for each in plan.requests if each.operation == "PutScheduledUpdateGroupAction")
    assert action.parameters["StartTime"] == f"<{deadline_s / 3600:g} h after submission>"
    rows = dict(plan.rows)
    assert "at most 97 min (limits.max_usd=0.2), waiting and interruptions included" in rows["time"]
    assert plan.costs is not None
    assert 0.1999 < plan.costs.worst_usd <= 0.2
    assert "$0.2 at worst" in rows["cost"]
    generous = on_ec2(max_usd=50)
    assert generous.requests == on_ec2().requests
    assert dict(generous.rows)["time"] == dict(on_ec2().rows)["time"]


def test_on_ec2_what_is_too_little_is_refused_and_a_further_submission_gets_what_is_left() -> None:
    with pytest.raises(ConfigError, match=r"limits\.max_usd=0\.01 is not enough for m5\.large\. At \$0\.112 an hour"):
        on_ec2(max_usd=0.01)
    launcher, spec = ec2_plans.launched("ec2"), on_ec2(max_usd=0.2).spec
    left = ec2_fitting.fit(launcher, spec, spent_usd=0.1)
    assert left.deadline_h == pytest.approx(0.1 / M5 - 600 / 3600, abs=1e-3)
    with pytest.raises(LaunchError, match="Earlier jobs of the run have cost") as error:
        ec2_fitting.fit(launcher, spec, spent_usd=0.19)
    assert error.value.cause is Cause.BUDGET


def test_a_deployment_ends_in_time_for_its_limit() -> None:
    launcher = deployments.launcher(ttl_hours=None)
    spec = replace(deployments.spec(), config={"limits": {"max_usd": 1.0}})
    plan = launcher.plan(spec)
    hours = fit_deployment(launcher, spec).ttl_hours
    assert hours == pytest.approx(1.0 / 0.107 - 300 / 3600, abs=1e-3)
    (schedule,) = (
        each.parameters["ScheduleExpression"]
        for each in plan.requests
        if each.operation == "CreateSchedule" and each.parameters["Name"].endswith("expiry-endpoint")
    )
    assert schedule == "at(2026-11-24T21:15:44)"
    assert plan.costs is not None
    assert 0.999 < plan.costs.worst_usd <= 1.0
    assert "(9.3 h + 5.0 min to end) x $0.107 an hour\n= $1 at worst, 1 x ml.c7i.large;" in dict(plan.rows)["limit"]
    with pytest.raises(ConfigError, match=r"limits\.max_usd=0\.01 is not enough for 1 x ml\.c7i\.large"):
        launcher.plan(replace(spec, config={"limits": {"max_usd": 0.01}}))


# By hand: a front of 256 MB on arm64 is 3,636 x 0.25 x 0.0000133334 + 0.0072 = $0.01932 an hour for each request at
# once, 3 are $0.05796; with ml.c7i.large, $0.165. A function of 1,769 MB is $0.11189, 3 are $0.33567.


def test_the_requests_of_a_function_are_in_the_limit() -> None:
    capped = replace(deployments.spec(), config={"limits": {"max_usd": 1.0}})
    fronted = deployments.launcher(ttl_hours=None, front="lambda", reserved=3)
    assert fit_deployment(fronted, capped).ttl_hours == pytest.approx(1 / 0.16496 - 300 / 3600, abs=1e-3)
    row = dict(fronted.plan(capped).rows)["limit"]
    assert "(6.0 h + 5.0 min to end) x $0.165 an hour\n= $1 at worst, 3 requests at once all the time ($0.058" in row
    inside = deployments.launcher(variant="lambda", reserved=3)
    assert fit_deployment(inside, capped).ttl_hours == pytest.approx(1 / 0.33567 - 300 / 3600, abs=1e-3)
    plan = inside.plan(capped)
    assert plan.costs is not None
    assert 0.999 < plan.costs.worst_usd <= 1.0
    for settings in ({"front": "lambda"}, {"variant": "lambda"}):
        with pytest.raises(ConfigError, match="as many requests at once as the account allows") as error:
            deployments.launcher(**settings).plan(capped)
        assert str(error.value).endswith("Try: launcher.reserved=3, or limits.max_hours=8")
        deployments.launcher(**settings, reserved=3).plan(capped)
    with pytest.raises(ConfigError, match=r"is not enough for a function of 3 requests at once\. At \$0\.336 an hour"):
        inside.plan(replace(capped, config={"limits": {"max_usd": 0.02}}))


def updated(usd: float, spent_usd: float | None, *, hours: float = 9.0, **settings: Any) -> Plan:
    """Return the plan of a deployment that is there already, with one ml.c7i.large, for `hours` more."""
    wanted = deployments.launcher(ttl_hours=None, **settings)
    spec = replace(deployments.spec(), config={"limits": {"max_usd": usd}})
    ends = datetime(2026, 11, 24, 12, tzinfo=UTC) + timedelta(hours=hours)
    before = replace(deployments.in_service(ttl_hours=9.0), expires_at=ends.isoformat())
    assert spec.deployment is not None
    return wanted.plan(replace(spec, deployment=replace(spec.deployment, before=before, spent_usd=spent_usd)))


def test_an_update_counts_what_the_deployment_has_cost_so_far() -> None:
    plan = updated(2.0, 0.5, instances=2)
    # 2 of $0.107 and, while they replace one, 3,000 s more of that: (1.5 - 3000 / 3600 x 0.107) / 0.214 h, less 5 min
    (schedule,) = (each for each in plan.requests if each.parameters.get("Name", "").endswith("expiry-endpoint"))
    lives_s = int((1.5 - 3000 / 3600 * 0.107) / 0.214 * 3600 - 300)
    ends = datetime(2026, 11, 24, 12, tzinfo=UTC) + timedelta(seconds=lives_s)
    assert schedule.parameters["ScheduleExpression"] == f"at({ends:%Y-%m-%dT%H:%M:%S})"
    assert plan.costs is not None
    assert 1.999 < plan.costs.worst_usd <= 2.0
    assert "$0.5 so far + (6.5 h + 30 min to end) x $0.214 an hour\n= $2.00 at worst" in dict(plan.rows)["limit"]
    with pytest.raises(
        ConfigError, match=r"dogs has cost \$0\.95\. At \$0\.214 an hour\nwhat is left buys 14 min"
    ) as error:
        updated(1.0, 0.95, instances=2)
    assert "300 s go to starting and 1800 s to those before, and to ending: $0.125." in str(error.value)
    with pytest.raises(ConfigError, match="what dogs has cost since its creation is not known"):
        updated(1.0, None)


def test_the_same_command_again_changes_no_end_and_a_lower_or_higher_limit_does() -> None:
    assert updated(1.0, 0.02).requests == ()  # 9.08 h and 5 min are left of $1, and its end in 9 h stays
    for usd in (0.5, 2.0):
        plan = updated(usd, 0.02)
        assert {each.service for each in plan.requests} == {"scheduler"}
        assert plan.costs is not None
        assert usd - 0.001 < plan.costs.worst_usd <= usd


# --- what is suggested is accepted ---

OVERHEADS = {
    "a job": fitting.overhead(replace(plans.launched("gpu"), keep_alive_s=None)),
    "a job that keeps its machine": fitting.overhead(replace(plans.launched("gpu"), keep_alive_s=600)),
    "a search by the tuner": tuning_limits._OVERHEAD,
    "EC2": ec2_fitting.OVERHEAD,
}


@pytest.mark.parametrize("name", OVERHEADS)
def test_a_limit_that_is_suggested_is_accepted_for_every_type(name: str) -> None:
    for row in prices.types():
        for machines in (1, 2, 3, 4, 5, 8, 10, 16):
            for spent in (0.0, 0.1, 12.34):
                how = ("machines", row.usd * machines, OVERHEADS[name])
                (refused,) = limits.fit_findings(Limits(max_usd=spent + 1e-9), *how, spent_usd=spent)
                enough = float(refused.rpartition("limits.max_usd=")[2])
                assert not list(limits.fit_findings(Limits(max_usd=enough), *how, spent_usd=spent)), (row, machines)
