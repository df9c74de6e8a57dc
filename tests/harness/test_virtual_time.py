from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fl.threads import in_daemon_thread
from harness.virtual_time import VirtualClock, VirtualLoop, virtual_loop


def run(main) -> object:  # type: ignore[no-untyped-def]
    with virtual_loop() as loop:
        return loop.run_until_complete(main(loop))


def test_sleeping_takes_virtual_seconds_and_no_real_ones() -> None:
    async def main(loop: VirtualLoop) -> float:
        await asyncio.gather(asyncio.sleep(3600.0), asyncio.sleep(7200.0))
        return loop.time()

    began_s = time.monotonic()
    assert run(main) == pytest.approx(7200.0, abs=1e-8)
    assert time.monotonic() - began_s < 5.0


def test_timeouts_are_virtual() -> None:
    async def main(loop: VirtualLoop) -> float:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(100.0), 10.0)
        return loop.time()

    assert run(main) == pytest.approx(10.0, abs=1e-8)


def test_time_stands_still_while_real_work_goes_on() -> None:
    async def main(loop: VirtualLoop) -> tuple[list[str], float]:
        seen: list[str] = []

        async def work() -> None:
            with ThreadPoolExecutor(1) as pool, loop.held():
                await loop.run_in_executor(pool, time.sleep, 0.2)
            seen.append("work")
            await loop.sleep_until(loop.now_ns + 5 * 10**9, 0)
            seen.append("worth")

        async def timer() -> None:
            await asyncio.sleep(1.0)
            seen.append("timer")

        await asyncio.gather(timer(), work())
        return seen, loop.time()

    seen, now_s = run(main)  # type: ignore[misc]
    assert seen == ["work", "timer", "worth"]
    assert now_s == 5.0


def test_a_daemon_thread_counts_as_real_work() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        seen: list[str] = []

        async def work() -> None:
            seen.append(await in_daemon_thread(lambda text: (time.sleep(0.2), text)[1], "work"))

        async def timer() -> None:
            await asyncio.sleep(1.0)
            seen.append("timer")

        await asyncio.gather(timer(), work())
        return seen

    assert run(main) == ["work", "timer"]


def test_sleepers_wake_by_time_then_order_whoever_came_first() -> None:
    async def main(loop: VirtualLoop) -> list[int]:
        woken: list[int] = []

        async def sleeper(t_ns: int, order: int) -> None:
            await loop.sleep_until(t_ns, order)
            woken.append(order)
            await asyncio.sleep(0)  # one wakes only when the one before has come to rest
            woken.append(order)

        await asyncio.gather(sleeper(5, 3), sleeper(9, 0), sleeper(5, 1), sleeper(5, 2))
        return woken

    assert run(main) == [1, 1, 2, 2, 3, 3, 0, 0]


def test_a_cancelled_sleeper_does_not_hold_up_the_others() -> None:
    async def main(loop: VirtualLoop) -> float:
        task = asyncio.ensure_future(loop.sleep_until(10**9, 0))
        await asyncio.sleep(0)
        task.cancel()
        await loop.sleep_until(3 * 10**9, 1)
        return loop.time()

    assert run(main) == 3.0


def test_the_clock_is_the_loops() -> None:
    async def main(loop: VirtualLoop) -> int:
        clock = VirtualClock(loop)
        await asyncio.sleep(2.5)
        assert clock.wall_time().startswith("20")
        return clock.monotonic_ns()

    assert run(main) == 2_500_000_000
