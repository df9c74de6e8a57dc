"""What is freed serves again, and then goes back: seen by the pages that the system has to give (getrusage(2))."""

from __future__ import annotations

import subprocess
import sys

import pytest

WORK = """
import resource, sys
from fl.freed_memory import give_back, reuse

N_BYTES = 64_000_000

def faults(pins):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * N_BYTES
    pins.append(bytearray(200_000))  # what comes after a block keeps it from the end of the heap, which is given back
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "reuse":
    reuse()
pins = []
first, again = faults(pins), faults(pins)
give_back(N_BYTES)
print(first, again, faults(pins))
"""


def faults(how: str) -> tuple[int, int, int]:
    """Of a block, of a second one after it was freed, and of a third after memory was given back."""
    told = subprocess.run([sys.executable, "-c", WORK, how], check=True, capture_output=True, text=True, timeout=60)
    first, again, after = map(int, told.stdout.split())
    return first, again, after


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's")
def test_a_large_block_that_was_freed_serves_the_next_until_it_is_given_back() -> None:
    first, again, after = faults("reuse")
    assert again < first / 4
    assert after > first / 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's")
def test_by_default_each_block_has_pages_of_its_own() -> None:
    first, again, _ = faults("as it is")
    assert again > first / 2
