"""Bounds that hold whatever happens: open files, threads that never return, and a server that is told to stop."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fl import loop
from fl.limits import raise_open_files
from fl.messages import FitRes, Parameters
from fl.strategy import Aggregator
from fl.threads import THREAD_BYTES, in_daemon_thread, off_loop
from profiler.errors import ClientFailure, PreconditionError
from tests.fl.test_loop import Scripted, fleet, run

ROOT = Path(__file__).parents[2]
LARGE = Parameters((np.zeros(THREAD_BYTES, dtype=np.float32),))


def limited(soft: int, hard: int, code: str) -> str:
    """What a process of its own prints that starts with these limits of open files."""
    setup = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
    done = subprocess.run(
        [sys.executable, "-c", setup + code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip() + done.stderr.strip()


def test_a_server_raises_its_limit_of_open_files() -> None:
    code = """
import asyncio
from fl.server import Server
async def start():
    async with Server():
        print(resource.getrlimit(resource.RLIMIT_NOFILE))
asyncio.run(start())
"""
    assert limited(256, 6000, code) == "(6000, 6000)"


def test_a_limit_that_is_too_low_is_told_with_its_remedy() -> None:
    said = limited(256, 512, "from fl.limits import raise_open_files; print(raise_open_files(1000))")
    assert said.startswith("512")
    assert "at most 512 open files: not enough for 1000 clients. Raise it with `ulimit -n`" in said


def test_a_limit_that_suffices_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with caplog.at_level(logging.WARNING, "fl"):
        assert raise_open_files(1) in (before[1], None)
    assert not caplog.records


def test_a_thread_gives_what_the_function_gives_and_raises() -> None:
    async def test() -> None:
        caller = threading.get_ident()
        assert await in_daemon_thread(lambda x: (x + 1, threading.get_ident() != caller), 1) == (2, True)
        with pytest.raises(ClientFailure, match="pi: fit: no"):
            await in_daemon_thread(refuse, "no")
        assert await off_loop(THREAD_BYTES, lambda _: threading.get_ident(), None) == caller
        assert await off_loop(THREAD_BYTES + 1, lambda _: threading.get_ident(), None) != caller

    asyncio.run(test())


def refuse(reason: str) -> None:
    raise ClientFailure("pi", "fit", reason)


class Stuck:
    """An aggregator whose fold waits for what never comes."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def fold(self, device: str, update: FitRes) -> None:
        self.release.wait(60.0)

    def result(self) -> Parameters | None:
        return None


class StuckStrategy(Scripted):
    def __init__(self) -> None:
        super().__init__()
        self.stuck = Stuck()

    def aggregator(self, round_: int, parameters: Parameters) -> Aggregator:
        return self.stuck


def test_a_fold_that_never_ends_ends_the_run_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "FOLD_LIMIT_S", 0.3)
    strategy = StuckStrategy()
    with fleet("a", "b") as proxies:
        began_s = time.monotonic()
        with pytest.raises(PreconditionError, match=r"folding its update in did not end within 0\.3 s.*stuck"):
            run(proxies, strategy, parameters=LARGE)
        assert time.monotonic() - began_s < 5, "asyncio.run waits for no thread of ours"
        strategy.stuck.release.set()


SERVE_STUCK = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it, as a shell's & does
import numpy as np
import fl.client, fl.standalone
from tests.fl.clients import Unruly
from tests.fl.test_limits import LARGE, StuckStrategy

threading.Thread(
    target=fl.client.start_client, args=(sys.argv[1], Unruly()), kwargs={"device": "a"}, daemon=True
).start()
strategy = StuckStrategy()
fold = strategy.stuck.fold
strategy.stuck.fold = lambda *update: (print("folding", flush=True), fold(*update))
fl.standalone.start_server(sys.argv[1], strategy=strategy, min_clients=1, initial_parameters=LARGE.arrays, wait_s=30.0)
"""


def test_a_server_with_a_stuck_fold_obeys_ctrl_c() -> None:
    """At the first it says farewell, within a bound; at another it ends at once, as a person expects who insists."""
    from tests.fl.test_server import free_address

    process = subprocess.Popen(
        [sys.executable, "-c", SERVE_STUCK, free_address()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "folding\n"
        began_s = time.monotonic()
        while process.poll() is None and time.monotonic() - began_s < 15:
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        assert process.poll() not in (None, 0)
    finally:
        process.kill()
        process.communicate()
