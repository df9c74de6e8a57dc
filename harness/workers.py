"""Processes that train for simulated devices, one thread each, spread over this machine's cores.

A device stays with one process, by its number, so that which process answers follows from nothing that takes time. What
passes between a process and its own children are pickles; nothing from a file or a network is among them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from fl.calls import TransportError
from fl.client import limit_threads
from fl.workload import Partition, Workload, load_workload
from harness.launchers.tether import die_with
from harness.simulated_device import Answer, SimulatedDevice, SimulatedSpec
from profiler.errors import DeviceError, FedmeterError, WireError

_END_S = 5.0


@dataclass(frozen=True, slots=True)
class Work:
    """What the devices train on."""

    workload: str
    partition: Partition
    options: Mapping[str, Any] = field(default_factory=dict)


class Worker:
    """One process. `exchange` is called from one thread at a time, `close` from any."""

    def __init__(self, number: int, work: Work) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy a process that has threads
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, work, os.getpid()), name=f"simulated-{number}", daemon=True
        )
        self._process.start()
        theirs.close()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"worker-{number}")

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def exit_status(self) -> int | None:
        return self._process.exitcode

    def add(self, spec: SimulatedSpec) -> None:
        """Make a device there. Raises DeviceError where its data or its workload cannot be had."""
        try:
            self._ask(("add", spec))
        except TransportError as error:
            raise DeviceError(f"{spec.device}: cannot be simulated: {error}") from None

    async def exchange(self, number: int, sent_ns: int, data: bytes) -> Answer:
        """One instruction to one device. Raises TransportError where it cannot be read, or the process has ended."""
        asked = asyncio.get_running_loop().run_in_executor(self._thread, self._ask, ("answer", number, sent_ns, data))
        asked.add_done_callback(_heard)
        answer: Answer = await asked
        return answer

    def _ask(self, question: tuple[object, ...]) -> Any:
        try:
            self._connection.send(question)
            is_good, outcome = self._connection.recv()
        except (OSError, EOFError):
            self._process.join(_END_S)
            raise TransportError(f"the process that trains for it has ended ({self._process.exitcode})") from None
        if not is_good:
            raise TransportError(outcome)
        return outcome

    def close(self) -> None:
        self._process.terminate()
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()
        self._thread.shutdown(wait=False)


def _heard(asked: asyncio.Future[Any]) -> None:
    """Where nobody waits any more, as after Ctrl-C, the end of a process is no news."""
    if not asked.cancelled():
        asked.exception()


def _serve(connection: Connection, work: Work, parent_pid: int) -> None:
    """The process: answers until the other side is gone."""
    die_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the harness, which then ends its workers
    devices: dict[int, SimulatedDevice] = {}
    workload: Workload | None = None
    while True:
        try:
            question = connection.recv()
        except (EOFError, OSError):
            return
        outcome: tuple[bool, Answer | str | None]
        try:
            workload = workload or _workload(work)
            outcome = True, _answered(question, workload, work, devices)
        except (FedmeterError, WireError) as error:
            outcome = False, str(error)
        except Exception as error:  # noqa: BLE001  the boundary to a user's workload, which may raise anything
            traceback.print_exc(file=sys.stderr)
            outcome = False, f"{type(error).__name__}: {error}"
        try:
            connection.send(outcome)
        except OSError:
            return


def _workload(work: Work) -> Workload:
    workload = load_workload(work.workload, **work.options)
    limit_threads(1)
    return workload


def _answered(
    question: tuple[Any, ...], workload: Workload, work: Work, devices: dict[int, SimulatedDevice]
) -> Answer | None:
    if question[0] == "add":
        spec: SimulatedSpec = question[1]
        devices[spec.number] = SimulatedDevice(spec, workload.client(spec.shard, work.partition))
        return None
    _, number, sent_ns, data = question
    return devices[number].answer(data, sent_ns)
