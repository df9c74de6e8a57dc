"""Fit windows: how long each client trained in each round without a cutoff, and how far it would come by a time τ."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from analysis.configurations import has_cutoff
from analysis.load import SIMULATED, SYSTEM, Results, rows
from profiler.quantities import Provenance, weakest
from profiler.records import Row

Values = npt.NDArray[np.float64]
COMMUNICATION = ("download", "receive", "send", "upload")
BESIDE = ("receive", "send", "wait")
"""Spans of a fit call, beside the fit itself, that the device's own meter covers."""
MAX_WORK_WINDOWS = 400
_GUARD_LEVEL = 0.95  # these two as in fl.steps, which the device obeys
_GUARD_STEPS = 1024
_NANOSECOND_S = 1e-9


class Group(NamedTuple):
    """What a cutoff is learnt within: all else pooled. Simulated times are never pooled with measured ones."""

    workload: str
    epochs: int
    batch_size: int
    clock: str = SYSTEM


@dataclass(frozen=True, slots=True)
class FitWindow:
    """One client's training in one round. `step_ends_s` counts from its start; None where no steps were stored.

    `run` (run id and task), `device` and `round` say whose it is. `fit_j` is the gross energy of the training,
    `beside_j` that of receiving, sending and waiting in the same round; None where it is not on record.
    """

    window_s: float
    comm_s: float | None
    step_ends_s: Values | None
    run: str = ""
    device: str = ""
    round: int = 0
    fit_j: float | None = None
    beside_j: float | None = None


@dataclass(frozen=True, slots=True)
class Windows:
    """The fit windows of one processor in one group. Never empty.

    `fleet` is how many clients of each processor took part together (the most usual number; empty: one of its own).
    `overhead_s` is what a round takes beside its longest fit call. `energy_provenance` is of the weakest joules.
    """

    processor: str
    windows: tuple[FitWindow, ...]
    fleet: Mapping[str, int] = field(default_factory=dict)
    overhead_s: float = 0.0
    energy_provenance: Provenance = Provenance.MISSING

    @property
    def windows_s(self) -> Values:
        return np.array([window.window_s for window in self.windows])

    @property
    def comms_s(self) -> Values:
        """float64[n]; calls whose communication is not on record are left out."""
        return np.array([window.comm_s for window in self.windows if window.comm_s is not None])

    @property
    def calls_s(self) -> Values:
        """Training and communication of each fit call; float64[n]. Unknown communication counts as 0."""
        return np.array([window.window_s + (window.comm_s or 0.0) for window in self.windows])

    @property
    def median_window_s(self) -> float:
        return float(np.median(self.windows_s))

    @property
    def median_comm_s(self) -> float:
        """0 where no call has its communication on record; whoever shows it says so."""
        comms_s = self.comms_s
        return float(np.median(comms_s)) if comms_s.size else 0.0

    @property
    def n_without_steps(self) -> int:
        return sum(window.step_ends_s is None for window in self.windows)

    @property
    def clients(self) -> dict[str, int]:
        """`fleet`, or one client of this processor where it is not known."""
        return dict(self.fleet) or {self.processor: 1}

    def work_fraction(self, taus_s: Values, *, guarded: bool = True) -> Values:
        """Expected completed work f(τ) = E[min(1, K(τ)/K)], the mean over the windows seen; float64[n_taus].

        K(τ) are the steps that the client does under its own rule (`steps_started`), or where not `guarded` those that
        end by τ, at least one: the floor rule of renewal theory, E K = τ/μ + (CV² - 1)/2 (Cox, 1962). Without stored
        steps τ/W stands in for K(τ)/K. Of more than 400 windows 400 are taken, evenly by their length.
        """
        chosen = spread_evenly(self.windows, MAX_WORK_WINDOWS)
        return np.asarray(work_fractions(chosen, taus_s, guarded=guarded).mean(axis=0))


def spread_evenly(windows: Sequence[FitWindow], limit: int) -> list[FitWindow]:
    """At most `limit` of some windows: those in the middle of as many equal parts of their order by length."""
    ordered = sorted(windows, key=lambda window: (window.window_s, window.run, window.device, window.round))
    if len(ordered) <= limit:
        return ordered
    return [ordered[int((n + 0.5) * len(ordered) / limit)] for n in range(limit)]


def work_fractions(windows: Sequence[FitWindow], taus_s: Values, *, guarded: bool = True) -> Values:
    """The part of its steps that each window has done by each τ; float64[n_windows, n_taus]."""
    return np.array([_fraction(window, taus_s, guarded) for window in windows])


def _fraction(window: FitWindow, taus_s: Values, guarded: bool) -> Values:
    ends_s = window.step_ends_s
    if ends_s is None:
        return np.minimum(1.0, taus_s / window.window_s)
    if guarded:
        return np.asarray(steps_started(ends_s, taus_s) / ends_s.size)
    fraction = np.maximum(np.searchsorted(ends_s, taus_s, side="right"), 1) / ends_s.size
    return np.where(taus_s >= window.window_s, 1.0, fraction)


def steps_started(step_ends_s: Values, taus_s: Values) -> Values:
    """How many steps a client does under each τ, had it gone through these: float64[n_taus].

    Before each step but the first it stops where elapsed + q95(its step times so far) > τ. q95 is the nearest rank of
    the last 1,024 steps, the first one left out once there are others (docs/architecture.md, as fl.steps does it).
    """
    crossings_s = np.maximum.accumulate(_guards(step_ends_s)) if step_ends_s.size > 1 else np.empty(0)
    return np.asarray(1.0 + np.searchsorted(crossings_s, taus_s + _NANOSECOND_S, side="right"))


def _guards(step_ends_s: Values) -> Values:
    """For each step but the last: the smallest τ under which the next one begins, were it the only condition."""
    ends = step_ends_s.tolist()
    durations = np.diff(step_ends_s, prepend=0.0).tolist()
    guards, ascending = [ends[0] + durations[0]], list[float]()
    for step in range(1, len(ends) - 1):
        if len(ascending) == _GUARD_STEPS:
            del ascending[bisect_left(ascending, durations[step - _GUARD_STEPS])]
        insort(ascending, durations[step])
        guards.append(ends[step] + ascending[math.ceil(_GUARD_LEVEL * len(ascending)) - 1])
    return np.array(guards)


def uncut_tasks(results: Results) -> dict[tuple[str, str], Row]:
    """(run id, task) -> task, for the finished tasks without a cutoff."""
    return {
        (task["run_id"], task["task"]): task
        for task in rows(results.tasks)
        if task["finished"] and not has_cutoff(task["cutoffs"])
    }


def fit_windows(results: Results) -> tuple[dict[Group, dict[str, Windows]], list[str]]:
    """The windows of finished tasks without a cutoff, by group and processor, and sentences on what was left out.

    The order in which runs were read changes nothing.
    """
    tasks = uncut_tasks(results)
    spans = results.spans[results.spans["call"] == "fit"]
    calls = _Calls.of(rows(spans[spans["name"].isin({*COMMUNICATION, *BESIDE})]))
    found: defaultdict[Group, defaultdict[str, list[tuple[FitWindow, Row]]]] = defaultdict(lambda: defaultdict(list))
    left_out: Counter[str] = Counter()
    simulated: set[tuple[object, ...]] = set()
    for span in sorted(rows(spans[spans["name"] == "fit"]), key=_order):
        task = tasks.get((span["run_id"], span["task"]))
        if task is None:
            continue
        if problem := _unusable(span):
            left_out[problem] += 1
            continue
        group = Group(task["workload"], task["epochs"], task["batch_size"], task["clock"])
        drawn = (group, task["seed"], span["device"], span["round"], span["duration_s"])
        if group.clock == SIMULATED and drawn in simulated:
            left_out["a simulation has repeated itself"] += 1
            continue
        simulated.add(drawn)
        found[group][span["processor"]].append((_window(span, calls), span))
    overheads_s = _overheads(rows(results.rounds), found)
    grouped = {
        group: {processor: _windows(processor, pairs, tasks, overheads_s) for processor, pairs in sorted(by.items())}
        for group, by in sorted(found.items())
    }
    return grouped, [f"{count} fit windows are left out: {problem}." for problem, count in sorted(left_out.items())]


def _order(span: Row) -> tuple[object, ...]:
    return span["run_id"], span["task"], span["device"] or "", span["round"] or 0, span["duration_s"]


def _window(span: Row, calls: _Calls) -> FitWindow:
    call = _call(span)
    return FitWindow(
        span["duration_s"],
        calls.comms_s.get(call),
        _step_ends(span),
        run=f"{span['run_id']} {span['task']}",
        device=span["device"] or "",
        round=span["round"] or 0,
        fit_j=span["energy_j"],
        beside_j=calls.beside_j.get(call),
    )


def _windows(
    processor: str,
    pairs: Sequence[tuple[FitWindow, Row]],
    tasks: Mapping[tuple[str, str], Row],
    overheads_s: Mapping[tuple[str, str], Sequence[float]],
) -> Windows:
    keys = sorted({(span["run_id"], span["task"]) for _, span in pairs})
    fleets = Counter([_fleet(tasks[key]) for key in keys])
    rest_s = [value for key in keys for value in overheads_s.get(key, ())]
    kinds = {span["provenance"] for window, span in pairs if window.fit_j is not None}
    return Windows(
        processor,
        tuple(window for window, _ in pairs),
        fleet=dict(max(fleets.items(), key=lambda item: (item[1], item[0]))[0]),
        overhead_s=float(np.median(rest_s)) if rest_s else 0.0,
        energy_provenance=weakest(Provenance(kind) for kind in kinds) if kinds else Provenance.MISSING,
    )


def _fleet(task: Row) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(task["processors"].items()))


def _overheads(
    rounds: Iterable[Row], found: Mapping[Group, Mapping[str, Sequence[tuple[FitWindow, Row]]]]
) -> dict[tuple[str, str], list[float]]:
    """What each round took beside its longest fit call, by (run id, task): evaluation, hand-over, waiting."""
    longest_s: defaultdict[tuple[str, str, int | None], float] = defaultdict(float)
    for by_processor in found.values():
        for window, span in (pair for pairs in by_processor.values() for pair in pairs):
            key = (span["run_id"], span["task"], span["round"])
            longest_s[key] = max(longest_s[key], window.window_s + (window.comm_s or 0.0))
    rest_s: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rounds:
        key = (row["run_id"], row["task"], row["round"])
        if key in longest_s and row["time_s"] is not None:
            rest_s[key[:2]].append(max(0.0, row["time_s"] - longest_s[key]))
    return rest_s


def _unusable(span: Row) -> str | None:
    if span["status"] != "ok":
        return "the fit failed"
    if span["stopped_by"] not in (None, "completed", "unknown"):
        return "the fit was stopped early"
    if not span["processor"]:
        return "no processor is named"
    return None if span["duration_s"] > 0 else "it lasted 0 s"


_CallKey = tuple[str, str, int | None, str | None]


def _call(span: Row) -> _CallKey:
    return span["run_id"], span["task"], span["round"], span["device"]


@dataclass(frozen=True, slots=True)
class _Calls:
    """What is on record beside the fit itself, by call: seconds of communication, joules of the device."""

    comms_s: Mapping[_CallKey, float]
    beside_j: Mapping[_CallKey, float]

    @classmethod
    def of(cls, spans: Iterable[Row]) -> _Calls:
        comms_s: defaultdict[_CallKey, list[float]] = defaultdict(list)
        beside_j: defaultdict[_CallKey, list[float]] = defaultdict(list)
        seen: defaultdict[_CallKey, set[str]] = defaultdict(set)
        for span in spans:
            call = _call(span)
            if span["name"] in COMMUNICATION:
                comms_s[call].append(span["duration_s"])
            if span["name"] in BESIDE and span["energy_j"] is not None:
                beside_j[call].append(span["energy_j"])
                seen[call].add(span["name"])
        whole = {call: math.fsum(joules) for call, joules in beside_j.items() if seen[call] >= set(BESIDE)}
        return cls({call: math.fsum(parts_s) for call, parts_s in comms_s.items()}, whole)


def _step_ends(span: Row) -> Values | None:
    if not span["steps_s"]:
        return None
    ends_s: Values = np.cumsum(np.asarray(span["steps_s"], dtype=np.float64))
    n_done = span["steps_done"]
    if n_done is not None and n_done > ends_s.size and ends_s[-1] > 0:
        ends_s = ends_s * (span["duration_s"] / ends_s[-1])  # decimated: each stored step stands for several
    return ends_s


def shares(by_processor: Mapping[str, Windows]) -> dict[str, float]:
    """Each processor's part of the client-rounds."""
    total = sum(len(windows.windows) for windows in by_processor.values())
    return {processor: len(windows.windows) / total for processor, windows in by_processor.items()}


def completed_work(epochs: int, by_processor: Mapping[str, Windows], taus_s: Values) -> Values:
    """Epochs of completed work, mean over clients, if every client had the cutoff τ; float64[n_taus]."""
    parts = shares(by_processor)
    fractions: Sequence[Values] = [
        parts[name] * windows.work_fraction(taus_s) for name, windows in by_processor.items()
    ]
    return np.asarray(epochs * np.sum(fractions, axis=0))
