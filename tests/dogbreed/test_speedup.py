"""The model of training on several machines: its bounds and its limits."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogbreed import speedup
from dogbreed.speedup import Network, Part, Step, least_step_s, speed_up, step_s

positive = {"allow_nan": False, "allow_infinity": False}
parts = st.builds(Part, st.one_of(st.just(0.0), st.floats(1, 3e8, **positive)), st.floats(0, 10, **positive))
steps = st.builds(Step, st.lists(parts, min_size=1, max_size=6).map(tuple), st.floats(1e-3, 10, **positive))
networks = st.builds(Network, st.floats(1e6, 1e12, **positive), st.floats(0, 1e-2, **positive))
machines = st.integers(1, 128)


@settings(max_examples=200, deadline=None)
@given(steps, networks, machines)
def test_it_is_never_more_than_the_number_of_machines_and_one_machine_is_one(
    step: Step, network: Network, n: int
) -> None:
    assert 0 < speed_up(step, network, n) <= n
    assert speed_up(step, network, 1) == 1


@settings(max_examples=200, deadline=None)
@given(steps, networks, machines, st.floats(1, 1e3, **positive))
def test_more_bandwidth_and_less_latency_are_never_worse(step: Step, network: Network, n: int, more: float) -> None:
    here = speed_up(step, network, n)
    assert speed_up(step, Network(network.bytes_per_s * more, network.latency_s), n) >= here * (1 - 1e-12)
    assert speed_up(step, Network(network.bytes_per_s, network.latency_s / more), n) >= here * (1 - 1e-12)


@settings(max_examples=200, deadline=None)
@given(steps, machines)
def test_without_a_network_in_the_way_it_is_the_number_of_machines(step: Step, n: int) -> None:
    assert speed_up(step, Network(math.inf, 0), n) == pytest.approx(n)


@settings(max_examples=200, deadline=None)
@given(steps, networks, machines)
def test_a_step_lies_between_the_closed_form_and_no_overlap_at_all(step: Step, network: Network, n: int) -> None:
    whole = sum(network.all_reduce_s(size, n) for _, size in step.buckets())
    found = step_s(step, network, n)
    assert least_step_s(step, network, n) <= found * (1 + 1e-12)
    assert found <= (step.compute_s + whole) * (1 + 1e-12)


@settings(max_examples=200, deadline=None)
@given(steps, networks, st.integers(2, 64))
def test_a_step_never_gets_shorter_with_more_machines(step: Step, network: Network, n: int) -> None:
    assert step_s(step, network, n + 1) >= step_s(step, network, n) * (1 - 1e-12)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_buckets_hold_the_whole_gradient_in_the_order_in_which_it_is_finished(step: Step) -> None:
    found = list(step.buckets())
    assert sum(size for _, size in found) == pytest.approx(step.gradient_bytes)
    assert [full for full, _ in found] == sorted(full for full, _ in found)
    assert all(0 <= full <= step.backward_s * (1 + 1e-12) for full, _ in found)
    limits = [speedup.FIRST_BUCKET_BYTES, *[speedup.BUCKET_BYTES] * len(found)]
    assert all(size <= limit for (_, size), limit in zip(found, limits, strict=False))


def test_a_simulated_step_is_the_one_worked_out_by_hand() -> None:
    # 1 MiB is full after 0.2 s, 25 MiB more after 5.2 s, the last 4 MiB at the end of the pass, after 6 s
    step = Step((Part(30 * speedup.MIB, 6.0),), other_s=2.0)
    assert list(step.buckets()) == [
        (pytest.approx(0.2), speedup.MIB),
        (pytest.approx(5.2), 25 * speedup.MIB),
        (pytest.approx(6.0), 4 * speedup.MIB),
    ]
    # two machines: each sends as much as there is, at 10 MiB/s, in 2 messages of 0.1 s.
    # the second bucket: 5.2 + 2.5 + 0.2 = 7.9; the third waits for it: 7.9 + 0.4 + 0.2 = 8.5; and 2 s of the rest
    network = Network(10 * speedup.MIB, 0.1)
    assert step_s(step, network, 2) == pytest.approx(10.5)
    assert speed_up(step, network, 2) == pytest.approx(2 * 8 / 10.5)
    assert least_step_s(step, network, 2) == 8  # 3.2 s would fit behind the pass


def test_gradients_that_are_finished_early_hide_better() -> None:
    network = Network(94e6, 1e-4)
    early = Step((Part(60e6, 1.0), Part(4e6, 3.0)), 1.0)  # as in ResNets: most weights are in the last layers
    late = Step((Part(4e6, 3.0), Part(60e6, 1.0)), 1.0)
    assert step_s(early, network, 8) < step_s(late, network, 8)


def test_several_processes_in_a_machine_share_its_network() -> None:
    step, network = Step((Part(94e6, 0.1),), 0.05), Network(1e9, 1e-4)
    assert speed_up(step, network, 2, per_machine=4) < speed_up(step, network, 2)
    assert speed_up(step, network, 1, per_machine=4) == 1


def test_buckets_are_those_of_torch() -> None:
    from inspect import signature

    from torch.distributed import _DEFAULT_FIRST_BUCKET_BYTES
    from torch.nn.parallel import DistributedDataParallel

    assert speedup.FIRST_BUCKET_BYTES == _DEFAULT_FIRST_BUCKET_BYTES
    told = signature(DistributedDataParallel.__init__).parameters["bucket_cap_mb"].default
    assert (told or 25) * speedup.MIB == speedup.BUCKET_BYTES  # None: 25, says its documentation
