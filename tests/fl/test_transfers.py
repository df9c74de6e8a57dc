"""Slots for large instructions: few at once, never held for long, none for small ones."""

from __future__ import annotations

import asyncio

import pytest

from fl.transfers import LARGE_BYTES, Transfers


def run(test: object) -> None:
    asyncio.run(asyncio.wait_for(test, 20.0))  # type: ignore[arg-type]


def test_large_instructions_go_out_a_few_at_a_time_and_all_of_them() -> None:
    async def test() -> None:
        transfers, under_way, most, n_done = Transfers(n_slots=2), 0, 0, 0

        async def one() -> None:
            nonlocal under_way, most, n_done
            async with transfers.slot(LARGE_BYTES):
                under_way += 1
                most = max(most, under_way)
                await asyncio.sleep(0.001)
                under_way -= 1
                n_done += 1

        await asyncio.gather(*(one() for _ in range(10)))
        assert (most, n_done) == (2, 10)

    run(test())


@pytest.mark.parametrize(("n_bytes", "waits"), [(LARGE_BYTES - 1, False), (LARGE_BYTES, True)])
def test_a_small_instruction_waits_for_nobody(n_bytes: int, waits: bool) -> None:
    async def test() -> None:
        transfers = Transfers(n_slots=1, slot_s=60.0)

        async def other() -> None:
            async with transfers.slot(n_bytes):
                pass

        async with transfers.slot(LARGE_BYTES):
            done, _ = await asyncio.wait({asyncio.create_task(other())}, timeout=0.1)
            assert bool(done) is not waits

    run(test())


def test_a_client_that_takes_nothing_loses_its_slot_once() -> None:
    async def test() -> None:
        transfers, stuck = Transfers(n_slots=1, slot_s=0.05), asyncio.Event()

        async def never() -> None:
            async with transfers.slot(LARGE_BYTES):
                await stuck.wait()

        hanging = asyncio.create_task(never())
        await asyncio.sleep(0)
        async with transfers.slot(LARGE_BYTES):
            stuck.set()
            await hanging  # which gives back nothing more: the slot is no longer its own
            late = asyncio.create_task(never())
            await asyncio.sleep(0.01)
            assert not late.done()
        await late

    run(test())


@pytest.mark.parametrize("how", ["error", "cancel"])
def test_a_transfer_that_fails_gives_its_slot_back(how: str) -> None:
    async def test() -> None:
        transfers = Transfers(n_slots=1, slot_s=60.0)

        async def fails() -> None:
            async with transfers.slot(LARGE_BYTES):
                if how == "error":
                    raise RuntimeError
                await asyncio.sleep(60.0)

        task = asyncio.create_task(fails())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        if how == "error":
            assert isinstance(task.exception(), RuntimeError)
        async with transfers.slot(LARGE_BYTES):
            pass

    run(test())
