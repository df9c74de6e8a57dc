"""The stated error is honest, and the devices it is tried on are what they claim to be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from profiler.quantities import RailKind
from tests.profiler.honesty import CLASSES, GAPS, HELD, JITTERED, NOISY, judge
from tests.profiler.rails import counter_rail, power_rail
from tests.profiler.synthetic import (
    Approach,
    Load,
    LoadKind,
    Ramp,
    SensorClass,
    Sinusoid,
    Steps,
    draw_device,
    draw_span,
    lost,
    random_load,
    sample_times_s,
)
from tests.soak.honesty import is_honest, soak

N_SPANS = 2_050  # some with gaps are missing, since less than half of them is covered
STEADY = LoadKind(base_w=(10.0, 10.0), swing=(0.0, 1e-9), drift=0.0, starts_with_span=0.0)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.name)
def test_the_stated_error_is_honest(kind: SensorClass) -> None:
    """Expanded uncertainty, k = 2: the truth lies within in 93-99 % of the spans, and it is not wide."""
    for name, honesty in judge(kind, N_SPANS, seed=1).items():
        assert honesty.n_spans >= 2_000, (name, honesty)
        assert is_honest(kind, honesty.coverage, honesty.ratio), (name, honesty)


@pytest.mark.parametrize("rail", [power_rail(gain_err=0.05), counter_rail(gain_err=0.05)], ids=lambda rail: rail.kind)
def test_one_rectangle_alone_is_covered_always(rail: object) -> None:
    """2a/√3 = 1.15 a: with nothing but a gain error k = 2 is wider than the limits, and the median error is a/2."""
    kind = replace(JITTERED, rail=rail, load=STEADY, duration_s=(2.0, 2.5))
    for honesty in judge(kind, 400, seed=3).values():
        assert honesty.coverage == 1.0
        assert honesty.ratio == pytest.approx(4 / math.sqrt(3), rel=0.15)


def test_two_rectangles_alone_are_covered_as_a_triangle_is() -> None:
    """A counter of coarse units and nothing else: both edges lack up to one unit, and 1 - (1 - √(2/3))² is 96.6 %."""
    kind = SensorClass("units", counter_rail(wrap_j=500.0, resolution=0.5), duration_s=(1.0, 2.0), rate_hz=2.0)
    honesty = judge(kind, 2_000, seed=4)["streamed"]
    assert honesty.coverage == pytest.approx(1 - (1 - math.sqrt(2 / 3)) ** 2, abs=0.013)
    assert honesty.ratio == pytest.approx(math.sqrt(2 / 3) / (1 - math.sqrt(1 / 2)), rel=0.08)


def test_white_noise_alone_is_covered_as_a_normal_distribution_is() -> None:
    """k = 2 of a normal distribution is 95.4 %; a standard deviation of 100 samples or so is 10 % off itself."""
    kind = replace(NOISY, rail=power_rail(), load=STEADY, duration_s=(8.0, 12.0))
    honesty = judge(kind, 500, seed=5)["streamed"]
    assert honesty.coverage == pytest.approx(0.954, abs=0.025)
    assert honesty.ratio == pytest.approx(2 / 0.6745, rel=0.2)


# The generator itself.


def loads() -> list[Load]:
    edges_s = np.array([-2.0, -0.5, 0.3, 0.31, 1.7, 2.0])
    parts: list[Load] = [
        Steps(edges_s, np.array([1.0, 5.0, 2.0, 9.0, 0.0, 3.0])),
        Ramp(0.2, 1.5, -4.0),
        Sinusoid(3.0, 0.7, 0.4),
        Approach(0.5, 0.3, 6.0),
    ]
    return [*parts, random_load(np.random.default_rng(1), LoadKind(), 3.0)]


@pytest.mark.parametrize("load", loads(), ids=lambda load: type(load).__name__)
def test_energy_in_closed_form_is_the_integral_of_power(load: Load) -> None:
    """Against the midpoint rule, which knows nothing of antiderivatives; a step costs it at most half an interval."""
    edges_s = np.linspace(-1.9, 3.0, 400_001)
    numeric_j = np.cumsum(load.power_w((edges_s[:-1] + edges_s[1:]) / 2) * np.diff(edges_s))
    closed_j = load.energy_j(edges_s) - load.energy_j(edges_s[:1])
    largest_w = float(np.abs(load.power_w(edges_s)).max())
    assert np.abs(numeric_j - closed_j[1:]).max() < 60 * largest_w * (edges_s[1] - edges_s[0])
    assert np.ptp(closed_j) > 0.5


def test_closed_forms_by_hand() -> None:
    def joules(load: Load, start_s: float, end_s: float) -> float:
        first_j, last_j = load.energy_j(np.array([start_s, end_s]))
        return float(last_j - first_j)

    assert joules(Steps(np.array([0.0, 1.0, 3.0]), np.array([10.0, 2.0, 4.0])), 0.5, 4.0) == pytest.approx(13.0)
    assert joules(Ramp(1.0, 2.0, 6.0), 0.0, 4.0) == pytest.approx(12.0)
    assert joules(Sinusoid(2.0, 1.0, 0.0), 0.0, 0.5) == pytest.approx(2 / math.pi)
    assert joules(Approach(0.0, 1.0, 5.0), 0.0, 1.0) == pytest.approx(5 / math.e)


def uniform_on(drawn: NDArray[np.float64], low: float, high: float) -> bool:
    """By its extremes, mean and standard deviation, each within five standard errors."""
    width, n = high - low, drawn.size
    return bool(
        low <= drawn.min()
        and drawn.max() <= high
        and abs(drawn.mean() - (low + high) / 2) < 5 * width / math.sqrt(12 * n)
        and abs(drawn.std() / width - 1 / math.sqrt(12)) < 5 * math.sqrt(1 / 180 / n)
    )


def test_systematic_errors_are_uniform_over_devices_within_the_rails_limits() -> None:
    rng = np.random.default_rng(7)
    devices = [draw_device(rng, replace(HELD, rail=replace(HELD.rail, offset_err_w=0.3))) for _ in range(1000)]
    assert uniform_on(np.array([device.gain for device in devices]), -0.05, 0.05)
    assert uniform_on(np.array([device.offset_w for device in devices]), -0.3, 0.3)
    assert uniform_on(np.array([device.phase_s for device in devices]), 0.0, 0.5)


def test_systematic_errors_stay_over_a_span() -> None:
    rng = np.random.default_rng(8)
    kind = replace(JITTERED, rail=power_rail(gain_err=0.05, offset_err_w=0.5))
    device = draw_device(rng, kind)
    t_s = np.linspace(0, device.duration_s, 50)
    expected_w = device.load.power_w(t_s) * (1 + device.gain) + device.offset_w
    assert device.read(rng, t_s) == pytest.approx(expected_w)


def test_noise_is_white_and_as_large_as_it_says() -> None:
    rng = np.random.default_rng(9)
    device = draw_device(rng, replace(NOISY, rail=power_rail(), load=STEADY))
    t_s = np.linspace(0, 1, 4001)
    noise = device.read(rng, t_s) / device.load.power_w(t_s) - 1
    assert noise.std() == pytest.approx(0.2, rel=0.06)
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 5 / math.sqrt(noise.size)


def test_a_digit_rounds_and_a_unit_cuts_off() -> None:
    rng = np.random.default_rng(10)
    t_s = np.sort(rng.uniform(0, 2, 3000))
    coarse = draw_device(rng, SensorClass("digits", power_rail(resolution=0.01)))
    assert uniform_on(coarse.read(rng, t_s) - coarse.load.power_w(t_s), -0.005 - 1e-9, 0.005 + 1e-9)
    counter = draw_device(rng, SensorClass("units", counter_rail(wrap_j=None, resolution=0.01)))
    lacking_j = counter.read(rng, t_s) - counter.start_j - counter.load.energy_j(t_s)
    assert uniform_on(lacking_j, -0.01 - 1e-9, 1e-9)


def test_a_counter_wraps_and_is_as_old_as_its_refresh() -> None:
    rng = np.random.default_rng(11)
    kind = SensorClass("counter", counter_rail(wrap_j=7.0), refresh_s=0.05)
    device = replace(draw_device(rng, kind), load=Ramp(-100.0, 1.0, 10.0))  # 10 W
    t_s = np.sort(rng.uniform(0, 3, 3000))
    counted_j = device.read(rng, t_s)
    assert (counted_j >= 0).all()
    assert (counted_j < 7).all()
    assert int((np.diff(counted_j) < 0).sum()) in (3, 4, 5)  # 30 J in all
    drawn_j = device.start_j + device.load.energy_j(t_s)
    assert uniform_on((drawn_j - counted_j + 1e-9) % 7.0 / 10, 0.0, 0.05 + 1e-6)


def test_a_gauge_repeats_itself_until_it_is_renewed() -> None:
    rng = np.random.default_rng(12)
    device = draw_device(rng, replace(HELD, noise=0.1))
    values = device.read(rng, np.linspace(0.001, 5.0, 1000))
    assert len(set(values.tolist())) in (10, 11)
    boxcar = draw_device(rng, SensorClass("means", power_rail(edge_jitter_s=0.5), refresh_s=0.5, is_boxcar=True))
    ramp = replace(boxcar, load=Ramp(-10.0, 100.0, 100.0), phase_s=0.0)  # 1 W/s, 10 W at second 0
    assert ramp.read(rng, np.array([1.0, 1.4, 1.5])) == pytest.approx([10.75, 10.75, 11.25])


def test_a_sampler_is_jittered_and_late_as_it_says() -> None:
    rng = np.random.default_rng(13)
    kind = replace(JITTERED, p_late=0.2, late_s=0.05)
    gaps_s = np.diff(sample_times_s(rng, kind, 0.0, 500.0))
    assert gaps_s.min() >= 0.07
    assert gaps_s.mean() == pytest.approx(0.1 + 0.2 * 0.05, rel=0.02)
    assert uniform_on(np.diff(sample_times_s(rng, replace(kind, p_late=0.0), 0.0, 300.0)), 0.07, 0.13)


def test_samples_are_lost_as_often_as_it_says() -> None:
    rng = np.random.default_rng(14)
    t_s = np.linspace(0, 100, 10_000)
    assert lost(rng, replace(JITTERED, p_lost=0.1), t_s, 100.0).mean() == pytest.approx(0.1, abs=0.015)
    gone = lost(rng, replace(JITTERED, outages=(1, 1), outage_s=(2.0, 2.0)), t_s, 90.0)
    assert gone.sum() * 0.01 == pytest.approx(2.0, abs=0.02)
    assert int((np.diff(gone.astype(int)) != 0).sum()) == 2  # in one piece


def test_spans_begin_with_the_load_as_often_as_it_says() -> None:
    rng = np.random.default_rng(15)
    kind = LoadKind(drift=0.0, swing=(0.5, 0.8))
    around_s = np.array([-1e-6, 1e-6])
    jumps_w = [np.ptp(random_load(rng, kind, 3.0).power_w(around_s)) for _ in range(400)]
    assert np.mean(np.array(jumps_w) > 0) == pytest.approx(0.5, abs=0.1)


def test_a_span_is_drawn_alike_from_the_same_seed() -> None:
    first, again = (draw_span(np.random.default_rng(16), kind) for kind in (HELD, HELD))
    assert first.marked == again.marked
    assert first.truth_j == again.truth_j
    times_ns = [t_ns for t_ns, _ in first.marked]
    assert {0, first.duration_ns} <= set(times_ns)
    assert not {0, first.duration_ns} & {t_ns for t_ns, _ in first.recorded}
    assert HELD.rail.kind is RailKind.POWER_W


def test_the_soak_run_tells_what_is_not_honest(capsys: pytest.CaptureFixture[str]) -> None:
    assert is_honest(JITTERED, 0.95, 3.0)
    assert not is_honest(JITTERED, 0.92, 3.0)
    assert not is_honest(JITTERED, 1.0, 3.0)
    assert not is_honest(JITTERED, 0.95, 4.1)
    assert is_honest(GAPS, 0.95, 4.1)
    lone = replace(JITTERED, rail=power_rail(gain_err=0.05), load=STEADY)
    assert not soak(lone, 20, [1])  # always covered
    assert capsys.readouterr().out.count("NOT HONEST") == 2
