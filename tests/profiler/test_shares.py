"""Sharing a host's joules: shares add up, follow CPU time, and do not depend on how a window is cut."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.shares import OTHER, Shares, Tick

SECOND = 1_000_000_000


def make_ticks(steps: list[tuple[float, float, float, float]]) -> list[Tick]:
    """Each step: seconds, joules, CPU seconds of a, CPU seconds of b; the host is busy with nothing else."""
    ticks = [Tick(0, 100.0, {"a": 5.0, "b": 0.0}, 50.0)]
    for seconds, joules, a_s, b_s in steps:
        last = ticks[-1]
        ticks.append(
            Tick(
                last.t_ns + max(1, round(seconds * SECOND)),
                last.energy_j + joules,
                {"a": last.cpu_s["a"] + a_s, "b": last.cpu_s["b"] + b_s},
                last.busy_s + a_s + b_s,
            )
        )
    return ticks


positive = st.floats(0.001, 10.0)
cpu = st.floats(0.0, 10.0)
tick_lists = st.lists(st.tuples(positive, st.floats(0.0, 100.0), cpu, cpu), min_size=1, max_size=20).map(make_ticks)


@given(tick_lists, st.floats(0, 1), st.floats(0, 1))
def test_shares_of_any_window_add_up_to_the_host(ticks: list[Tick], first: float, second: float) -> None:
    shares = Shares(ticks)
    start_ns, end_ns = sorted(round(part * ticks[-1].t_ns) for part in (first, second))
    parts = [shares.window(owner, start_ns, end_ns) for owner in shares.owners]
    assert math.fsum(part.energy_j for part in parts) == pytest.approx(
        shares.host_j(start_ns, end_ns), abs=1e-9 * (1 + ticks[-1].energy_j)
    )
    assert math.fsum(part.time_s for part in parts) == pytest.approx((end_ns - start_ns) / SECOND, abs=1e-6)


@given(tick_lists, st.floats(0, 1))
def test_a_cut_window_loses_nothing(ticks: list[Tick], cut: float) -> None:
    shares = Shares(ticks)
    cut_ns, end_ns = round(cut * ticks[-1].t_ns), ticks[-1].t_ns
    for owner in shares.owners:
        whole = shares.window(owner, 0, end_ns).energy_j
        halves = shares.window(owner, 0, cut_ns).energy_j + shares.window(owner, cut_ns, end_ns).energy_j
        assert halves == pytest.approx(whole, abs=1e-9 * (1 + ticks[-1].energy_j))


def test_energy_follows_cpu_time_within_each_interval() -> None:
    shares = Shares(make_ticks([(1.0, 10.0, 0.75, 0.25), (1.0, 4.0, 0.0, 1.0)]))
    assert shares.window("a", 0, 2 * SECOND).energy_j == pytest.approx(7.5)
    assert shares.window("b", 0, 2 * SECOND).energy_j == pytest.approx(6.5)
    assert shares.window("b", SECOND, 2 * SECOND).energy_j == pytest.approx(4.0)
    assert shares.window("a", 0, SECOND // 2).energy_j == pytest.approx(3.75)


def test_what_no_owner_used_is_other() -> None:
    ticks = [Tick(0, 0.0, {"a": 0.0}, 0.0), Tick(SECOND, 8.0, {"a": 0.5}, 2.0)]
    assert Shares(ticks).window(OTHER, 0, SECOND).energy_j == pytest.approx(6.0)


def test_an_interval_without_any_cpu_time_goes_to_other() -> None:
    shares = Shares(make_ticks([(1.0, 3.0, 0.0, 0.0)]))
    assert shares.window(OTHER, 0, SECOND).energy_j == pytest.approx(3.0)
    assert shares.window("a", 0, SECOND).energy_j == 0.0


def test_coarse_clock_ticks_of_the_host_do_not_invent_other_work() -> None:
    """The host counts in 10 ms, the owner in nanoseconds: over 10 s `other` gets one such tick at the most."""
    ticks, busy_s = [], 0.0
    for n in range(501):
        used_s = n * 0.0137
        busy_s = math.floor(used_s * 100) / 100
        ticks.append(Tick(n * SECOND // 50, n * 0.2, {"a": used_s}, busy_s))
    shares = Shares(ticks)
    assert shares.window(OTHER, 0, shares.end_ns).energy_j <= 0.2 * 2
    assert shares.window("a", 0, shares.end_ns).energy_j == pytest.approx(100.0, rel=0.005)


def test_an_owner_that_comes_and_goes_is_charged_while_it_is_there() -> None:
    ticks = [
        Tick(0, 0.0, {"a": 0.0}, 0.0),
        Tick(SECOND, 2.0, {"a": 1.0, "b": 3.0}, 1.0),
        Tick(2 * SECOND, 6.0, {"a": 2.0, "b": 4.0}, 3.0),
        Tick(3 * SECOND, 8.0, {"a": 3.0}, 4.0),
    ]
    shares = Shares(ticks)
    assert shares.window("b", 0, 3 * SECOND).energy_j == pytest.approx(2.0)
    assert shares.window("a", 0, 3 * SECOND).energy_j == pytest.approx(6.0)


def test_outside_the_samples_nothing_is_known() -> None:
    shares = Shares(make_ticks([(1.0, 10.0, 1.0, 0.0)]))
    assert shares.window("a", -SECOND, 0).energy_j == 0.0


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_samples_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match="two samples"):
        Shares([Tick(0, 0.0, {}, 0.0)] * n)


def test_time_must_rise() -> None:
    with pytest.raises(ValueError, match="rise"):
        Shares([Tick(5, 0.0, {}, 0.0), Tick(5, 1.0, {}, 0.0)])
