"""What came with no accepted answer: late replies, goodbyes, and what clients that ended could not send. Each once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fl.receipts import Receipts, Stray
from fl.spool_file import read_spool
from harness.launcher import Spooled
from harness.meter import HostMeter
from harness.recorder import TaskContext, stray_rows
from harness.store import Done
from profiler.clock import Clock
from profiler.records import Row


class Strays:
    """`last` is the attempt at a task that what comes now is of: the one that goes on, or the latest."""

    def __init__(
        self, receipts: Receipts, meter: HostMeter, done: Done, clock: Clock, append: Callable[[Sequence[Row]], None]
    ) -> None:
        self.last: TaskContext | None = None
        self._receipts = receipts
        self._meter = meter
        self._done = done
        self._clock = clock
        self._append = append
        self._unsent: list[Stray] = []

    def spooled(self, device: str, processor: str, spooled: Spooled) -> None:
        """For the next `record`: the round that it may belong to need not be over."""
        self._unsent += [Stray(device, processor, tuple(read_spool(spooled.before)), is_from_before=True)]
        self._unsent += [Stray(device, processor, tuple(read_spool(spooled.own)))]

    def record_unsent(self) -> None:
        """All, where a client has left something behind: between two rounds, while the meter knows of the last one."""
        if self._unsent:
            self.record()

    def record(self) -> None:
        """First what has come, so that what clients could not send is compared with all of it."""
        if self.last is not None:
            self._record(self.last, self._receipts.take())
            self._record(self.last, self._take_unsent())

    def _record(self, last: TaskContext, strays: Sequence[Stray]) -> None:
        if strays:
            context = replace(last, wall_time=self._clock.wall_time())
            energy, last_round = self._meter.peek(None), max(self._done.rounds.get(context.task, {}), default=0)
            self._append([row for stray in strays for row in stray_rows(context, stray, energy, last_round)])

    def _take_unsent(self) -> list[Stray]:
        """As far as it has not come all the same."""
        unsent, self._unsent = self._unsent, []
        taken = []
        for stray in unsent:
            known = set(self._done.latest_spans.get(stray.device, ()))
            spans = tuple(span for span in stray.spans if (span.span_id, span.start_ns) not in known)
            taken += [replace(stray, spans=spans)] if spans else []
        return taken
