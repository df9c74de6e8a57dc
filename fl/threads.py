"""Work beside the event loop, in threads that nobody has to wait for when the process ends.

`asyncio.to_thread` takes a thread of the loop's executor, and both the end of the loop and the end of the interpreter
wait for those: one function that never returns, and the process never ends. Threads here are daemons.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar, runtime_checkable

# Above this size work on a message goes to a thread: 1 MB takes about 1 ms, and other clients wait for it. Below, the
# hand-over costs more than it saves, up to the interpreter's switch interval (5 ms) where the loop is busy.
THREAD_BYTES = 1_000_000

T = TypeVar("T")
A = TypeVar("A")


@runtime_checkable
class Holding(Protocol):
    """An event loop whose time is not real: it must not go on while real work does."""

    def held(self) -> AbstractContextManager[None]: ...


async def in_daemon_thread(function: Callable[[A], T], argument: A) -> T:
    """What the function returns or raises. Cancelled, it leaves the thread to itself."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def tell(setter: Callable[[], None]) -> None:
        def unless_cancelled() -> None:
            if not outcome.done():
                setter()

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(unless_cancelled)

    def work() -> None:
        try:
            value = context.run(function, argument)
        except BaseException as error:  # noqa: BLE001  handed over to whoever awaits it
            failure = error
            tell(lambda: outcome.set_exception(failure))
        else:
            tell(lambda: outcome.set_result(value))

    with loop.held() if isinstance(loop, Holding) else contextlib.nullcontext():
        threading.Thread(target=work, name="fl-work", daemon=True).start()
        return await outcome


async def off_loop(n_bytes: int, function: Callable[[A], T], argument: A) -> T:
    """In a thread where the argument is large, at once where it is not."""
    return await in_daemon_thread(function, argument) if n_bytes > THREAD_BYTES else function(argument)
