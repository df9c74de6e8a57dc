"""Runs of `python -m harness.run` on engines of Flower's, by interpreters that have it, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from profiler.records import Row, read_lines
from tests.fixtures.environments import ROOT
from tests.interop.apps import ENGINE_BESIDE, app_python, started

OUR_OWN, ON_NODES, ON_RAY = "fedmeter", "flower", "flower-sim"
CUTOFF_S = 0.002

PAIR = """
name = "pair"
[[device]]
id = "fast"
processor = "fast-cpu"
[[device]]
id = "slow"
processor = "slow-cpu"
"""
EXPERIMENT = f"""
name = "engines"
workload = "linear"
rounds = 2
idle_s = 1
[sweep]
epochs = [20]
seeds = [1]
[[case]]
[[case]]
cutoffs = {{ "fast-cpu" = 0.0, "slow-cpu" = {CUTOFF_S} }}
"""


def python_of(version: str) -> Path:
    return app_python(version, ENGINE_BESIDE[version])


class Harness:
    """Runs of one fleet and one experiment below one folder, by the interpreter of a Flower."""

    def __init__(self, python: Path, folder: Path, fleet: str = PAIR, experiment: str = EXPERIMENT) -> None:
        self.folder = folder
        self.python = python
        self.results = folder / "results"
        (folder / "fleet.toml").write_text(fleet if fleet.lstrip().startswith("name") else f'name = "test"\n{fleet}')
        (folder / "experiment.toml").write_text(experiment)

    def command(self, *options: object) -> list[str]:
        words = [self.python, "-m", "harness.run", self.folder / "fleet.toml", *options]
        return [*map(str, words), "--experiment", str(self.folder / "experiment.toml"), "-o", str(self.results)]

    def environment(self) -> dict[str, str]:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        told = {"FLWR_HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
        return {**os.environ, **told}

    def run(self, *options: object, code: int = 0) -> str:
        """To its end; what it printed."""
        done = subprocess.run(
            self.command(*options),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        logs = "".join(log.read_text()[-1500:] for log in self.results.glob("*/logs/*.log"))
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:] + logs
        return done.stdout + done.stderr

    @contextmanager
    def running(self, *options: object) -> Iterator[subprocess.Popen[bytes]]:
        with started(self.command(*options), self.folder / "harness.log", self.environment()) as process:
            yield process


def runs_of(results: Path) -> dict[str, Path]:
    """The run of each engine."""
    found = {json.loads((path / "run.json").read_text())["engine"]["name"]: path for path in results.iterdir()}
    assert len(found) == len(list(results.iterdir()))
    return found


def rows_of(run: Path, **wanted: object) -> list[Row]:
    rows = read_lines(run / "records" / "harness.jsonl")
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def tasks_of(run: Path) -> tuple[Row, Row]:
    """Without cutoffs, and with."""
    [free, cut] = read_lines(run / "plan.jsonl")
    assert not free["cutoffs"]
    assert cut["cutoffs"]
    return free, cut


def assert_cutoffs_obeyed(run: Path) -> None:
    free, cut = tasks_of(run)
    fits = rows_of(run, kind="span", name="fit", task=cut["task"])
    assert [row["round"] for row in fits if row["device"] == "slow"] == [1, 2]
    for row in fits:
        if row["device"] == "slow":
            assert (row["stopped_by"], row["cutoff_s"]) == ("cutoff", CUTOFF_S)
            assert 1 <= row["steps_done"] < row["steps_planned"]
        else:
            assert row["stopped_by"] == "completed"
    assert {row["stopped_by"] for row in rows_of(run, kind="span", name="fit", task=free["task"])} == {"completed"}


def until_round(harness: Harness, process: subprocess.Popen[bytes]) -> Path:
    """The run, once its first round is on disk."""
    until_s = time.monotonic() + 120
    while time.monotonic() < until_s and process.poll() is None:
        for run in harness.results.glob("*"):
            if (run / "records" / "harness.jsonl").exists() and rows_of(run, kind="round"):
                return run
        time.sleep(0.1)
    raise AssertionError((harness.folder / "harness.log").read_text()[-3000:])


def below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def until_gone(processes: Sequence[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive, [one.cmdline() for one in alive]
