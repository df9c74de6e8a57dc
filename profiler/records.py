"""The record kinds of a results folder: one table of columns with type, unit and description.

JSONL lines, Parquet schemas and the documentation are all made from `KINDS`. A record is one JSON object on one line
with a `kind`; columns that do not apply are left out or null, unknown columns are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from profiler.errors import ResultsError
from profiler.quantities import EnergyReading

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
LATE = "late"  # the span of a reply that came after its deadline: how late, on the server's clock
MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_STORED_STEPS = 10_000

_Record = TypeVar("_Record")
Row = dict[str, Any]
"""One record as it stands in JSONL: a JSON object, checked by `check_row`."""


@dataclass(frozen=True, slots=True)
class Column:
    """`type` is one of str, int, float, bool, floats (a list of float), json (any JSON value)."""

    name: str
    type: str
    unit: str
    description: str
    required: bool = False


def _c(name: str, type_: str, unit: str, description: str, required: bool = False) -> Column:
    return Column(name, type_, unit, description, required)


_TASK = (
    _c("task", "str", "", "stable id of the task: hash of its parameters", True),
    _c("attempt", "int", "1", "1 for the first try, one more for each resume", True),
)
_WALL = (_c("wall_time", "str", "", "UTC time of writing, for people; never used in arithmetic"),)
_DEVICE = (
    _c("device", "str", "", "id of the device as the fleet names it"),
    _c("processor", "str", "", "label of what trains; a cutoff is keyed by it"),
)
_ENERGY = (
    _c("energy_j", "float", "J", "gross energy of the widest measured source; null exactly when missing"),
    _c("energy_err_j", "float", "J", "expanded uncertainty of energy_j, k = 2"),
    _c("provenance", "str", "", "counter, integrated, estimated, simulated or missing"),
    _c(
        "energy_scope", "str", "", "what energy_j covers: wall, device, module, host, package, ... or process (a share)"
    ),
    _c("energy_reason", "str", "", "why energy_j is missing, or in doubt: below_resolution, a gap, a counter_reset"),
)
_CHARGED = (
    *_ENERGY,
    _c("idle_s", "json", "s", "meter (a device, or host) -> seconds for which its idle power is in energy_j"),
)

KINDS: dict[str, tuple[Column, ...]] = {
    # one line of plan.jsonl
    "task": (
        _c("task", "str", "", "stable id of the task: hash of its parameters", True),
        _c("workload", "str", "", "name of the workload", True),
        _c("partition", "json", "", "kind, alpha and seed of the split of the training data", True),
        _c("rounds", "int", "1", "federated rounds", True),
        _c("epochs", "int", "1", "local epochs E a round", True),
        _c("clients", "int", "1", "clients C that take part", True),
        _c("batch_size", "int", "1", "examples a step", True),
        _c("lr", "float", "1", "learning rate", True),
        _c("seed", "int", "1", "seed of initialisation, selection and shuffling", True),
        _c("strategy", "str", "", "name of the strategy", True),
        _c("strategy_options", "json", "", "its options"),
        _c("processors", "json", "", "processor label -> number of devices that take part", True),
        _c("cutoffs", "json", "", "processor label -> {tau_s, kind}; absent or empty means no cutoff"),
        _c("workload_options", "json", "", "options of the workload"),
        _c("simulation", "json", "", "costs_of and steps_per_epoch of simulated devices; empty for real ones"),
        _c("training", "bool", "", "false: cost only, nothing is trained and no accuracy known; absent means true"),
        _c("engine", "str", "", "what carried it: flower (SuperNodes), flower-sim (Ray); absent means fedmeter's own"),
    ),
    "task_started": (*_TASK, *_WALL, _c("from_round", "int", "1", "first round of this attempt", True)),
    "span": (
        *_TASK,
        *_WALL,
        _c("round", "int", "1", "federated round, from 1; null outside rounds"),
        *_DEVICE,
        _c("call", "str", "", "fit or evaluate: the instruction that the span belongs to"),
        _c(
            "name",
            "str",
            "",
            "download, receive, fit, send, upload, evaluate, wait, straggler_wait, late, idle, ...",
            True,
        ),
        _c("span_id", "str", "", "unique in the run", True),
        _c("parent_id", "str", "", "span that encloses this one"),
        _c("clock", "str", "", "device, or server where the server's clock measured it", True),
        _c("start_ns", "int", "ns", "start on that monotonic clock; only durations compare between clocks"),
        _c("duration_s", "float", "s", "monotonic duration", True),
        _c("status", "str", "", "ok or error", True),
        *_CHARGED,
        _c("energy_total_of", "json", "", "names of the rails that make up energy_j"),
        _c("energy_coverage", "float", "1", "covered part of the window, 0..1"),
        _c("energy_n_samples", "int", "1", "samples within the window"),
        _c("energy_max_gap_s", "float", "s", "longest time without a sample"),
        _c("rails", "json", "", "the reading of every rail, as objects with the fields of EnergyReading"),
        _c("cpu_s", "float", "s", "CPU time of the device's process"),
        _c("cpu_use", "float", "1", "cpu_s over duration_s: cores in use"),
        _c("peak_rss_bytes", "int", "B", "largest resident set of the process so far"),
        _c("temperature_c", "float", "°C", "hottest processor sensor at the end of the span"),
        _c("frequency_hz", "float", "Hz", "mean processor clock at the end of the span"),
        _c(
            "gpu_use",
            "float",
            "1",
            "busy part of the GPUs' time, 0..1: mean over the span as far back as the driver's own history reaches "
            "(NVML), or at its end where there is none",
        ),
        _c("gpu_temperature_c", "float", "°C", "hottest GPU at the end of the span"),
        _c("gpu_frequency_hz", "float", "Hz", "mean GPU clock at the end of the span"),
        _c(
            "throttling",
            "str",
            "",
            "what slowed the device down during the span or at its edges, as words with commas between; empty where "
            "nothing did, null where the device does not tell",
        ),
        _c("steps_done", "int", "1", "training steps done"),
        _c("steps_planned", "int", "1", "training steps that the epochs call for"),
        _c("stopped_by", "str", "", "completed, cutoff, error, or unknown where the client does not count its steps"),
        _c("cutoff_s", "float", "s", "the cutoff tau that applied; 0 or null for none"),
        _c("steps_s", "floats", "s", "duration of each step, decimated above 10,000"),
        _c("warmup_steps", "int", "1", "how many of the first steps_s are warm-up"),
        _c("examples", "int", "1", "examples that the client's weight counts"),
        _c("loss", "float", "1", "the client's own loss"),
        _c("accuracy", "float", "1", "the client's own accuracy, 0..1"),
        _c("n_bytes", "int", "B", "bytes moved, framing excluded"),
        _c("comm_split", "str", "", "how communication was split into down and up: clock or bytes"),
        _c("attributes", "json", "", "anything else, flat"),
    ),
    "round": (
        *_TASK,
        *_WALL,
        _c("round", "int", "1", "federated round, from 1", True),
        _c(
            "time_s",
            "float",
            "s",
            "first instruction to last accepted result, server's clock, aggregation excluded",
            True,
        ),
        _c("fit_time_s", "float", "s", "its part for local training: first fit instruction to last accepted update"),
        _c("server_s", "float", "s", "the server's own aggregation and evaluation"),
        _c("accuracy", "float", "1", "of the global model on the held-out test set, 0..1"),
        _c("loss", "float", "1", "of the global model on the held-out test set"),
        _c("n_selected", "int", "1", "clients asked to fit", True),
        _c("n_results", "int", "1", "updates folded in", True),
        _c("n_failures", "int", "1", "calls of this round that failed", True),
        *_CHARGED,
        _c("energy_fit_j", "float", "J", "local training alone, gross"),
        _c("energy_fit_err_j", "float", "J", "expanded uncertainty of energy_fit_j, k = 2"),
        _c("energy_wait_j", "float", "J", "drawn by devices while they waited"),
        _c("energy_wait_err_j", "float", "J", "expanded uncertainty of energy_wait_j, k = 2"),
        _c("energy_straggler_wait_j", "float", "J", "its part that stragglers caused"),
        _c("energy_straggler_wait_err_j", "float", "J", "expanded uncertainty of energy_straggler_wait_j, k = 2"),
        _c("host_energy_j", "float", "J", "all that a shared host drew: clients, server and other"),
        _c("host_energy_err_j", "float", "J", "expanded uncertainty of host_energy_j, k = 2"),
        _c("server_energy_j", "float", "J", "the server's share of the host"),
        _c("server_energy_err_j", "float", "J", "expanded uncertainty of server_energy_j, k = 2"),
        _c("other_energy_j", "float", "J", "the share of everything else on the host"),
        _c("other_energy_err_j", "float", "J", "expanded uncertainty of other_energy_j, k = 2"),
        _c("download_bytes", "int", "B", "server to clients"),
        _c("upload_bytes", "int", "B", "clients to server"),
        _c("telemetry_bytes", "int", "B", "the part of upload_bytes that carries measurements, not the model"),
    ),
    "idle": (
        *_WALL,
        _c("device", "str", "", "whose meter: a device, or host for the one that clients of a host share", True),
        _c("phase", "str", "", "before the first task, or after the last; every client has joined and waits", True),
        _c("duration_s", "float", "s", "monotonic duration", True),
        *_ENERGY,
    ),
    "failure": (
        *_TASK,
        *_WALL,
        _c("round", "int", "1", "federated round; null outside rounds"),
        *_DEVICE,
        _c("phase", "str", "", "start, join, fit, evaluate, get_parameters, get_properties, meter, ...", True),
        _c("reason", "str", "", "what happened", True),
        _c("detail", "str", "", "more: tail and path of the log"),
    ),
    "task_finished": (
        *_TASK,
        *_WALL,
        _c("status", "str", "", "completed or failed", True),
        _c("rounds_done", "int", "1", "rounds with a result, earlier attempts included", True),
    ),
}


@dataclass(frozen=True, slots=True)
class Resources:
    """What a span used beside energy. None where the device does not tell; `KINDS["span"]` says what each one is.

    `throttling` is the empty string where the device tells that nothing slowed it down.
    """

    cpu_s: float | None = None
    peak_rss_bytes: int | None = None
    temperature_c: float | None = None
    frequency_hz: float | None = None
    gpu_use: float | None = None
    gpu_temperature_c: float | None = None
    gpu_frequency_hz: float | None = None
    throttling: str | None = None


Attribute = bool | int | float | str


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One timed piece of work on one device's monotonic clock. Immutable; made when the span closes.

    `total` is the device total (see `EnergyReading`), `energies` every rail. `steps_s` are the step durations of a
    fit, at most `MAX_STORED_STEPS` of them; the first `warmup_steps` are warm-up.
    """

    span_id: str
    name: str
    start_ns: int
    duration_s: float
    status: str = "ok"
    parent_id: str | None = None
    total: EnergyReading | None = None
    energies: tuple[EnergyReading, ...] = ()
    resources: Resources = field(default_factory=Resources)
    steps_s: tuple[float, ...] = ()
    warmup_steps: int = 0
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    @property
    def end_ns(self) -> int:
        return self.start_ns + round(self.duration_s * 1e9)


_SPAN_COLUMNS = frozenset(column.name for column in KINDS["span"])


def span_row(span: SpanRecord) -> Row:
    """The columns of a span record that the span itself knows; attributes that are columns become columns."""
    row: Row = {
        "kind": "span",
        "name": span.name,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "clock": "device",
        "start_ns": span.start_ns,
        "duration_s": span.duration_s,
        "status": span.status,
        **resource_columns(span.resources),
    }
    if span.resources.cpu_s is not None and span.duration_s > 0:
        row["cpu_use"] = span.resources.cpu_s / span.duration_s
    if span.steps_s:
        row["steps_s"] = list(span.steps_s)
        row["warmup_steps"] = span.warmup_steps
    if span.total is not None:
        row |= span_energy_columns(span.total)
    if span.energies:
        row["rails"] = [reading_json(reading) for reading in span.energies]
    rest = {key: value for key, value in span.attributes.items() if key not in _SPAN_COLUMNS or key in row}
    row |= {key: value for key, value in span.attributes.items() if key not in rest}
    if rest:
        row["attributes"] = rest
    return row


def resource_columns(resources: Resources) -> Row:
    """Its fields by name. (`dataclasses.asdict` copies deeply, which takes five times as long.)"""
    return {name: getattr(resources, name) for name in resources.__slots__}


def energy_columns(total: EnergyReading) -> Row:
    """A device total as the energy columns that every kind with an energy has."""
    return {
        "energy_j": total.energy_j,
        "energy_err_j": total.energy_err_j,
        "provenance": total.provenance.value,
        "energy_scope": total.scope.value,
        "energy_reason": total.reason,
    }


def span_energy_columns(total: EnergyReading) -> Row:
    """A device total as the energy columns of a span record."""
    return energy_columns(total) | {
        "energy_total_of": list(total.total_of) or [total.rail],
        "energy_coverage": total.coverage,
        "energy_n_samples": total.n_samples,
        "energy_max_gap_s": total.max_gap_s,
    }


def reading_json(reading: EnergyReading) -> Row:
    row: Row = {}
    for f in fields(reading):
        value = getattr(reading, f.name)
        if isinstance(value, Enum):
            value = value.value
        elif isinstance(value, tuple):
            value = list(value)
        if value is not None and value != []:
            row[f.name] = value
    return row


_CHECKS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "floats": (list,),
    "json": (dict, list, str, int, float, bool),
}


_COLUMNS = {kind: {column.name: column for column in columns} for kind, columns in KINDS.items()}
_REQUIRED = {kind: tuple(column.name for column in columns if column.required) for kind, columns in KINDS.items()}
_MAX_INT = 2**63  # what a column of integers holds in Parquet and in pandas


def check_row(row: Mapping[str, Any]) -> None:
    """Raise ValueError, with the column's name, where a row is not a record of its kind."""
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"unknown record kind {kind!r:.80}")
    columns = _COLUMNS[kind]
    for name, value in row.items():
        column = columns.get(name)
        if column is None:
            if name != "kind":
                raise ValueError(f"a {kind} record has no column {name!r:.80}")
        # Most values, decided at once: a folder of millions of records is read through here.
        elif not (
            (value.__class__ is str and column.type == "str")
            or (value.__class__ is float and column.type == "float" and math.isfinite(value))
            or value is None
        ):
            _check_value(column, value)
    for name in _REQUIRED[kind]:
        if row.get(name) is None:
            raise ValueError(f"a {kind} record needs {name!r}")


def _check_value(column: Column, value: object) -> None:
    wrong_bool = isinstance(value, bool) and column.type not in ("bool", "json")
    if wrong_bool or not isinstance(value, _CHECKS[column.type]):
        raise ValueError(f"{column.name} must be {column.type}, got {value!r:.80}")
    if column.type == "floats" and isinstance(value, list):
        _check_floats(column, value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{column.name} must be finite or null, got {value!r}")
    elif isinstance(value, int) and not -_MAX_INT <= value < _MAX_INT:
        raise ValueError(f"{column.name} must fit into 64 bits, got one of {value.bit_length()}")


def _check_floats(column: Column, values: list[object]) -> None:
    for item in values:
        if isinstance(item, float) and math.isfinite(item):
            continue
        if isinstance(item, bool) or not isinstance(item, int) or not -_MAX_INT <= item < _MAX_INT:
            raise ValueError(f"{column.name} must hold finite numbers, got {item!r:.80}")


def encode_line(row: Mapping[str, Any]) -> bytes:
    """One checked record as one line of UTF-8 JSON, nulls left out. Raises ValueError where the row is no record."""
    check_row(row)
    kept = {name: value for name, value in row.items() if value is not None}
    return json.dumps(kept, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes) -> Row:
    """The inverse of `encode_line`. Raises ValueError."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object but {type(row).__name__}")
    check_row(row)
    if b"\\u" in line:  # half of a surrogate pair is no text: Parquet cannot hold it, nor a terminal print it
        json.dumps(row, ensure_ascii=False).encode()
    return row


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


@dataclass(slots=True)
class TornLine:
    """Filled in by `read_lines` where the last line of a file was cut off, which a crash can do."""

    path: Path | None = None
    n_bytes: int = 0


def read_lines(path: Path, torn: TornLine | None = None) -> Iterator[Row]:
    """Every record of one JSONL file, in order, as `decoded_lines` reads them."""
    return decoded_lines(path, decode_line, torn)


def decoded_lines(
    path: Path,
    decode: Callable[[bytes], _Record],
    torn: TornLine | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[_Record]:
    """Every record of one JSONL file, in order; of those lines alone that begin in the bytes from start to stop.

    A last line without its newline is dropped and told through `torn`. A bad line with a newline, of which `decode`
    raises ValueError, is damage and raises ResultsError, naming file and line.
    """
    with path.open("rb") as lines:
        lines.seek(start)
        position = start
        while stop is None or position < stop:
            line = lines.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
                if torn is not None:
                    torn.path, torn.n_bytes = path, len(line)
                return
            try:
                yield decode(line)
            except ValueError as error:
                raise ResultsError(
                    f"{path}, line {_line_number(path, position)}: {error}.",
                    remedy="Restore the file from a copy, or move this run's folder out of the results.",
                ) from None
            position += len(line)


def _line_number(path: Path, position: int) -> int:
    """The number, from 1, of the line that begins at a position. Counted only where it is needed: in an error."""
    with path.open("rb") as lines:
        return 1 + sum(lines.read(min(1 << 20, position - at)).count(b"\n") for at in range(0, position, 1 << 20))


def arrow_schema(kind: str) -> pa.Schema:
    """The full, explicit Parquet schema of a kind, with units and descriptions as field metadata. Needs pyarrow."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = {
        "str": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "floats": pa.list_(pa.float64()),
        "json": pa.string(),
    }
    return pa.schema(
        [
            pa.field(column.name, types[column.type], metadata={"unit": column.unit, "description": column.description})
            for column in KINDS[kind]
        ],
        metadata={"fedmeter.kind": kind, "fedmeter.schema": str(SCHEMA_VERSION)},
    )
