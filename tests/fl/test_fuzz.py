"""A short run of the fuzzers, each time with the same seeds; tests/soak/fuzz.py is the long one."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.fixtures import hostile
from tests.soak.fuzz import fuzz_codec, fuzz_streams


def test_hostile_messages_are_read_or_refused_and_nothing_else() -> None:
    found = fuzz_codec(seed=7, n_messages=4_000)
    assert found.defects == []
    assert found.counts["structure"] >= 2_000
    assert min(found.counts["read"], found.counts["refused"]) > 1_000, (
        "mutants must get past the parser, and fail there"
    )


def test_hostile_streams_leave_the_server_as_it_was() -> None:
    found = asyncio.run(asyncio.wait_for(fuzz_streams(seed=7, n_streams=150), 60.0))
    assert found.defects == []
    assert found.counts["calls answered"] > 0
    assert found.counts["calls failed"] > 0
    assert found.counts["good client served"] == 1


@pytest.mark.parametrize("data", [*hostile.replies(), *hostile.instructions(), *hostile.measurements()])
def test_the_mutator_takes_messages_apart_without_a_loss(data: bytes) -> None:
    fields = hostile.parse(data)
    assert fields is not None
    assert hostile.build(fields) == data


def test_one_seed_gives_one_run() -> None:
    def mutants(seed: int) -> list[bytes]:
        rng, donors = random.Random(seed), hostile.replies()
        return [hostile.mutate_structure(rng, donors[0], donors) for _ in range(50)]

    assert mutants(1) == mutants(1)
    assert mutants(1) != mutants(2)
    assert len(set(mutants(1))) > 40
