"""An event loop whose time is simulated: it jumps from one timer to the next, and stands still while real work goes on.

    with virtual_loop() as loop:
        loop.run_until_complete(main())

Whatever sleeps, times out or polls under it does so in virtual seconds. Real work, such as training in another process,
takes none: it is done inside `loop.held()`. What it is worth is slept through afterwards, with `sleep_until`, whose
sleepers wake one at a time in the order of (time, order): what follows does not depend on which real work ended first.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import selectors
from collections.abc import Iterator
from contextlib import contextmanager

from profiler.clock import SystemClock


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing but real events, and lets the loop's time jump where there are none."""

    loop: VirtualLoop | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.loop is None or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        if self.loop.is_held:
            return super().select(None)  # until a thread that does the work calls back
        events = super().select(0)
        if events or self.loop.jump(timeout):
            return events
        return super().select(None)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Made by `virtual_loop`."""

    def __init__(self) -> None:
        selector = _JumpingSelector()
        super().__init__(selector)
        selector.loop = self
        self._now_ns = 0
        self._n_held = 0
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    @property
    def now_ns(self) -> int:
        return self._now_ns

    @property
    def is_held(self) -> bool:
        return self._n_held > 0

    def time(self) -> float:
        return self._now_ns / 1e9

    @contextmanager
    def held(self) -> Iterator[None]:
        """Time stands still inside."""
        self._n_held += 1
        try:
            yield
        finally:
            self._n_held -= 1

    async def sleep_until(self, t_ns: int, order: int) -> None:
        """Until virtual time is there; of those that wake at the same time, the lowest order comes first."""
        sleeper: asyncio.Future[None] = self.create_future()
        heapq.heappush(self._sleepers, (t_ns, order, sleeper))
        await sleeper

    def jump(self, timeout_s: float | None) -> bool:
        """To the next sleeper, or by the time until the loop's next timer (None: it has none); False: to nothing."""
        while self._sleepers and self._sleepers[0][2].done():  # cancelled
            heapq.heappop(self._sleepers)
        timer_ns = None if timeout_s is None else self._now_ns + math.ceil(timeout_s * 1e9)
        if self._sleepers and (timer_ns is None or self._sleepers[0][0] <= timer_ns):
            t_ns, _, sleeper = heapq.heappop(self._sleepers)
            self._now_ns = max(self._now_ns, t_ns)
            sleeper.set_result(None)
            return True
        if timer_ns is None:
            return False
        self._now_ns = timer_ns
        return True


@contextmanager
def virtual_loop() -> Iterator[VirtualLoop]:
    """A new loop, closed afterwards."""
    loop = VirtualLoop()
    try:
        yield loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class VirtualClock(SystemClock):
    """A virtual loop's time as a clock; wall time is that of the machine, and `sleep` of a thread is not virtual."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic_ns(self) -> int:
        return self._loop.now_ns
