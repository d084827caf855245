"""What several instances bring, as a plan says it: the whole run's time and price, and when fewer would do."""

from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogbreed.benchmark import speedup as benchmark
from dogbreed.workload import Workload
from launchers import prepare
from launchers.cost import estimate, instances, prices, times
from launchers.sagemaker import summary
from launchers.sagemaker.training import SageMakerLauncher
from tests.support.plans import COMMANDS, planned

TYPES = list(prices._table()["instances"])
HEAD = Workload.of(planned("gpu").spec.config)  # of a ResNet50, on dogImages
ALL, LAYER4 = replace(HEAD, trainable="all"), replace(HEAD, trainable="layer4", views=3)


def row(name: str) -> prices.Instance:
    found = prices.instance(name)
    assert found is not None
    return found


def test_one_instance_has_nothing_to_say() -> None:
    assert instances.said(HEAD, row("ml.m5.large"), 1) == ""


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("trainable", ["head", "layer4", "all"])
@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 100))
def test_the_run_is_never_more_times_as_fast_than_there_are_instances(name: str, trainable: str, n: int) -> None:
    made, on = replace(HEAD, trainable=trainable), row(name)
    one, many = estimate.seconds_expected(made, on), estimate.seconds_expected(made, on, n)
    assert one is not None
    assert many is not None
    assert one / many < n
    steps = times.speed(made, on, n)
    assert steps is not None
    assert 0 < steps <= n


def test_training_all_of_it_on_slow_machines_is_as_many_times_as_fast() -> None:
    said = instances.said(ALL, row("ml.m5.large"), 5)
    assert said.splitlines() == [
        "training steps 5 times as fast as on one instance, on paper",
        "1.7 h in all, 8.3 h on one instance",
    ]


def test_a_fast_gpu_behind_a_slow_network_is_warned_of() -> None:
    said = instances.said(ALL, row("ml.g5.xlarge"), 2)
    assert "training steps 0.76 times" in said
    assert "More machines will not help: launcher.instances=1 takes 5.6 min" in said


def test_features_are_shared_out_and_later_runs_need_one_machine() -> None:
    said = instances.said(HEAD, row("ml.m5.large"), 5)
    assert "for features, which later runs find" in said
    assert "Later runs are as fast with launcher.instances=1" in said
    assert "will not help" not in said
    assert "Later runs" not in instances.said(replace(HEAD, features="off"), row("ml.m5.large"), 5)


def test_a_short_run_is_warned_of_since_starting_takes_longer() -> None:
    short = Workload.of(planned("spot").spec.config)
    assert "More machines will not help: launcher.instances=1" in instances.said(short, row("ml.m5.large"), 5)


def test_machines_handing_over_their_features_takes_time() -> None:
    one, two = (times.times(LAYER4, row("ml.m5.large"), n) for n in (1, 2))
    assert one is not None
    assert two is not None
    size = (3 * 6680 + 1671) * 1024 * 14 * 14 * 4
    assert two.features_s == pytest.approx(one.features_s / 2 + size / 2 / (0.75e9 / 8))


def test_features_that_do_not_fit_are_computed_in_each_step() -> None:
    fits, not_so = (times.times(replace(LAYER4, max_gb=gb), row("ml.m5.large"), 1) for gb in (20, 17))
    assert fits is not None
    assert not_so is not None
    assert fits.features_s > 0 == not_so.features_s
    assert fits.epochs_s < not_so.epochs_s


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_photos_that_nobody_has_counted_leave_the_steps_to_speak_of(trainable: str) -> None:
    uncounted = replace(HEAD, trainable=trainable, train_photos=None, other_photos=None)
    said = instances.said(uncounted, row("ml.g5.xlarge"), 2)
    assert said.startswith("training steps ")
    assert "in all" not in said
    assert "launcher.instances=1 is as fast" in said or trainable == "head"


def test_what_is_unknown_is_not_guessed() -> None:
    assert "of that network" in instances.said(replace(HEAD, backbone="convnext_tiny"), row("ml.m5.large"), 2)
    assert "of that instance type" in instances.said(HEAD, prices.instance("ml.g6.xlarge"), 2)
    assert estimate.estimate(HEAD, "ml.g6.xlarge", instances=2, spot=False, max_run_s=3600) is None


def test_the_price_is_that_of_all_instances_for_the_shorter_time() -> None:
    one, five = (estimate.estimate(ALL, "ml.m5.large", instances=n, spot=False, max_run_s=1e6) for n in (1, 5))
    assert one is not None
    assert five is not None
    assert one.expected is not None
    assert five.expected is not None
    assert five.usd_per_hour == 5 * one.usd_per_hour
    assert one.expected < five.expected < 1.1 * one.expected  # starting five, and what the network takes
    assert five.worst == 5 * one.worst


def test_the_plan_says_it_of_several_instances_alone() -> None:
    launcher, _ = prepare(COMMANDS["gpu"])
    one = cast(SageMakerLauncher, launcher)
    plan = planned("gpu")
    spec = plan.spec
    assert "speed-up" not in dict(summary.rows(one, spec, plan.handle))
    several = replace(one, instances=5, instance_type="ml.m5.large")
    assert dict(summary.rows(several, spec, plan.handle))["speed-up"] == instances.said(
        Workload.of(spec.config), row("ml.m5.large"), 5
    )


def test_every_priced_type_has_its_network() -> None:
    for name in TYPES:
        assert row(name).network.bytes_per_s == row(name).net_gbps * 125e6 > 0
        assert 0 < row(name).network.latency_s < 1e-3


def test_the_benchmark_states_the_same_numbers_as_the_table() -> None:
    for name, (network, flops_per_s) in benchmark.MACHINES.items():
        assert network == row(name).network
        assert flops_per_s == row(name).gflops * 1e9
