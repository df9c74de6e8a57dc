"""Memory that was freed goes back to the system: what is left of a model's many pieces would stay for the next one."""

from __future__ import annotations

import ctypes

LARGE_BYTES = 1_000_000


def give_back(n_bytes: int) -> None:
    """After about so many bytes were freed: malloc_trim(3) of the GNU C library, nothing elsewhere or for little."""
    if n_bytes < LARGE_BYTES:
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
