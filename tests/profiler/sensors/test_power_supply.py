from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.sensors.power_supply import estimate_refresh_s, guess_current_unit, volts


@given(st.floats(1.0, 99.9))
def test_a_voltage_is_the_same_in_every_unit_it_can_come_in(voltage_v: float) -> None:
    assert volts(round(voltage_v * 1e6)) == pytest.approx(voltage_v, abs=1e-6)
    assert volts(round(voltage_v * 1e3)) == pytest.approx(voltage_v, abs=1e-3)
    assert volts(int(voltage_v)) == int(voltage_v)


@pytest.mark.parametrize("raw", [0, -4_000_000, 500, 500_000, 10**9])
def test_no_unit_makes_these_a_battery(raw: int) -> None:
    with pytest.raises(ValueError, match="voltage_now"):
        volts(raw)


@pytest.mark.parametrize(
    ("readings", "unit"),
    [
        ([-820_000, -4_000], "uA"),  # one large reading is enough
        ([-576, 3_900, 0], "mA"),
        ([4_999], "mA"),
        ([5_000], "uA"),
        ([0, 0], None),
        ([], None),
    ],
)
def test_units_of_current(readings: list[int], unit: str | None) -> None:
    assert guess_current_unit(readings) == unit


def gauge(period_s: float, step_s: float, n: int, repeat_every: int = 0) -> list[tuple[float, float]]:
    """Readings of a gauge that renews its value each `period_s`; each `repeat_every`th new value equals the old."""
    readings = []
    for i in range(n):
        index = int(i * step_s / period_s + 1e-9)
        if repeat_every:
            index -= index // repeat_every
        readings.append((i * step_s, float(index)))
    return readings


@given(st.floats(0.2, 30.0), st.sampled_from([0, 3, 4, 7]), st.floats(5.0, 20.0))
def test_the_refresh_period_is_found_despite_values_that_repeat(
    period_s: float, repeat_every: int, readings_a_period: float
) -> None:
    step_s = period_s / readings_a_period
    estimate_s = estimate_refresh_s(gauge(period_s, step_s, round(40 * readings_a_period), repeat_every))
    assert estimate_s == pytest.approx(period_s, rel=0.02)


@given(st.floats(0.1, 2.5))
def test_readings_too_slow_to_tell_never_give_too_short_a_period(ratio: float) -> None:
    estimate_s = estimate_refresh_s(gauge(ratio, 1.0, 400))
    assert estimate_s is not None
    assert estimate_s >= ratio * 0.99


def test_a_frozen_gauge_has_no_period() -> None:
    assert estimate_refresh_s([(n / 10, 5.0) for n in range(1000)]) is None
    assert estimate_refresh_s([]) is None


@pytest.mark.parametrize("times_s", [(0.0, 0.0), (1.0, 0.5), (0.0, float("nan"))])
def test_time_runs_forward(times_s: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="order"):
        estimate_refresh_s([(t_s, 1.0) for t_s in times_s])
