"""Child processes that hang, print without end, or leave others behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from profiler.sensors.bounded_process import run_bounded


def shell(script: str, *, timeout_s: float = 10.0, max_bytes: int = 1000) -> object:
    return run_bounded(["/bin/sh", "-c", script], timeout_s=timeout_s, max_bytes=max_bytes)


def test_status_output_and_complaint() -> None:
    done = run_bounded(
        ["/bin/sh", "-c", "echo out; echo first >&2; echo 'why not\t' >&2; exit 3"], timeout_s=10, max_bytes=1000
    )
    assert (done.status, done.stdout) == (3, b"out\n")
    assert done.complaint == "why not"
    assert run_bounded(["/bin/sh", "-c", "printf 'a\033b'"], timeout_s=10, max_bytes=1000).complaint == "a?b"


def test_one_that_hangs_is_killed_and_waited_for(tmp_path: Path) -> None:
    started_s = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.5 s"):
        shell(f"echo $$ >{tmp_path / 'pid'}; exec sleep 60", timeout_s=0.5)
    assert time.monotonic() - started_s < 10
    with pytest.raises(ProcessLookupError):  # not even a zombie is left
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_one_that_closes_its_output_and_hangs_is_killed_as_well() -> None:
    with pytest.raises(TimeoutError):
        shell("exec sleep 60 >&- 2>&-", timeout_s=0.3)


def test_output_is_bounded_and_errors_are_cut_off() -> None:
    with pytest.raises(OverflowError, match="more than 1000 bytes"):
        shell("exec head -c 1001 /dev/zero")
    done = run_bounded(["/bin/sh", "-c", "head -c 100000 /dev/zero >&2; echo yes"], timeout_s=10, max_bytes=1000)
    assert done.stdout == b"yes\n"
    assert len(done.stderr) == 4096


def test_a_service_that_it_leaves_behind_is_not_waited_for() -> None:
    started_s = time.monotonic()
    done = run_bounded(["/bin/sh", "-c", "sleep 8 & echo $!"], timeout_s=20, max_bytes=1000)
    assert time.monotonic() - started_s < 6
    os.kill(int(done.stdout), 9)  # it lives: this raises where there is no such process


def test_without_the_program() -> None:
    with pytest.raises(FileNotFoundError):
        run_bounded(["/no/such/program"], timeout_s=1, max_bytes=1)
