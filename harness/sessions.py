"""The clients of a run: start all, notice who died, start again between tasks, end all for certain."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable

from harness.device import DeviceSpec
from harness.launcher import JoinSpec, Launcher, Session, log_tail, signal_name
from harness.launchers.external import EXTERNAL, FOREIGN
from profiler.errors import DeviceError

log = logging.getLogger("harness")

_POLL_S = 0.05
_STOP_GRACE_S = 3.0


class Sessions:
    """One session a device. `joined` tells which devices the server has a connection to."""

    def __init__(self, launchers: dict[str, Launcher], join: JoinSpec, joined: Callable[[], set[str]]) -> None:
        self._launchers = launchers
        self._join = join
        self._joined = joined
        self._sessions: dict[str, Session] = {}

    def __getitem__(self, device: str) -> Session:
        return self._sessions[device]

    def __contains__(self, device: str) -> bool:
        return device in self._sessions

    def start(self, device: DeviceSpec) -> Session:
        """Start a client, ending an earlier one of the device first. Raises DeviceError."""
        if device.id in self._sessions:
            self._sessions[device.id].stop(0.0)
        session = self._launchers[device.launcher].start(device, self._join)
        self._sessions[device.id] = session
        return session

    async def wait_joined(self, devices: Iterable[DeviceSpec], timeout_s: float) -> dict[str, str]:
        """Wait until every device has joined and settled; the reason for each that has not, with the end of its log."""
        waiting = {device.id for device in devices}
        failed: dict[str, str] = {}
        deadline_s = time.monotonic() + timeout_s
        while waiting:
            for device in waiting & self._joined():
                self._sessions[device].settle()
                waiting.discard(device)
            for device in sorted(waiting):
                status = self._sessions[device].exit_status() if device in self._sessions else None
                if status is not None:
                    failed[device] = f"ended before it joined: {self.post_mortem(device)}"
            waiting -= failed.keys()
            if waiting and time.monotonic() > deadline_s:
                late = f"did not join within {timeout_s:g} s"
                return failed | {device: f"{late}; {self.post_mortem(device)}" for device in waiting}
            if waiting:
                await asyncio.sleep(_POLL_S)
        return failed

    def is_dead(self, device: str) -> bool:
        return device not in self._sessions or self._sessions[device].exit_status() is not None

    def post_mortem(self, device: str) -> str:
        """How a client ended, where its log is, and the end of that."""
        if device not in self._sessions:
            return "never started"
        session = self._sessions[device]
        if session.device.launcher in (EXTERNAL, FOREIGN):
            return "a client which its owner starts, and whose log its owner has"
        status = session.exit_status()
        ended = "still running" if status is None else signal_name(status)
        tail = log_tail(session.log_path)
        return f"{ended}; log {session.log_path}" + (f":\n{tail}" if tail else " is empty")

    def stop(self) -> None:
        """End every client, politely at first, and undo what their launchers set up.

        All at once, so that it takes one grace period however many of them do not listen.
        """
        threads = [threading.Thread(target=_stop, args=(session,)) for session in self._sessions.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for launcher in self._launchers.values():
            launcher.close()


def _stop(session: Session) -> None:
    try:
        session.stop(_STOP_GRACE_S)
    except OSError as error:
        log.warning("%s could not be stopped: %s", session.device.id, error)


def dead_at_start(failed: dict[str, str]) -> DeviceError:
    """The error that ends a run whose clients did not all join."""
    names = ", ".join(sorted(failed))
    details = "\n".join(f"{device}: {reason}" for device, reason in sorted(failed.items()))
    return DeviceError(f"{len(failed)} of the clients did not join: {names}.\n{details}")
