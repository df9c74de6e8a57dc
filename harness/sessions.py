"""The clients of a run: start many at once, but not too many, notice who ended, start again, end all for certain."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType

from harness.device import DeviceSpec
from harness.energy_sources import DeviceMeter
from harness.fleet import SIMULATED
from harness.host import available_cores
from harness.launcher import HasMeter, JoinSpec, KeepsSpool, Launcher, Session, Spooled, log_tail, signal_name
from harness.launchers.external import EXTERNAL, FOREIGN
from profiler.errors import DeviceError

log = logging.getLogger("harness")

_POLL_S = 0.05
_STOP_GRACE_S = 3.0
_FORGET_S = 35.0  # by when a server has noticed that an earlier client of a device is gone (its heartbeat), and some
STARTS_PER_CORE = 2
STARTS_ELSEWHERE = 32


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a client did not come: its phase is `start` or `join`."""

    phase: str
    reason: str


class Sessions:
    """One session a device. `joined` tells which devices the server has a connection to.

    At one time `STARTS_PER_CORE` clients a core that share this host are on their way from start to joining, and
    `STARTS_ELSEWHERE` of the others: more would take no less time together, and each would take too long. Launchers
    start them in threads that live as long as this object: what a client's process is tied to is the thread that made
    it (prctl(2), PR_SET_PDEATHSIG). `on_start` is told of each session, in the loop's thread.
    """

    def __init__(
        self,
        launchers: dict[str, Launcher],
        join: JoinSpec,
        joined: Callable[[], set[str]],
        *,
        on_start: Callable[[Session], None] = lambda session: None,
        on_spool: Callable[[str, Spooled], None] = lambda device, spooled: None,
    ) -> None:
        self._launchers = launchers
        self._join = join
        self._joined = joined
        self._on_start = on_start
        self._on_spool = on_spool
        self._sessions: dict[str, Session] = {}
        self._meters: dict[str, DeviceMeter] = {}
        self.meters: Mapping[str, DeviceMeter] = MappingProxyType(self._meters)
        """Of devices elsewhere, those of their latest sessions."""
        self._here = asyncio.Semaphore(STARTS_PER_CORE * available_cores())
        self._elsewhere = asyncio.Semaphore(STARTS_ELSEWHERE)
        self._threads = ThreadPoolExecutor(STARTS_ELSEWHERE, thread_name_prefix="launch")
        self._starts: set[Future[Session]] = set()
        self._is_closed = threading.Event()

    def __getitem__(self, device: str) -> Session:
        return self._sessions[device]

    def __contains__(self, device: str) -> bool:
        return device in self._sessions

    def start(self, device: DeviceSpec) -> Session:
        """Start a client, ending an earlier one of the device first. From any thread. Raises DeviceError."""
        if device.id in self._sessions:
            self._sessions[device.id].stop(0.0)
        if self._is_closed.is_set():
            raise DeviceError(f"{device.id}: the run has ended.")
        session = self._launchers[device.launcher].start(device, self._join)
        self._sessions[device.id] = session
        if isinstance(session, HasMeter) and session.meter is not None:
            self._meters[device.id] = session.meter
        return session

    async def bring(self, device: DeviceSpec, timeout_s: float) -> Trouble | None:
        """Start a client, as soon as there is a place for one more, and wait until it has joined: None then."""
        async with self._place(device):
            try:
                session = await self._start(device)
            except Exception as error:  # noqa: BLE001  the boundary to devices: whatever a launcher meets, the run goes on
                return Trouble("start", str(error))
            self._on_start(session)
            reason = await self._until_joined(device.id, timeout_s)
            return None if reason is None else Trouble("join", reason)

    def _place(self, device: DeviceSpec) -> AbstractAsyncContextManager[None]:
        """What starts nothing, or is there at once, waits for nobody."""
        if device.launcher in (EXTERNAL, FOREIGN, SIMULATED):
            return nullcontext()
        return self._here if self._launchers[device.launcher].shares_host else self._elsewhere

    async def _start(self, device: DeviceSpec) -> Session:
        if device.launcher == SIMULATED:  # which needs the loop's thread
            return self.start(device)
        if device.id in self._sessions:
            await self._forgotten(device.id)
        start = self._threads.submit(self.start, device)
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)
        return await asyncio.wrap_future(start)

    async def _forgotten(self, device: str) -> None:
        """End the earlier client, and wait until the server knows: else it would be taken for the new one."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._sessions[device].stop, 0.0)
        until_s = time.monotonic() + _FORGET_S
        while device in self._joined() and time.monotonic() < until_s:
            await asyncio.sleep(_POLL_S)
        self._collect(device)

    def _collect(self, device: str) -> None:
        session = self._sessions[device]
        if isinstance(session, KeepsSpool) and (spooled := session.take_spool()) != Spooled():
            self._on_spool(device, spooled)

    async def read_meters(self) -> None:
        """All that are read from here, side by side, so that windows up to now are covered."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._threads, one.catch_up) for one in self._meters.values()))

    async def wait_joined(self, devices: Iterable[DeviceSpec], timeout_s: float) -> dict[str, str]:
        """Wait until every device has joined and settled; the reason for each that has not, with the end of its log."""
        ids = [device.id for device in devices]
        reasons = await asyncio.gather(*(self._until_joined(device, timeout_s) for device in ids))
        return {device: reason for device, reason in zip(ids, reasons, strict=True) if reason is not None}

    async def _until_joined(self, device: str, timeout_s: float) -> str | None:
        """None once it has joined and settled, else why it has not, with the end of its log."""
        deadline_s = time.monotonic() + timeout_s
        while device not in self._joined():
            if self.is_dead(device):
                return f"ended before it joined: {self.post_mortem(device)}"
            if time.monotonic() > deadline_s:
                return f"did not join within {timeout_s:g} s; {self.post_mortem(device)}"
            await asyncio.sleep(max(_POLL_S, len(self._sessions) * _POLL_S / 20))
        self._sessions[device].settle()
        return None

    def is_dead(self, device: str) -> bool:
        return device not in self._sessions or self._sessions[device].exit_status() is not None

    def ending(self, device: str) -> str:
        """How a client ended, or that it has not, in a few words."""
        if device not in self._sessions:
            return "never started"
        status = self._sessions[device].exit_status()
        return "still running" if status is None else signal_name(status)

    def post_mortem(self, device: str) -> str:
        """How a client ended, where its log is, and the end of that."""
        if device not in self._sessions:
            return "never started"
        session = self._sessions[device]
        if session.device.launcher in (EXTERNAL, FOREIGN):
            return "a client which its owner starts, and whose log its owner has"
        tail = log_tail(session.log_path)
        return f"{self.ending(device)}; log {session.log_path}" + (f":\n{tail}" if tail else " is empty")

    def stop(self) -> None:
        """End every client, politely at first, and undo what their launchers set up.

        All at once, so that it takes one grace period however many of them do not listen.
        """
        self._is_closed.set()
        wait(list(self._starts))
        threads = [threading.Thread(target=_stop, args=(session,)) for session in self._sessions.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._threads.shutdown()
        for device in self._sessions:
            self._collect(device)
        for launcher in self._launchers.values():
            launcher.close()


def _stop(session: Session) -> None:
    try:
        session.stop(_STOP_GRACE_S)
    except OSError as error:
        log.warning("%s could not be stopped: %s", session.device.id, error)


def dead_at_start(failed: dict[str, str]) -> DeviceError:
    """The error that ends a run that could not begin, for too few clients have joined."""
    names = ", ".join(sorted(failed))
    details = "\n".join(f"{device}: {reason}" for device, reason in sorted(failed.items()))
    return DeviceError(f"{len(failed)} of the clients did not join: {names}.\n{details}")
