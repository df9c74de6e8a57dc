from __future__ import annotations

import math

import pytest

from profiler.clock import FakeClock
from profiler.commands.figures import aligned, machine_lines, plain, with_error
from profiler.commands.meter import Live, PeakPower
from profiler.quantities import EnergyReading, Provenance, Scope
from profiler.records import Resources
from profiler.sampler import Sample
from profiler.sensor import Available
from profiler.sensors.fake import FakeSensor
from tests.profiler.rails import counter_rail, power_rail

NS = 10**9


def two_rails() -> Available:
    outcome = FakeSensor([power_rail(), counter_rail()], lambda t_s: [1.0, 1.0], FakeClock()).probe()
    assert isinstance(outcome, Available)
    return outcome


def reading(energy_j: float | None) -> EnergyReading:
    if energy_j is None:
        return EnergyReading.missing("a", Scope.RAIL, "gone")
    return EnergyReading("a", energy_j, 0.1, Provenance.COUNTER, Scope.RAIL)


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (20.03456, 0.5812, "20.03 ± 0.58"),
        (20.03456, 0.0, "20.035 ± 0.000"),
        (12345.6, 234.0, "12346 ± 234"),
        (0.00123456, 0.0000612, "0.001235 ± 0.000061"),
        (-3.21, 1.5, "-3.2 ± 1.5"),
        (None, None, "missing"),
    ],
)
def test_digits_follow_the_error(value: float | None, error: float | None, said: str) -> None:
    assert with_error(value, error) == said


def test_names_cannot_steer_a_terminal() -> None:
    assert plain("VDD\x1b[2J\x07\n_IN µ") == "VDD?[2J??_IN µ"


def test_columns_line_up() -> None:
    assert aligned([("", "W", "of"), ("a", "10.0", "x"), ("long", "-", "")]) == [
        "         W  of",
        "a     10.0  x",
        "long     -",
    ]


def test_peak_is_the_largest_mean_between_two_samples() -> None:
    peaks = PeakPower(two_rails(), rate_hz=10)
    for t_s, first_j, second_j in [(0.0, 0.0, 0.0), (0.1, 1.0, 3.0), (0.2, 6.0, 3.5), (0.3, 6.5, 9.5)]:
        peaks(Sample(round(t_s * NS), (1.0, 1.0), (first_j, second_j)))
    got = peaks.of([reading(6.5), reading(9.5), reading(16.0)], 0.3)
    assert got == pytest.approx((50.0, 60.0, 65.0))  # the rails peak at different times: 50 + 60 W were never drawn


def test_samples_close_together_make_no_peak() -> None:
    peaks = PeakPower(two_rails(), rate_hz=10)
    for t_ns, energy_j in [(0, 0.0), (1000, 0.5), (NS // 10, 1.0), (NS // 10 + 1000, 1.5), (NS // 5, 2.0)]:
        peaks(Sample(t_ns, (1.0, 1.0), (energy_j, 0.0)))
    assert peaks.of([reading(2.0), reading(0.0), reading(2.0)], 0.2)[0] == pytest.approx(10.0, rel=1e-3)


def test_peak_spans_a_gap_and_is_missing_with_its_energy() -> None:
    peaks = PeakPower(two_rails(), rate_hz=10)
    peaks(Sample(0, (1.0, 1.0), (0.0, 0.0)))
    peaks(Sample(NS, (None, 1.0), (None, 8.0)))
    peaks(Sample(2 * NS, (1.0, 1.0), (6.0, 9.0)))
    assert peaks.of([reading(6.0), reading(None), reading(15.0)], 2.0) == (3.0, None, 7.5)


def test_a_peak_is_never_below_the_mean() -> None:
    peaks = PeakPower(two_rails(), rate_hz=10)
    peaks(Sample(0, (1.0, 1.0), (0.0, 0.0)))
    assert peaks.of([reading(0.1), reading(0.2), reading(0.3)], 0.01) == pytest.approx((10.0, 20.0, 30.0))


def test_live_energy_is_since_the_start_and_power_over_the_last_second() -> None:
    live = Live(two_rails(), rate_hz=10)
    assert live.powers_w() == [None, None, None]
    assert live.readings()[-1].energy_j is None
    first_j = second_j = 0.0
    for tick in range(51):
        power_w = 2.0 if tick <= 30 else 4.0
        if tick:
            first_j += 1.0 if tick <= 30 else 3.0
            second_j += 0.5
        live(Sample(tick * NS // 10, (power_w, second_j), (first_j, second_j)))
    assert live.powers_w() == pytest.approx([30.0, 5.0, 35.0])
    first, second, total = live.readings()
    assert first.energy_j == pytest.approx(2.0 * 3 + 3.0 * 0.1 + 4.0 * 1.9)
    assert second.energy_j == pytest.approx(25.0)
    assert total.energy_j == pytest.approx(13.9 + 25.0)
    assert total.energy_err_j is not None
    assert math.isfinite(total.energy_err_j)


def test_live_power_is_missing_where_a_rail_is() -> None:
    live = Live(two_rails(), rate_hz=10)
    live(Sample(0, (2.0, 0.0), (0.0, 0.0)))
    live(Sample(NS // 10, (None, 1.0), (None, 1.0)))
    assert live.powers_w() == [None, pytest.approx(10.0), None]


def test_a_machine_is_told_of_as_far_as_it_tells() -> None:
    assert machine_lines(Resources(cpu_s=1.0, peak_rss_bytes=1)) == []
    assert machine_lines(Resources(throttling="")) == ["  throttled by: nothing"]
    told = Resources(temperature_c=60.0, gpu_use=0.48, gpu_frequency_hz=1.41e9, throttling="gpu_heat,processor")
    assert machine_lines(told) == [
        "  processor: 60.0 °C at the end",
        "  GPU: 48% busy, 1410 MHz at the end",
        "  throttled by: gpu_heat, processor",
    ]
