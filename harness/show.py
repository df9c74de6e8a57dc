"""What the command says before, instead of and after a run: the plan, the check, the closing summary."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from fl.flower.versions import installed_flwr
from harness.checks import check_devices, check_json, check_row, of_this_host
from harness.failures import ABSENT
from harness.fleet import SIMULATED
from harness.host import available_cores
from harness.launcher import launcher_class
from harness.launchers.simulated import profile_of
from harness.meter import HostMeter, choose
from harness.plan import Task
from harness.run_spec import RunSpec
from harness.summary import summary_rows
from profiler.clock import SystemClock
from profiler.errors import PreconditionError
from profiler.jetson_state import Facts, power_mode_lines
from profiler.sensor import Probe


def preamble(spec: RunSpec, meter: HostMeter) -> list[str]:
    lines = [
        f"fleet {spec.fleet.name}: {len(spec.devices)} clients; experiment {spec.experiment.name}: "
        f"{len(spec.tasks)} tasks of workload {spec.experiment.workload}",
        f"energy of this host: {meter.description}",
        *_carried(spec),
    ]
    lines += _better_sensors(meter)
    wanted = sum(launcher_class(device.launcher).cores(device) for device in spec.devices)
    if wanted > available_cores() + 1e-9:
        lines.append(
            f"note: the clients can use {wanted:g} cores, this host has {available_cores()}: they will slow each other"
        )
    lines += [f"cutoffs of {task.label}: {_cutoff_text(task)}" for task in spec.tasks if task.cutoffs]
    if spec.fleet.has_simulated:
        lines.append(
            "simulated devices take part in real time, as long as their models say; "
            "energy that counts theirs is marked simulated, the weakest of its parts"
        )
        lines += _models(spec)
    return lines


def _carried(spec: RunSpec) -> list[str]:
    """What carries the rounds where our own engine does not, and what nobody sees of them then."""
    if not spec.engine.is_flower:
        return []
    where = "" if spec.engine.federation is None else f" at {spec.engine.federation}"
    unseen = [f"  {what}: missing, {why}" for what, why in spec.engine.unseen(spec.launchers).items()]
    return [f"engine {spec.engine.name}{where}, flwr {installed_flwr()}", *unseen]


def simulated_preamble(spec: RunSpec, workers: int) -> list[str]:
    """What is simulated, by what, and how much of it is a guess."""
    lines = [
        f"fleet {spec.fleet.name}: {spec.fleet.size} simulated devices; experiment {spec.experiment.name}: "
        f"{len(spec.tasks)} tasks of workload {spec.experiment.workload}",
        f"time and energy are simulated; training is real, in {workers} processes"
        if spec.trains
        else "time and energy are simulated; nothing is trained",
    ]
    return lines + _models(spec)


def _models(spec: RunSpec) -> list[str]:
    """What each group of simulated devices is taken for."""
    workload = spec.experiment.costs_of or spec.experiment.workload
    lines = []
    for group in spec.fleet.groups:
        if group.launcher == SIMULATED:
            profile = profile_of(group.first)
            training = profile.training_of(workload)
            lines.append(
                f"{group.count} {group.processor} as {profile.name}, {workload}: time {training.kind}, "
                f"energy {training.energy_kind}"
            )
    return lines


def _better_sensors(meter: HostMeter) -> list[str]:
    """Where energy is not measured: what stands in the way of measuring it."""
    if meter.provenance.is_measured:
        return []
    notes = [
        f"note: {sensor['name']} could measure it: {why_not(sensor)}"
        for sensor in meter.facts()["sensors"]
        if not sensor["available"] and not sensor["absent"]
    ]
    return notes or ["note: nothing here measures energy; python -m profiler list says what would"]


def _cutoff_text(task: Task) -> str:
    return ", ".join(
        f"{name} {'none' if cutoff.tau_s == 0 else f'{cutoff.tau_s:.3f} s'} ({cutoff.kind})"
        for name, cutoff in task.cutoffs.items()
    )


def print_summary(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False))
        return
    print(tabulate(summary_rows(summary), headers="keys", tablefmt="simple", disable_numparse=True))
    for line in failure_lines(summary["failures"]):
        print(f"failed: {line}")
    print(f"results: {summary['folder']}")


def failure_lines(failures: Sequence[dict[str, Any]]) -> list[str]:
    """One for each; one alone for a device that failed in the same way in several rounds of a task."""
    rounds: dict[tuple[Any, ...], list[int]] = {}
    for failure in failures:
        same = tuple(failure.get(key) for key in ("task", "device", "phase", "reason"))
        rounds.setdefault(same, []).append(failure.get("round") or 0)
    lines = []
    for (_, device, phase, reason), numbers in rounds.items():
        known = sorted({number for number in numbers if number})
        where = "outside rounds" if not known else f"round {known[0]}"
        if len(known) > 1:
            is_whole = known[-1] - known[0] == len(known) - 1
            where = f"rounds {known[0]} to {known[-1]}" + ("" if is_whole else f", {len(known)} of them")
        times = f", {len(numbers)} times" if not known and len(numbers) > 1 else ""
        lines.append(f"{device or '-'} {'' if phase == ABSENT else 'in '}{phase}, {where}{times}: {reason}")
    return lines


def show_plan(spec: RunSpec, *, as_json: bool) -> None:
    if as_json:
        devices = [asdict(device) for device in spec.devices]
        tasks = [task.row() for task in spec.tasks]
        engine = spec.engine.facts(spec.launchers)
        plan = {"fleet": spec.fleet.name, "engine": engine, "devices": devices, "tasks": tasks}
        print(json.dumps(plan, indent=2, allow_nan=False))
        return
    for line in _carried(spec):
        print(line)
    print(
        tabulate(
            [
                {"device": device.id, "launcher": device.launcher, "processor": device.processor, "shard": device.shard}
                for device in spec.devices
            ],
            headers="keys",
        )
    )
    rows = [
        {
            "task": task.id,
            "workload": task.workload,
            "E": task.epochs,
            "C": task.clients,
            "rounds": task.rounds,
            "batch": task.batch_size,
            "lr": task.lr,
            "seed": task.seed,
            "strategy": task.strategy,
            "cutoffs": _cutoff_text(task) or "none",
        }
        for task in spec.tasks
    ]
    print()
    print(tabulate(rows, headers="keys"))


def check(spec: RunSpec, probes: list[Probe], machine: Facts, *, as_json: bool) -> bool:
    """Print what probing devices and sensors gave; whether a run could begin. `machine` is this host's."""
    required = spec.required_here
    chosen, problem = None, ""
    try:
        chosen = choose(probes, required)
    except PreconditionError as error:
        problem = str(error)
    meter = HostMeter(probes, chosen, SystemClock(), rate_hz=spec.fleet.meter_rate_hz)
    outcomes = check_devices(spec.devices)
    checked = [
        (device, of_this_host(outcome, probes, machine) if launcher_class(device.launcher).shares_host else outcome)
        for device, outcome in zip(spec.devices, outcomes, strict=True)
    ]
    sensors = meter.facts()["sensors"]
    if as_json:
        devices = [check_json(device, outcome) for device, outcome in checked]
        report = {"devices": devices, "sensors": sensors, "meter": meter.description, "problem": problem or None}
        report["machine"] = machine
        print(json.dumps(report, indent=2))
    else:
        rows = [check_row(device, outcome) for device, outcome in checked]
        print(tabulate(_told(rows), headers="keys", disable_numparse=True))
        print()
        print(tabulate([_sensor_line(sensor) for sensor in sensors], headers="keys"))
        print(f"\nenergy of this host: {meter.description}")
        for sentence in power_mode_lines(machine):
            print(sentence)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return not problem and all(outcome.ok for outcome in outcomes)


def _told(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without the columns that say nothing of any device."""
    said = [name for name in rows[0] if any(row[name] != "-" for row in rows)]
    return [{name: row[name] for name in said} for row in rows]


def _sensor_line(sensor: dict[str, Any]) -> dict[str, str]:
    if sensor["available"]:
        return {
            "sensor": sensor["name"],
            "state": sensor["provenance"],
            "detail": f"rails {', '.join(sensor['rails'])}",
        }
    return {"sensor": sensor["name"], "state": "unavailable", "detail": why_not(sensor)}


def why_not(sensor: dict[str, Any]) -> str:
    """Reason and remedy as sentences."""
    return " ".join(f"{part.rstrip('.')}." for part in (sensor["reason"], sensor["remedy"]) if part)
