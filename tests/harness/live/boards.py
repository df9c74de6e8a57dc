"""A board that has been told of a small run, with texts as nasty as a device can make them."""

from __future__ import annotations

from harness.live.board import Board, Subject
from harness.plan import Task
from harness.store import Done
from profiler.clock import FakeClock
from profiler.records import Row
from profiler.shares import Tick

NASTY = '"><script>document.title = "taken"</script>\\ \n\x1b[31m'
TASK = Task("digits", {"kind": "iid"}, 2, 5, 3, 16, 0.01, 1, "fedavg", {}, {"cpu": 3}, {})
BASE: Row = {"task": TASK.id, "attempt": 1, "wall_time": "2026-01-01T00:00:00Z"}


def subject(*devices: str) -> Subject:
    return Subject(
        fleet='lab "one"',
        experiment="short",
        tasks=(TASK,),
        devices=tuple((device, "cpu", "local") for device in devices),
        n_devices=len(devices),
        is_simulated=False,
        meter="rapl (counter)",
    )


def make_board(*devices: str, clock: FakeClock | None = None, done: Done | None = None) -> Board:
    return Board(subject(*devices), clock or FakeClock(), done or Done())


def fit_span(device: str, duration_s: float = 2.0, energy_j: float | None = 6.0, **more: object) -> Row:
    energy: Row = {"energy_j": energy_j, "energy_err_j": 0.5, "provenance": "counter"}
    if energy_j is None:
        energy = {"provenance": "missing", "energy_reason": NASTY}
    row: Row = {"kind": "span", **BASE, "round": 1, "device": device, "name": "fit", "clock": "device", **energy}
    return row | {"span_id": "s", "start_ns": 0, "duration_s": duration_s, "status": "ok", **more}


def round_row(number: int = 1, energy_j: float | None = 12.0, **more: object) -> Row:
    energy: Row = {"energy_j": energy_j, "energy_err_j": 1.0, "provenance": "counter"}
    if energy_j is None:
        energy = {"energy_j": None, "provenance": "missing", "energy_reason": "unplugged"}
    counts = {"n_selected": 3, "n_results": 3, "n_failures": 0, "upload_bytes": 10, "download_bytes": 20}
    row: Row = {"kind": "round", **BASE, "round": number, "time_s": 1.5, "accuracy": 0.5, "loss": 2.0}
    return {**row, **counts, **energy, **more}


def failure_row(device: str | None, reason: str = NASTY) -> Row:
    return {"kind": "failure", **BASE, "round": 1, "device": device, "phase": "fit", "reason": reason}


def tick(t_s: float, energy_j: float, **cpu_s: float) -> Tick:
    return Tick(round(t_s * 1e9), energy_j, cpu_s, sum(cpu_s.values()))


def told_board() -> Board:
    """Two devices, one round, one failure, and nasty texts in every place that a device can write to."""
    board = make_board("fast", "slow")
    board.run_started("20260101T000000Z-abc123")
    board.starting("fast")
    board.present({"fast", "slow"})
    board.recorded([{"kind": "task_started", **BASE, "from_round": 1}])
    for device in ("fast", "slow"):
        board.call_started(1, "fit", device)
    board.call_finished(1, "fit", "fast", None)
    board.call_finished(1, "fit", "slow", NASTY)
    board.recorded([fit_span("fast"), fit_span("slow", energy_j=None), failure_row("slow"), round_row()])
    board.gone("slow", NASTY)
    board.say(NASTY)
    board.note_tick(tick(1.0, 0.0, fast=0.0, server=0.0))
    board.note_tick(tick(2.0, 10.0, fast=0.6, server=0.4))
    return board
