"""The fast way to read lines of spans takes and refuses just what the plain way does, and gives the same values."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analysis.span_lines import Span, SpanColumns, decode
from analysis.spans import ALL_SPANS, FIT_WORK, NO_SPANS
from profiler.records import KINDS, MAX_LINE_BYTES, Row, decode_line, encode_line

SPAN: Row = {
    "kind": "span",
    "task": "t",
    "attempt": 1,
    "name": "fit",
    "span_id": "s1",
    "clock": "device",
    "duration_s": 1.5,
    "status": "ok",
}
NAMES = [column.name for column in KINDS["span"]]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
BOUNDS = (2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 2**53 + 1, 10**30, 1.0, -0.0, 5e-324, 1.7976931348623157e308)
SHAPES = (True, "", "\ud800", "\0", [], [1, 2.5], [True], [None], [2**63], {}, {"host": 0.5}, {"a": {"b": [None]}})
AWKWARD = st.sampled_from([*BOUNDS, *SHAPES])


def told(line: bytes) -> tuple[str, Any]:
    """What the plain way says: a record or why not."""
    try:
        return "record", decode_line(line)
    except ValueError as error:
        return "refused", str(error)


def told_fast(line: bytes) -> tuple[str, Any]:
    try:
        record = decode(line)
    except ValueError as error:
        return "refused", str(error)
    if not isinstance(record, Span):
        return "record", record
    values = {name: getattr(record, name) for name in NAMES}
    return "record", {"kind": "span", **{name: value for name, value in values.items() if value is not None}}


def assert_told_alike(line: bytes) -> None:
    state, record = told(line)
    if state == "record":
        record = {name: value for name, value in record.items() if value is not None}
    fast_state, fast = told_fast(line)
    if fast_state == "record":
        fast = {name: value for name, value in fast.items() if value is not None}
    assert (fast_state, repr(sorted(fast.items()) if fast_state == "record" else fast)) == (
        state,
        repr(sorted(record.items()) if state == "record" else record),
    )


@given(st.dictionaries(st.sampled_from([*NAMES, "kind", "other"]), JSON_VALUES | AWKWARD, max_size=4))
@example({"energy_j": 2**63})
@example({"energy_j": float("inf")})
@example({"round": 1.0})
@example({"attributes": float("nan")})
@example({"steps_s": [1, 2.0]})
@example({"kind": "round"})
@example({"device": "\ud800"})
def test_any_values(changed: Row) -> None:
    assert_told_alike(json.dumps({**SPAN, **changed}).encode() + b"\n")


WHOLE = encode_line({**SPAN, "idle_s": {"host": 1.0}, "steps_s": [1.0, 2.0], "attributes": {"é": "\u2028"}, "round": 3})


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=3), st.integers(0, 2))
def test_any_damage(place: int, put: bytes, n_lost: int) -> None:
    assert_told_alike(WHOLE[:place] + put + WHOLE[place + n_lost :])


@pytest.mark.parametrize(
    "text",
    [
        '{"kind":"span","kind":"round"}',
        '{"attempt":1,"kind":"span"}',
        "[]",
        '"span"',
        "",
        '{"kind":"span","rails":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"kind":"span","duration_s":1e999}',
        '{"kind":"span","attributes":{"a":' + "1" * 5000 + "}}",
        '{"kind":["span"]}',
    ],
)
def test_lines_that_are_no_span(text: str) -> None:
    assert_told_alike(text.encode())


def test_a_line_that_is_too_long_is_refused_though_it_is_a_span() -> None:
    line = json.dumps({**SPAN, "status": "x" * MAX_LINE_BYTES}).encode()
    assert told_fast(line) == told(line)
    assert told(line)[1].startswith("a line of more than")


# Columns


def columns_of(selection: Any, *rows: Row) -> SpanColumns:
    columns = SpanColumns(selection)
    for row in rows:
        columns.add(decode(json.dumps(row).encode()))
    return columns


def test_columns_hold_what_the_lines_hold() -> None:
    rows = [
        {**SPAN, "round": 2, "device": "d", "energy_j": 3, "steps_s": [1, 0.5], "idle_s": {"host": 1}, "cutoff_s": 0},
        {**SPAN, "steps_s": [], "attributes": "word", "energy_j": 2**60 + 1},
        SPAN,
    ]
    batches, _ = columns_of(ALL_SPANS, *rows).finish()
    (batch,) = batches
    read = [{name: value for name, value in row.items() if value is not None} for row in batch.to_pylist()]
    for row, expected in zip(read, rows, strict=True):
        as_text = {name: json.dumps(expected[name]) for name in ("idle_s", "attributes") if name in expected}
        as_text = {name: text.replace(": ", ":") for name, text in as_text.items()}
        as_float = {"energy_j": float(expected["energy_j"])} if "energy_j" in expected else {}
        assert {**row, "kind": "span"} == {**expected, **as_text, **as_float}


def test_only_selected_spans_are_kept_but_all_are_counted() -> None:
    rows = [{**SPAN, "name": name, "span_id": name, "task": name} for name in ("fit", "send", "fit")]
    rows[2]["span_id"] = "another"
    columns = columns_of(FIT_WORK, *rows)
    batches, digests = columns.finish()
    assert [batch.num_rows for batch in batches] == [2]
    assert len(set(digests.tolist())) == 3
    assert columns.tasks == {"fit", "send"}
    assert columns_of(NO_SPANS).finish()[0] == []


@given(st.lists(st.sampled_from(["device", "call", "round", "span_id", "attempt", "task", "name"]), unique=True))
def test_a_digest_depends_on_what_tells_spans_apart_and_on_nothing_else(names: list[str]) -> None:
    other: dict[str, object] = {"device": "e", "call": "fit", "round": 2, "span_id": "s2", "attempt": 2}
    other |= {"task": "u", "name": "send"}
    changed = {**SPAN, "duration_s": 9.0, **{name: other[name] for name in names}}
    _, one = columns_of(NO_SPANS, SPAN, {**SPAN, "status": "error"}).finish()
    _, two = columns_of(NO_SPANS, changed).finish()
    assert one[0] == one[1]
    assert bool(np.isin(two, one).any()) == (not names)
