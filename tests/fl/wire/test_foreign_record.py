"""A measurement as a client in another language makes it: from docs/protocol.md, byte by byte, without our code."""

from __future__ import annotations

import asyncio
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from fl.calls import CallingProxy, Exchange
from fl.loop import CallRecord, RoundResult
from fl.messages import FitIns, FitRes, Parameters, Scalar
from fl.proxy import Answer, ClientInfo
from fl.wire import codec
from fl.wire.measurement import RECORD_KEY, decode_spans
from fl.wire.samples import SpanSamples, decode_samples
from harness.recorder import TaskContext, round_rows
from profiler.kept_samples import RailSamples
from profiler.quantities import Provenance
from profiler.records import SpanRecord, check_row

DOCUMENT = Path(__file__).parents[3] / "docs" / "protocol.md"


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def block(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def double(number: int, value: float) -> bytes:
    return varint(number << 3 | 1) + struct.pack("<d", value)


def a_fit(*more: bytes) -> bytes:
    """Numbers as measurement.proto has them: span_id 1, name 2, start_ns 3, duration_s 4."""
    return b"".join([block(1, b"7"), block(2, b"fit"), varint(3 << 3) + varint(5000), double(4, 2.0), *more])


def a_total() -> bytes:
    """rail 1, energy_j 2, energy_err_j 3, provenance 4, scope 5."""
    return block(
        7,
        b"".join([block(1, b"battery"), double(2, 5.0), double(3, 0.5), block(4, b"integrated"), block(5, b"device")]),
    )


def test_the_documents_bytes_are_the_documents_span() -> None:
    [line] = re.findall(r"^    (0a 14 [0-9a-f ]+)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    data = bytes.fromhex(line)
    assert data == block(1, a_fit())
    assert len(data) == 22
    assert decode_spans(data) == (SpanRecord("7", "fit", 5000, 2.0),)


def test_the_documents_samples_are_what_the_document_says() -> None:
    [line] = re.findall(r"^    (0a 01 37 [0-9a-f ]+)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    data = bytes.fromhex(line)
    times = block(2, varint(0) + varint(2_000_000_000))  # zigzag: positive numbers are doubled
    rail = block(1, b"battery") + times + block(3, struct.pack("<2d", 2.5, 2.5))
    assert data == block(1, b"7") + varint(2 << 3) + varint(5000) + block(3, rail)
    expected = RailSamples("battery", (5000, 1_000_005_000), (2.5, 2.5))
    assert decode_samples(data) == SpanSamples("7", 5000, (expected,))


def rows_of(record: bytes) -> list[dict[str, object]]:
    """The rows of a round in which a phone answered with this record beside its update."""

    class Phone:
        lost = None

        async def exchange(self, data: bytes) -> Exchange:
            metrics: dict[str, Scalar] = {RECORD_KEY: record, "fit.energy_j": 5.0}
            reply = FitRes(Parameters((np.zeros(2, np.float32),)), 9, metrics)
            return Exchange(codec.encode_reply(reply), 0, 3_000_000_000)

    async def fit() -> Answer[FitRes]:
        return await CallingProxy(ClientInfo("phone"), Phone()).fit(FitIns(Parameters(())), 5.0)

    answer = asyncio.run(fit())
    call = CallRecord("phone", "soc", "fit", {"round": 1}, answer)
    result = RoundResult(
        round=1,
        parameters=Parameters(()),
        calls=(call,),
        time_s=3.0,
        fit_time_s=3.0,
        server_s=0.0,
        fit_window_ns=(0, 3_000_000_000),
        evaluate_window_ns=None,
        loss=None,
        accuracy=None,
        n_selected=1,
        n_results=1,
    )
    context = TaskContext("t", 1, 1, {"phone": "soc"}, frozenset(), "")
    rows = round_rows(context, result, None)  # type: ignore[arg-type]  # no device is metered by a host here
    for row in rows:
        check_row(row)
    return rows


def test_a_minimal_record_becomes_a_span_row() -> None:
    rows = rows_of(block(1, a_fit(a_total())))
    [span] = [row for row in rows if row["kind"] == "span" and row["name"] == "fit"]
    assert (span["device"], span["processor"], span["round"], span["call"]) == ("phone", "soc", 1, "fit")
    assert (span["span_id"], span["duration_s"], span["status"], span["clock"]) == ("7", 2.0, "ok", "device")
    assert (span["energy_j"], span["energy_err_j"]) == (5.0, 0.5)
    assert span["provenance"] == Provenance.INTEGRATED.value
    assert rows[-1]["energy_fit_j"] == 5.0
    assert rows[-1]["telemetry_bytes"] == pytest.approx(len(block(1, a_fit(a_total()))) + 45, abs=20)


def test_a_record_that_is_damaged_costs_only_itself() -> None:
    rows = rows_of(block(1, a_fit())[:-3])
    assert [row["name"] for row in rows if row["kind"] == "span"] == ["call", "straggler_wait"]
    [call] = [row for row in rows if row.get("name") == "call"]
    assert call["stopped_by"] == "unknown", "it does not tell its steps"
    assert "attributes" not in call, "it was sent no cutoff"
