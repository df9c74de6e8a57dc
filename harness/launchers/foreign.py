"""Clients that their owners start: phones with an app, boards with Flower's client. The run waits for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from harness.device import DeviceSpec
from harness.launcher import DeviceCheck, JoinSpec
from harness.spec import Table


class ForeignSession:
    """A client that is not ours to watch or to end; the server sees whether it is there."""

    def __init__(self, device: DeviceSpec, log_path: Path) -> None:
        self.device = device
        self.log_path = log_path

    @property
    def pid(self) -> int | None:
        return None

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"launcher": "foreign"}

    def exit_status(self) -> int | None:
        return None

    def settle(self) -> None:
        pass

    def stop(self, grace_s: float) -> None:
        pass


class ForeignLauncher:
    """Starts nothing. Has no options."""

    shares_host: ClassVar[bool] = False

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir

    @classmethod
    def read_options(cls, entry: Table) -> dict[str, Any]:
        return {}

    @classmethod
    def cores(cls, device: DeviceSpec) -> float:
        return 0.0

    @classmethod
    def check(cls, device: DeviceSpec) -> DeviceCheck:
        return DeviceCheck(True, "started by its owner; the run waits for it")

    def start(self, device: DeviceSpec, join: JoinSpec) -> ForeignSession:
        return ForeignSession(device, self._log_dir / f"{device.id}.log")

    def close(self) -> None:
        pass
