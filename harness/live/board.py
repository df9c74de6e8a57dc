"""What is known of a run now: kept as the run tells it, handed out as one JSON object or to the exposition.

Nothing is measured for it. Figures come from the records that the run writes anyway, states from its calls, watts from
the latest sample of the host's meter. Everything is bounded: what is old, or one device too many, is counted and not
kept.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fl.loop import CallName
from harness.live.timeline import Timeline
from harness.plan import Task
from harness.store import Done
from harness.watching import STATES, DeviceState, Roster, Standing, Watcher
from profiler.clock import Clock
from profiler.files import printable
from profiler.quantities import Provenance, weakest
from profiler.records import Row
from profiler.shares import Shares, Tick

HOST = "host"
MAX_DEVICES_SHOWN = 1000
MAX_ROUNDS = 400
MAX_POINTS, MAX_DEVICE_POINTS = 600, 60
MAX_FAILURES, MAX_MESSAGES = 100, 50
_TEXT_CHARS = 300

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a board shows: known before the run begins. `devices` are id, processor and launcher."""

    fleet: str
    experiment: str
    tasks: tuple[Task, ...]
    devices: tuple[tuple[str, str, str], ...]
    n_devices: int
    is_simulated: bool
    meter: str


@dataclass(slots=True)
class Joules:
    """A sum that is missing where one of its parts is, and as weak as the weakest. Errors add up (k = 2)."""

    sum_j: float = 0.0
    err_j: float = 0.0
    n: int = 0
    n_missing: int = 0
    reason: str = ""
    provenances: set[Provenance] = field(default_factory=set)

    def add(self, row: Row) -> None:
        self.n += 1
        if row.get("energy_j") is None:
            self.n_missing += 1
            self.reason = self.reason or _text(row.get("energy_reason") or "no sensor")
            return
        self.sum_j += row["energy_j"]
        self.err_j += row.get("energy_err_j") or 0.0
        self.provenances.add(Provenance(row["provenance"]))

    @property
    def known_j(self) -> float | None:
        return self.sum_j if self.n and not self.n_missing else None

    @property
    def provenance(self) -> Provenance:
        return Provenance.MISSING if self.known_j is None else weakest(self.provenances)

    def as_json(self) -> dict[str, Any] | None:
        """None before there is anything to sum up."""
        if self.n == 0:
            return None
        told: dict[str, Any] = {"energy_j": self.known_j, "provenance": self.provenance.value}
        return told | ({"reason": self.reason} if self.known_j is None else {"err_j": self.err_j})


@dataclass(slots=True)
class DeviceFigures:
    """What one device has done: its local training, its failures, and its latest watts."""

    processor: str
    launcher: str
    n_fits: int = 0
    fit_s: float = 0.0
    last_fit_s: float | None = None
    n_failures: int = 0
    joules: Joules = field(default_factory=Joules)
    watts: deque[Point] = field(default_factory=lambda: deque(maxlen=MAX_DEVICE_POINTS))
    watts_of: str = ""
    """`sample` of the host's meter, or `fit`: the mean over each fit, which the device's own meter tells afterwards."""

    def totals(self) -> DeviceTotals:
        joules = self.joules
        return DeviceTotals(
            self.processor, self.n_fits, self.fit_s, joules.known_j, joules.provenance.value, self.n_failures
        )


@dataclass(frozen=True, slots=True)
class DeviceTotals:
    """What one device has come to. `fit_j` is None where a fit has no joules, or none is done."""

    processor: str
    n_fits: int
    fit_s: float
    fit_j: float | None
    provenance: str
    n_failures: int


@dataclass(frozen=True, slots=True)
class Figures:
    """All that the exposition needs, at one moment. `joules` are sum and error by provenance."""

    subject: Subject
    run_id: str
    is_over: bool
    now_s: float
    standings: Mapping[str, Standing]
    counts: Mapping[DeviceState, int]
    devices: Mapping[str, DeviceTotals]
    n_rounds: int
    n_tasks_done: int
    latest: Row | None
    round_s: float
    joules: Mapping[str, tuple[float, float]]
    n_without_energy: int
    failures: Mapping[str, int]
    n_bytes: Mapping[str, int]
    watts: Mapping[str, float]


class Board(Watcher):
    """Told by the run in its thread, read by the page's; one lock, held for as long as it takes to copy."""

    def __init__(self, subject: Subject, clock: Clock, done: Done) -> None:
        """`done` is what an earlier attempt has left, which the run goes on from."""
        self._subject = subject
        self._clock = clock
        self._lock = threading.RLock()
        self._began_ns = clock.monotonic_ns()
        self._run_id = ""
        self._is_over = False
        shown = subject.devices[:MAX_DEVICES_SHOWN]
        self._devices = {id_: DeviceFigures(processor, launcher) for id_, processor, launcher in shown}
        self._roster = Roster(clock.monotonic_ns, [id_ for id_, _, _ in subject.devices])
        self._timeline = Timeline(self._devices.keys())
        self._rounds: deque[dict[str, Any]] = deque(maxlen=MAX_ROUNDS)
        self._rounds_done: Counter[str] = Counter()
        self._status: dict[str, str] = {}
        self._latest: Row | None = None
        self._joules: dict[str, Joules] = {}
        self._by_provenance: dict[str, tuple[float, float]] = {}
        self._n_without_energy = 0
        self._round_s = 0.0
        self._n_bytes: Counter[str] = Counter()
        self._n_failures: Counter[str] = Counter()
        self._failures: deque[dict[str, Any]] = deque(maxlen=MAX_FAILURES)
        self._messages: deque[str] = deque(maxlen=MAX_MESSAGES)
        self._watts: dict[str, deque[Point]] = {}
        self._tick: Tick | None = None
        for rounds in done.rounds.values():
            for _, row in sorted(rounds.items()):
                self._note_round(row)
        for row in done.failures:
            self._note_failure(row)

    # --- told by the run ---------------------------------------------------------------------------------------------

    def run_started(self, run_id: str) -> None:
        with self._lock:
            self._run_id = run_id

    def say(self, message: str) -> None:
        with self._lock:
            self._messages.append(_text(message))

    def starting(self, device: str) -> None:
        with self._lock:
            self._roster.starting(device)

    def present(self, devices: Collection[str]) -> None:
        with self._lock:
            self._roster.present(devices)

    def gone(self, device: str, why: str) -> None:
        with self._lock:
            self._roster.gone(device, _text(why.splitlines()[0] if why else ""))

    def call_started(self, round_: int, call: CallName, device: str) -> None:
        with self._lock:
            self._roster.call_started(call, device)
            self._timeline.call_started(round_, call, device, self._clock.monotonic_ns())

    def call_finished(self, round_: int, call: CallName, device: str, failure: str | None) -> None:
        with self._lock:
            self._roster.call_finished(device, None if failure is None else _text(failure))
            self._timeline.call_finished(call, device, self._clock.monotonic_ns(), failure is not None)

    def recorded(self, rows: Sequence[Row]) -> None:
        with self._lock:
            for row in rows:
                self._note(row)

    def finish(self) -> None:
        """The run is over, whatever way."""
        with self._lock:
            self._is_over = True

    def _note(self, row: Row) -> None:
        if row["kind"] == "span":
            self._note_span(row)
        elif row["kind"] == "round":
            self._note_round(row)
        elif row["kind"] == "failure":
            self._note_failure(row)
        elif row["kind"] == "task_started":
            self._status[row["task"]] = "running"
        elif row["kind"] == "task_finished":
            self._status[row["task"]] = row["status"]

    def _note_span(self, row: Row) -> None:
        self._timeline.note_span(row)
        device = self._devices.get(row.get("device", ""))
        is_fit = row["name"] == "fit" and row["clock"] == "device" and row.get("parent_id") is None
        if device is None or not is_fit:
            return
        device.n_fits += 1
        device.last_fit_s = row["duration_s"]
        device.fit_s += row["duration_s"]
        device.joules.add(row)
        if row.get("energy_j") is not None and row["duration_s"] > 0 and device.watts_of != "sample":
            device.watts_of = "fit"
            device.watts.append((self._now_s(), row["energy_j"] / row["duration_s"]))

    def _note_round(self, row: Row) -> None:
        self._latest = row
        self._rounds_done[row["task"]] += 1
        self._round_s += row["time_s"]
        for direction in ("download", "upload"):
            self._n_bytes[direction] += row.get(f"{direction}_bytes") or 0
        if row.get("energy_j") is None:
            self._n_without_energy += 1
        else:
            sum_j, err_j = self._by_provenance.get(row["provenance"], (0.0, 0.0))
            added = sum_j + row["energy_j"], err_j + (row.get("energy_err_j") or 0.0)
            self._by_provenance[row["provenance"]] = added
        self._joules.setdefault(row["task"], Joules()).add(row)
        wanted = ("task", "round", "time_s", "accuracy", "loss", "energy_j", "energy_err_j", "provenance")
        self._rounds.append({name: row.get(name) for name in wanted})

    def _note_failure(self, row: Row) -> None:
        self._n_failures[row["phase"]] += 1
        device = self._devices.get(row.get("device") or "")
        if device is not None:
            device.n_failures += 1
        told = {name: row.get(name) for name in ("task", "round", "device", "phase")}
        self._failures.append({**told, "reason": _text(row["reason"]), "wall_time": row["wall_time"]})

    # --- told by the host's meter ------------------------------------------------------------------------------------

    def note_tick(self, tick: Tick | None) -> None:
        """The meter's latest sample: the mean power since the one before goes to the host and to its owners."""
        if tick is None:
            return
        with self._lock:
            before, self._tick = self._tick, tick
            if before is None or tick.t_ns <= before.t_ns:
                return
            shares, now_s = Shares([before, tick]), (tick.t_ns - self._began_ns) / 1e9
            elapsed_s = (tick.t_ns - before.t_ns) / 1e9
            self._add_watts(HOST, now_s, shares.host_j(before.t_ns, tick.t_ns) / elapsed_s)
            for owner in shares.owners:
                self._add_watts(owner, now_s, shares.window(owner, before.t_ns, tick.t_ns).energy_j / elapsed_s)

    def _add_watts(self, owner: str, now_s: float, watts: float) -> None:
        if not math.isfinite(watts):
            return
        device = self._devices.get(owner)
        if device is None:
            if owner in (HOST, "server", "other"):
                self._watts.setdefault(owner, deque(maxlen=MAX_POINTS)).append((now_s, watts))
            return
        device.watts_of = "sample"
        device.watts.append((now_s, watts))

    # --- read by the page --------------------------------------------------------------------------------------------

    def _now_s(self) -> float:
        return (self._clock.monotonic_ns() - self._began_ns) / 1e9

    def figures(self) -> Figures:
        """A copy for the exposition."""
        with self._lock:
            latest_watts = {owner: points[-1][1] for owner, points in self._watts.items()}
            latest_watts |= {id_: device.watts[-1][1] for id_, device in self._devices.items() if device.watts}
            return Figures(
                subject=self._subject,
                run_id=self._run_id,
                is_over=self._is_over,
                now_s=self._now_s(),
                standings=self._roster.standings(),
                counts=self._roster.counts(),
                devices={id_: device.totals() for id_, device in self._devices.items()},
                n_rounds=self._rounds_done.total(),
                n_tasks_done=sum(status == "completed" for status in self._task_status().values()),
                latest=self._latest,
                round_s=self._round_s,
                joules=dict(self._by_provenance),
                n_without_energy=self._n_without_energy,
                failures=dict(self._n_failures),
                n_bytes=dict(self._n_bytes),
                watts=latest_watts,
            )

    def state(self) -> dict[str, Any]:
        """Everything on the page, as JSON. Times are seconds of the run's clock since the page began."""
        with self._lock:
            return {
                "run": self._run_json(),
                "tasks": [self._task_json(task) for task in self._subject.tasks],
                "states": self._roster.counts(),
                "devices": self._devices_json(),
                "rounds": list(self._rounds),
                "timeline": self._timeline.as_json(self._clock.monotonic_ns()),
                "watts": {owner: _points(points) for owner, points in self._watts.items()},
                "failures": list(self._failures),
                "n_failures": self._n_failures.total(),
                "messages": list(self._messages),
            }

    def _run_json(self) -> dict[str, Any]:
        subject = self._subject
        return {
            "id": self._run_id,
            "fleet": subject.fleet,
            "experiment": subject.experiment,
            "n_devices": subject.n_devices,
            "simulated": subject.is_simulated,
            "meter": subject.meter,
            "now_s": round(self._now_s(), 3),
            "is_over": self._is_over,
        }

    def _task_status(self) -> dict[str, str]:
        return {
            task.id: "completed"
            if task.id not in self._status and self._rounds_done[task.id] >= task.rounds
            else self._status.get(task.id, "planned")
            for task in self._subject.tasks
        }

    def _task_json(self, task: Task) -> dict[str, Any]:
        joules = self._joules.get(task.id)
        return {
            "id": task.id,
            "label": f"{task.label} seed {task.seed}",
            "workload": task.workload,
            "rounds": task.rounds,
            "rounds_done": self._rounds_done[task.id],
            "status": self._task_status()[task.id],
            "energy": joules.as_json() if joules else None,
        }

    def _devices_json(self) -> list[dict[str, Any]]:
        """Those in trouble first where not all are shown."""
        standings, now_ns = self._roster.standings(), self._clock.monotonic_ns()
        order = {state: n for n, state in enumerate(STATES)}
        ids = [id_ for id_ in self._devices if id_ in standings]
        if len(standings) > len(ids):
            ids.sort(key=lambda id_: order[standings[id_].state])
        return [_device_json(id_, self._devices[id_], standings[id_], now_ns) for id_ in ids]


def _device_json(id_: str, device: DeviceFigures, standing: Standing, now_ns: int) -> dict[str, Any]:
    return {
        "id": id_,
        "processor": device.processor,
        "launcher": device.launcher,
        "state": standing.state,
        "for_s": round((now_ns - standing.since_ns) / 1e9, 1),
        "why": standing.why,
        "n_fits": device.n_fits,
        "last_fit_s": device.last_fit_s,
        "energy": device.joules.as_json(),
        "n_failures": device.n_failures,
        "watts": _points(device.watts),
        "watts_of": device.watts_of,
    }


def _points(points: Iterable[Point]) -> list[tuple[float, float]]:
    return [(round(t_s, 2), round(watts, 3)) for t_s, watts in points]


def _text(found: Any) -> str:
    """What a device said goes to a page: cut off, and nothing in it that cannot be printed."""
    return printable(str(found), _TEXT_CHARS)
