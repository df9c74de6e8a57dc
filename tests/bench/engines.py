"""One experiment on our engine, on Flower's SuperNodes and on its Ray simulation: seconds a round, and memory.

Two devices of this machine train the workload `digits`, once as a model of 1.4 MB and once of 19 MB. Memory is the
largest sum over all processes of the proportional set size (proc_pid_smaps(5)), sampled twice a second. The first round
is warm-up.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from profiler.records import read_lines
from tests.bench.figures import Figure
from tests.fixtures.environments import ROOT, NotInstalled, python_with

REQUIREMENT = "flwr==1.42.0"
BESIDE = ("psutil", "pyarrow", "tabulate", "tqdm", "ray==2.55.1", "torch==2.13.0", "scikit-learn")
ENGINES = ("fedmeter", "flower", "flower-sim")
MODELS: Mapping[str, str] = {"1.4 MB": "", "19 MB": "[workload_options]\nhidden = 65536\n"}
ROUNDS = 5
TIMEOUT_S = 600.0
_POLL_S = 0.5
_FLEET = 'name = "pair"\n[[device]]\nid = "d-{n}"\ncount = 2\nprocessor = "cpu"\n'
_EXPERIMENT = 'name = "bench"\nworkload = "digits"\nrounds = {rounds}\nidle_s = 0\n[sweep]\nepochs = [1]\n{options}'


def flower_engines() -> list[Figure]:
    """Ours beside each of Flower's engines."""
    try:
        python = python_with(REQUIREMENT, BESIDE)
    except NotInstalled as error:
        return [Figure(f"beside {REQUIREMENT}: {error}", "", [float("nan")])]
    figures = []
    for model, options in MODELS.items():
        (ours, our_gb), *others = [_run(python, engine, options) for engine in ENGINES]
        for engine, (its, its_gb) in zip(ENGINES[1:], others, strict=True):
            what = f"two devices, model of {model}"
            figures.append(Figure(f"{what}: a round", "s", [ours], f"{REQUIREMENT} {engine}", [its]))
            figures.append(Figure(f"{what}: memory", "GB", [our_gb], f"{REQUIREMENT} {engine}", [its_gb]))
    return figures


def _run(python: Path, engine: str, options: str) -> tuple[float, float]:
    """Seconds a round, the server's own work included, and GB of all processes at their most."""
    with tempfile.TemporaryDirectory(prefix="fm-") as name:
        folder = Path(name)
        (folder / "fleet.toml").write_text(_FLEET)
        (folder / "experiment.toml").write_text(_EXPERIMENT.format(rounds=ROUNDS, options=options))
        command = [str(python), "-m", "harness.run", "fleet.toml", "--experiment", "experiment.toml"]
        process = subprocess.Popen(
            [*command, "--engine", engine, "--quiet"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        try:
            peak_gb = _peak_gb(process)
        finally:
            process.terminate()
            process.wait()
        [run] = (folder / "results").iterdir()
        if json.loads((run / "end.json").read_text())["status"] != "completed":
            raise RuntimeError(f"{engine}: the run has failures")
        rounds = [row for row in read_lines(run / "records" / "harness.jsonl") if row["kind"] == "round"]
        return statistics.median(row["time_s"] + row["server_s"] for row in rounds[1:]), peak_gb


def _peak_gb(process: subprocess.Popen[bytes]) -> float:
    peak_bytes, until_s = 0, time.monotonic() + TIMEOUT_S
    while process.poll() is None:
        if time.monotonic() > until_s:
            raise TimeoutError(f"no end within {TIMEOUT_S:g} s")
        peak_bytes = max(peak_bytes, _pss_bytes(process.pid))
        time.sleep(_POLL_S)
    return peak_bytes / 1e9


def _pss_bytes(pid: int) -> int:
    """Of a process and all below it; what several share counts once."""
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for one in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                total += one.memory_full_info().pss
    return total
