"""What a front rests on, in sentences: resolution, replicates, limits, targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.replication import N_RESAMPLES
from analysis.resolution import EXACT
from analysis.stats import mean, sd
from analysis.words import number
from profiler.quantities import Provenance

if TYPE_CHECKING:
    from analysis.choice import Choice, Limit
    from analysis.configurations import Point
    from analysis.pareto import Analysis
    from analysis.targets import ToTarget

_FEW = 5  # a bootstrap over fewer replicates knows too little of their spread
_NAMES = {"accuracy": "accuracy", "time_s": "time", "energy_j": "energy"}


def of_resolution(analysis: Analysis) -> list[str]:
    if analysis.resolution == EXACT:
        return []
    parts = [_step(name, analysis.resolution.of(name)) for name in analysis.objectives]
    return [f"Compared after rounding to {', '.join(parts)}: what rounds alike is a tie, and ties stay on the front."]


def _step(objective: str, step: float) -> str:
    if step == 0:
        return f"{_NAMES[objective]} exactly"
    return f"{_NAMES[objective]} {step:.4g}" if objective == "accuracy" else f"{_NAMES[objective]} {100 * step:.3g} %"


def of_replicates(analysis: Analysis) -> list[str]:
    """How sure the front is."""
    complete = [point for point in analysis.points if point.label in analysis.dominated_by]
    if not complete:
        return []
    if not analysis.probabilities:
        single = all(point.n == 1 for point in complete)
        why = "each configuration has one run only" if single else "there are too many points to draw samples of"
        return [f"How sure the front is cannot be said: {why}."]
    lines = [f"P(front): part of {N_RESAMPLES} bootstrap samples of the replicates with that point on the front."]
    few = sum(1 < point.n < _FEW for point in complete)
    alone = sum(point.n == 1 for point in complete)
    if few:
        lines.append(f"P(front) is rough for {few} configurations with fewer than {_FEW} replicates.")
    if alone:
        lines.append(f"{alone} configurations have one run only and no P(front) of their own.")
    return lines


def of_attainment(analysis: Analysis) -> list[str]:
    """How much the seeds' own fronts differ."""
    found = analysis.attainment
    if found.surfaces is None:
        return []
    spread = number(mean(found.hypervolumes), sd(found.hypervolumes))
    return [f"Hypervolume of the {len(found.seeds)} seeds' own fronts: {spread} (mean ± sd)."]


def of_target(analysis: Analysis) -> list[str]:
    """Time and energy to the target, configuration by configuration."""
    if analysis.target is None:
        return []
    head = f"Accuracy {analysis.target:g} is first reached"
    reached = [one for one in analysis.to_target if one.time_s is not None]
    short = [one for one in analysis.to_target if one.time_s is None]
    lines = [f"{head} by {one.label}: {_cost_text(one)}." for one in reached]
    lines += [f"{head} by {one.label} in {one.n_reached} of {one.n} runs only: no mean." for one in short]
    return lines if reached else [*lines, f"No configuration reaches accuracy {analysis.target:g} in all of its runs."]


def _cost_text(one: ToTarget) -> str:
    time = f"after {number(one.n_rounds, decimals=1)} rounds, {number(one.time_s)} s ({one.time_provenance})"
    if one.energy_j is None:
        return f"{time}, energy missing"
    return f"{time}, {number(one.energy_j)} J ({one.provenance.value}); mean of {one.n} runs"


def of_choice(analysis: Analysis) -> list[str]:
    """The best point within the limits, or what each limit would have to become."""
    choice = analysis.choice
    if choice is None:
        return []
    limits = ", ".join(_limit_text(limit) for limit in choice.limits)
    unknown = f" {choice.n_unknown} configurations lack a limited value and are not judged." if choice.n_unknown else ""
    if choice.label is not None:
        (point,) = (point for point in analysis.points if point.label == choice.label)
        n = f"{choice.criterion} of the {choice.n_feasible} that keep them"
        return [f"Best within {limits}: {choice.label} ({n}){_origin(point)}.{unknown}"]
    return [f"Infeasible: no configuration keeps {limits}.{unknown}", *_relaxations(choice)]


def _origin(point: Point) -> str:
    doubts = ["simulated time"] if point.time_provenance == "simulated" else []
    if point.provenance in (Provenance.ESTIMATED, Provenance.SIMULATED):
        doubts.append(f"{point.provenance.value} energy")
    return f", by {' and '.join(doubts)}" if doubts else ""


def _relaxations(choice: Choice) -> list[str]:
    lines = []
    for limit in choice.limits:
        value, label = choice.relaxations[limit.objective], choice.relaxed_labels[limit.objective]
        if value is None:
            lines.append(f"To give way on {_NAMES[limit.objective]} alone does not help.")
        else:
            lines.append(f"Feasible with {_limit_text(limit, value)} instead: {label}.")
    return lines


def _limit_text(limit: Limit, value: float | None = None) -> str:
    value = limit.value if value is None else value
    if limit.objective == "accuracy":
        return f"accuracy >= {value:.4g}"
    if limit.objective == "time_s":
        return f"time <= {value / 60:.6g} min"
    return f"energy <= {value / 1000:.6g} kJ"
