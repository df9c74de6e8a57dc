"""One line of the table: ours and a peer's in the same run, in turn, as a ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

REPEATS = 5


@dataclass(frozen=True)
class Figure:
    """Repeated values of ours and of the peer, both in `unit`. `goal` is what is asked of ours."""

    what: str
    unit: str
    ours: Sequence[float]
    peer: str = ""
    its: Sequence[float] = ()
    goal: str = ""

    def cells(self) -> dict[str, str]:
        cells = {"what": self.what, "ours": self._shown(self.ours), "peer": self.peer}
        if self.its:
            ratios = [ours / its for ours, its in zip(self.ours, self.its, strict=True)]
            cells["its"] = self._shown(self.its)
            cells["ratio"] = f"{statistics.median(ratios):.3g}"
            cells["range of ratio"] = f"{min(ratios):.3g}..{max(ratios):.3g}"
        return {**cells, "goal": self.goal}

    def _shown(self, values: Sequence[float]) -> str:
        return f"{statistics.median(values):.3g} {self.unit}".strip()


def compare(
    what: str,
    unit: str,
    ours: Callable[[], float],
    peer: str,
    its: Callable[[], float],
    *,
    goal: str = "",
    repeats: int = REPEATS,
) -> Figure:
    """Each callable returns one value; they take turns, so that a noisy moment hits both."""
    pairs = [(ours(), its()) for _ in range(repeats)]
    return Figure(what, unit, [pair[0] for pair in pairs], peer, [pair[1] for pair in pairs], goal)


def cpu_ms(work: Callable[[], object]) -> float:
    start_s = time.process_time()
    work()
    return (time.process_time() - start_s) * 1e3
