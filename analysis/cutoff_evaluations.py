"""How well the final model does for each processor: the clients' own evaluations, and the worst processor's.

The mean may hide that a cutoff made the model worse for the clients that it cut.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from analysis.configurations import grouped, without_repeats
from analysis.load import Results, rows
from analysis.stats import mean
from profiler.records import Row


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One configuration: accuracy (0..1) by processor in the last round, weighted by examples, mean over `n` runs."""

    workload: str
    label: str
    n: int
    accuracy_by_processor: Mapping[str, float]
    worst_processor: str
    worst_accuracy: float


def evaluations(results: Results, runs: Iterable[Row]) -> list[Evaluation]:
    """Of every configuration whose clients have evaluated; none where they did not."""
    by_task = _last_round(results)
    made = []
    for label, members in sorted(grouped(runs).items()):
        told = [by_task[key] for run in without_repeats(members) if (key := (run["run_id"], run["task"])) in by_task]
        if not told:
            continue
        values: defaultdict[str, list[float]] = defaultdict(list)
        for one in told:
            for processor, accuracy in one.items():
                values[processor].append(accuracy)
        means = {processor: mean(accuracies) or 0.0 for processor, accuracies in sorted(values.items())}
        worst = min(means, key=means.__getitem__)
        made.append(Evaluation(members[0]["workload"], label, len(told), means, worst, means[worst]))
    return made


def _last_round(results: Results) -> dict[tuple[str, str], dict[str, float]]:
    """(run id, task) -> processor -> accuracy of the last round that clients evaluated."""
    spans = results.spans[(results.spans["name"] == "evaluate") & (results.spans["status"] == "ok")]
    rounds: defaultdict[tuple[str, str], defaultdict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for span in rows(spans[["run_id", "task", "round", "processor", "accuracy", "examples"]]):
        if span["accuracy"] is not None and span["processor"] and span["round"] is not None:
            rounds[span["run_id"], span["task"]][span["round"]].append(span)
    return {key: _by_processor(by_round[max(by_round)]) for key, by_round in rounds.items()}


def _by_processor(spans: Iterable[Row]) -> dict[str, float]:
    parts: defaultdict[str, list[float]] = defaultdict(list)
    examples: defaultdict[str, int] = defaultdict(int)
    for span in spans:
        weight = span["examples"] or 1
        parts[span["processor"]].append(weight * span["accuracy"])
        examples[span["processor"]] += weight
    return {processor: math.fsum(own) / examples[processor] for processor, own in parts.items()}
