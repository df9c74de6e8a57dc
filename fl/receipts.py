"""What came from which device, beside accepted answers: late replies, and every measurement once.

A client cannot know whether a reply arrived whose stream broke: it sends the reply's spans again with its next one.
So `Receipts` remembers the spans of each device's latest reply, across its connections, and lets each pass once.
A server that begins anew is told what the one before it has written down. What the device measured before this server
knew it belongs to no call of this server's, though it may be of a round of the same number.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from fl.proxy import CallTiming
from profiler.records import SpanRecord

MAX_DEVICES = 10_000
MAX_LATE_BYTES = 4 * 1024 * 1024  # of one device's late records that nobody has taken yet; a span can be 80 kB
MAX_KEPT_SPANS = 100_000  # that nobody has taken yet; 10 a client of a large fleet, some 100 MB

_log = logging.getLogger("fl")

SpanKey = tuple[str, int]
"""Id and start of a span, on its device's clock: a program that was started anew may count its ids from 1 again."""


@dataclass(frozen=True, slots=True)
class Stray:
    """Spans that came with no accepted answer: with a late reply, or with a probe; or that are from before.

    `is_from_before`: measured before this server had asked the device anything. Of a late reply `call` and `round` are
    those that it answers (`round` None where its config had none), `late_s` how long after its deadline the whole reply
    was there, on the server's clock. The update itself is never kept.
    """

    device: str
    processor: str
    spans: tuple[SpanRecord, ...]
    call: str = ""
    round: int | None = None
    timing: CallTiming | None = None
    late_s: float | None = None
    is_from_before: bool = False


class Receipts:
    """One for all clients of a server. Bounded: the oldest go first, and are counted and logged.

    `known` are the spans that each device sent to an earlier server; those of its latest reply, or more.
    """

    def __init__(
        self, known: Mapping[str, Collection[SpanKey]] | None = None, *, max_kept_spans: int = MAX_KEPT_SPANS
    ) -> None:
        self._latest: dict[str, frozenset[SpanKey]] = {d: frozenset(keys) for d, keys in (known or {}).items()}
        self._first_ns: dict[str, int] = {}  # when the first instruction of ours was there, on the device's clock
        self._strays: deque[Stray] = deque()
        self._n_spans = 0
        self._late_bytes: dict[str, int] = {}
        self._max_kept_spans = max_kept_spans
        self.n_lost_spans = 0
        self.n_late = 0

    def fresh(self, device: str, spans: tuple[SpanRecord, ...]) -> tuple[SpanRecord, ...]:
        """Those that the device has not sent with its latest reply already, each once."""
        if not spans:
            return ()
        by_key = {(span.span_id, span.start_ns): span for span in spans}
        known = self._latest.pop(device, frozenset())
        self._latest[device] = frozenset(by_key)
        if len(self._latest) > MAX_DEVICES:
            del self._latest[next(iter(self._latest))]
        return tuple(span for key, span in by_key.items() if key not in known)

    def since(
        self, device: str, received_ns: int, spans: tuple[SpanRecord, ...]
    ) -> tuple[tuple[SpanRecord, ...], tuple[SpanRecord, ...]]:
        """Spans from before this server knew the device, and its own. `received_ns`: of what the reply answers."""
        first_ns = self._first_ns.setdefault(device, received_ns)
        if len(self._first_ns) > MAX_DEVICES:
            del self._first_ns[next(iter(self._first_ns))]
        before = tuple(span for span in spans if span.start_ns < first_ns)
        return before, tuple(span for span in spans if span.start_ns >= first_ns) if before else spans

    def keep(self, stray: Stray, record_bytes: int = 0) -> None:
        """Until somebody takes it. One device can have only so many bytes of late records waiting."""
        if stray.late_s is not None:
            self.n_late += 1
            waiting_bytes = self._late_bytes.get(stray.device, 0) + record_bytes
            if waiting_bytes > MAX_LATE_BYTES:
                self.n_lost_spans += len(stray.spans)
                _log.warning("%s: the measurement of a late reply is dropped: too many are waiting", stray.device)
                stray = replace(stray, spans=())
            else:
                self._late_bytes[stray.device] = waiting_bytes
        elif not stray.spans:
            return
        self._strays.append(stray)
        self._n_spans += _weight(stray)
        while self._n_spans > self._max_kept_spans:
            oldest = self._strays.popleft()
            self._n_spans -= _weight(oldest)
            self.n_lost_spans += len(oldest.spans)
            _log.warning("%s: %d spans of a reply that nobody took are given up", oldest.device, len(oldest.spans))

    def take(self) -> list[Stray]:
        """All that came since the last time, oldest first; forgotten here."""
        taken = list(self._strays)
        self._strays.clear()
        self._n_spans = 0
        self._late_bytes.clear()
        return taken


def _weight(stray: Stray) -> int:
    return len(stray.spans) + 1
