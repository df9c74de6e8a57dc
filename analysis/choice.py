"""The best configuration within limits; or that there is none, and how far each limit would have to give way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.configurations import Point
from analysis.resolution import Resolution, boxes

_SLACK = 1e-9  # relative: a limit typed in minutes or kJ means the value that is shown for it
_COSTS = ("energy_j", "time_s")


@dataclass(frozen=True, slots=True)
class Limit:
    """`objective` must be at least (accuracy) or at most (time, energy) `value`, in the objective's own unit."""

    objective: str
    value: float

    def missed_by(self, value: float) -> float:
        """How far beyond the limit a value is, in the objective's unit; 0 where it keeps it."""
        beyond = self.value - value if self.objective == "accuracy" else value - self.value
        return beyond if beyond > _SLACK * abs(self.value) else 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer to some limits.

    `label` is the best of `n_feasible` points by `criterion`, None where no point keeps all limits. Then `relaxations`
    maps each objective to the nearest value of its limit that would let a point in, the other limits unchanged; None
    where no value would. `n_unknown` points lack a limited objective and cannot be judged.
    """

    limits: tuple[Limit, ...]
    label: str | None
    criterion: str
    n_feasible: int
    n_unknown: int
    relaxations: Mapping[str, float | None]
    relaxed_labels: Mapping[str, str | None]


def choose(points: Iterable[Point], limits: Sequence[Limit], resolution: Resolution) -> Choice:
    """The best point within limits.

    With a limit on accuracy that is the cheapest, by energy where it is known of all, else by time; otherwise the one
    of the highest accuracy. Ties within the resolution go by the other objectives.
    """
    made = list(points)
    judged = [point for point in made if point.has(limit.objective for limit in limits)]
    feasible = [point for point in judged if not any(_missed(point, limit) for limit in limits)]
    order = _order(feasible, limits)
    relaxed = {} if feasible else {limit.objective: _nearest(judged, limit, limits) for limit in limits}
    return Choice(
        limits=tuple(limits),
        label=_best(feasible, order, resolution),
        criterion=_criterion(order),
        n_feasible=len(feasible),
        n_unknown=len(made) - len(judged),
        relaxations={name: None if point is None else point.value(name) for name, point in relaxed.items()},
        relaxed_labels={name: None if point is None else point.label for name, point in relaxed.items()},
    )


def _missed(point: Point, limit: Limit) -> float:
    value = point.value(limit.objective)
    return float("inf") if value is None else limit.missed_by(value)


def _order(feasible: Sequence[Point], limits: Sequence[Limit]) -> tuple[str, ...]:
    """Objectives by importance; only those that all feasible points have."""
    wanted = (*_COSTS, "accuracy") if any(limit.objective == "accuracy" for limit in limits) else ("accuracy", *_COSTS)
    return tuple(name for name in wanted if all(point.has((name,)) for point in feasible))


def _criterion(order: Sequence[str]) -> str:
    words = {"accuracy": "the highest accuracy", "energy_j": "the least energy", "time_s": "the least time"}
    return words[order[0]] if order else ""


def _best(feasible: Sequence[Point], order: Sequence[str], resolution: Resolution) -> str | None:
    if not feasible:
        return None
    values = [[point.value(name) or 0.0 for name in order] for point in feasible]
    compared = boxes(values, order, resolution).tolist()
    signs = [-1.0 if name == "accuracy" else 1.0 for name in order]

    def rank(index: int) -> tuple[list[float], list[float], str]:
        rounded = [sign * value for sign, value in zip(signs, compared[index], strict=True)]
        exact = [sign * value for sign, value in zip(signs, values[index], strict=True)]
        return rounded, exact, feasible[index].label

    return feasible[min(range(len(feasible)), key=rank)].label


def _nearest(judged: Sequence[Point], relaxed: Limit, limits: Sequence[Limit]) -> Point | None:
    """The point that misses one limit by least and keeps all the others."""
    others = [limit for limit in limits if limit != relaxed]
    near = [point for point in judged if not any(_missed(point, limit) for limit in others)]
    return min(near, key=lambda point: (_missed(point, relaxed), point.label), default=None)
