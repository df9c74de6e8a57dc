"""Slots for large instructions, so that sending a model to many clients does not put many copies of it in memory.

gRPC copies a message when it takes it, and keeps the copy until the last byte has left. With few slots few copies
exist, and each transfer has more of the network for itself. A slow client loses its slot to the others after a while,
and goes on without; one whose transfer does not end is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

LARGE_BYTES = 1_000_000  # smaller instructions need no slot
MAX_TRANSFERS = 2
SLOT_S = 5.0  # a slot is held no longer
TRANSFER_S = 60.0  # a transfer is given up after this, and the time that its bytes take at the slowest rate
SLOWEST_BYTES_PER_S = 100_000


class Transfers:
    """The slots of one server. Belongs to one event loop."""

    def __init__(self, n_slots: int = MAX_TRANSFERS, slot_s: float = SLOT_S) -> None:
        self._slots = asyncio.Semaphore(n_slots)
        self._slot_s = slot_s

    def slot(self, n_bytes: int) -> AbstractAsyncContextManager[None]:
        """Waits for a slot where the instruction is large. The slot is another's after `slot_s`, done or not."""
        return nullcontext() if n_bytes < LARGE_BYTES else self._leased()

    @asynccontextmanager
    async def _leased(self) -> AsyncIterator[None]:
        await self._slots.acquire()
        lease = _Lease(self._slots)
        timer = asyncio.get_running_loop().call_later(self._slot_s, lease.end)
        try:
            yield
        finally:
            timer.cancel()
            lease.end()


class _Lease:
    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots: asyncio.Semaphore | None = slots

    def end(self) -> None:
        if self._slots is not None:
            self._slots.release()
            self._slots = None


def longest_s(n_bytes: int) -> float:
    """Seconds after which a transfer is given up."""
    return TRANSFER_S + n_bytes / SLOWEST_BYTES_PER_S
