"""Fit windows: how long each client trained in each round without a cutoff, and how far it would come by a time τ."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from analysis.configurations import has_cutoff
from analysis.load import SIMULATED, SYSTEM, Results, rows
from profiler.records import Row

Values = npt.NDArray[np.float64]
COMMUNICATION = ("download", "receive", "send", "upload")


class Group(NamedTuple):
    """What a cutoff is learnt within: all else pooled. Simulated times are never pooled with measured ones."""

    workload: str
    epochs: int
    batch_size: int
    clock: str = SYSTEM


@dataclass(frozen=True, slots=True)
class FitWindow:
    """One client's training in one round. `step_ends_s` counts from its start; None where no steps were stored."""

    window_s: float
    comm_s: float | None
    step_ends_s: Values | None


@dataclass(frozen=True, slots=True)
class Windows:
    """The fit windows of one processor in one group. Never empty."""

    processor: str
    windows: tuple[FitWindow, ...]

    @property
    def windows_s(self) -> Values:
        return np.array([window.window_s for window in self.windows])

    @property
    def comms_s(self) -> Values:
        """float64[n]; calls whose communication is not on record are left out."""
        return np.array([window.comm_s for window in self.windows if window.comm_s is not None])

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

    def work_fraction(self, taus_s: Values) -> Values:
        """Expected completed work f(τ) = E[min(1, K(τ)/K)], the mean over the windows seen; float64[n_taus].

        K(τ) is the floor rule: the steps that ended by τ, at least one, for the client always does one. The client's
        own rule stops before a step that would *probably* cross τ (q95 of its steps), so where steps vary it does a
        little less. Without stored steps τ/W stands in for K(τ)/K.
        """
        fractions = np.array([_fraction(window, taus_s) for window in self.windows])
        return np.asarray(fractions.mean(axis=0))


def _fraction(window: FitWindow, taus_s: Values) -> Values:
    if window.step_ends_s is None:
        return np.minimum(1.0, taus_s / window.window_s)
    done = np.searchsorted(window.step_ends_s, taus_s, side="right")
    fraction = np.maximum(done, 1) / window.step_ends_s.size
    return np.where(taus_s >= window.window_s, 1.0, fraction)


def uncut_tasks(results: Results) -> dict[tuple[str, str], Row]:
    """(run id, task) -> task, for the finished tasks without a cutoff."""
    return {
        (task["run_id"], task["task"]): task
        for task in rows(results.tasks)
        if task["finished"] and not has_cutoff(task["cutoffs"])
    }


def fit_windows(results: Results) -> tuple[dict[Group, dict[str, Windows]], list[str]]:
    """The windows of finished tasks without a cutoff, by group and processor, and sentences on what was left out."""
    tasks = uncut_tasks(results)
    spans = results.spans[results.spans["call"] == "fit"]
    comms_s = _communication(rows(spans[spans["name"].isin(COMMUNICATION)]))
    found: defaultdict[Group, defaultdict[str, list[FitWindow]]] = defaultdict(lambda: defaultdict(list))
    left_out: Counter[str] = Counter()
    simulated: set[tuple[object, ...]] = set()
    for span in rows(spans[spans["name"] == "fit"]):
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
        found[group][span["processor"]].append(
            FitWindow(span["duration_s"], comms_s.get(_call(span)), _step_ends(span))
        )
    grouped = {
        group: {processor: Windows(processor, tuple(windows)) for processor, windows in sorted(by.items())}
        for group, by in sorted(found.items())
    }
    return grouped, [f"{count} fit windows are left out: {problem}." for problem, count in sorted(left_out.items())]


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


def _communication(spans: Iterable[Row]) -> dict[_CallKey, float]:
    """download + receive + send + upload of each fit call, as far as they are on record."""
    total_s: defaultdict[_CallKey, float] = defaultdict(float)
    for span in spans:
        total_s[_call(span)] += span["duration_s"]
    return total_s


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
