"""Samples that are kept: bounded, evenly spaced among all that were taken, first and last included."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.kept_samples import KeptSamples, RailSamples


@given(st.integers(1, 40).map(lambda half: 2 * half), st.integers(0, 2_000))
def test_however_many_come_those_that_stay_are_evenly_spaced(limit: int, n: int) -> None:
    kept = KeptSamples(limit)
    for i in range(n):
        kept.add(i, (float(i),))
    found = kept.of(["p"])
    if n == 0:
        assert found == ()
        return
    [rail] = found
    evenly = list(range(0, n, rail.every))
    assert list(rail.t_ns) == evenly + [n - 1] * (evenly[-1] != n - 1)
    assert rail.values == tuple(map(float, rail.t_ns))
    assert len(rail.t_ns) <= limit + 1
    assert rail.every == 1 or len(rail.t_ns) > limit // 2, "no more goes than must"


def test_what_was_not_read_is_left_out_by_rail() -> None:
    kept = KeptSamples(10)
    kept.add(1, (None, 5.0, None))
    kept.add(2, (3.0, 6.0, None))
    assert kept.of(["a", "b", "c"]) == (RailSamples("a", (2,), (3.0,)), RailSamples("b", (1, 2), (5.0, 6.0)))


@pytest.mark.parametrize("limit", [0, 1, 3, -2])
def test_a_limit_that_could_not_be_halved_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="even limit"):
        KeptSamples(limit)
