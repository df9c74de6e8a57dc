"""Every measurement once, late replies until they are taken, and both bounded; on the client's side, the spool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl import receipts
from fl.instrument import MAX_SENT_SPANS, Spool
from fl.receipts import Receipts, Stray
from profiler.records import SpanRecord


def span(span_id: str) -> SpanRecord:
    return SpanRecord(span_id, "fit", 0, 1.0)


def ids(spans: tuple[SpanRecord, ...]) -> list[str]:
    return [record.span_id for record in spans]


def test_what_the_latest_reply_carried_passes_once() -> None:
    received = Receipts()
    assert ids(received.fresh("pi", (span("1"), span("2"), span("1")))) == ["1", "2"]
    assert ids(received.fresh("pi", ())) == [], "a reply without spans forgets nothing"
    assert ids(received.fresh("pi", (span("1"), span("2"), span("3")))) == ["3"]
    assert ids(received.fresh("tx2", (span("3"),))) == ["3"], "another device has its own"


def test_the_devices_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MAX_DEVICES", 2)
    received = Receipts()
    for device in ("a", "b", "c"):
        received.fresh(device, (span("1"),))
    assert received.fresh("c", (span("1"),)) == ()
    assert ids(received.fresh("a", (span("1"),))) == ["1"], "the oldest was let go"


def test_what_an_earlier_server_has_written_down_does_not_pass_again() -> None:
    received = Receipts({"pi": [("0", 0), ("1", 0)]})
    anew = SpanRecord("1", "fit", 77, 1.0)
    assert received.fresh("pi", (span("1"), span("2"), anew)) == (span("2"), anew), "a client that began anew counts on"
    assert ids(received.fresh("tx2", (span("1"),))) == ["1"]


def test_what_a_device_measured_before_this_server_is_told_apart() -> None:
    received = Receipts()
    old, new = SpanRecord("1", "fit", 99, 1.0), SpanRecord("2", "fit", 100, 1.0)
    assert received.since("pi", 100, (old, new)) == ((old,), (new,))
    assert received.since("pi", 500, (new,)) == ((), (new,)), "its first instruction counts, not the latest"
    assert received.since("tx2", 500, (new,)) == ((new,), ())


def test_strays_are_taken_once_and_the_oldest_give_way() -> None:
    received = Receipts(max_kept_spans=5)
    received.keep(Stray("pi", "cpu", ()))
    assert received.take() == [], "a probe without spans says nothing"
    first, second = Stray("pi", "cpu", (span("1"), span("2"))), Stray("pi", "cpu", (span("3"),), "fit", 1, None, 0.5)
    received.keep(first)
    received.keep(second)
    assert (received.n_lost_spans, received.n_late) == (0, 1)
    received.keep(Stray("pi", "cpu", (span("4"),)))
    assert received.n_lost_spans == 2
    assert [ids(stray.spans) for stray in received.take()] == [["3"], ["4"]]
    assert received.take() == []


@given(st.lists(st.sampled_from(["confirmed", "lost before", "lost after"]), max_size=30), st.integers(0, 5))
def test_whatever_breaks_every_span_arrives_once(fates: list[str], n_each: int) -> None:
    """A reply is confirmed by the next instruction, or its stream breaks before or after the server had it."""
    spool, received, arrived, made = Spool(), Receipts(), [], []
    for turn, fate in enumerate([*fates, *["confirmed"] * (len(fates) * n_each // MAX_SENT_SPANS + 2)]):
        for n in range(n_each if turn < len(fates) else 0):
            made.append(f"{turn}.{n}")
            spool.add(span(made[-1]))
        reply = tuple(spool.take())
        if fate != "lost before":
            arrived += ids(received.fresh("pi", reply))
        spool.confirm() if fate == "confirmed" else spool.give_back()
    assert sorted(arrived) == sorted(made)
