"""A calibration: what training takes on one device, as a file that travels. Written by `harness.calibrate`.

The file is JSON, schema 1: the fields of `Calibration` and of what it holds, under the same names. It may come from
anybody, so that every number, list and text in it has a bound.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from profiler.errors import SpecError
from profiler.quantities import Provenance, Scope
from profiler.spec import Table

SCHEMA = 1
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_POINTS = 256
MAX_REPLICATES = 400
MAX_TRACE = 400
MAX_FACTS = 400
_MAX_CHARS = 400
_MAX_DIGITS = 18
_LEAST_S, _MOST_S = 1e-9, 1e7
_MOST_W = 1e6
_MOST_COUNT = 10**12
CLOCKS = ("system", "simulated")
STOPS = ("steady", "time")
_REMEDY = "Write one with: python -m harness.calibrate -o FILE"

Option = str | int | float | bool


@dataclass(frozen=True, slots=True)
class StepCurve:
    """How long a step takes after t seconds of training without pause: a + b (1 - exp(-t / k)).

    `first_s` is a, of a cool device, `added_s` is b, what heat adds in the end (0: nothing), `constant_s` is k.
    """

    first_s: float
    added_s: float = 0.0
    constant_s: float = 1.0

    def step_s(self, time_s: float) -> float:
        return self.first_s - self.added_s * math.expm1(-time_s / self.constant_s)

    def mean_s(self, horizon_s: float) -> float:
        """Mean step time of all steps that fit into the first `horizon_s` seconds: horizon / ∫ dt / s(t).

        The integral is (T + k ln(s(T) / a)) / (a + b).
        """
        if self.added_s == 0 or horizon_s <= 0:
            return self.first_s
        risen = -math.expm1(-horizon_s / self.constant_s) * self.added_s / self.first_s
        slowed_s = self.constant_s * math.log1p(risen)
        last_s = self.first_s + self.added_s
        mean_s = last_s * horizon_s / (horizon_s + slowed_s)
        return min(last_s, max(self.first_s, mean_s))  # of the shortest horizons rounding makes anything


@dataclass(frozen=True, slots=True)
class PowerFigure:
    """Mean power over `duration_s`, all that the sensor's total covers (`scope`).

    `power_err_w` is an expanded uncertainty, k = 2. `power_w` is None exactly when nothing measured it; `reason` then
    says why.
    """

    power_w: float | None
    power_err_w: float | None
    provenance: Provenance
    scope: Scope
    duration_s: float
    sensor: str = ""
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One workload with its options and batch size, trained until its steps were steady or time was up.

    `step_s` is the mean of `n_steps` steps after `n_warmup`, worth `effective_n` independent ones; `step_err_s` is the
    half-width of its 95 % interval, `step_q95_s` a quantile of single steps. `start_s` is what a fit takes beside its
    steps. `drift` is by what part of itself the step time would change in 300 s, by its course over the last half, and
    `drift_err` the half-width of its 90 % interval. `curve` continues that course, `replicates` are the same curve
    fitted to resampled data. `is_throttled`: the curve rises by more than chance.
    `throttling` is what the machine itself says of it, None where it says nothing. `trace` are pairs of seconds since
    training began and the mean step time about then.
    """

    workload: str
    options: Mapping[str, Option]
    batch_size: int
    stopped_by: str
    n_steps: int
    n_warmup: int
    effective_n: float
    duration_s: float
    start_s: float
    step_s: float
    step_err_s: float
    step_q95_s: float
    drift: float
    drift_err: float
    is_throttled: bool
    curve: StepCurve
    replicates: tuple[StepCurve, ...]
    power: PowerFigure
    throttling: str | None = None
    trace: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Calibration:
    """One device. `clock` is `simulated` where no real machine was timed; then all of its figures are simulated.

    `processor` is the label that a cutoff is keyed by. `facts` are those of `profiler.machine_facts` before training
    and `facts_after` after it: governor, power mode, clocks, temperatures.
    """

    device: str
    processor: str
    wall_time: str
    clock: str
    idle: PowerFigure
    points: tuple[Point, ...]
    facts: Mapping[str, Option]
    facts_after: Mapping[str, Option]

    @property
    def is_simulated(self) -> bool:
        return self.clock == "simulated"

    def as_json(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def load_calibration(path: Path) -> Calibration:
    """Raises SpecError that names the file, the key and what to do."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SpecError(f"calibration {path} cannot be read: {error.strerror}.", remedy=_REMEDY) from None
    if len(data) > MAX_FILE_BYTES:
        raise SpecError(f"calibration {path} is larger than {MAX_FILE_BYTES} bytes.", remedy=_REMEDY)
    return read_calibration(data, str(path))


def read_calibration(data: bytes, where: str) -> Calibration:
    """A calibration of anybody's. Raises SpecError for whatever is not known, not bounded or contradicts itself."""
    try:
        content = json.loads(data, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{where} is not JSON: {error!s:.200}.", remedy=_REMEDY) from None
    if not isinstance(content, dict):
        raise SpecError(f"{where} is not a calibration.", remedy=_REMEDY)
    table = Table(content, where)
    schema = table.take("schema", int)
    if schema != SCHEMA:
        raise SpecError(f"{where} has schema {schema}; this version reads schema {SCHEMA}.")
    read = Calibration(
        device=_said(table, "device"),
        processor=_said(table, "processor"),
        wall_time=_said(table, "wall_time"),
        clock=_one_of(table, "clock", CLOCKS),
        idle=_power(table.table("idle")),
        points=tuple(_point(entry) for entry in _tables(table, "points", MAX_POINTS)),
        facts=_scalars(table, "facts"),
        facts_after=_scalars(table, "facts_after"),
    )
    table.finish()
    if not read.points:
        raise SpecError(f"{where}: 'points' is empty.", remedy=_REMEDY)
    is_model = [figure.provenance is Provenance.SIMULATED for figure in _known_powers(read)]
    if any(is_model) and not (read.is_simulated and all(is_model)):
        raise SpecError(f"{where}: simulated and measured figures are mixed.", remedy=_REMEDY)
    if read.is_simulated and not all(is_model):
        raise SpecError(f"{where}: a simulated device has power that is not simulated.", remedy=_REMEDY)
    return read


def _known_powers(read: Calibration) -> list[PowerFigure]:
    figures = [read.idle, *(point.power for point in read.points)]
    return [figure for figure in figures if figure.power_w is not None]


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _point(table: Table) -> Point:
    point = Point(
        workload=_said(table, "workload"),
        options=_scalars(table, "options"),
        batch_size=_count(table, "batch_size", 1),
        stopped_by=_one_of(table, "stopped_by", STOPS),
        n_steps=_count(table, "n_steps", 1),
        n_warmup=_count(table, "n_warmup", 0),
        effective_n=_number(table, "effective_n", 0.0, _MOST_COUNT),
        duration_s=_number(table, "duration_s", _LEAST_S, _MOST_S),
        start_s=_number(table, "start_s", 0.0, _MOST_S),
        step_s=_number(table, "step_s", _LEAST_S, _MOST_S),
        step_err_s=_number(table, "step_err_s", 0.0, _MOST_S),
        step_q95_s=_number(table, "step_q95_s", _LEAST_S, _MOST_S),
        drift=_number(table, "drift", -_MOST_S, _MOST_S),
        drift_err=_number(table, "drift_err", 0.0, _MOST_S),
        is_throttled=table.take("is_throttled", bool),
        curve=_curve(table.table("curve")),
        replicates=tuple(_curve(entry) for entry in _tables(table, "replicates", MAX_REPLICATES)),
        power=_power(table.table("power")),
        throttling=_maybe(table, "throttling"),
        trace=_trace(table),
    )
    table.finish()
    return point


def _curve(table: Table) -> StepCurve:
    curve = StepCurve(
        _number(table, "first_s", _LEAST_S, _MOST_S),
        _number(table, "added_s", 0.0, _MOST_S),
        _number(table, "constant_s", 1e-3, _MOST_S),
    )
    table.finish()
    return curve


def _power(table: Table) -> PowerFigure:
    provenance = _one_of(table, "provenance", [provenance.value for provenance in Provenance])
    figure = PowerFigure(
        _maybe_number(table, "power_w"),
        _maybe_number(table, "power_err_w"),
        Provenance(provenance),
        Scope(_one_of(table, "scope", [scope.value for scope in Scope])),
        _number(table, "duration_s", 0.0, _MOST_S),
        _text(table, "sensor"),
        _maybe(table, "reason"),
    )
    table.finish()
    is_missing = figure.provenance is Provenance.MISSING
    if (figure.power_w is None) != is_missing or (figure.power_err_w is None) != is_missing:
        raise SpecError(f"{table.where}: power_w and power_err_w are null exactly when provenance is missing.")
    return figure


def _trace(table: Table) -> tuple[tuple[float, float], ...]:
    pairs: list[Any] = table.take("trace", list, [])
    if len(pairs) > MAX_TRACE:
        raise SpecError(f"{table.where}: 'trace' has more than {MAX_TRACE} pairs.")
    return tuple(_pair(pair, f"{table.where}, pair {n} of 'trace'") for n, pair in enumerate(pairs, start=1))


def _pair(pair: object, where: str) -> tuple[float, float]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise SpecError(f"{where}: two numbers are needed.")
    table = Table({"time": pair[0], "step": pair[1]}, where)
    return _number(table, "time", 0.0, _MOST_S), _number(table, "step", _LEAST_S, _MOST_S)


def _tables(table: Table, key: str, limit: int) -> list[Table]:
    entries = table.tables(key)
    if len(entries) > limit:
        raise SpecError(f"{table.where}: '{key}' has {len(entries)} entries, more than {limit}.")
    return entries


def _number(table: Table, key: str, least: float, most: float) -> float:
    value: float = table.take(key, float)
    if not (math.isfinite(value) and least <= value <= most):
        raise SpecError(f"{table.where}: '{key}' must be from {least:g} to {most:g}, got {value:g}.")
    return value


def _maybe_number(table: Table, key: str) -> float | None:
    value: float | None = table.take(key, float, or_kind=type(None))
    if value is not None and not 0 <= value <= _MOST_W:
        raise SpecError(f"{table.where}: '{key}' must be from 0 to {_MOST_W:g}, got {value:g}.")
    return value


def _count(table: Table, key: str, least: int) -> int:
    value: int = table.take(key, int)
    if not least <= value <= _MOST_COUNT:
        raise SpecError(f"{table.where}: '{key}' must be from {least} to {_MOST_COUNT}, got {value}.")
    return value


def _one_of(table: Table, key: str, known: tuple[str, ...] | list[str]) -> str:
    value: str = table.take(key, str)
    if value not in known:
        raise SpecError(f"{table.where}: '{key}' is {value!r:.60}; it must be one of {', '.join(known)}.")
    return value


def _text(table: Table, key: str) -> str:
    return _checked(table.take(key, str), f"{table.where}: '{key}'")


def _said(table: Table, key: str) -> str:
    text = _text(table, key)
    if not text.strip():
        raise SpecError(f"{table.where}: '{key}' is empty.")
    return text


def _maybe(table: Table, key: str) -> str | None:
    value: str | None = table.take(key, str, or_kind=type(None))
    return None if value is None else _checked(value, f"{table.where}: '{key}'")


def _checked(text: str, what: str) -> str:
    if len(text) > _MAX_CHARS or not text.isprintable():
        raise SpecError(f"{what} must be at most {_MAX_CHARS} printable characters.")
    return text


def _scalars(table: Table, key: str) -> dict[str, Option]:
    values: dict[str, Any] = table.take(key, dict)
    if len(values) > MAX_FACTS:
        raise SpecError(f"{table.where}: '{key}' has {len(values)} entries, more than {MAX_FACTS}.")
    return {
        _checked(name, f"{table.where}: a key of '{key}'"): _scalar(value, table.where, key, name)
        for name, value in values.items()
    }


def _scalar(value: object, where: str, key: str, name: str) -> Option:
    what = f"{where}: '{key}.{name:.60}'"
    if isinstance(value, str):
        return _checked(value, what)
    if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise SpecError(f"{what} must be text, a finite number, true or false.")
