"""Wraps any NumPyClient with a Profiler: joules and seconds of every fit and evaluate, beside the update.

    client = instrument(MyClient())

Numbers travel as flat numeric metrics that any Flower server can take (`fit.duration_s`, `fit.energy_j`, ...). What is
not known is absent, never 0. More only where the server asks for it, since one that averages every metric fails on text
and on bytes. The config key `telemetry` is the level:

    flat    numbers alone; also without the key, and for a level that is not known
    full    text as well (`fit.stopped_by`, `fit.provenance`, `fit.throttling`, ...), and the whole span records as one
            bytes metric, `fedmeter.record` (measurement.proto)
    samples as full, and the raw samples of the fit or evaluate, as another, `fedmeter.samples`, of 64 kB at most

Asked so for its properties, a client tells what its device is and how it is set up: `device.model`, ...
"""

from __future__ import annotations

import logging
import math
import operator
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from fl.flower_client import as_numpy_client
from fl.messages import Array, Config, Scalar
from fl.spool_file import SpoolFile
from fl.steps import Pace, StepControl
from fl.wire.measurement import RECORD_KEY, encode_spans
from fl.wire.samples import MAX_VALUES, SAMPLES_KEY, SpanSamples, encode_samples
from fl.workload import NumPyClient
from profiler.clock import Clock
from profiler.errors import UsageError, WireError
from profiler.kept_samples import RailSamples
from profiler.machine_facts import machine_facts
from profiler.records import SpanRecord, resource_columns
from profiler.span import Profiler, Sink, Span

TELEMETRY_KEY = "telemetry"
TELEMETRY_LEVELS = ("flat", "full", "samples")
DEVICE_PREFIX = "device."
MAX_WAITING_SPANS = 10_000
MAX_SENT_SPANS = 128  # with one reply; the rest goes with the next

_log = logging.getLogger("fl")

Phase = Literal["fit", "evaluate"]
FactsOf = Callable[[], Mapping[str, Scalar]]
T = TypeVar("T")


class Spool:
    """Span records that wait to be sent, oldest first, each once. Bounded: the oldest go, and are counted.

    Whether a reply arrived is known only once the next instruction comes on the same connection. Until then what it
    carried is on its way, and `give_back` puts it first in line again where the connection broke instead. A server of
    ours lets a span that comes twice so pass once. `save` keeps a copy of all that has not arrived in a file, where
    there is one, for a client that ends before it can send it.
    """

    def __init__(self) -> None:
        self._records: dict[str, SpanRecord] = {}
        self._on_the_way: list[SpanRecord] = []
        self._file: SpoolFile | None = None
        self._saved: set[str] = set()
        self._lock = threading.Lock()
        self.n_lost = 0

    def add(self, record: SpanRecord) -> None:
        with self._lock:
            self._records[record.span_id] = record
            if len(self._records) > MAX_WAITING_SPANS:
                del self._records[next(iter(self._records))]
                self.n_lost += 1

    def take(self) -> list[SpanRecord]:
        """Up to `MAX_SENT_SPANS` records to send. Those taken before are taken to have arrived."""
        with self._lock:
            ids = list(self._records)[:MAX_SENT_SPANS]
            self._on_the_way = [self._records.pop(span_id) for span_id in ids]
            return list(self._on_the_way)

    def confirm(self) -> None:
        """What was taken last has arrived."""
        with self._lock:
            self._on_the_way = []
            self._saved.clear()
            if self._file is not None:
                self._file.clear()

    def give_back(self) -> None:
        """What was taken last may not have arrived."""
        with self._lock:
            self._records = {record.span_id: record for record in self._on_the_way} | self._records
            self._on_the_way = []

    def save_to(self, file: SpoolFile) -> None:
        """From now on `save` has somewhere to."""
        self._file = file

    def save(self) -> None:
        """For the time in which the client waits: it takes some time that nobody should measure."""
        if self._file is None:
            return
        with self._lock:
            fresh = [one for one in (*self._on_the_way, *self._records.values()) if one.span_id not in self._saved]
            self._saved.update(one.span_id for one in fresh)
            self._file.append(fresh)

    def part(self) -> None:
        """The server has said goodbye: what it did not want to know is not kept for anybody."""
        if self._file is not None:
            self._file.remove()
            self._file = None


class InstrumentedClient:
    """A NumPyClient whose every fit and evaluate is a span with a `StepControl`; made by `instrument`."""

    def __init__(
        self, client: NumPyClient, profiler: Profiler, spool: Spool, facts: FactsOf, pace: Pace | None = None
    ) -> None:
        self.profiler = profiler
        self.spool = spool
        self._client = client
        self._facts = facts
        self._pace = pace

    @property
    def clock(self) -> Clock:
        return self.profiler.clock

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        """The client's own, which win, and where the server asked for it what is known of the device."""
        told = getattr(self._client, "get_properties", None)  # Flower's NumPyClients need not have it
        own = {} if told is None else dict(told(config))
        return {**self._device_properties(), **own} if _wants_all(config) else own

    def _device_properties(self) -> dict[str, Scalar]:
        return {f"{DEVICE_PREFIX}{name}": value for name, value in self._facts().items()}

    def get_parameters(self, config: Config) -> list[Array]:
        return self._client.get_parameters(config)

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        arrays, num_examples, metrics = self.measured_fit(parameters, config)
        return arrays, num_examples, metrics | self.record(config)

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        loss, num_examples, metrics = self.measured_evaluate(parameters, config)
        return loss, num_examples, metrics | self.record(config)

    def measured_fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        """As `fit`, with the flat keys but without the records, which `fl.responder` sends after later spans."""
        with self._measured("fit", config) as (span, flat):
            arrays, num_examples, metrics = _triple("fit", self._client.fit(parameters, config))
            span.set(**_outcome(num_examples, metrics))
        return [np.asarray(array) for array in arrays], num_examples, {**metrics, **flat}

    def measured_evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        """As `evaluate`, likewise."""
        with self._measured("evaluate", config) as (span, flat):
            loss, num_examples, metrics = _triple("evaluate", self._client.evaluate(parameters, config))
            loss = float(loss)
            span.set(**_outcome(num_examples, {**metrics, "loss": loss}))
        return loss, num_examples, {**metrics, **flat}

    def record(self, config: Config) -> dict[str, Scalar]:
        """The metric with all span records not yet sent, where the server asked for it; else nothing."""
        if not _wants_all(config):
            return {}
        records = self.spool.take()
        return {RECORD_KEY: _encoded(records)} if records else {}

    @contextmanager
    def _measured(self, phase: Phase, config: Config) -> Iterator[tuple[Span, dict[str, Scalar]]]:
        """One span; the dictionary is filled with its flat keys when it has closed."""
        flat: dict[str, Scalar] = {}
        control = StepControl(self.clock, cutoff_s=_cutoff_s(config), epochs=_epochs(config), pace=self._pace)
        span = self.profiler.span(phase)
        if _wants_samples(config):
            span.keep_samples(MAX_VALUES)
        with span, control.active():
            span.set(**call_attributes(phase, config))
            try:
                yield span, flat
            finally:
                _tell_steps(phase, span, control)
        if span.record is not None:
            flat.update(_flat_keys(phase, span.record, control))
            if _wants_all(config):
                flat.update(_text_keys(phase, span.record))
            if _wants_samples(config):
                flat.update(_samples_key(span.record, span.samples))


def instrument(
    client: object,
    profiler: Profiler | None = None,
    *,
    root: Path = Path("/"),
    facts: FactsOf | None = None,
    pace: Pace | None = None,
) -> InstrumentedClient:
    """Meter a client: ours, or a NumPyClient or a Client of Flower's. Raises UsageError for anything else.

    Without a profiler, times and resources are measured and energy is not known. Give one of your own an `id_prefix`
    that no other client of a run has.

    Every span of the profiler is sent along, also those that user code opens inside its `fit`; a sink that the profiler
    has already keeps getting them too. Start and stop the profiler yourself. `root` is the file system root that the
    device is described from; a device that is not this machine brings its own `facts`, and the `pace` of its steps.
    """
    inner = as_numpy_client(client)
    if profiler is None:
        profiler = Profiler(id_prefix=f"{secrets.token_hex(4)}/")  # unlike those of the run's other clients
    spool = Spool()
    profiler.sink = _tee(profiler.sink, spool.add)
    return InstrumentedClient(inner, profiler, spool, facts or partial(machine_facts, root), pace)


def _wants_all(config: Config) -> bool:
    return config.get(TELEMETRY_KEY) in ("full", "samples")


def _wants_samples(config: Config) -> bool:
    return config.get(TELEMETRY_KEY) == "samples"


def _samples_key(record: SpanRecord, rails: tuple[RailSamples, ...]) -> dict[str, Scalar]:
    """Sent with this reply or never: unlike a record they do not wait for another."""
    if not rails:
        return {}
    try:
        return {SAMPLES_KEY: encode_samples(SpanSamples(record.span_id, record.start_ns, rails))}
    except WireError as error:
        _log.warning("span %s (%s): its samples are dropped: %s", record.span_id, record.name, error)
        return {}


def _tee(first: Sink | None, second: Sink) -> Sink:
    if first is None:
        return second

    def both(record: SpanRecord) -> None:
        first(record)
        second(record)

    return both


def _encoded(records: list[SpanRecord]) -> bytes:
    """A span that cannot be sent (user code may give it any attribute) costs neither the others nor the update."""
    try:
        return encode_spans(records)
    except WireError:
        return encode_spans([record for record in records if _can_be_sent(record)])


def _can_be_sent(record: SpanRecord) -> bool:
    try:
        encode_spans([record])
    except WireError as error:
        _log.warning("span %s (%s) is dropped: %s", record.span_id, record.name, error)
        return False
    return True


def call_attributes(call: str, config: Config) -> dict[str, str | int]:
    """What every span of one call tells: the call, and the round where the config says it."""
    round_ = config.get("round")
    if isinstance(round_, int) and not isinstance(round_, bool):
        return {"call": call, "round": round_}
    return {"call": call}


def _triple(phase: Phase, result: tuple[T, int, dict[str, Scalar]]) -> tuple[T, int, dict[str, Scalar]]:
    """Check the shape of what user code returned, which its types only promise. Raises UsageError."""
    if not isinstance(result, tuple) or len(result) != 3:
        raise UsageError(f"{phase} returned {type(result).__name__}; a tuple of three is needed: {_SHAPES[phase]}.")
    first, num_examples, metrics = result
    if isinstance(num_examples, bool) or not hasattr(num_examples, "__index__"):
        raise UsageError(f"{phase} returned num_examples of type {type(num_examples).__name__}; an int is needed.")
    if not isinstance(metrics, Mapping):
        raise UsageError(f"{phase} returned metrics of type {type(metrics).__name__}; a dict is needed.")
    return first, operator.index(num_examples), dict(metrics)


_SHAPES = {"fit": "(parameters, num_examples, metrics)", "evaluate": "(loss, num_examples, metrics)"}


def _outcome(num_examples: int, metrics: Mapping[str, object]) -> dict[str, int | float]:
    outcome: dict[str, int | float] = {"examples": num_examples}
    for name in ("loss", "accuracy"):
        value = metrics.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            outcome[name] = float(value)
    return outcome


def _tell_steps(phase: Phase, span: Span, control: StepControl) -> None:
    if not control.used:
        if phase == "fit":  # its loop does not go through `steps`: nobody could have stopped it
            span.set(stopped_by="unknown")
        return
    span.steps(control.durations_s, control.warmup_steps)
    span.set(steps_done=control.steps_done, stopped_by=control.stopped_by, cutoff_s=control.cutoff_s or 0.0)
    if control.steps_planned is not None:
        span.set(steps_planned=control.steps_planned)


def _flat_keys(phase: Phase, record: SpanRecord, control: StepControl) -> dict[str, Scalar]:
    """Numbers alone, which any server can average."""
    known: dict[str, Scalar | None] = {
        "duration_s": record.duration_s,
        **{name: value for name, value in resource_columns(record.resources).items() if not isinstance(value, str)},
    }
    if record.total is not None:
        known |= {"energy_j": record.total.energy_j, "energy_err_j": record.total.energy_err_j}
    if control.used:
        known |= {
            "steps_done": control.steps_done,
            "steps_planned": control.steps_planned,
            "stopped_by_cutoff": int(control.stopped_by == "cutoff"),
            "cutoff_s": control.cutoff_s or 0.0,
        }
    return {f"{phase}.{name}": value for name, value in known.items() if value is not None}


def _text_keys(phase: Phase, record: SpanRecord) -> dict[str, Scalar]:
    """What the flat keys leave out: how training ended, and what kind of figure the energy is."""
    known: dict[str, object] = {"throttling": record.resources.throttling}
    if phase == "fit":
        known["stopped_by"] = record.attributes.get("stopped_by")
    if record.total is not None:
        known["provenance"] = record.total.provenance.value
        known["energy_scope"] = record.total.scope.value
        known["energy_reason"] = record.total.reason
    return {f"{phase}.{name}": value for name, value in known.items() if isinstance(value, str)}


def _cutoff_s(config: Config) -> float | None:
    value = config.get("cutoff_s")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"config: cutoff_s = {value!r:.40}: a cutoff is a number of seconds, 0 for none.")
    return float(value)


def _epochs(config: Config) -> int:
    value = config.get("epochs", 1)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"config: epochs = {value!r:.40}: a whole number of local epochs is needed.")
    return value
