"""How well a device that is held out is predicted: times and power from few points on it, and heat from five minutes.

Not a speed: what is computed is the same on any machine. `docs/analysis.md` has the table.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest

from analysis.step_estimates import calibrated
from harness.calibrate import Plan, simulated
from harness.simulated_board import Heat
from profiler.calibrations import StepCurve
from profiler.devices import load_device
from profiler.errors import ResultsError
from tests.bench.figures import Figure
from tests.fixtures.data import device_data
from tests.fixtures.device_times import (
    Score,
    board_targets,
    mean_coverage,
    over_targets,
    phone_targets,
    power_score,
    time_score,
    unmeasured_score,
)

N_DRAWS = 50
N_SEEDS = 100
_PROFILE, _WORKLOAD = "jetson-tx2-cpu", "cifar10-resnet18"
_HEAT = Heat(0.25, 300.0)
_HORIZON_S = 1200.0


def prediction() -> list[Figure]:
    """Times and powers of held-out devices, and the mean step of twenty minutes of one that throttles."""
    try:
        folder = device_data()
    except pytest.skip.Exception as skipped:
        print(f"prediction of real devices is left out: {skipped}", file=sys.stderr)
        return heat(N_SEEDS)
    boards, phones = board_targets(folder), phone_targets(folder)
    return [
        *_figures("latency of boards, 10 points", [time_score(one, 10, N_DRAWS) for one in boards], "<= 18 %"),
        *_figures("power of boards, 10 points", [power_score(one, 10, N_DRAWS) for one in boards], "<= 12 %"),
        *_figures("training of phones, 20 points", [time_score(one, 20, N_DRAWS) for one in phones], "<= 16 %"),
        *_figures("latency of boards, no point", [unmeasured_score(one) for one in boards], "estimated", ">= 0.9"),
        *heat(N_SEEDS),
    ]


def _figures(what: str, scores: Sequence[Score], goal: str, coverage: str = "0.85..0.95") -> list[Figure]:
    errors = [100 * float(np.mean(score.mean_error)) for score in scores]
    medians = [100 * float(np.mean(score.median_error)) for score in scores]
    return [
        Figure(f"{what}: mean error, median over targets", "%", errors, goal=goal),
        Figure(f"{what}: median error, median over targets", "%", medians, goal=goal),
        Figure(f"{what}: worst target's mean error", "%", [max(errors)]),
        Figure(f"{what}: coverage of 90 % intervals", "", [mean_coverage(scores)], goal=coverage),
        Figure(f"{what}: lowest target's coverage", "", [min(mean_coverage([score]) for score in scores)]),
        Figure(f"{what}: half-width", "x", [over_targets(scores, "factor")]),
    ]


def heat(n_seeds: int) -> list[Figure]:
    """Five minutes of a simulated board that gets 25 % slower with 300 s, against what it does in twenty."""
    first_s = load_device(_PROFILE).training_of(_WORKLOAD).step_s
    true_s = StepCurve(first_s, _HEAT.part * first_s, _HEAT.constant_s).mean_s(_HORIZON_S)
    errors, n_refused = [], 0
    for seed in range(n_seeds):
        plan = Plan(_WORKLOAD, {}, (), limit_s=300.0, idle_s=60.0, seed=seed)
        try:
            errors.append(calibrated(simulated(plan, _PROFILE, _HEAT).points[0], _HORIZON_S).step_s / true_s - 1)
        except ResultsError:
            n_refused += 1
    what = "throttling board, 5 of 20 minutes"
    return [
        Figure(
            f"{what}: seeds within 5 %", "%", [100 * float(np.sum(np.abs(errors) <= 0.05)) / n_seeds], goal=">= 90 %"
        ),
        Figure(f"{what}: seeds refused", "%", [100 * n_refused / n_seeds], goal="<= 10 %"),
    ]
