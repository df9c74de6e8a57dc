"""A simulated device to calibrate: steps that take virtual time and virtual joules, with nothing trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fl.messages import Array, Config, Scalar
from fl.steps import StepControl, steps
from harness.device_model import Costs, FitPace, fit_rng
from harness.simulated_device import SimulatedMeter
from profiler.clock import FakeClock
from profiler.errors import UsageError

_ENDLESS = 10**9  # steps an epoch: the cutoff ends each fit


@dataclass(frozen=True, slots=True)
class Heat:
    """Steps take up to `part` longer as the device heats up, with a time constant of so many seconds of training."""

    part: float = 0.0
    constant_s: float = 300.0

    def factor(self, trained_s: float) -> float:
        return 1 - self.part * math.expm1(-trained_s / self.constant_s)


def parse_heat(text: str) -> Heat:
    """`PART:SECONDS`, as in 0.25:300. Raises UsageError."""
    part, _, seconds = text.partition(":")
    try:
        heat = Heat(float(part), float(seconds))
    except ValueError:
        heat = Heat(math.nan)
    if not (0 <= heat.part <= 9 and 1e-3 <= heat.constant_s <= 1e7):
        raise UsageError(
            f"--throttle {text!r:.40} is not PART:SECONDS.", remedy="0.25:300 is 25 % slower, e-folding 300 s."
        )
    return heat


class SimulatedBoard:
    """A client whose `fit` only takes time. Every draw follows from seed and round."""

    def __init__(self, costs: Costs, clock: FakeClock, meter: SimulatedMeter, heat: Heat) -> None:
        self._costs = costs
        self._clock = clock
        self._meter = meter
        self._heat = heat
        self._began_ns: int | None = None
        self._pace: FitPace | None = None
        self._worth = 1.0

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        return {}

    def get_parameters(self, config: Config) -> list[Array]:
        return []

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        seed, round_, batch_size = (int(config[key]) for key in ("seed", "round", "batch_size"))
        if self._began_ns is None:
            self._began_ns = self._clock.monotonic_ns()
        self._pace = FitPace(self._costs, fit_rng(seed, round_, 0))
        self._worth = self._costs.worth(_ENDLESS, batch_size)
        self._clock.advance(self._costs.training.start_s)
        n_steps = sum(1 for _ in steps(range(_ENDLESS)))
        return parameters, n_steps * batch_size, {}

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        """Raises UsageError: nothing was trained."""
        raise UsageError("a simulated board has no model to evaluate.")

    def step_done(self, control: StepControl) -> None:
        """The `pace` of a `StepControl`."""
        if self._pace is None or self._began_ns is None:
            raise RuntimeError("a step outside of fit")
        now_ns = self._clock.monotonic_ns()
        step_s, step_j = self._pace.step((now_ns - control.started_ns) / 1e9, self._worth)
        self._clock.advance(step_s * self._heat.factor((now_ns - self._began_ns) / 1e9))
        self._meter.add(step_j)
