"""FedAvg that finds each processor's cutoff as it goes: the paper's Table 3 without a run beforehand.

Mathur et al., "On-device Federated Learning with Flower", 2021, set the CPU's cutoff to the GPU's round time by hand.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from fl.proxy import ClientInfo
from fl.strategies.fedavg import FedAvg, require_positive
from fl.strategy import Experience
from profiler.errors import UsageError

WINDOW = 20  # latest calls of a processor that its medians are of

_log = logging.getLogger("fl")


@dataclass(kw_only=True)
class Adaptive(FedAvg):
    """Measures for `measure_rounds` rounds without any cutoff, then sets one, and follows the devices from there on.

    At parity (no `target_s`): the median training window of the reference processor, `reference` or the one with the
    shortest, less what communication takes longer than the reference's. The reference itself is never cut, so it keeps
    being measured, and a drift of its speed moves the others. With `target_s`: that less the median communication, for
    every processor. Where communication alone takes longer there is no such cutoff, and none is set.

    After a resume it measures again. Raises UsageError for options outside their range.
    """

    measure_rounds: int = 2
    reference: str | None = None
    target_s: float | None = None
    _fits_s: dict[str, deque[float]] = field(init=False, repr=False, compare=False)
    _communication_s: dict[str, deque[float]] = field(init=False, repr=False, compare=False)
    _n_measured: int = field(init=False, repr=False, compare=False, default=0)
    _found_s: dict[str, float] = field(init=False, repr=False, compare=False, default_factory=dict)

    name = "adaptive"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cutoffs:
            raise UsageError("strategy 'adaptive' finds its cutoffs itself.", remedy="Use --strategy cutoff with them.")
        if self.measure_rounds < 1:
            raise UsageError(f"measure_rounds = {self.measure_rounds}: it must be at least 1.")
        if self.target_s is not None:
            require_positive("target_s", self.target_s)
            if self.reference is not None:
                raise UsageError("reference and target_s exclude each other: a target needs no reference.")
        self._fits_s = defaultdict(lambda: deque(maxlen=WINDOW))
        self._communication_s = defaultdict(lambda: deque(maxlen=WINDOW))

    def observe(self, round_: int, calls: Sequence[Experience]) -> None:
        super().observe(round_, calls)
        for call in calls:
            self._communication_s[call.processor].append(call.communication_s)
            if call.fit_s is not None and not call.is_cut:
                self._fits_s[call.processor].append(call.fit_s)
        self._n_measured += bool(calls)
        if self._n_measured >= self.measure_rounds:
            self._found_s = self._find()

    def _cutoff_s(self, client: ClientInfo) -> float:
        return self._found_s.get(client.processor, 0.0)

    def _find(self) -> dict[str, float]:
        """Cutoff by processor, s; without those that cannot have one."""
        if self.target_s is not None:
            wanted = {name: self.target_s - median(times_s) for name, times_s in self._communication_s.items()}
        else:
            wanted = self._parity()
        for name in sorted(name for name, cutoff_s in wanted.items() if cutoff_s <= 0):
            _log.warning("%s: its communication alone takes longer than the cutoff would leave it: none is set", name)
        return {name: cutoff_s for name, cutoff_s in wanted.items() if cutoff_s > 0}

    def _parity(self) -> dict[str, float]:
        fits_s = {name: median(times_s) for name, times_s in self._fits_s.items() if times_s}
        reference = self.reference or min(fits_s, key=lambda name: (fits_s[name], name), default=None)
        if reference is None or reference not in fits_s:
            _log.warning("no training time of %s is known yet: no cutoff is set", reference or "any processor")
            return {}
        base_s = median(self._communication_s[reference])
        return {
            name: fits_s[reference] - max(0.0, median(times_s) - base_s)
            for name, times_s in self._communication_s.items()
            if name != reference
        }
