"""The estimator of the bench, on training whose losses are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.bench.slowdown import lost_around


@pytest.mark.parametrize("delay_s", [0.0, 150e-6, 1e-3])
def test_what_readings_cost_is_found_amid_interruptions_and_drift(delay_s: float) -> None:
    """Steps of 0.25 ms whose speed drifts by a third, one in 200 interrupted for some ms; a reading delays its step."""
    rng = np.random.default_rng(1)
    n, pairs = 600_000, 100
    steps_s = 250e-6 * (1 + np.sin(np.arange(n) / 5_000) / 3) + (rng.random(n) < 0.005) * rng.exponential(3e-3, n)
    undisturbed_s = np.cumsum(steps_s)
    due_s = 1.0 + np.cumsum(rng.uniform(0.07, 0.13, pairs * 12))
    delayed = np.searchsorted(undisturbed_s, due_s)
    ends_s = undisturbed_s + delay_s * np.searchsorted(delayed, np.arange(n), side="right")
    lost = lost_around(due_s + delay_s * np.arange(due_s.size), ends_s, 12)
    error = np.std(lost, ddof=1) / math.sqrt(pairs)
    assert error < 0.0015
    assert np.mean(lost) == pytest.approx(delay_s / 0.1, abs=3 * error)
