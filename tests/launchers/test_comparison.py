"""A month of the same requests on an endpoint and in a function: against sums that were worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.cost.comparison import Month, Sized, compare

# 2,628,000 s a month. ml.m5.large: 0.115 x 730 = $83.95; two ml.c7i.large: 2 x 0.107 x 730 = $156.22.
# 1,769 MB are 1.72753906 GB; a GB-s is $0.0000166667, on arm64 $0.0000133334; a million requests are $0.20.
BY_HAND = {
    "nobody asks": ((0.0, 0.1, Sized(1769), "ml.m5.large", 1), Month(0.0, 83.95, 0.0, 0.0)),
    # 262,800 requests: $0.05256. 45,399.7 GB-s: $0.75666. All of it is free.
    "one in ten seconds": ((0.1, 0.1, Sized(1769), "ml.m5.large", 1), Month(0.1, 83.95, 0.80922, 0.80922)),
    # 2,628,000 requests: $0.5256. 453,997 GB-s: $7.56664. Free: $0.20 + 400,000 GB-s, $6.66668.
    "one a second": ((1.0, 0.1, Sized(1769), "ml.c7i.large", 2), Month(1.0, 156.22, 8.09224, 6.86668)),
    # 26,280,000 requests: $5.256. 4,539,972.7 GB-s: $60.53327. Free: $0.20 + $5.33336.
    "ten a second on arm64": (
        (10.0, 0.1, Sized(1769, "arm64"), "ml.m5.large", 1),
        Month(10.0, 83.95, 65.78927, 5.53336),
    ),
    # half the memory, half a vCPU: 0.2 s each, so as many GB-s, to within the rounding of 884 MB
    "half a vCPU": ((1.0, 0.1, Sized(884), "ml.m5.large", 1), Month(1.0, 83.95, 8.09224, 6.86668)),
    "an unknown price": ((1.0, 0.1, Sized(1769), "ml.m7i.48xlarge", 1), Month(1.0, None, 8.09224, 6.86668)),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_a_month_costs_what_was_worked_out_by_hand(case: str) -> None:
    arguments, expected = BY_HAND[case]
    found = compare(*arguments)
    assert found.realtime == (None if expected.realtime is None else pytest.approx(expected.realtime))
    assert (found.function, found.free) == pytest.approx((expected.function, expected.free), abs=1e-4)


def test_a_slot_and_what_keeps_one_warm_cost_what_was_worked_out_by_hand() -> None:
    size = Sized(1769)
    # 3,600 s and a millisecond for each of 36,000 requests: 3,636 x 1.72753906 x 0.0000166667 = 0.10469, + 0.0072
    assert size.slot_usd_per_hour == pytest.approx(0.11189, abs=1e-5)
    assert size.worst_usd_per_hour(3) == pytest.approx(0.33567, abs=1e-5)
    # one kept warm: 3,600 x 1.72753906 x 0.0000041667 + 3,636 x 1.72753906 x 0.0000097222 + 0.0072 = 0.09418
    assert size.worst_usd_per_hour(3, provisioned=1) == pytest.approx(0.31796, abs=1e-5)
    assert size.worst_usd_per_hour(None) is None
    # 1 GB more of /tmp: 3,636 x 0.0000000309
    assert Sized(1769, disk_mb=1536).slot_usd_per_hour - size.slot_usd_per_hour == pytest.approx(0.00011235, abs=1e-8)
    assert size.warm_usd_per_month == pytest.approx(18.917, abs=1e-3)  # 2,628,000 x 1.72753906 x 0.0000041667
    assert size.snapshot_usd_per_month == pytest.approx(6.831, abs=1e-3)  # 2,628,000 x 1.72753906 x 0.0000015046
    assert size.restore_usd == pytest.approx(0.00024151, abs=1e-8)  # 1.72753906 x 0.0001397998


@given(st.floats(0, 1000), st.floats(0.001, 10), st.integers(128, 10_240), st.sampled_from(["x86_64", "arm64"]))
def test_what_is_free_is_never_more_than_the_bill(rps: float, service_s: float, memory: int, kind: str) -> None:
    month = compare(rps, service_s, Sized(memory, kind), "ml.m5.large", 1)
    assert 0 <= month.free <= month.function * (1 + 1e-9)
