from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest

from profiler.clock import FakeClock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Scope
from profiler.records import MAX_STORED_STEPS, SpanRecord, decode_line, encode_line, span_row
from profiler.sampler import Sampler
from profiler.sensor import Unavailable
from profiler.sensors.fake import FakeSensor
from profiler.span import Profiler, Span
from tests.profiler.rails import counter_rail, power_rail


def metered(clock: FakeClock, records: list[SpanRecord] | None = None) -> Profiler:
    """20 W by a counter."""
    sensor = FakeSensor([counter_rail()], lambda t_s: [20.0 * t_s], clock)
    return Profiler([Sampler(sensor, clock, rate_hz=0)], clock, sink=records)


def record_of(span: Span) -> SpanRecord:
    assert span.record is not None
    return span.record


def test_a_span_has_seconds_joules_resources_and_attributes() -> None:
    clock = FakeClock(start_ns=50)
    records: list[SpanRecord] = []
    with metered(clock, records) as profiler, profiler.span("fit", round=3, note=None) as span:
        clock.advance(4)
        span.set(loss=0.5, stopped_by="completed")
        span.steps([1.0, 0.5, 0.5], warmup=1)
        assert span.record is None
    record = record_of(span)
    assert records == [record]
    assert (record.name, record.status, record.start_ns, record.duration_s) == ("fit", "ok", 50, 4.0)
    assert record.end_ns == 4_000_000_050
    assert record.total is not None
    assert record.total.energy_j == pytest.approx(80.0)
    assert record.total.total_of == ("package-0",)
    assert [reading.rail for reading in record.energies] == ["package-0"]
    assert record.attributes == {"round": 3, "loss": 0.5, "stopped_by": "completed"}
    assert (record.steps_s, record.warmup_steps) == ((1.0, 0.5, 0.5), 1)
    assert record.resources.cpu_s is not None
    assert record.resources.peak_rss_bytes is not None
    row = {"task": "t", "attempt": 1, **span_row(record)}
    assert decode_line(encode_line(row))["energy_j"] == pytest.approx(80.0)


def test_spans_nest_and_split_the_energy() -> None:
    clock = FakeClock()
    records: list[SpanRecord] = []
    with metered(clock, records) as profiler, profiler.span("round") as outer:
        for seconds in (1, 2, 3):
            with profiler.span("fit") as inner:
                clock.advance(seconds)
            assert record_of(inner).parent_id == outer.span_id
        assert profiler.current() is outer
    assert profiler.current() is None
    joules = [record.total.energy_j for record in records if record.total is not None]
    assert joules == pytest.approx([20, 40, 60, 120])
    assert len({record.span_id for record in records}) == 4


def test_an_exception_passes_through_and_is_recorded() -> None:
    clock = FakeClock()
    error = RuntimeError("out of memory")
    with metered(clock) as profiler:
        span = profiler.span("fit")
        with pytest.raises(RuntimeError) as raised, span:
            _fail(clock, error)
        assert profiler.current() is None
    assert raised.value is error
    record = record_of(span)
    assert record.status == "error"
    assert record.attributes["error"] == "RuntimeError: out of memory"
    assert record.total is not None
    assert record.total.energy_j == pytest.approx(20.0)


def _fail(clock: FakeClock, error: Exception) -> None:
    clock.advance(1)
    raise error


def test_without_a_sensor_energy_is_missing_with_a_reason() -> None:
    clock = FakeClock()
    with Profiler(clock=clock, resources=False).span("fit") as span:
        clock.advance(1)
    record = record_of(span)
    assert record.total is not None
    assert record.total.provenance is Provenance.MISSING
    assert record.total.scope is Scope.DEVICE
    assert record.total.reason
    assert record.resources.cpu_s is None
    assert record.duration_s == 1.0


def test_a_sensor_that_fails_never_breaks_the_work() -> None:
    clock = FakeClock()

    def fails(t_s: float) -> list[float | None]:
        raise OSError(5, "Input/output error")

    sampler = Sampler(FakeSensor([power_rail()], fails, clock), clock, rate_hz=0)
    with Profiler([sampler], clock) as profiler, profiler.span("fit") as span:
        clock.advance(1)
    total = record_of(span).total
    assert total is not None
    assert total.energy_j is None
    assert "Input/output error" in (total.reason or "")


def test_the_total_is_measured_before_modelled_then_the_widest() -> None:
    clock = FakeClock()
    board = FakeSensor([counter_rail("board")], lambda t_s: [5.0 * t_s], clock, name="board", scope=Scope.DEVICE)
    package = FakeSensor([counter_rail("chip")], lambda t_s: [3.0 * t_s], clock, name="chip", scope=Scope.HOST)
    broken = FakeSensor([counter_rail("wall")], lambda t_s: [None], clock, name="wall", scope=Scope.WALL)
    samplers = [Sampler(sensor, clock, rate_hz=0) for sensor in (package, broken, board)]
    with Profiler(samplers, clock) as profiler, profiler.span("fit") as span:
        clock.advance(2)
    record = record_of(span)
    assert record.total is not None
    assert record.total.scope is Scope.DEVICE
    assert record.total.energy_j == pytest.approx(10.0)
    assert [reading.rail for reading in record.energies] == ["chip", "wall", "board"]


def test_a_new_thread_takes_its_parent_by_context_or_by_name() -> None:
    profiler = Profiler(clock=FakeClock(), resources=False)
    seen: dict[str, str | None] = {}

    def work(how: str, parent: Span | str | None = None) -> None:
        with profiler.span("step", parent=parent) as span:
            time.sleep(0.01)
        seen[how] = record_of(span).parent_id

    with profiler.span("fit") as fit:
        context = contextvars.copy_context()
        threads = [
            threading.Thread(target=work, args=("bare",)),
            threading.Thread(target=context.run, args=(work, "copied")),
            threading.Thread(target=work, args=("given", fit)),
            threading.Thread(target=work, args=("named", "elsewhere-7")),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert profiler.current() is fit
    assert seen == {"bare": None, "copied": fit.span_id, "given": fit.span_id, "named": "elsewhere-7"}


def test_tasks_of_one_thread_do_not_mix_their_parents() -> None:
    records: list[SpanRecord] = []
    profiler = Profiler(clock=FakeClock(), resources=False, sink=records)

    async def client(name: str) -> None:
        with profiler.span(name):
            await asyncio.sleep(0.001)
            with profiler.span(f"{name} inner"):
                await asyncio.sleep(0.002)

    async def everything() -> None:
        with profiler.span("round"):
            await asyncio.gather(*(client(f"c{i}") for i in range(5)))

    asyncio.run(everything())
    ids = {record.name: record.span_id for record in records}
    parents = {record.name: record.parent_id for record in records}
    assert len(records) == 11
    for i in range(5):
        assert parents[f"c{i}"] == ids["round"]
        assert parents[f"c{i} inner"] == ids[f"c{i}"]


def test_a_cancelled_task_leaves_an_error_span() -> None:
    records: list[SpanRecord] = []
    profiler = Profiler(clock=FakeClock(), resources=False, sink=records)

    async def waits() -> None:
        with profiler.span("wait"):
            await asyncio.sleep(60)

    async def cancels() -> None:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancels())
    assert [record.status for record in records] == ["error"]


def test_two_profilers_in_one_task_keep_their_own_trees() -> None:
    server = Profiler(clock=FakeClock(), resources=False, id_prefix="server-")
    client = Profiler(clock=FakeClock(), resources=False, id_prefix="client-")
    with server.span("round") as round_, client.span("fit") as fit, server.span("aggregate") as inner:
        pass
    assert record_of(fit).parent_id is None
    assert record_of(inner).parent_id == round_.span_id == "server-1"
    assert fit.span_id == "client-1"


def test_ids_stay_unique_across_threads() -> None:
    records: list[SpanRecord] = []
    profiler = Profiler(clock=FakeClock(), resources=False, sink=records.append)

    def many() -> None:
        for _ in range(200):
            with profiler.span("step"):
                pass

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record.span_id for record in records}) == 800


def test_many_steps_are_thinned_evenly() -> None:
    span = Profiler(clock=FakeClock(), resources=False).span("fit")
    with span:
        span.steps([float(i) for i in range(3 * MAX_STORED_STEPS)], warmup=30)
    record = record_of(span)
    assert len(record.steps_s) == MAX_STORED_STEPS
    assert record.steps_s[0] == 0.0
    assert record.steps_s[-1] == 3 * MAX_STORED_STEPS - 1
    assert record.warmup_steps == sum(step < 30 for step in record.steps_s)
    gaps = {b - a for a, b in zip(record.steps_s, record.steps_s[1:], strict=False)}
    assert gaps <= {2.0, 3.0, 4.0}


def test_a_diverged_loss_does_not_cost_the_record() -> None:
    with Profiler(clock=FakeClock(), resources=False).span("fit", loss=float("nan")) as span:
        span.set(accuracy=float("inf"))
    assert record_of(span).attributes == {"loss_nonfinite": "nan", "accuracy_nonfinite": "inf"}


def test_what_is_no_attribute_is_refused() -> None:
    profiler = Profiler(clock=FakeClock(), resources=False)
    with pytest.raises(TypeError, match="weights"):
        profiler.span("fit", weights=[1, 2])  # type: ignore[arg-type]


def test_a_span_is_used_once() -> None:
    span = Profiler(clock=FakeClock(), resources=False).span("fit")
    with span:
        pass
    with pytest.raises(RuntimeError, match="used before"), span:
        pass


def test_work_timed_elsewhere_with_and_without_a_window() -> None:
    clock = FakeClock()
    records: list[SpanRecord] = []
    with metered(clock, records) as profiler:
        start_ns = clock.monotonic_ns()
        windows = profiler.open_windows()
        clock.advance(3)
        wait = profiler.record("wait", start_ns, clock.monotonic_ns(), windows=windows, round=2)
        bare = profiler.record("receive", start_ns, start_ns + 10**9, parent="p")
        with pytest.raises(ValueError, match="before it starts"):
            profiler.record("wait", 5, 4)
    assert wait.total is not None
    assert wait.total.energy_j == pytest.approx(60.0)
    assert wait.attributes == {"round": 2}
    assert bare.total is not None
    assert bare.total.provenance is Provenance.MISSING
    assert (bare.parent_id, bare.duration_s) == ("p", 1.0)
    assert records == [wait, bare]


def test_a_profiler_that_cannot_start_leaves_nothing_running() -> None:
    clock = FakeClock()
    good = Sampler(FakeSensor([counter_rail()], lambda t_s: [t_s], clock), clock, rate_hz=0)
    sensor = FakeSensor([counter_rail()], lambda t_s: [t_s], clock)
    bad = Sampler(sensor, clock, rate_hz=0)
    sensor._unavailable = Unavailable("unplugged")
    with pytest.raises(SensorError, match="unplugged"):
        Profiler([good, bad], clock).start()
    assert not good.is_running
