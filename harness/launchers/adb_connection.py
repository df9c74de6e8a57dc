"""The connection to a phone through adb's own server: commands by `adb shell`, a way back by `adb reverse`."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from harness.launchers.adb_options import AdbOptions
from harness.launchers.phone import Phone, hidden
from harness.launchers.remote import RemoteConnection, Sink
from profiler.errors import DeviceError
from profiler.sensors.adb_client import AdbClient

_POLL_S = 0.5
# What `adb shell` ends with where no exit status came: 0 in version 29, 255 in others. A supervisor that is killed
# gives 128 and its signal; one that ends by itself has said so before.
_BROKEN_OFF = (0, 255)

# What adb, run-as and su print -> what it means, and what to do.
_COMPLAINTS = (
    (
        "not debuggable",
        "this build of the app does not let run-as in",
        "Termux: install the build from its GitHub releases, which does; or reach Termux's sshd with launcher ssh, or "
        'set via = "su" on a rooted phone',
    ),
    ("unknown package", "the package is not installed on the phone", "Install it, or check 'package'"),
    ("is unknown", "the package is not installed on the phone", "Install it, or check 'package'"),
    ("unauthorized", "the phone does not trust this computer yet", "Unlock it and accept this computer's key"),
    ("offline", "adb says that it is offline", "Run 'adb reconnect offline', or plug it in again"),
    ("not found", "adb does not know it, or a program is not on it", "Look at 'adb devices'; check 'python'"),
    ("no devices", "adb knows no device", "Look at 'adb devices'"),
    ("closed", "the connection was closed", "Look at 'adb devices' and at the cable or the Wi-Fi"),
    ("Permission denied", "the phone refuses", "Check 'via', 'python' and 'folder'"),
)


def explain(complaint: str) -> tuple[str, str]:
    """The reason and the remedy in what adb, or the phone's shell, has printed."""
    last = complaint.strip().splitlines()[-1] if complaint.strip() else "adb ended without a word"
    for words, reason, remedy in _COMPLAINTS:
        if words in complaint:
            return f"{reason} ({last})", f"{remedy}."
    return f"adb: {last}", "Try it by hand with 'adb shell'."


def reach(client: AdbClient, timeout_s: float, aborted: threading.Event | None = None) -> None:
    """Choose the phone, waiting for one that is about to come. Raises DeviceError where it does not."""
    until_s = time.monotonic() + timeout_s
    try:
        client.select()
        return
    except DeviceError:
        client.connect(timeout_s)
    while True:
        try:
            client.select()
            return
        except DeviceError:
            if time.monotonic() > until_s or (aborted or threading.Event()).wait(_POLL_S):
                raise


class AdbConnection(RemoteConnection):
    """To the phone that `client` was made for; `phone` writes down what is changed of it."""

    def __init__(self, device: str, options: AdbOptions, client: AdbClient, phone: Phone, sink: Sink) -> None:
        super().__init__(device, python_of(options), sink)
        self._options = options
        self._client = client
        self._phone = phone
        self._is_open = False

    def open(self) -> None:
        try:
            reach(self._client, self._options.connect_timeout_s, self._aborted)
        except DeviceError as error:
            raise self.failure("connect", hidden(Exception.__str__(error), self._serial), error.remedy) from None
        self._is_open = True

    @property
    def _serial(self) -> str:
        return self._options.phone(self._device)

    def forward(self, address: str) -> int:
        try:
            return self._phone.forward(int(address.rpartition(":")[2]))
        except DeviceError as error:
            raise self.failure("tunnel", hidden(Exception.__str__(error), self._serial), error.remedy) from None

    def is_lost(self) -> bool:
        """Also where it is back already: then what it carried has ended without a status."""
        if any(running.status in _BROKEN_OFF for running in self._commands):
            return self._is_open
        try:
            self._client.select()
        except DeviceError:
            return self._is_open
        return False

    def _reaching(self, there: str) -> list[str]:
        return ["adb", "-s", self._client.serial, "shell", "-T", there]

    def _explain(self, complaint: str) -> tuple[str, str]:
        reason, remedy = explain(complaint)
        return hidden(reason, self._serial), remedy


def python_of(options: AdbOptions) -> Sequence[str]:
    """The words that start the phone's Python where its folder is, with the environment that Termux gives it."""
    home, _, _ = options.folder.rpartition("/")
    prefix, _, _ = options.python.rpartition("/bin/")
    environment = [f"HOME={home}", f"TMPDIR={home}", f"PREFIX={prefix}", f"PATH={prefix}/bin:/system/bin:/usr/bin:/bin"]
    return (*options.entering, "env", *environment, options.python)
