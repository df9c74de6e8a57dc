"""How sure a front is, from the spread of its replicates: bootstrap probabilities and empirical attainment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import moocore
import numpy as np

from analysis import fronts
from analysis.configurations import Point
from analysis.fronts import Matrix
from analysis.resolution import Resolution, boxes

N_RESAMPLES = 1000
MAX_POINTS = 5_000  # 5,000 points and 1,000 resamples take about 5 s
MAX_ATTAINED = 20_000
LEVELS = (25, 50, 75)


@dataclass(frozen=True, slots=True)
class Attainment:
    """What parts of the seeds attain: `surfaces` maps per cent of the seeds to non-dominated values.

    The empirical attainment function (Grunert da Fonseca, Fonseca and Hall, 2001). A seed's own front is of its runs of
    all complete configurations; `hypervolumes` has one for each seed. Without two seeds that all configurations share
    there is none, and `reason` says so.
    """

    seeds: tuple[int, ...] = ()
    surfaces: Mapping[int, tuple[tuple[float, ...], ...]] | None = None
    hypervolumes: tuple[float, ...] = ()
    reason: str = ""


def front_probabilities(
    complete: Sequence[Point],
    objectives: Sequence[str],
    maximise: Sequence[bool],
    resolution: Resolution,
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, float]:
    """Label -> part of the bootstrap samples in which the point is on the front (Efron and Tibshirani, 1993).

    Where all configurations were run with the same seeds these are drawn for all of them together, since a lucky seed
    is lucky for all; else each configuration's own replicates. One with a single replicate has no spread to draw from:
    it takes part as it is, and has no probability of its own.
    """
    if all(point.n < 2 for point in complete) or len(complete) > MAX_POINTS:
        return {}
    rng = np.random.default_rng(seed)
    drawn = _draw(complete, objectives, n_resamples, rng)
    compared = boxes(drawn.reshape(-1, len(objectives)), objectives, resolution).reshape(drawn.shape)
    on_front = np.array([fronts.on_front(sample, maximise) for sample in compared])
    parts = on_front.mean(axis=0).tolist()
    return {point.label: part for point, part in zip(complete, parts, strict=True) if point.n > 1}


def _draw(complete: Sequence[Point], objectives: Sequence[str], n: int, rng: np.random.Generator) -> Matrix:
    """float64[n, n_points, n_objectives]: means of replicates drawn with replacement."""
    by_seed = _by_shared_seed(complete, objectives)
    if len(by_seed) > 1 and all({run.seed for run in point.replicates} == by_seed.keys() for point in complete):
        values = np.stack(list(by_seed.values()))
        return np.stack([values[rng.integers(len(values), size=len(values))].mean(axis=0) for _ in range(n)])
    return np.stack([_resampled_means(point, objectives, n, rng) for point in complete], axis=1)


def _resampled_means(point: Point, objectives: Sequence[str], n: int, rng: np.random.Generator) -> Matrix:
    """float64[n, n_objectives]. A replicate's values stay together: its time and its energy belong to each other."""
    values = np.array([[replicate.value(name) for name in objectives] for replicate in point.replicates], np.float64)
    chosen = rng.integers(len(values), size=(n, len(values)))
    return np.asarray(values[chosen].mean(axis=1))


def attainment(
    complete: Sequence[Point], objectives: Sequence[str], maximise: Sequence[bool], reference: Sequence[float]
) -> Attainment:
    """The empirical attainment of some complete points over the seeds that they share."""
    by_seed = _by_shared_seed(complete, objectives)
    if len(by_seed) < 2:
        return Attainment(reason=f"no attainment: the configurations share {len(by_seed)} seeds, it needs 2")
    if len(complete) * len(by_seed) > MAX_ATTAINED:
        return Attainment(reason=f"no attainment: more than {MAX_ATTAINED} runs")
    signs = np.where(list(maximise), -1.0, 1.0)
    sets = np.repeat(np.arange(len(by_seed)), len(complete))
    surfaces = moocore.eaf(np.concatenate(list(by_seed.values())) * signs, sets=sets, percentiles=list(LEVELS))
    return Attainment(
        seeds=tuple(by_seed),
        surfaces={level: _surface(surfaces, level, signs) for level in LEVELS},
        hypervolumes=tuple(fronts.hypervolume(values, reference, maximise) for values in by_seed.values()),
    )


def _by_shared_seed(complete: Sequence[Point], objectives: Sequence[str]) -> dict[int, Matrix]:
    """Seed -> float64[n_points, n_objectives], repeats of one seed averaged; seeds of all points only."""
    values = [_means_by_seed(point, objectives) for point in complete]
    shared = set.intersection(*(set(of_point) for of_point in values)) if values else set()
    return {seed: np.array([of_point[seed] for of_point in values]) for seed in sorted(shared)}


def _means_by_seed(point: Point, objectives: Sequence[str]) -> dict[int, Matrix]:
    runs: defaultdict[int, list[list[float | None]]] = defaultdict(list)
    for replicate in point.replicates:
        runs[replicate.seed].append([replicate.value(name) for name in objectives])
    return {seed: np.asarray(np.array(values, np.float64).mean(axis=0)) for seed, values in runs.items()}


def _surface(surfaces: Matrix, level: int, signs: Matrix) -> tuple[tuple[float, ...], ...]:
    rows = surfaces[surfaces[:, -1] == level, :-1] * signs
    return tuple(sorted(tuple(row) for row in rows.tolist()))
