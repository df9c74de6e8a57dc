"""A client elsewhere, which one thread here starts, watches and ends: what such sessions have in common."""

from __future__ import annotations

import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from harness.device import DeviceSpec
from harness.launcher import JoinSpec
from harness.launchers.client_log import ClientLog
from profiler.errors import PreconditionError

ENDED_UNSEEN = 1
"""The exit status of a client of which nobody knows how it ended."""


class ThreadedSession(ABC):
    """A `harness.launcher.Session`. Whoever inherits starts `_thread` once all is in place that `_serve` needs."""

    def __init__(self, device: DeviceSpec, join: JoinSpec, log: ClientLog) -> None:
        self.device = device
        self.log_path = log.path
        self._join = join
        self._log = log
        self._facts: dict[str, Any] = {}
        self._status: int | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"session-{device.id}", daemon=True)

    @property
    def pid(self) -> int | None:
        return None

    @property
    @abstractmethod
    def facts(self) -> Mapping[str, Any]: ...

    def exit_status(self) -> int | None:
        return self._status

    def settle(self) -> None:  # noqa: B027  what is limited is a device of this host
        pass

    @abstractmethod
    def stop(self, grace_s: float) -> None: ...

    def _run(self) -> None:
        status = ENDED_UNSEEN
        try:
            status = self._serve()
        except PreconditionError as error:
            self._note(f"error: {error}")
            status = error.exit_code
        except (OSError, subprocess.SubprocessError) as error:
            self._note(f"error: {self.device.id}: start: {error}.")
        finally:
            try:
                self._tidy_up()
            finally:
                self._log.close()
                self._status = status

    def _note(self, text: str) -> None:
        """A line of ours in the log."""
        self._log.note(text)

    @abstractmethod
    def _serve(self) -> int:
        """From start to end: the exit status. Raises PreconditionError, whose text is for the log."""

    @abstractmethod
    def _tidy_up(self) -> None:
        """However it ended. The log is still open."""
