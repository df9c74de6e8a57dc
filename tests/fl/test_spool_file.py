"""What a client leaves on disk of what it could not send: all, bounded, and read as if a stranger had written it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.instrument import MAX_SENT_SPANS, Spool
from fl.spool_file import MAX_SPOOL_BYTES, SpoolFile, read_spool
from fl.wire.measurement import encode_spans
from profiler.quantities import EnergyReading, Provenance, Scope
from profiler.records import SpanRecord


def span(n: int, n_steps: int = 2) -> SpanRecord:
    reading = EnergyReading("VDD_IN", 7.0, 0.2, Provenance.INTEGRATED, Scope.MODULE, coverage=1.0)
    attributes = {"round": 3, "call": "fit"}
    return SpanRecord(f"a/{n}", "fit", n, 1.5, total=reading, steps_s=(0.25,) * n_steps, attributes=attributes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.spool"


def test_what_has_not_arrived_is_in_the_file_and_what_has_is_not(path: Path) -> None:
    spool = Spool()
    spool.save_to(SpoolFile(path))
    made = [span(n) for n in range(MAX_SENT_SPANS + 2)]
    for one in made:
        spool.add(one)
    spool.take()
    spool.save()
    spool.save()
    assert read_spool(path.read_bytes()) == made, "on its way or waiting, each once"
    spool.confirm()
    assert path.read_bytes() == b""
    spool.save()
    assert read_spool(path.read_bytes()) == made[MAX_SENT_SPANS:]
    spool.take()
    spool.confirm()
    spool.save()
    assert path.read_bytes() == b""
    spool.part()
    assert not path.exists()
    spool.add(span(1))
    spool.save()
    assert not path.exists()


def test_it_is_for_its_owner_alone_and_begins_anew(path: Path) -> None:
    path.write_bytes(b"of another time\n")
    SpoolFile(path).remove()
    SpoolFile(path)
    assert path.read_bytes() == b""
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_bounded(path: Path) -> None:
    file = SpoolFile(path)
    file.append(span(n, n_steps=9000) for n in range(100))
    file.append([span(100)])
    assert path.stat().st_size <= MAX_SPOOL_BYTES
    spans = read_spool(path.read_bytes())
    assert [one.start_ns for one in spans[:3]] == [0, 1, 2]
    assert 10 < len(spans) < 100


def test_a_disk_that_refuses_costs_the_file_alone(path: Path) -> None:
    path.symlink_to("/dev/full")
    file = SpoolFile(path)
    file.append([span(1)])
    assert not path.is_symlink()
    file.append([span(2)])
    file.clear()


def test_a_torn_last_line_is_left_out(path: Path) -> None:
    SpoolFile(path).append([span(1), span(2)])
    whole = path.read_bytes()
    assert read_spool(whole[:-1]) == [span(1)]
    assert read_spool(whole[: len(whole) // 2 + 5]) == [span(1)]
    assert read_spool(b"") == []


def test_damage_costs_the_line_that_is_damaged(path: Path) -> None:
    SpoolFile(path).append([span(1)])
    line = path.read_bytes()
    hostile = base64.b64encode(encode_spans([span(2)])[:-3]) + b"\n"
    assert read_spool(b"not base64!\n" + hostile + line + b"\xff\xfe\n") == [span(1)]


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_without_harm(data: bytes) -> None:
    assert all(isinstance(one, SpanRecord) for one in read_spool(data))
