"""How long many local clients take from the command to their first instruction, and what one costs in CPU time."""

from __future__ import annotations

import resource
import subprocess
import tempfile
from pathlib import Path

from profiler.clock import SystemClock
from tests.bench.figures import Figure
from tests.harness.running import Bench, environment

CLIENTS = 200
_REPEATS = 3
_FLEET = (
    'name = "many"\n[server]\njoin_timeout_s = 600\n[[device]]\nid = "d-{{n}}"\ncount = {clients}\nprocessor = "cpu"\n'
)
_EXPERIMENT = 'name = "one"\nworkload = "linear"\nrounds = 1\nidle_s = 0\n'


def starting() -> list[Figure]:
    """200 clients that train `linear`: the last of them has its first instruction after so many seconds."""
    runs = [_run(CLIENTS) for _ in range(_REPEATS)]
    few_cpu_s = [_run(2)[1] for _ in range(_REPEATS)]
    each_s = [(many - few) / (CLIENTS - 2) for (_, many), few in zip(runs, few_cpu_s, strict=True)]
    return [
        Figure(f"{CLIENTS} local clients, start to first instruction", "s", [first for first, _ in runs], goal="< 60"),
        Figure("CPU time of a local client, one round of linear included", "s", each_s),
    ]


def _run(clients: int) -> tuple[float, float]:
    """Seconds to the last first instruction, and CPU seconds of all processes."""
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        (bench.folder / "fleet.toml").write_text(_FLEET.format(clients=clients))
        (bench.folder / "experiment.toml").write_text(_EXPERIMENT)
        began_ns, before_s = SystemClock().monotonic_ns(), _children_cpu_s()
        subprocess.run(
            bench.command("--quiet"), cwd=bench.folder, env=environment(), stdout=subprocess.DEVNULL, check=True
        )
        cpu_s = _children_cpu_s() - before_s
        sent = [row["start_ns"] for row in bench.records("span") if (row["name"], row["call"]) == ("call", "fit")]
        if len(sent) != clients:
            raise RuntimeError(f"{len(sent)} of {clients} clients have trained")
        return (max(sent) - began_ns) / 1e9, cpu_s


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
