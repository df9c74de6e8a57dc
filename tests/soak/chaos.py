"""Many clients at once, a third of which are killed, stopped, slowed, cut off or lying, by seed.

    python -m tests.soak.chaos --clients 1000 --rounds 20 --processes 8 --seed 1

Real processes over loopback and the real server, loop and store. Checked at the end: every round was finished by its
deadline, the model is what the honest ones made it, every measurement that a living client sent is on disk exactly
once, and memory does not grow. One JSON object on stdout; exit status 1, with the reasons, where a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fl.loop import CallName, RoundResult, run_rounds
from fl.messages import Parameters
from fl.server import Server
from fl.strategies.fedavg import FedAvg
from harness.energy_sources import Energy
from harness.recorder import TaskContext, round_rows, stray_rows
from harness.store import Store
from profiler.clock import SystemClock
from profiler.quantities import EnergyReading, Scope
from profiler.records import read_lines

ROOT = Path(__file__).parents[2]
KINDS = ("killed", "stopped", "slowed", "cut", "shapes", "nan", "giant", "garbage")
MODEL = Parameters(tuple(np.zeros(n, dtype=np.float32) for n in (20_000, 4_000, 900, 100)))  # 100 kB
MAX_MESSAGE_BYTES = 4 << 20
HEARTBEAT_S = 10.0
GRACE_S = 1.0  # on top of the deadline: replies that arrived in time are still folded in
EXIT_S = 90.0
MAX_GROWTH = 1.1


@dataclass(frozen=True, slots=True)
class Options:
    seed: int
    clients: int
    rounds: int
    processes: int
    faulty: float
    deadline_s: float


@dataclass(slots=True)
class Figures:
    """What a run came to."""

    walls_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peaks_bytes: list[int] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    n_late: int = 0
    model: Parameters = MODEL
    closing_s: float = 0.0


class NoMeter:
    """Energy is not what is tried here: missing, with the reason."""

    def of(self, owner: str, start_ns: int, end_ns: int) -> Energy:
        return Energy(EnergyReading.missing(owner, Scope.PROCESS, "not metered here"), "host", 0.0)

    def host(self, start_ns: int, end_ns: int) -> Energy:
        return self.of("host", start_ns, end_ns)


class Fit:
    """Watches the calls of each round: when the first began and the last ended, and what happens meanwhile."""

    def __init__(self, chaos: dict[int, list[tuple[float, int, signal.Signals]]]) -> None:
        self.began_s: dict[int, float] = {}
        self.ended_s: dict[int, float] = {}
        self._chaos = chaos

    def call_started(self, round_: int, call: CallName, device: str) -> None:
        if round_ not in self.began_s:
            self.began_s[round_] = time.monotonic()
            for delay_s, pid, signal_ in self._chaos.get(round_, ()):
                asyncio.get_running_loop().call_later(delay_s, os.kill, pid, signal_)

    def call_finished(self, round_: int, call: CallName, device: str, failure: str | None) -> None:
        self.ended_s[round_] = time.monotonic()


def roles_of(options: Options) -> dict[str, str]:
    """Device id to role; each kind of fault befalls as many."""
    n_each = int(options.clients * options.faulty) // len(KINDS)
    roles = [kind for kind in KINDS for _ in range(n_each)]
    roles += ["honest"] * (options.clients - len(roles))
    random.Random(options.seed).shuffle(roles)
    return {f"d{n:04}": role for n, role in enumerate(roles)}


def groups_of(roles: dict[str, str], processes: int) -> dict[str, dict[str, str]]:
    """Who shares a process: those that will be killed, those that will be stopped, and the rest evenly."""
    groups = {kind: {d: r for d, r in roles.items() if r == kind} for kind in ("killed", "stopped")}
    rest = [device for device, role in roles.items() if role not in groups]
    groups |= {f"rest-{n}": {d: roles[d] for d in rest[n::processes]} for n in range(processes)}
    return {name: group for name, group in groups.items() if group}


class Fleet:
    """The processes that the clients live in."""

    def __init__(self, options: Options, folder: Path, port: int) -> None:
        self.reports: dict[str, Path] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name, roles in groups_of(roles_of(options), options.processes).items():
            spec, self.reports[name] = folder / f"{name}.spec.json", folder / f"{name}.report.json"
            spec.write_text(json.dumps({"seed": options.seed, "deadline_s": options.deadline_s, "roles": roles}))
            command = [sys.executable, "-m", "tests.soak.chaos_clients", str(port), str(spec), str(self.reports[name])]
            with (folder / f"{name}.log").open("wb") as log:
                self.processes[name] = subprocess.Popen(command, cwd=ROOT, stderr=log, stdin=subprocess.DEVNULL)

    def chaos(self, options: Options) -> dict[int, list[tuple[float, int, signal.Signals]]]:
        """By round: after how many seconds which process gets which signal."""
        planned: dict[int, list[tuple[float, int, signal.Signals]]] = {}
        if "killed" in self.processes:
            planned[1 + options.rounds // 4] = [(0.02, self.processes["killed"].pid, signal.SIGKILL)]
        if "stopped" in self.processes:
            pid, stopped_s = self.processes["stopped"].pid, 1.5 * max(options.deadline_s, HEARTBEAT_S)
            if options.rounds < 20:
                stopped_s = 1.2 * options.deadline_s
            planned.setdefault(1 + options.rounds // 3, []).extend(
                [(0.02, pid, signal.SIGSTOP), (stopped_s, pid, signal.SIGCONT)]
            )
        return planned

    def collect(self) -> dict[str, dict[str, list[str]]]:
        """What every client of a process that lived to the end has to say."""
        told: dict[str, dict[str, list[str]]] = {}
        until_s = time.monotonic() + EXIT_S
        for name, process in self.processes.items():
            if name == "killed":
                continue
            process.wait(max(0.1, until_s - time.monotonic()))
            told |= json.loads(self.reports[name].read_text())
        return told

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


async def train(options: Options, folder: Path, store: Store) -> tuple[Figures, dict[str, dict[str, list[str]]]]:
    server = Server(max_message_bytes=MAX_MESSAGE_BYTES, heartbeat_s=HEARTBEAT_S)
    await server.start()
    fleet = Fleet(options, folder, server.port)
    try:
        await server.wait_for(options.clients, 120.0)
        figures = await rounds(options, server, fleet, store)
        return figures, await asyncio.to_thread(fleet.collect)
    finally:
        await server.close()
        fleet.end()


async def rounds(options: Options, server: Server, fleet: Fleet, store: Store) -> Figures:
    clock, figures, fit = SystemClock(), Figures(), Fit(fleet.chaos(options))
    context = TaskContext(
        "chaos", 1, 1, dict.fromkeys(roles_of(options), "cpu"), frozenset(), clock.wall_time(), clock.monotonic_ns()
    )
    strategy = FedAvg(epochs=1, batch_size=1, lr=0.1, fit_timeout_s=options.deadline_s, evaluate=False)
    begin_peak()
    cpu_s = time.process_time()
    async for result in run_rounds(
        strategy,
        server.proxies,
        parameters=MODEL,
        rounds=range(1, options.rounds + 1),
        clock=clock,
        min_clients=options.clients // 2,
        observer=fit,
        strays=server.receipts.take,
    ):
        note(figures, result, fit)
        store.append(round_rows(context, result, NoMeter()))
        store.sync()
        figures.peaks_bytes.append(peak_bytes())
        begin_peak()
        now_s = time.process_time()
        figures.cpu_s.append(now_s - cpu_s)
        cpu_s = now_s
        print(f"round {result.round}: {figures.walls_s[-1]:.2f} s, {result.n_results} results", file=sys.stderr)
    began_s = time.monotonic()
    await server.farewell(1.6 * options.deadline_s)
    figures.closing_s = time.monotonic() - began_s
    strays = server.receipts.take()
    figures.n_late += sum(stray.late_s is not None for stray in strays)
    store.append([row for stray in strays for row in stray_rows(context, stray, NoMeter(), options.rounds)])
    return figures


def note(figures: Figures, result: RoundResult, fit: Fit) -> None:
    figures.walls_s.append(fit.ended_s[result.round] - fit.began_s[result.round])
    figures.results.append(result.n_results)
    figures.n_late += result.n_late
    figures.model = result.parameters


def begin_peak() -> None:
    """Let the kernel count the peak of the resident set from here on: proc_pid_clear_refs(5)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def problems(
    options: Options, figures: Figures, told: dict[str, dict[str, list[str]]], on_disk: Counter[str]
) -> list[str]:
    """What is not as it must be; empty where all is well."""
    found = []
    if len(figures.walls_s) != options.rounds:
        found.append(f"{len(figures.walls_s)} of {options.rounds} rounds")
    late = [n for n, wall_s in enumerate(figures.walls_s, 1) if wall_s > options.deadline_s + GRACE_S]
    if late:
        found.append(f"rounds {late} were longer than {options.deadline_s} s + {GRACE_S} s")
    if min(figures.results) < options.clients // 2:
        found.append(f"a round with {min(figures.results)} results of {options.clients} clients")
    if any(not np.array_equal(a, np.full_like(a, options.rounds)) for a in figures.model.arrays):
        found.append("the model is not what the honest clients made it")
    twice = [span_id for span_id, n in on_disk.items() if n > 1]
    if twice:
        found.append(f"{len(twice)} measurements are on disk twice, such as {twice[0]}")
    sent = {span_id for one in told.values() for span_id in set(one["measured"]) - set(one["left"])}
    if lost := sorted(sent - on_disk.keys()):
        found.append(
            f"{len(lost)} of {len(sent)} measurements are not on disk, such as {lost[0]}: {_whose(options, lost)}"
        )
    if growth(figures) > MAX_GROWTH:
        found.append(f"memory grew by a factor of {growth(figures):.2f}")
    return found


def _whose(options: Options, span_ids: Sequence[str]) -> str:
    roles = roles_of(options)
    n_by_role = Counter(roles[span_id.partition("/")[0]] for span_id in span_ids)
    return ", ".join(f"{n} of {role} ones" for role, n in n_by_role.most_common())


def growth(figures: Figures) -> float:
    """Peak memory of rounds 16 to 20 over that of rounds 8 to 12; 1 where there are fewer rounds."""
    peaks = figures.peaks_bytes
    return max(peaks[15:20]) / max(peaks[7:12]) if len(peaks) >= 20 else 1.0


def chaos(options: Options) -> dict[str, object]:
    """One run and its figures; `problems` is empty where all is well."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "results", {}, "", [])
        try:
            figures, told = asyncio.run(train(options, Path(folder), store))
        finally:
            store.close()
        records = store.folder / "records" / "harness.jsonl"
        on_disk = Counter(row["span_id"] for row in read_lines(records) if row.get("clock") == "device")
    later = figures.walls_s[2:] or figures.walls_s
    return {
        "clients": options.clients,
        "rounds": len(figures.walls_s),
        "processes": options.processes,
        "seed": options.seed,
        "faulty": options.faulty,
        "round_s": {"median": statistics.median(later), "longest": max(figures.walls_s)},
        "server_cpu_s_per_round": statistics.median(figures.cpu_s[2:] or figures.cpu_s),
        "peak_bytes": max(figures.peaks_bytes),
        "peak_growth": growth(figures),
        "results_per_round": {"least": min(figures.results), "most": max(figures.results)},
        "late_replies": figures.n_late,
        "closing_s": figures.closing_s,
        "measurements": sum(on_disk.values()),
        "living_clients": len(told),
        "never_sent": sum(len(one["left"]) for one in told.values()),
        "problems": problems(options, figures, told, on_disk),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=8, help="beside those that are killed and stopped")
    parser.add_argument("--faulty", type=float, default=1 / 3, help="part of the clients; 0 for none")
    parser.add_argument("--deadline", type=float, default=8.0, metavar="S", help="of one fit")
    args = parser.parse_args(argv)
    figures = chaos(Options(args.seed, args.clients, args.rounds, args.processes, args.faulty, args.deadline))
    print(json.dumps(figures, indent=2))
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
