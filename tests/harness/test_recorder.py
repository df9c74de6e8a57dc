"""From a round's result to records: every phase of every client, joules that add up, failures with their names."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl.loop import CallRecord, RoundResult
from fl.messages import EvaluateRes, FitRes, Parameters
from fl.proxy import Answer, CallTiming
from fl.receipts import Stray
from harness.energy_sources import Energy
from harness.recorder import TaskContext, round_rows, stray_rows
from profiler.quantities import EnergyReading, Provenance, Scope
from profiler.records import Row, SpanRecord, encode_line

SECOND = 1_000_000_000
WATTS = {"a": 3.0, "b": 1.0, "server": 0.5, "other": 0.25}


class ConstantHost:
    """A host on which every owner draws a constant power and is charged a fifth of the time's idle power."""

    def of(self, owner: str, start_ns: int, end_ns: int) -> Energy:
        return self._energy(owner, WATTS[owner], start_ns, end_ns)

    def host(self, start_ns: int, end_ns: int) -> Energy:
        return self._energy("host", sum(WATTS.values()), start_ns, end_ns)

    def _energy(self, rail: str, watts: float, start_ns: int, end_ns: int) -> Energy:
        seconds = (end_ns - start_ns) / SECOND
        reading = EnergyReading(
            rail, watts * seconds, 0.1 * watts * seconds, Provenance.COUNTER, Scope.PROCESS, coverage=1.0
        )
        return Energy(reading, "host", 0.2 * seconds)


class NoMeter:
    def of(self, owner: str, start_ns: int, end_ns: int) -> Energy:
        return Energy(EnergyReading.missing(owner, Scope.PROCESS, "no sensor"), "host", 0.0)

    def host(self, start_ns: int, end_ns: int) -> Energy:
        return self.of("host", start_ns, end_ns)


def fit_call(device: str, sent_s: float, received_s: float) -> CallRecord:
    sent_ns, received_ns = round(sent_s * SECOND), round(received_s * SECOND)
    spans = (
        SpanRecord(f"{device}-w", "wait", sent_ns - SECOND // 2, 0.5, attributes={"round": 1, "call": "evaluate"}),
        SpanRecord(f"{device}-r", "receive", sent_ns, 0.1),
        SpanRecord(
            f"{device}-f",
            "fit",
            sent_ns + SECOND // 10,
            received_s - sent_s - 0.2,
            steps_s=(0.1, 0.2),
            attributes={"steps_done": 2, "steps_planned": 4, "stopped_by": "cutoff", "optimizer": "sgd"},
        ),
    )
    timing = CallTiming(
        sent_ns,
        received_ns,
        1000,
        2000,
        device_s=received_s - sent_s - 0.1,
        download_s=0.04,
        upload_s=0.06,
        comm_split="clock",
    )
    answer = Answer(FitRes(Parameters(()), 10), timing, spans)
    return CallRecord(device, "cpu", "fit", {"epochs": 1}, answer)


def evaluate_call(device: str, sent_s: float, received_s: float) -> CallRecord:
    sent_ns = round(sent_s * SECOND)
    spans = (
        SpanRecord(f"{device}-w2", "wait", sent_ns - 10, 1e-8, attributes={"round": 2, "call": "fit"}),
        SpanRecord(f"{device}-e", "evaluate", sent_ns, received_s - sent_s),
    )
    timing = CallTiming(sent_ns, round(received_s * SECOND), 900, 100)
    return CallRecord(device, "cpu", "evaluate", {}, Answer(EvaluateRes(0.5, 10), timing, spans))


def result(round_: int, calls: list[CallRecord]) -> RoundResult:
    return RoundResult(
        round=round_,
        parameters=Parameters((np.zeros(2),)),
        calls=tuple(calls),
        time_s=5.0,
        fit_time_s=4.0,
        server_s=0.5,
        fit_window_ns=(10 * SECOND, 14 * SECOND),
        evaluate_window_ns=(15 * SECOND, 16 * SECOND),
        loss=0.3,
        accuracy=0.9,
        n_selected=2,
        n_results=2,
    )


def context(first_round: int = 1, host_devices: frozenset[str] = frozenset({"a", "b"})) -> TaskContext:
    return TaskContext("t1", 1, first_round, {"a": "cpu", "b": "cpu"}, host_devices, "2026-01-01T00:00:00Z")


CALLS = [fit_call("a", 10, 12), fit_call("b", 10, 14), evaluate_call("a", 15, 16), evaluate_call("b", 15, 15.5)]


@pytest.fixture
def rows() -> list[Row]:
    return round_rows(context(), result(2, CALLS), ConstantHost())


def find(rows: list[Row], **wanted: Any) -> Row:
    found = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def test_every_row_is_a_record(rows: list[Row]) -> None:
    for row in rows:
        encode_line(row)
    assert rows[-1]["kind"] == "round"


def test_every_phase_of_every_client_is_there(rows: list[Row]) -> None:
    names = {(row["device"], row["call"], row["name"]) for row in rows if row["kind"] == "span"}
    for device in "ab":
        for name in ("wait", "receive", "fit", "call", "download", "upload", "straggler_wait"):
            assert (device, "fit", name) in names or name == "wait"
        for name in ("evaluate", "call", "straggler_wait"):
            assert (device, "evaluate", name) in names


def test_a_fit_span_carries_steps_and_attributes(rows: list[Row]) -> None:
    fit = find(rows, name="fit", device="a")
    assert (fit["steps_done"], fit["steps_planned"], fit["stopped_by"]) == (2, 4, "cutoff")
    assert fit["steps_s"] == [0.1, 0.2]
    assert fit["attributes"] == {"optimizer": "sgd"}
    assert fit["energy_j"] == pytest.approx(3.0 * 1.8)
    assert fit["energy_scope"] == "process"


def test_straggler_waiting_runs_to_the_last_accepted_result(rows: list[Row]) -> None:
    assert find(rows, name="straggler_wait", device="a", call="fit")["duration_s"] == pytest.approx(2.0)
    assert find(rows, name="straggler_wait", device="b", call="fit")["duration_s"] == 0.0
    assert find(rows, name="straggler_wait", device="b", call="evaluate")["duration_s"] == pytest.approx(0.5)
    assert rows[-1]["energy_straggler_wait_j"] == pytest.approx(2.0 * 3.0 + 0.5 * 1.0)


def test_download_and_upload_have_bytes_and_say_how_they_were_split(rows: list[Row]) -> None:
    download = find(rows, name="download", device="a")
    assert (download["n_bytes"], download["duration_s"], download["comm_split"]) == (1000, pytest.approx(0.04), "clock")
    assert find(rows, name="upload", device="a")["n_bytes"] == 2000
    assert rows[-1]["download_bytes"] == 2 * 1000 + 2 * 900


def test_waits_belong_to_the_call_before(rows: list[Row]) -> None:
    waits = [row for row in rows if row.get("name") == "wait" and row["device"] == "a"]
    assert [(row["round"], row["call"]) for row in waits] == [(1, "evaluate"), (2, "fit")]
    first = round_rows(context(first_round=2), result(2, CALLS), ConstantHost())
    waits = [row for row in first if row.get("name") == "wait" and row["device"] == "a"]
    assert waits[0]["round"] is None


def test_spans_of_a_late_reply_keep_their_round() -> None:
    late = SpanRecord("late", "fit", 0, 1.0, attributes={"round": 1, "call": "fit"})
    call = CALLS[0]
    assert call.answer is not None
    answer = Answer(call.answer.result, call.answer.timing, (late, *call.answer.spans))
    calls = [CallRecord("a", "cpu", "fit", {}, answer)]
    assert find(round_rows(context(), result(2, calls), ConstantHost()), span_id="late")["round"] == 1
    before = round_rows(context(first_round=2), result(2, calls), ConstantHost())
    assert find(before, span_id="late")["round"] is None, "an earlier task's"


def test_a_user_span_within_a_fit_is_not_counted_twice() -> None:
    call = CALLS[0]
    assert call.answer is not None
    inner = SpanRecord("inner", "fit", 11 * SECOND, 0.5, parent_id="a-f")
    answer = Answer(call.answer.result, call.answer.timing, (inner, *call.answer.spans))
    rows = round_rows(context(), result(2, [CallRecord("a", "cpu", "fit", {}, answer)]), ConstantHost())
    assert rows[-1]["energy_fit_j"] == pytest.approx(3.0 * 1.8)


def test_the_round_adds_up(rows: list[Row]) -> None:
    row = rows[-1]
    assert row["energy_j"] == pytest.approx(6 * (3.0 + 1.0))
    assert row["energy_err_j"] == pytest.approx(0.1 * row["energy_j"])
    assert row["idle_s"] == {"host": pytest.approx(2 * 6 * 0.2)}
    shares = row["energy_j"] + row["server_energy_j"] + row["other_energy_j"]
    assert shares == pytest.approx(row["host_energy_j"])
    assert row["energy_fit_j"] == pytest.approx(3.0 * 1.8 + 1.0 * 3.8)
    calls_j = 3.0 * (2 + 1) + 1.0 * (4 + 0.5)
    assert row["energy_wait_j"] == pytest.approx(row["energy_j"] - calls_j)
    assert row["provenance"] == "counter"
    for name in ("energy", "energy_fit", "energy_wait", "energy_straggler_wait", "host_energy", "server_energy"):
        assert row[f"{name}_err_j"] == pytest.approx(0.1 * row[f"{name}_j"]), "no joule without its error"


def test_a_failure_names_device_phase_and_reason() -> None:
    failed = CallRecord("b", "cpu", "fit", {}, None, "connection lost")
    rows = round_rows(context(), result(1, [CALLS[0], failed]), ConstantHost())
    failure = find(rows, kind="failure")
    assert (failure["device"], failure["phase"], failure["reason"]) == ("b", "fit", "connection lost")
    assert rows[-1]["n_failures"] == 1


def test_without_a_meter_energy_is_missing_with_its_reason() -> None:
    rows = round_rows(context(), result(1, CALLS), NoMeter())
    row = rows[-1]
    assert row["energy_j"] is None
    assert row["energy_fit_j"] is None
    assert row["provenance"] == "missing"
    assert row["energy_reason"] == "no sensor"
    for row in rows:
        encode_line(row)


def test_devices_with_meters_of_their_own_bring_their_joules() -> None:
    reading = EnergyReading("VDD_IN", 7.0, 0.2, Provenance.INTEGRATED, Scope.MODULE, coverage=1.0)
    calls = []
    for call in CALLS[:2]:
        assert call.answer is not None
        span = SpanRecord("s", "fit", 0, 1.0, total=reading)
        calls.append(CallRecord(call.device, "gpu", "fit", {}, Answer(call.answer.result, call.answer.timing, (span,))))
    row = round_rows(context(host_devices=frozenset()), result(1, calls), NoMeter())[-1]
    assert row["energy_j"] == pytest.approx(14.0)
    assert row["provenance"] == "integrated"
    assert math.isclose(row["energy_err_j"], 0.4)


def late_reply(sent_s: float, late_s: float, round_: int) -> Stray:
    sent_ns, received_ns = round(sent_s * SECOND), round((sent_s + 2) * SECOND)
    span = SpanRecord("late-fit", "fit", sent_ns, 1.5, attributes={"round": round_, "call": "fit"})
    return Stray("b", "cpu", (span,), "fit", round_, CallTiming(sent_ns, received_ns, 1000, 2000), late_s)


def test_a_late_reply_says_how_late_and_keeps_its_measurement_and_bytes() -> None:
    second = replace(result(2, CALLS[:1]), strays=(late_reply(5, 0.25, 1),))
    rows = round_rows(context(), second, ConstantHost())
    late, fit = find(rows, name="late"), find(rows, span_id="late-fit")
    assert (late["device"], late["round"], late["call"], late["clock"]) == ("b", 1, "fit", "server")
    assert (late["duration_s"], late["start_ns"], late["n_bytes"]) == (0.25, round(6.75 * SECOND), 2000)
    assert (fit["round"], fit["call"], fit["energy_j"]) == (1, "fit", pytest.approx(1.5 * WATTS["b"]))
    assert rows[-1]["kind"] == "round"
    for row in rows:
        encode_line(row)


def test_what_answers_an_earlier_task_belongs_to_no_round() -> None:
    began = replace(context(), began_ns=8 * SECOND)
    rows = stray_rows(began, late_reply(5, 0.25, 1), ConstantHost(), 2)
    assert [row["round"] for row in rows] == [None, None]
    assert [row["round"] for row in stray_rows(began, late_reply(9, 0.25, 3), ConstantHost(), 2)] == [None, None]


def test_what_was_measured_before_the_server_began_anew_belongs_to_no_round_of_it() -> None:
    reading = EnergyReading("VDD_IN", 7.0, 0.2, Provenance.INTEGRATED, Scope.MODULE, coverage=1.0)
    span = SpanRecord("old-fit", "fit", 0, 1.5, total=reading, attributes={"round": 2, "call": "fit"})
    again = replace(result(2, CALLS), strays=(Stray("c", "gpu", (span,), is_from_before=True),))
    rows = round_rows(context(), again, ConstantHost())
    assert find(rows, span_id="old-fit")["round"] is None
    assert find(rows, span_id="old-fit")["energy_j"] == 7.0
    assert rows[-1]["energy_j"] == pytest.approx(24.0), "the round was done anew"


def test_a_refused_update_leaves_a_failure_and_its_measurement() -> None:
    spans = (SpanRecord("b-refused", "fit", 11 * SECOND, 1.0, attributes={"round": 2, "call": "fit"}),)
    refused = CallRecord("b", "cpu", "fit", {}, None, "tensor 0 is not finite", spans)
    rows = round_rows(context(), result(2, [CALLS[0], refused]), ConstantHost())
    assert find(rows, kind="failure")["reason"] == "tensor 0 is not finite"
    assert find(rows, span_id="b-refused")["energy_j"] == pytest.approx(WATTS["b"])
    assert not [row for row in rows if row.get("device") == "b" and row.get("name") == "call"], "nothing was accepted"
