"""Clock bounds: the truth is always inside them, and the split of communication never goes negative."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.clock_offset import ClockOffset, split_communication

DELAYS_NS = st.integers(0, 10**9)


@given(
    st.integers(-(10**15), 10**15),
    st.lists(st.tuples(DELAYS_NS, DELAYS_NS, DELAYS_NS, DELAYS_NS), min_size=1, max_size=10),
)
def test_the_true_offset_is_always_within_the_bounds(theta_ns: int, calls: list[tuple[int, int, int, int]]) -> None:
    offset = ClockOffset()
    t0_ns = 0
    for pause_ns, down_ns, work_ns, up_ns in calls:
        t0_ns += pause_ns
        t1_ns = t0_ns + down_ns + theta_ns
        t2_ns = t1_ns + work_ns
        t3_ns = t2_ns + up_ns - theta_ns
        low_ns, high_ns = offset.observe(t0_ns, t1_ns, t2_ns, t3_ns)
        assert low_ns <= theta_ns <= high_ns
        assert high_ns - low_ns <= down_ns + up_ns
        t0_ns = t3_ns


def test_a_quick_probe_tells_a_lopsided_call_apart() -> None:
    """Worked by hand: theta = 1000 s; probe of 1 ms each way; then 90 ms down, 10 ms up."""
    offset = ClockOffset()
    theta_ns = 1000 * 10**9
    offset.observe(0, theta_ns + 10**6, theta_ns + 10**6, 2 * 10**6)
    t0_ns = 10 * 10**6
    t1_ns = t0_ns + 90 * 10**6
    low_ns, high_ns = offset.observe(t0_ns, t1_ns + theta_ns, t1_ns + theta_ns, t1_ns + 10 * 10**6)
    bounds_s = ((t1_ns + theta_ns - t0_ns - high_ns) / 1e9, (t1_ns + theta_ns - t0_ns - low_ns) / 1e9)
    download_s, upload_s, how = split_communication(0.1, 50, 50, bounds_s)
    assert how == "clock"
    assert download_s == pytest.approx(0.09, abs=0.001)
    assert upload_s == pytest.approx(0.01, abs=0.001)


def test_a_clock_that_was_stepped_does_not_poison_the_bounds() -> None:
    offset = ClockOffset()
    offset.observe(0, 10, 20, 30)
    stepped_ns = 10**12
    low_ns, high_ns = offset.observe(100, 110 + stepped_ns, 120 + stepped_ns, 130)
    assert low_ns <= stepped_ns <= high_ns


def test_loose_bounds_split_by_bytes() -> None:
    assert split_communication(1.0, 300, 100, (0.0, 1.0)) == (0.75, 0.25, "bytes")
    assert split_communication(0.0, 300, 100, (0.0, 0.0)) == (0.0, 0.0, "bytes")
    assert split_communication(1.0, 0, 0, (0.0, 1.0))[0] == 0.0


@given(
    st.floats(0, 1e3), st.integers(0, 10**9), st.integers(0, 10**9), st.tuples(st.floats(-1, 1e3), st.floats(-1, 1e3))
)
def test_the_parts_are_never_negative_and_add_up(
    communication_s: float, request_bytes: int, reply_bytes: int, bounds_s: tuple[float, float]
) -> None:
    download_s, upload_s, _ = split_communication(communication_s, request_bytes, reply_bytes, bounds_s)
    assert download_s >= 0
    assert upload_s >= 0
    assert download_s + upload_s == pytest.approx(communication_s)
