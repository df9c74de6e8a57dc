"""Do Java clients learn what Python clients learn, on real photographs, and is all of it measured?

    python -m tests.soak.java [--rounds N] [--seeds N] [--skip-sweep]

Runs of the real command on 31 classes of Caltech-101 with MobileNetV2's published weights, every client a process:

- three clients in Java, one in numpy and two on torch; and six on torch: first without a cutoff, which tells what a fit
  takes each kind, then with one for each kind, a share of its median fit;
- Table 2b of the paper: its numbers of clients, of ten in Java.

Checked: the accuracies of both fleets with cutoffs, means over the seeds, are within a point; the cutoffs cut; and
every span and every step of every fit is in the results. One JSON object on stdout; exit status 1, with the reasons,
where a check fails.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fl.datasets import ROOT_VARIABLE
from fl.workload import Partition, load_workload
from fl.workloads.export import export, export_whole
from fl.workloads.training import TorchWorkload
from tests.android.conftest import build
from tests.android.fleet_runs import NAME, Data, Fleet, experiment, not_measured, run
from tests.android.java_client import Built
from tests.fixtures.data import write_photographs
from tests.harness.running import Bench, module

MIXED, PYTHON, PHONES = Fleet(java=3, numpy=1, torch=2), Fleet(torch=6), Fleet(java=10)
EPOCHS, CLIENTS, CLASSES = 5, (4, 7, 10), 31
SHARE = 0.6  # of a kind's median fit, as its cutoff
UNCUT_ROUNDS = 5
WITHIN = 0.01
FOLDER = "caltech101-31"
OPTIONS: dict[str, str | int] = {"folder": FOLDER, "device": "cpu"}
RUN_S = 1800.0


@dataclass
class Judgement:
    """`folder` is where runs are; figures and problems gather."""

    folder: Path
    java: Built
    rounds: int
    seeds: range
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def measured(
        self, name: str, fleet: Fleet, clients: Sequence[int], taus_s: dict[str, float] | None = None, rounds: int = 0
    ) -> Bench:
        """A run of its own folder, all of whose measurements are there."""
        bench = Bench(self.folder / name)
        bench.folder.mkdir()
        data = self._data(fleet)
        seeds = self.seeds if taus_s or len(clients) > 1 else self.seeds[:1]
        text = experiment(
            data, rounds=rounds or self.rounds, epochs=EPOCHS, clients=clients, seeds=seeds, taus_s=taus_s
        )
        (bench.folder / "experiment.toml").write_text(text)
        print(f"{name}: {', '.join(fleet.devices())}", file=sys.stderr, flush=True)
        run(bench, fleet, data, self.java, timeout_s=RUN_S)
        self.problems += [f"{name}: {said}" for said in not_measured(bench, fleet)]
        return bench

    def _data(self, fleet: Fleet) -> Data:
        shards = self.folder / f"shards-{fleet.size}"
        if not shards.exists():
            export(_workload(), Partition("iid", fleet.size), shards)
        return Data(shards, CLASSES, OPTIONS)


def _workload() -> TorchWorkload:
    workload = load_workload(NAME, backend="torch", **OPTIONS)
    assert isinstance(workload, TorchWorkload)
    return workload


def median_fits_s(bench: Bench) -> dict[str, float]:
    """By kind; without the first round, in which a JVM still compiles."""
    fits: dict[str, list[float]] = {}
    for row in bench.records("span"):
        if row["name"] == "fit" and row["round"] > 1:
            fits.setdefault(row["processor"], []).append(row["duration_s"])
    return {kind: statistics.median(values) for kind, values in fits.items()}


def last_accuracies(bench: Bench) -> list[float]:
    """Of each task, which is a seed and a number of clients, in the order of the runs."""
    last = {row["task"]: row["accuracy"] for row in bench.records("round")}
    return list(last.values())


def work_done(bench: Bench) -> dict[str, float]:
    """The share of the planned steps that each kind did."""
    done: dict[str, list[float]] = {}
    for row in bench.records("span"):
        if row["name"] == "fit":
            done.setdefault(row["processor"], []).append(row["steps_done"] / row["steps_planned"])
    return {kind: statistics.mean(values) for kind, values in done.items()}


def compare(judged: Judgement) -> None:
    """Mixed and Python clients alone, with cutoffs from their own fits: those of a fleet share the processors."""
    means = {}
    for name, fleet in (("mixed", MIXED), ("python", PYTHON)):
        fits_s = median_fits_s(judged.measured(f"{name}-uncut", fleet, [fleet.size], rounds=UNCUT_ROUNDS))
        taus_s = {kind: round(SHARE * fit_s, 4) for kind, fit_s in fits_s.items()}
        bench = judged.measured(name, fleet, [fleet.size], taus_s)
        accuracies, shares = last_accuracies(bench), work_done(bench)
        means[name] = statistics.mean(accuracies)
        judged.figures[name] = {
            "accuracies": accuracies,
            "accuracy": means[name],
            "fit_s": fits_s,
            "tau_s": taus_s,
            "work_done": shares,
        }
        if not all(share < 1 for share in shares.values()):
            judged.problems.append(f"{name}: a cutoff that never cut: {shares}")
    judged.figures["difference"] = means["mixed"] - means["python"]
    if abs(judged.figures["difference"]) > WITHIN:
        judged.problems.append(f"the accuracies {means} are more than {WITHIN} apart")


def sweep(judged: Judgement) -> None:
    """Table 2b with Java clients, in its form."""
    bench = judged.measured("table2b", PHONES, CLIENTS)
    command = module("analysis.tables", bench.results, "--like", "table2b", "--format", "markdown")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        judged.problems.append(f"analysis.tables: {done.stderr.strip()}")
    print(done.stdout, file=sys.stderr)
    judged.figures["table2b"] = done.stdout


def judge(folder: Path, java: Built, *, rounds: int, seeds: int, has_sweep: bool) -> Judgement:
    """All runs below a folder that is there. The environment says where the data are."""
    judged = Judgement(folder, java, rounds, range(1, seeds + 1))
    root = folder / "datasets"
    write_photographs(root / FOLDER)
    os.environ[ROOT_VARIABLE] = str(root)
    export_whole(_workload(), root / "office31-features")
    compare(judged)
    if has_sweep:
        sweep(judged)
    return judged


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--skip-sweep", action="store_true")
    arguments = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            judged = judge(
                Path(folder),
                build(),
                rounds=arguments.rounds,
                seeds=arguments.seeds,
                has_sweep=not arguments.skip_sweep,
            )
    except pytest.skip.Exception as skipped:
        print(f"java: skipped: {skipped}", file=sys.stderr)
        return 0
    print(json.dumps({**judged.figures, "problems": judged.problems}))
    return 1 if judged.problems else 0


if __name__ == "__main__":
    sys.exit(main())
