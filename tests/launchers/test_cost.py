"""Plans compare several instances with one: the whole run's time and price, and when fewer are enough."""

from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogbreed.benchmark import speedup as benchmark
from dogbreed.workload import Workload
from launchers import prepare
from launchers.cost import estimate, instances, prices, times
from launchers.sagemaker import fitting, summary
from launchers.sagemaker.training import SageMakerLauncher
from tests.support.plans import COMMANDS, planned

TYPES = [each.type for each in prices.types()]
HEAD = Workload.of(planned("gpu").spec.config)  # of a ResNet50, on dogImages
ALL, LAYER4 = replace(HEAD, trainable="all", epochs=10), replace(HEAD, trainable="layer4", epochs=10, views=3)


def row(name: str) -> prices.Instance:
    found = prices.instance(name)
    assert found is not None
    return found


def test_a_plan_says_nothing_about_one_instance() -> None:
    assert instances.compare_speed(HEAD, row("ml.m5.large"), 1) == ""


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("trainable", ["head", "layer4", "all"])
@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 100))
def test_the_speedup_never_exceeds_the_number_of_instances(name: str, trainable: str, n: int) -> None:
    made, on = replace(HEAD, trainable=trainable), row(name)
    one, many = estimate.seconds_expected(made, on), estimate.seconds_expected(made, on, n)
    assert one is not None
    assert many is not None
    assert one / many < n
    steps = times.speed(made, on, n)
    assert steps is not None
    assert 0 < steps <= n


def test_training_the_whole_network_on_slow_machines_scales_linearly() -> None:
    text = instances.compare_speed(ALL, row("ml.m5.large"), 5)
    assert text.splitlines() == [
        "training steps 5 times as fast as on one instance, on paper",
        "1.7 h in all, 8.3 h on one instance",
    ]


def test_a_plan_warns_of_a_fast_gpu_behind_a_slow_network() -> None:
    text = instances.compare_speed(ALL, row("ml.g5.xlarge"), 2)
    assert "training steps 0.76 times" in text
    assert "More machines will not help: launcher.instances=1 takes 5.6 min" in text


def test_features_are_computed_in_shares_and_later_runs_need_one_machine() -> None:
    text = instances.compare_speed(HEAD, row("ml.m5.large"), 5)
    assert "compute features that later runs reuse" in text
    assert "Later runs are as fast with launcher.instances=1" in text
    assert "will not help" not in text
    assert "Later runs" not in instances.compare_speed(replace(HEAD, features="off"), row("ml.m5.large"), 5)


def test_a_plan_warns_of_a_run_shorter_than_its_start() -> None:
    short = Workload.of(planned("spot").spec.config)
    assert "More machines will not help: launcher.instances=1" in instances.compare_speed(short, row("ml.m5.large"), 5)


def test_exchanging_features_takes_time() -> None:
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
def test_with_an_unknown_number_of_photos_only_steps_are_compared(trainable: str) -> None:
    uncounted = replace(HEAD, trainable=trainable, train_photos=None, other_photos=None)
    text = instances.compare_speed(uncounted, row("ml.g5.xlarge"), 2)
    assert text.startswith("training steps ")
    assert "in all" not in text
    assert "launcher.instances=1 is as fast" in text or trainable == "head"


def test_what_is_unknown_is_not_guessed() -> None:
    assert "for this network" in instances.compare_speed(replace(HEAD, backbone="convnext_tiny"), row("ml.m5.large"), 2)
    assert "for this instance type" in instances.compare_speed(HEAD, prices.instance("ml.g7.2xlarge"), 2)
    assert estimate.seconds_expected(replace(HEAD, backbone="convnext_tiny"), row("ml.m5.large")) is None


def test_the_price_is_that_of_all_instances_for_the_shorter_time() -> None:
    on = row("ml.m5.large")
    one, five = (estimate.estimate(ALL, on, instances=n, spot=False, max_run_s=1e6) for n in (1, 5))
    assert one.expected is not None
    assert five.expected is not None
    assert five.usd_per_hour == 5 * one.usd_per_hour
    assert one.expected[1] < five.expected[1] < 1.1 * one.expected[1]  # starting five, and what the network takes
    assert five.worst == 5 * one.worst


def test_the_plan_compares_speed_only_for_several_instances() -> None:
    launcher, _ = prepare(COMMANDS["gpu"])
    one = cast(SageMakerLauncher, launcher)
    plan = planned("gpu")
    spec = plan.spec
    assert "speed-up" not in dict(summary.rows(fitting.fit(one, spec), spec, plan.handle))
    several = replace(one, instances=5, instance_type="ml.m5.large")
    assert dict(summary.rows(fitting.fit(several, spec), spec, plan.handle))["speed-up"] == instances.compare_speed(
        Workload.of(spec.config), row("ml.m5.large"), 5
    )


def test_every_priced_type_has_a_network_bandwidth() -> None:
    for name in TYPES:
        assert row(name).network.bytes_per_s == row(name).net_gbps * 125e6 > 0
        assert 0 < row(name).network.latency_s < 1e-3


def test_the_benchmark_states_the_same_numbers_as_the_table() -> None:
    for name, (network, flops_per_s) in benchmark.MACHINES.items():
        assert network == row(name).network
        assert flops_per_s == row(name).gflops * 1e9
