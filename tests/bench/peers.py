"""The same three counters metered at 10 Hz by others, each in a process and an environment of its own.

Neither takes the folder of its counters as an option, so each is pointed at the tree by its module's default. Zeus
reads at the edges of windows only: a window each 0.1 s gives it ten readings a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.bench.figures import Figure
from tests.fixtures.environments import NotInstalled, python_with
from tests.fixtures.powercap import ROOT, driven_tree

CODECARBON = "codecarbon==3.3.2"
ZEUS = "zeus==0.16.0"
METERED_S = 20.0
REPEATS = 2

# What all three scripts share: CPU of the process and of its children that still run, and memory of both.
_COMMON = """
import json, os, pathlib, sys, time

root, seconds = sys.argv[1], float(sys.argv[2])
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def family():
    me = pathlib.Path("/proc/self")
    children = [pid for task in (me / "task").iterdir() for pid in (task / "children").read_text().split()]
    return [me, *(pathlib.Path("/proc") / pid for pid in children)]


def cpu_s():
    fields = [(one / "stat").read_text().rpartition(")")[2].split() for one in family()[1:]]
    return time.process_time() + sum((int(field[11]) + int(field[12])) * TICK_S for field in fields)


def pss_bytes():
    lines = [line for one in family() for line in (one / "smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def told(imported_s, used_s, energy_j):
    n = len(family()) - 1
    print(json.dumps({"import_cpu_s": imported_s, "cpu_s": used_s, "pss_bytes": pss_bytes(), "n_children": n,
                      "energy_j": energy_j}), flush=True)


before_s = cpu_s()
"""

_OURS = """
from pathlib import Path
from profiler import Profiler, Sampler, SystemClock
from profiler.sensors.rapl import RaplSensor

imported_s = cpu_s() - before_s
clock = SystemClock()
with Profiler([Sampler(RaplSensor(Path(root), clock), clock, rate_hz=10)], clock) as meter:
    with meter.span("work") as span:
        start_cpu_s = cpu_s()
        time.sleep(seconds)
        used_s = cpu_s() - start_cpu_s
    told(imported_s, used_s, span.record.total.energy_j)
"""

_CODECARBON = """
from codecarbon import OfflineEmissionsTracker
from codecarbon.core import cpu
from codecarbon.external import hardware

imported_s = cpu_s() - before_s
tree = root + "/sys/class/powercap/intel-rapl"
cpu.is_rapl_available.__defaults__ = (tree,)
kept = hardware.CPU.__init__.__defaults__
hardware.CPU.__init__.__defaults__ = tuple(tree if str(one).startswith("/sys/") else one for one in kept)
tracker = OfflineEmissionsTracker(country_iso_code="FRA", measure_power_secs=0.1, save_to_file=False,
                                  log_level=LOG_LEVEL, allow_multiple_runs=True, rapl_include_dram=True)
tracker.start()
assert any(getattr(one, "_mode", "") == "intel_rapl" for one in tracker._hardware), tracker._hardware
start_cpu_s = cpu_s()
time.sleep(seconds)
told(imported_s, cpu_s() - start_cpu_s, tracker._total_cpu_energy.kWh * 3.6e6)
tracker.stop()
"""

_ZEUS = """
if __name__ == "__main__":
    from zeus.device.cpu import rapl

    rapl.RAPL_DIR = root + "/sys/class/powercap/intel-rapl"
    from zeus.monitor import ZeusMonitor

    imported_s = cpu_s() - before_s
    monitor = ZeusMonitor(gpu_indices=[])
    monitor.begin_window("all", sync_execution=False)
    time.sleep(3.0)  # its helper process starts up
    start_cpu_s, energy_j, due_s = cpu_s(), 0.0, time.monotonic()
    for _ in range(round(seconds * 10)):
        monitor.begin_window("one", sync_execution=False)
        due_s += 0.1
        time.sleep(max(0.0, due_s - time.monotonic()))
        found = monitor.end_window("one", sync_execution=False)
        energy_j += sum(found.cpu_energy.values()) + sum((found.dram_energy or {}).values())
    told(imported_s, cpu_s() - start_cpu_s, energy_j)
"""


def peers() -> list[Figure]:
    """CPU over 20 s of metering, CPU of the imports, and memory, each of a process and its children, in turn."""
    figures: list[Figure] = []
    with driven_tree() as root:
        for requirement, more, script, goal in (
            (CODECARBON, ", logging as shipped", _CODECARBON.replace("LOG_LEVEL", '"info"'), "ratio <= 0.125"),
            (CODECARBON, ", logging nothing", _CODECARBON.replace("LOG_LEVEL", '"critical"'), ""),
            (ZEUS, "", _ZEUS, ""),
        ):
            try:
                python = python_with(requirement)
                pairs = [(_run(Path(sys.executable), _OURS, root), _run(python, script, root)) for _ in range(REPEATS)]
            except NotInstalled as error:
                figures.append(Figure(f"beside {requirement}: {error}", "", [float("nan")]))
                continue
            except subprocess.CalledProcessError as error:
                figures.append(Figure(f"beside {requirement}: {error.stderr.strip()[-200:]}", "", [float("nan")]))
                continue
            figures += _figures(requirement.replace("==", " ") + more, pairs, goal)
    return figures


def _figures(peer: str, pairs: list[tuple[Mapping[str, float], Mapping[str, float]]], goal: str) -> list[Figure]:
    def figure(what: str, unit: str, key: str, factor: float, goal: str = "") -> Figure:
        ours, its = ([pair[n][key] * factor for pair in pairs] for n in (0, 1))
        return Figure(what, unit, ours, peer, its, goal)

    n_children = max(int(theirs["n_children"]) for _, theirs in pairs)
    name = f"meter {METERED_S:g} s at 10 Hz (CPU; the peer has {n_children} helper processes)"
    return [
        figure(name, "ms", "cpu_s", 1e3, goal),
        figure("  energy it tells (ours and zeus with memory)", "J", "energy_j", 1.0),
        figure("  its imports (CPU)", "ms", "import_cpu_s", 1e3),
        figure("  memory (PSS)", "MB", "pss_bytes", 1e-6),
    ]


def _run(python: Path, script: str, root: Path) -> Mapping[str, float]:
    """The figures one script tells. Raises CalledProcessError where it fails."""
    path = root.parent / f"meter-{python.parents[1].name}.py"  # a file: zeus starts a process that imports it again
    path.write_text(_COMMON + script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT) if script is _OURS else ""}
    done = subprocess.run(
        [str(python), str(path), str(root), str(METERED_S)],
        env=environment,
        cwd=root.parent,
        capture_output=True,
        text=True,
        timeout=METERED_S + 120,
        check=True,
    )
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told
