"""What becomes of memory that was freed, with the GNU C library; elsewhere nothing is done.

It goes back to the system, since what is left of a model's many pieces would stay for the next one. But not at once: a
page that the system gives anew costs more than to fill it, and a server takes the same large blocks again and again.
"""

from __future__ import annotations

import ctypes

LARGE_BYTES = 1_000_000
_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGEST_BYTES = 1 << 30


def give_back(n_bytes: int) -> None:
    """After about so many bytes were freed: malloc_trim(3), but not for little."""
    if n_bytes < LARGE_BYTES:
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def reuse() -> None:
    """From now on a large block that is freed serves the next one of this process, until `give_back`: mallopt(3).

    By default each has pages of its own, which the system takes back at once, as it still does at the end of the heap.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
