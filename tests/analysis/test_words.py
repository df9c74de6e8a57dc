"""Numbers as tables show them."""

from __future__ import annotations

import pytest

from analysis.words import number, origins_of_energies, origins_of_times
from profiler.quantities import Provenance


@pytest.mark.parametrize(
    ("value", "spread", "options", "text"),
    [
        (1.99, 0.021, {}, "1.990 ± 0.021"),
        (100.96, None, {}, "101.0"),
        (100.95, None, {"at_least": 2}, "100.95"),
        (0.99996, None, {}, "1.000"),
        (0.05808, None, {"at_least": 2}, "0.05808"),
        (12345.6, 10.0, {}, "12346 ± 10"),
        (0.00021, 0.8394, {}, "0.0002 ± 0.8394"),
        (-0.5, None, {}, "-0.5000"),
        (0.0, None, {}, "0"),
        (0.0, 0.0, {"at_least": 2}, "0.00 ± 0.00"),
        (0.48, 0.1, {"decimals": 4}, "0.4800 ± 0.1000"),
        (None, 1.0, {}, "missing"),
    ],
)
def test_number(value: float | None, spread: float | None, options: dict[str, int], text: str) -> None:
    assert number(value, spread, **options) == text


def test_of_nothing_nothing_is_said() -> None:
    assert origins_of_times([]) == []
    assert origins_of_energies([]) == []


def test_kinds_are_counted_in_a_fixed_order() -> None:
    kinds = [Provenance.SIMULATED, Provenance.COUNTER, Provenance.SIMULATED]
    [told] = origins_of_energies(kinds, "our ")
    assert told == origins_of_energies(reversed(kinds), "our ")[0]
    assert "our energies are of different kinds (1 measured by hardware counters, 2 simulated" in told
