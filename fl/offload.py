"""Work of some size leaves the event loop for a thread; small work stays: the way there costs more than it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

# 1 MB takes about 1 ms to encode, decode or fold, and other clients wait for it meanwhile.
THREAD_BYTES = 1_000_000

P = ParamSpec("P")
T = TypeVar("T")


async def off_loop(n_bytes: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`function(...)`, in a thread where it works on more than `THREAD_BYTES`."""
    if n_bytes > THREAD_BYTES:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)
