"""The capacity planner: its simulation against closed forms and an independent library, its advice and its command."""

import json
import math
import random
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from dogbreed.errors import DogBreedError
from launchers.capacity import queueing, traffic
from launchers.capacity.advice import (
    Assumptions,
    Objective,
    Verdict,
    _binding,
    advise,
    best_of,
    candidates,
    endpoint,
    judge,
    with_front,
)
from launchers.capacity.dollars import Bill, bill
from launchers.capacity.outcome import Outcome
from launchers.capacity.overrides import DEFAULT_TYPE, overrides
from launchers.capacity.setting import Endpoint, Function, Retries, Setting
from launchers.capacity.shown import break_even
from launchers.capacity.simulation import Traffic, _Run, simulate
from launchers.cli import verbs
from launchers.cost import prices
from launchers.cost.serving import MONTH_S, break_even_rps
from tests.support.configs import composed
from tests.support.deployments import spec

ENDLESS = 10**9  # a queue that refuses nobody
ONCE = Retries(0)


def poisson(rate: float, count: int, seed: int, *, mean_s: float, exponential: bool) -> Traffic:
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.exponential(1 / rate, count))
    service = rng.exponential(mean_s, count) if exponential else np.full(count, mean_s)
    return Traffic(at.tolist(), service.tolist(), float(at[-1]))


def mean_wait(outcome: Outcome, traffic: Traffic) -> float:
    return (math.fsum(outcome.latency_s) - math.fsum(traffic.service_s)) / len(traffic.at)


# --- against what is known ---


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("load", [0.3, 0.6, 0.8, 1.0, 1.4])
def test_slots_refuse_what_erlang_b_says(load: float, slots: int) -> None:
    requests = poisson(load * slots / 0.1, 30_000, slots, mean_s=0.1, exponential=slots % 2 == 0)
    expected = queueing.erlang_b(load * slots, slots)
    found = simulate(Setting(Function(slots), retries=ONCE), requests).refused_share
    assert found == pytest.approx(expected, rel=0.05, abs=0.0015)


@pytest.mark.parametrize("servers", [1, 2, 4, 6, 10])
@pytest.mark.parametrize("busy", [0.3, 0.5, 0.6, 0.7, 0.8])
def test_a_queue_waits_as_erlang_c_says(busy: float, servers: int) -> None:
    """Mean over antithetic streams: one stream of this length is off by more than the simulation is."""
    rate, waits = busy * servers / 0.1, []
    for seed in range(4):
        requests = poisson(rate, 20_000, seed, mean_s=0.1, exponential=True)
        scale = 0.1 / np.mean(requests.service_s), (20_000 / rate) / requests.end_s
        requests = Traffic(
            (np.asarray(requests.at) * scale[1]).tolist(),
            (np.asarray(requests.service_s) * scale[0]).tolist(),
            20_000 / rate,
        )
        fleet = Endpoint(1, 1, servers, waiting=ENDLESS)
        waits.append(mean_wait(simulate(Setting(endpoint=fleet), requests), requests))
    assert np.mean(waits) == pytest.approx(queueing.mean_wait(rate, 0.1, servers), rel=0.05, abs=0.0004)


@pytest.mark.parametrize("clients", [1, 2, 3, 6])
@pytest.mark.parametrize("think_s", [0.0, 0.05, 0.2])
def test_a_closed_loop_answers_as_mean_value_analysis_says(clients: int, think_s: float) -> None:
    rng = np.random.default_rng(clients)
    requests = Traffic([], rng.exponential(0.05, 30_000).tolist(), 600.0, clients, think_s)
    outcome = simulate(Setting(endpoint=Endpoint(1, 1, 1, waiting=ENDLESS)), requests)
    expected = queueing.closed_throughput(clients, think_s, [0.05])
    assert len(outcome.latency_s) / 600 == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("rate", "servers", "waiting", "spread"),
    [(15, 2, 1, 0.5), (18, 2, 4, 0.2), (25, 2, 2, 1.0), (30, 3, 3, 0.4), (45, 4, 5, 0.6),
     (9, 1, 2, 0.3), (12, 1, 8, 0.9), (55, 6, 4, 0.25), (20, 2, 10, 0.75), (80, 8, 2, 0.1)],
)  # fmt: skip
def test_settings_without_a_closed_form_agree_with_another_library(
    rate: float, servers: int, waiting: int, spread: float
) -> None:
    """Finite queues with service times that are neither constant nor exponential: uniform about 100 ms."""
    import ciw

    low, high = 0.1 * (1 - spread), 0.1 * (1 + spread)
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(rate)],
        service_distributions=[ciw.dists.Uniform(low, high)],
        number_of_servers=[servers],
        queue_capacities=[waiting],
    )
    ciw.seed(1)
    other = ciw.Simulation(network)
    other.simulate_until_max_customers(12_000, method="Arrive")
    records = other.get_all_records()
    lost = sum(record.record_type == "rejection" for record in records) / len(records)
    waits = float(np.mean([record.waiting_time for record in records if record.record_type == "service"]))
    rng = np.random.default_rng(2)
    at = np.cumsum(rng.exponential(1 / rate, 40_000))
    ours = Traffic(at.tolist(), rng.uniform(low, high, 40_000).tolist(), float(at[-1]))
    outcome = simulate(Setting(endpoint=Endpoint(1, 1, servers, waiting=waiting), retries=ONCE), ours)
    assert outcome.refused_share == pytest.approx(lost, rel=0.05, abs=0.012)
    assert np.mean(outcome.latency_s) == pytest.approx(waits + 0.1, rel=0.05)


# --- what must hold of any traffic ---


arrivals = st.lists(st.floats(0, 60), min_size=1, max_size=120).map(sorted)
services = st.floats(0.01, 3)


@given(arrivals, services, st.integers(1, 4), st.integers(0, 2), st.integers(0, 3))
@settings(max_examples=60)
def test_every_request_is_answered_or_refused_and_takes_its_service_time(
    at: list[float], service_s: float, slots: int, retries: int, waiting: int
) -> None:
    requests = Traffic(at, [service_s] * len(at), 60.0)
    for setting in (
        Setting(Function(slots, cold_s=0.5), retries=Retries(retries)),
        Setting(endpoint=Endpoint(1, 1, slots, waiting=waiting, deadline_s=math.inf), retries=Retries(retries)),
        Setting(
            Function(slots, cold_s=0.5),
            Endpoint(2, 2, 1, waiting=waiting, deadline_s=math.inf),
            0.1,
            Retries(retries),
        ),
    ):
        outcome = simulate(setting, requests)
        assert len(outcome.latency_s) + sum(outcome.refused.values()) == len(at)
        assert all(latency >= service_s + setting.overhead_s - 1e-9 for latency in outcome.latency_s)
        if setting.endpoint is not None:  # work is conserved
            assert outcome.busy_s == pytest.approx(service_s * len(outcome.latency_s))


@given(arrivals, services, st.integers(1, 3), st.integers(0, 9), st.integers(0, 2), st.floats(0.5, 9), st.booleans())
@settings(max_examples=60)
def test_every_request_is_answered_within_its_deadline_or_refused(
    at: list[float], service_s: float, vcpus: int, waiting: int, retries: int, deadline_s: float, front: bool
) -> None:
    fleet = Endpoint(1, 1, vcpus, waiting=waiting, deadline_s=deadline_s)
    setting = Setting(Function(9) if front else None, fleet, retries=Retries(retries))
    run = _Run(setting, Traffic(at, [service_s] * len(at), 60.0), 0)
    run.loop()
    outcome = run.outcome
    assert len(outcome.latency_s) + sum(outcome.refused.values()) == len(at)
    if not retries:
        assert all(latency <= deadline_s + 1e-9 for latency in outcome.latency_s)
    if service_s > deadline_s:
        assert outcome.refused_share == 1
    assert run.instances is not None
    assert (run.in_use, run.instances.inside, run.instances.total_busy, run.expires) == (0, [0], 0, {})


def test_what_waits_longer_than_the_server_s_deadline_is_refused() -> None:
    at_once = Traffic([0.0] * 15, [1.0] * 15, 60.0)
    outcome = simulate(Setting(endpoint=Endpoint(1, 1, 1), retries=ONCE), at_once)
    assert (len(outcome.latency_s), max(outcome.latency_s), outcome.refused) == (10, 10.0, {"vcpus": 5})
    too_slow = simulate(Setting(endpoint=Endpoint(), retries=ONCE), Traffic([0.0], [12.0], 60.0))
    assert too_slow.refused == {"none": 1}


@given(arrivals, services, st.integers(1, 5))
@settings(max_examples=60)
def test_more_slots_never_refuse_more(at: list[float], service_s: float, slots: int) -> None:
    requests = Traffic(at, [service_s] * len(at), 60.0)
    few, many = (simulate(Setting(Function(count), retries=ONCE), requests) for count in (slots, slots + 1))
    assert many.refused_share <= few.refused_share


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 10**7), st.integers(0, 5))
def test_dollars_add_up(instance_s: float, function_s: float, calls: int, provisioned: int) -> None:
    whole = Setting(Function(9, provisioned), Endpoint())
    both = Outcome(MONTH_S, instance_s=instance_s, function_s=function_s, calls=calls)
    total = bill(whole, both).total
    apart = bill(Setting(endpoint=Endpoint()), both).total + bill(Setting(Function(9, provisioned)), both).total
    assert total == pytest.approx(apart)
    assert bill(whole, both).free <= bill(whole, both).calls + 1e-9


def test_dollars_by_hand() -> None:
    outcome = Outcome(MONTH_S, instance_s=2 * MONTH_S, function_s=100_000, calls=1_000_000)
    cost = bill(Setting(Function(9, memory_mb=1769), Endpoint(type="ml.m5.large")), outcome)
    assert cost.instances == pytest.approx(2 * 730 * 0.115)
    assert cost.calls == pytest.approx(0.20 + 100_000 * 1769 / 1024 * 0.0000166667)
    assert break_even_rps(0.1, 0.1, "ml.m5.large") == pytest.approx(83.95 / 2.4631 / 2.628, rel=0.01)


def test_short_traffic_costs_what_its_instances_cost_until_the_last_answer() -> None:
    outcome = Outcome(3600.0, instance_s=5000.0, closed_s=5000.0)
    row = prices.hosting("ml.c7i.large")
    assert row is not None
    assert bill(Setting(endpoint=Endpoint()), outcome).total == pytest.approx(730 * row.usd)
    slow = simulate(Setting(endpoint=Endpoint()), Traffic([9.0], [9.0], 10.0))
    assert slow.closed_s >= 18
    assert bill(Setting(endpoint=Endpoint()), slow).total == pytest.approx(730 * row.usd)


def test_the_break_even_is_not_above_what_an_instance_answers() -> None:
    assert break_even(Assumptions([0.1])) == pytest.approx(12.4, rel=0.01)
    assert break_even(Assumptions([0.005])) == math.inf


# --- instances that come and go ---


def burst(rps: float = 12, peak: float = 45) -> traffic.Trace:
    return traffic.generate(rps, peak, "burst", 70 / 60, 0)


def test_default_target_tracking_is_five_minutes_late_and_scales_in_after_fifteen() -> None:
    trace = traffic.generate(12, 44, "burst", 2, 0)  # which keeps two instances between 90 % of the target and it
    assumed = Assumptions([0.06])
    outcome = judge(endpoint(assumed, 1, 2, "cpu"), trace, assumed, Objective(), 0).outcome
    rise, fall = 2 * 3600 * 20 / 70, 2 * 3600 * 50 / 70
    more = next(at for at, count in outcome.instances if count > 1)
    fewer = next(at for at, count in outcome.instances if at > fall)
    assert 5 * 60 < more - rise < 10 * 60
    assert 15 * 60 <= fewer - fall < 20 * 60


def test_two_instances_at_all_times_remove_what_scaling_leaves() -> None:
    trace, assumed, objective = burst(), Assumptions([0.06]), Objective(0.5)
    alone, steady = (
        judge(endpoint(assumed, least, 3, "concurrency"), trace, assumed, objective, 0) for least in (1, 2)
    )
    late = [one.late + one.outcome.refused_share for one in (alone, steady)]
    assert late[1] <= 0.1 * late[0]
    assert alone.binding == "start_delay"
    assert steady.outcome.instance_s < 1.15 * alone.outcome.instance_s


def test_of_the_report_the_slots_bind_and_the_third_instance_is_never_reached() -> None:
    assumed = Assumptions([0.06], overhead_s=0.04, instance_type="ml.m5.large", retries=ONCE)
    setting = with_front(endpoint(assumed, 1, 3, "report"), 3, assumed)
    verdict = judge(setting, traffic.generate(60, None, "steady", 1, 0), assumed, Objective(), 0)
    assert verdict.binding == "lambda_slots"
    assert max(count for _, count in verdict.outcome.instances) == 2
    slow = Setting(Function(3), retries=ONCE)  # 100 ms a call: not 30 requests a second, but 4.5 below 1 % refused
    refused = [
        simulate(slow, poisson(rate, 60_000, 0, mean_s=0.1, exponential=False)).refused_share for rate in (4.4, 5.0)
    ]
    assert refused[0] < 0.01 < refused[1]


def test_the_report_s_question_is_answered_in_instance_hours_saved_and_p99_paid(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """CPU stagnates near 80 %: raise the threshold from 70 to 90 %? And, for the last one, a shorter cool-down."""
    words = ("--rps", "10", "--peak", "30", "--service-ms", "60", "--instances", "1-3", "--policy", "report")
    raised = asked(capsys, *words, "--threshold", "90")
    assert raised["instance_hours"] < raised["usual"]["instance_hours"]
    assert raised["usd_per_month"] < raised["usual"]["usd_per_month"]
    assert raised["p99_ms"] > raised["usual"]["p99_ms"]
    assert verbs.main(["capacity", *words, "--shape", "burst", "--threshold", "90", "--out-s", "10"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Against the usual numbers of this policy:" in said
    assert "instance-hours" in said
    assert " ms, " in said
    assert "instead of" in said
    assert "report above 90% with a cool-down of 10 s" in said


# --- what binds ---


def answered(late: int, cause: int, refused: int = 0) -> Outcome:
    """Of a thousand requests so many are late, by a cause of the simulation, and so many refused for the vCPUs."""
    latencies = array("d", [9.0] * late + [0.1] * (1000 - late - refused))
    causes = array("b", [cause] * late + [0] * (1000 - late - refused))
    return Outcome(1.0, 1000, latencies, causes, {"vcpus": refused} if refused else {})


def test_the_evidence_names_what_the_setting_has() -> None:
    slots, vcpus, starts = 1, 2, 3
    assumed, objective = Assumptions([0.1]), Objective()
    cold = answered(40, starts)
    cold.cold = 40
    fixed, scaled = endpoint(assumed, 1, 1, "none"), endpoint(assumed, 1, 3, "report")
    for setting, outcome, has, lacks in (
        (with_front(fixed, 8, assumed), cold, "had to start a new environment", "instances"),
        (with_front(scaled, 8, assumed), cold, "or the function had to start a new environment", "nothing"),
        (scaled, answered(40, starts), "further instances were needed", "environment"),
        (fixed, answered(40, vcpus), "all 2 vCPUs of the instance were busy", "instances"),
        (endpoint(assumed, 2, 2, "none"), answered(40, vcpus), "of each of the 2 instances were busy", "1"),
        (Setting(Function(1)), answered(40, slots), "the function's only slot was in use", "slots"),
    ):
        limit, evidence = _binding(setting, outcome, objective)
        assert limit != "none"
        assert has in evidence
        assert lacks not in evidence.partition("because")[2]


def test_no_limit_binds_where_the_objective_is_met() -> None:
    setting = endpoint(Assumptions([0.1]), 1, 1, "none")
    assert _binding(setting, answered(8, 2, refused=1), Objective())[0] == "none"
    assert _binding(setting, answered(8, 2, refused=2), Objective())[0] == "vcpus"


# --- advice ---


def test_what_costs_less_and_was_tried_is_recommended_within_a_budget() -> None:
    trace = traffic.generate(1.5, 4, "burst", 0.6, 0)
    advice = advise(trace, Assumptions([1.0]), Objective(1.5, max_usd=170), 0)
    assert advice.best.affordable
    assert advice.best.bill.total < 170


def test_the_recommended_setting_cuts_late_or_refused_requests_by_nine_tenths_within_a_budget() -> None:
    assumed = Assumptions([0.06], overhead_s=0.04, instance_type="ml.m5.large", retries=ONCE)
    before = judge(with_front(endpoint(assumed, 1, 3, "report"), 3, assumed), burst(), assumed, Objective(), 0)
    budget = 2 * before.bill.total
    advice = advise(burst(), assumed, Objective(0.5, 0.001, budget), 0)
    assert advice.best.meets
    assert advice.best.bill.total <= budget
    missed = [one.late + one.outcome.refused_share for one in (before, advice.best)]
    assert missed[0] > 0.1
    assert missed[1] <= 0.1 * missed[0]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(None, 2), (250, 2), (150, 1), (60, 0), (20, 0)],
    ids=["none", "enough", "the nearest within it", "one within it", "nothing within it"],
)
def test_the_best_is_the_cheapest_that_meets_the_objective_within_the_budget(
    budget: float | None, expected: int
) -> None:
    found = []
    for usd, late_s in ((50.0, 5.0), (100.0, 1.0), (200.0, 0.4), (300.0, 0.1)):
        outcome = Outcome(1.0, 100, array("d", [late_s] * 100), array("b", [0] * 100))
        objective = Objective(0.5, 0.001, budget)
        found.append(Verdict(Setting(Function(1)), outcome, Bill(usd, 0, 0, 0), objective, "none", ""))
    assert best_of(found) is found[expected]


def test_a_budget_that_nothing_keeps_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["capacity", "--rps", "6", "--peak", "15", "--shape", "burst", "--hours", "0.02", "--front"]
    assert verbs.main([*words, "--max-usd", "1"]) == 0
    said = capsys.readouterr().out
    assert "for at most $1.00 a month" in said
    assert "Nothing that was tried costs so little; the one marked * is the cheapest." in said
    assert max(map(len, said.splitlines())) <= 80


# --- what is deployed ---


def tried() -> list[Setting]:
    """One setting for each set of keys that the overrides of any may have."""
    found: list[Setting] = []
    for behind, vcpus, kind in ((False, 2, "ml.c7i.large"), (True, 2, "ml.c7i.large"), (True, 4, "ml.m5.xlarge")):
        assumed = Assumptions([0.1], vcpus=vcpus, instance_type=kind, behind=behind)
        found += candidates(traffic.generate(12, 45, "burst", 0.2, 0), assumed, Objective())
        found.append(endpoint(assumed, 1, 3, "report", 30, 0.9))
    keys = [tuple(word if "/" in word else word.partition("=")[0] for word in overrides(one)) for one in found]
    return list(dict(zip(keys, found, strict=True)).values())


@pytest.mark.parametrize("setting", tried(), ids=lambda setting: setting.name)
def test_all_that_can_be_recommended_is_what_its_overrides_deploy(setting: Setting) -> None:
    """The settings, with the rules of their policies, are those that the deployment's plan has."""
    config = composed(*overrides(setting), "aws.region=eu-west-1", "aws.bucket=my-bucket")
    launcher = instantiate(config.launcher, _convert_="all")
    plan = launcher.plan(spec())
    assert plan.requests
    function, about = setting.function, setting.endpoint
    assert launcher.ttl_hours is None
    assert launcher.reserved == (None if function is None else function.slots)
    assert launcher.provisioned == (0 if function is None else function.provisioned)
    if about is None:
        assert launcher.variant == "lambda"
        return
    assert (launcher.variant, launcher.front) == ("realtime", None if function is None else "lambda")
    assert (launcher.instance_type, launcher.count, launcher.most) == (about.type, about.least, about.most)
    assert (launcher.scaled is None) is not about.scales
    if launcher.scaled is not None:
        assert launcher.scaled.policy == about.policy


def test_what_cannot_be_deployed_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--rps", "3", "--hours", "0.2", "--slots", "4", "--provisioned", "2")
    assert asked(capsys, *words)["overrides"] is None
    assert verbs.main(["capacity", *words]) == 0
    assert "keeps no slots warm" in capsys.readouterr().out
    assert verbs.main(["capacity", *words[:4], "--instances", "1-2", "--policy", "cpu"]) == 0
    assert "no target tracking of the CPU" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["concurrency", "report"])
def test_a_wide_type_is_planned_with_the_requests_that_its_server_takes(name: str) -> None:
    wide = endpoint(Assumptions([0.1], vcpus=64, instance_type="ml.c7i.16xlarge"), 1, 2, name)
    usual = endpoint(Assumptions([0.1]), 1, 2, name)
    limits = [(one.endpoint.vcpus, one.endpoint.waiting) for one in (wide, usual) if one.endpoint is not None]
    assert limits == [(32, 0), (2, 30)]
    test_all_that_can_be_recommended_is_what_its_overrides_deploy(wide)


def test_the_planner_s_usual_type_is_the_deployment_s() -> None:
    assert composed("launcher=deploy").launcher.instance_type == Assumptions([1.0]).instance_type == DEFAULT_TYPE


# --- when nothing is needed, and when everything is ---


def test_at_a_test_event_now_and_then_a_lambda_alone_costs_nothing() -> None:
    advice = advise(traffic.generate(0.01, None, "steady", 24, 0), Assumptions([0.1], cold_s=0.2), Objective(0.5), 0)
    assert advice.best.setting.endpoint is None
    assert advice.best.bill.total - advice.best.bill.free < 0.01


def test_where_cold_starts_are_too_slow_provisioned_slots_are_advised() -> None:
    trace = traffic.generate(0.0008, None, "steady", 24, 0)  # most calls find no warm environment
    assumed = Assumptions([0.1], cold_s=8.0, front_cold_s=0.5, behind=True)
    advice = advise(trace, assumed, Objective(0.3, 0.001), 0)
    assert advice.best.meets
    assert advice.best.setting.function is not None
    assert advice.best.setting.function.provisioned > 0
    assert any(word.startswith("launcher.provisioned=") for word in overrides(advice.best.setting))


def test_where_latency_is_all_that_counts_warm_slots_and_a_short_cool_down_are_advised() -> None:
    """A request now and then, and a rush at noon that grows faster than the usual cool-down lets instances be added."""
    rng, noon, grows_s, stays_s, peak = np.random.default_rng(0), 43_200, 650, 600, 2.5
    at = [rng.random(rng.poisson(0.0015 * 86_400)) * 86_400]
    at.append(noon + grows_s * np.sqrt(rng.random(rng.poisson(peak * grows_s / 2))))
    at.append(noon + grows_s + stays_s * rng.random(rng.poisson(peak * stays_s)))
    trace = traffic.Trace(np.sort(np.concatenate(at)), 86_400.0)
    assumed = Assumptions([2.0], front_cold_s=3.8, cold_s=8.8, start_s=20, behind=True)
    best = advise(trace, assumed, Objective(3.8, 0.01), 0).best
    words = overrides(best.setting)
    assert best.meets
    assert {"launcher/scaling=report", "launcher.scaling.out_s=10", "launcher.provisioned=2"} <= set(words), words


def test_where_nothing_meets_the_objective_the_nearest_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["capacity", "--rps", "2", "--hours", "0.2", "--service-ms", "100", "--p99-ms", "100", "--cold-ms", "900"]
    assert verbs.main([*command, "--refused", "0"]) == 0
    output = capsys.readouterr().out
    assert "* " in output
    assert max(map(len, output.splitlines())) <= 80


# --- the command ---


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert verbs.main(["capacity", *words, "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_the_example_of_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--rps", "10", "--service-ms", "100", "--slots", "3", "--no-retries", "--seed", "1", "--hours", "6")
    facts = asked(capsys, *words)
    assert facts["refused"] == pytest.approx(queueing.erlang_b(1.0, 3), rel=0.05)
    assert facts["binding_limit"] == "lambda_slots"
    assert facts["p50_ms"] == facts["p99_ms"] == 100
    assert facts["usd_per_month"] > 0
    assert asked(capsys, *words) == facts


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ("a trace or --rps",)),
        (("--rps", "12", "--peak", "5"), ("peak of 5 requests/s is below the mean of 12",)),
        (("--rps", "0"), ("--rps must be above 0",)),
        (("--rps", "1", "--service-ms", "40000"), ("longer than the time-out of 29000 ms",)),
        (("--rps", "1", "--p99-ms", "50"), ("No setting answers within 50 ms", "--p99-ms 120")),
        (("--rps", "1", "--instances", "3-1"), ("--instances must be",)),
        (("--rps", "1", "--refused", "much"), ("--refused must be a share",)),
        (
            ("--rps", "1", "--slots", "0", "--provisioned", "2"),
            ("2 problems", "--slots must be at least 1", "--provisioned 2"),
        ),
        (("--rps", "1", "--instance-type", "ml.x9.large"), ("price of ml.x9.large", "ml.c7i.large")),
        (("--rps", "900", "--hours", "24"), ("77,760,000 requests", "--hours 1.54")),
        (
            ("--rps", "12", "--peak", "45", "--hours", "2"),
            ("less than the 24", "--hours 24, or --shape burst --hours 2"),
        ),
        (("--rps", "1000", "--peak", "3000"), ("86,400,000 requests", "Try: --shape burst --hours 0.74")),
        (("--rps", "1", "--peak", "9000"), ("too far above --rps", "--shape burst")),
        (("--rps", "1", "--peak", "inf"), ("--peak must be a number",)),
        (("--rps", "1", "--seed", "-1"), ("--seed must be at least 0",)),
        (("--rps", "1", "--instances", "1-3", "--out-s", "4000"), ("--out-s must be at most 3600",)),
        (("--rps", "1", "--instance-type", "ml.g5.xlarge"), ("has a GPU", "ml.c7i.large")),
        (("--rps", "1", "--instances", "2", "--policy", "report"), ("needs a range of instances",)),
        (("--rps", "1", "--instances", "1-2", "--threshold", "80"), ("--threshold is of the policy report",)),
        (
            ("--rps", "1", "--instances", "1-2", "--policy", "report", "--threshold", "100"),
            ("--threshold must be from 50 to below 100",),
        ),
        (("--rps", "1", "--slots", "2", "--out-s", "10"), ("--out-s is of a policy",)),
        (("--rps", "1", "--slots", "2", "--front"), ("--front is of the search",)),
        (("--rps", "1", "--max-usd", "-5"), ("--max-usd must be above 0",)),
        (("--rps", "1", "--measured", "/nowhere.json"), ("Cannot read service times from /nowhere.json",)),
    ],
)
def test_bad_input_is_answered_with_what_to_change(
    words: tuple[str, ...], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verbs.main(["capacity", *words]) == 1
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error


# --- traces ---


def written(tmp_path: Path, text: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


START = 1_790_000_000


@pytest.mark.parametrize(
    "lines",
    [
        [f"{START + n}" for n in range(5)],
        [f"{(START + n) * 1000}" for n in range(5)],
        [f"{(START + n) * 10**6}" for n in range(5)],
        [f"{(START + n) * 10**9}" for n in range(5)],
        ["timestamp_ms", *(f"{n * 1000}" for n in range(5))],
        ["timestamp", *(f"2026-11-29T08:30:0{n}Z" for n in range(5))],
        ["id,time,user", *(f"{n},2026-11-29 08:30:0{n},x" for n in range(5))],
        ["time;status", *(f"{n}.0;200" for n in range(5))],
    ],
    ids=["seconds", "milliseconds", "microseconds", "nanoseconds", "named ms", "iso", "more columns", "semicolons"],
)
def test_requests_are_read_in_all_usual_forms(lines: list[str], tmp_path: Path) -> None:
    trace = traffic.read(written(tmp_path, "\n".join(lines)), 0)
    assert trace.at.tolist() == [0, 1, 2, 3, 4]
    assert trace.end_s == 4


def test_counts_are_spread_over_their_periods_and_gaps_are_said(tmp_path: Path) -> None:
    rows = [(0, 30), (60, 0), (120, 60), (300, 6)]
    text = "timestamp,count\n" + "\n".join(f"{START + at},{count}" for at, count in rows)
    trace = traffic.read(written(tmp_path, text), 0)
    assert np.bincount((trace.at / 60).astype(int)).tolist() == [30, 0, 60, 0, 0, 6]
    assert trace.end_s == 360
    assert "2 periods of 60 s have no count" in trace.notes[0]


def test_cloudwatchs_json_is_read_in_any_order(tmp_path: Path) -> None:
    stamps = [f"2026-11-29T08:3{n}:00+00:00" for n in (2, 0, 1)]
    data = {"MetricDataResults": [{"Id": "m", "Timestamps": stamps, "Values": [7.0, 5.0, 0.0]}]}
    trace = traffic.read(written(tmp_path, json.dumps(data), "data.json"), 0)
    assert np.bincount((trace.at / 60).astype(int)).tolist() == [5, 0, 7]


def test_counts_that_cloudwatch_leaves_out_are_not_spread_over_the_others_periods(tmp_path: Path) -> None:
    stamps, rows = [], {0: 30, 300: 60, 420: 6}
    stamps = [f"2026-11-29T08:{30 + at // 60}:00+00:00" for at in rows]
    data = {"MetricDataResults": [{"Id": "m", "Timestamps": stamps, "Values": list(rows.values())}]}
    trace = traffic.read(written(tmp_path, json.dumps(data), "data.json"), 0)
    assert np.bincount((trace.at / 60).astype(int)).tolist() == [30, 0, 0, 0, 0, 60, 0, 6]
    assert trace.end_s == 480
    assert trace.notes == ("5 periods of 60 s have no count, and are taken as without requests.",)


def test_one_period_and_one_gap_are_one(tmp_path: Path) -> None:
    for last, notes in ((240, ["1 period of 60 s has no count, and is taken"]), (6000, ["97 p", "1 gap is longer"])):
        text = "timestamp,count\n" + "\n".join(f"{START + at},5" for at in (0, 60, 120, last))
        trace = traffic.read(written(tmp_path, text), 0)
        assert len(trace.notes) == len(notes)
        assert all(said.startswith(note) for said, note in zip(trace.notes, notes, strict=True)), trace.notes


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("timestamp\n", "a header and no rows"),
        ("5\n3\n4\n", "go backwards, first at request 2"),
        ("timestamp,count\n1,-4\n2,3\n", "a count of -4"),
        ("timestamp,count\n1,x\n2,3\n", "the count 'x'"),
        ("when,who\na,b\n", "No column"),
        ("1,2,3\n4,5,6\n", "3 columns without names"),
        ("1\nnever\n", "the time 'never'"),
        ("7\n7\n", "the same time"),
        ("timestamp,count\n1,3\n", "one count alone"),
        ('{"MetricDataResults": 3}', "not the JSON of get-metric-data"),
        ('{"MetricDataResults": [{"Timestamps": [], "Values": []}]}', "no data points"),
    ],
)
def test_traces_that_cannot_be_read_say_why(text: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(DogBreedError, match="(?s)" + part.replace("(", r"\(")):
        traffic.read(written(tmp_path, text), 0)


@pytest.mark.parametrize("shape", traffic.SHAPES)
def test_generated_traffic_has_the_rates_that_were_asked_for(shape: traffic.Shape) -> None:
    trace = traffic.generate(8, 20, shape, traffic.HOURS[shape], 3)
    assert (np.diff(trace.at) >= 0).all()
    assert trace.at[-1] < trace.end_s
    assert len(traffic.generate(8, 20, shape, traffic.HOURS[shape], 3).at) == len(trace.at)
    if shape in ("daily", "weekly"):
        assert trace.mean_rps == pytest.approx(8, rel=0.03)
    if shape != "steady":
        assert trace.peak_rps() == pytest.approx(20, rel=0.15)


@given(st.sampled_from(["daily", "weekly"]), st.floats(1, 400), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_the_mean_is_what_was_asked_for_however_high_the_peak_is(shape: Any, times: float, cycles: int) -> None:
    hours = cycles * traffic.CYCLES[shape]
    _, widths, rates = traffic._bins(shape, 8, max(8 * times, 8 * traffic._WORKDAY), hours)
    assert (rates * widths).sum() / hours / 3600 == pytest.approx(8, rel=0.02)


def test_a_week_whose_peak_is_its_mean_keeps_the_mean() -> None:
    trace = traffic.generate(1, 1.05, "weekly", 168, 0)
    assert trace.mean_rps == pytest.approx(1, rel=0.02)
    assert "Working days have 1.21 requests/s" in trace.notes[0]


@given(st.sampled_from(traffic.SHAPES), st.floats(1, 1e5), st.floats(1, 50), st.floats(0.05, 400))
@settings(max_examples=80, deadline=None)
def test_what_is_suggested_in_place_of_too_many_or_too_few_hours_is_taken(
    shape: traffic.Shape, rps: float, times: float, hours: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traffic, "MOST_REQUESTS", 20_000)
        try:
            traffic.generate(rps, rps * times, shape, hours, 0)
        except DogBreedError as error:
            suggested = str(error).partition("Try: ")[2]
        else:
            return
        for words in suggested.split(", or "):
            *other, number = words.replace("--shape ", "").replace("--hours ", "").split()
            traffic.generate(rps, rps * times, other[0] if other else shape, float(number), 0)  # type: ignore[arg-type]


def test_the_busiest_part_of_a_trace_is_found() -> None:
    trace = burst()
    part = trace.busiest(600)
    assert part.end_s == 600
    assert part.mean_rps == pytest.approx(45, rel=0.06)
    assert random.Random(0).choice(part.at.tolist()) >= 0


def test_every_hosting_type_has_a_dated_price() -> None:
    for name in prices.hosting_types():
        row = prices.hosting(name)
        assert row is not None
        assert 0.01 < row.usd < 100
        assert row.as_of.startswith("20")


@pytest.mark.plots
def test_the_page_says_what_the_terminal_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--rps",
        "4",
        "--peak",
        "20",
        "--shape",
        "burst",
        "--hours",
        "0.3",
        "--instances",
        "1-2",
        "--p99-ms",
        "400",
    ]
    facts = asked(capsys, *words, "--html", str(tmp_path / "page.html"))
    text = (tmp_path / "page.html").read_text()
    assert facts["setting"] in text
    assert f"{facts['p99_ms']:,.0f} ms" in text
    assert all(one["setting"] in text for one in facts["pareto"])
    assert text.count("<svg") == 4
    assert all(word in text for word in facts["recommended"]["overrides"])
    assert "http" not in text.replace("http://www.w3.org", "")
