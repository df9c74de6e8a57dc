"""The way to a phone: the `adb` command of Android's platform tools, as a child process for each question.

Sources: https://developer.android.com/tools/adb, and SERVICES.TXT and OVERVIEW.TXT of
https://android.googlesource.com/platform/packages/modules/adb for the states of a device and for `exec-out`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from profiler.errors import DeviceError
from profiler.sensors.bounded_process import Finished, run_bounded

TIMEOUT_S = 3.0  # over Wi-Fi an answer takes 0.02 to 0.3 s; whoever opens or closes a window waits for it
_START_TIMEOUT_S = 15.0  # the first call starts adb's server, which looks for devices
_MAX_OUTPUT_BYTES = 262_144
_MAX_DEVICES = 256
_SERIAL = re.compile(r"[\x21-\x7e]{1,128}")
_STATE = re.compile(r"(?P<serial>[\x21-\x7e]{1,128})[ \t]+(?P<state>no permissions.*|[a-z]+)[ \t]*")

_INSTALL = "Install Android's platform tools ('sudo apt install adb'), or give the path of adb."
_ATTACH = (
    "Switch on 'USB debugging' in the phone's developer options and plug it in, or pair it over Wi-Fi with "
    "'adb pair ADDRESS:PORT'; 'adb devices' must show it."
)
_WIFI = "Pair it by USB, then run 'adb tcpip 5555' and 'adb connect ADDRESS', and unplug it."
_REMEDIES = {
    "unauthorized": "Unlock the phone and accept this computer's key; without a dialogue run 'adb kill-server'.",
    "authorizing": "Wait a second and try again.",
    "connecting": "Wait a second and try again.",
    "offline": "Run 'adb reconnect offline'; over Wi-Fi 'adb disconnect SERIAL' and 'adb connect SERIAL'.",
    "recovery": "Start the phone's system: 'adb reboot'.",
    "sideload": "Start the phone's system: 'adb reboot'.",
    "bootloader": "Start the phone's system: 'fastboot reboot'.",
}
_NO_PERMISSIONS = "Run 'sudo apt install android-sdk-platform-tools-common' for its udev rules, and plug it in again."


class AdbMissing(DeviceError):
    """There is no adb on this machine."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one command printed on the phone, its errors included, and its exit status there."""

    status: int
    content: bytes

    def text(self) -> str:
        return self.content.decode("utf-8", errors="replace")

    def file(self, path: str) -> bytes:
        """As the content of a file that was printed by `cat`. Raises OSError with what `cat` complained of."""
        if self.status == 0:
            return self.content
        said = self.text()
        number = next((n for n in _FILE_ERRORS if os.strerror(n) in said), errno.EIO)
        raise OSError(number, os.strerror(number), path)


_FILE_ERRORS = (errno.EACCES, errno.ENOENT, errno.ENODATA, errno.ENODEV, errno.EPERM)


class AdbClient:
    """Asks one phone. `serial` is one that `adb devices` shows; without, `ANDROID_SERIAL`, or else the only one.

    Raises ValueError where a serial number has spaces or other strange characters.
    """

    def __init__(self, *, adb: str = "adb", serial: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        if serial is not None and not _SERIAL.fullmatch(serial):
            raise ValueError(f"{serial!r:.80} is no serial number of a device")
        self._adb = adb
        self._wanted = serial or os.environ.get("ANDROID_SERIAL") or None
        self._timeout_s = timeout_s
        self._serial: str | None = None

    @property
    def serial(self) -> str:
        """The phone that is asked, once `select` has chosen. Raises DeviceError before."""
        if self._serial is None:
            raise DeviceError("adb: no device chosen.", remedy="Call select() first.")
        return self._serial

    def by_hand(self, command: str) -> str:
        """What a person types for a command on the phone."""
        return f"adb -s {self._serial} shell {command}" if self._serial else f"adb shell {command}"

    def select(self) -> str:
        """Choose the phone to ask and return its serial.

        Raises AdbMissing without adb, DeviceError without a phone that is ready, or where one would have to be guessed.
        """
        if shutil.which(self._adb) is None:
            raise AdbMissing(f"there is no command {self._adb!r}", remedy=_INSTALL)
        states = self.devices()
        if self._wanted is not None and self._wanted not in states:
            remedy = f"Run 'adb connect {self._wanted}'." if ":" in self._wanted else _ATTACH
            raise DeviceError(f"no device {self._wanted}; adb knows {_listed(states)}", remedy=remedy)
        if not states:
            raise DeviceError("no device is attached", remedy=f"{_ATTACH} {_WIFI}")
        serial = self._wanted or _only(states)
        if states[serial] != "device":
            _refuse(serial, states[serial])
        self._serial = serial
        return serial

    def devices(self) -> dict[str, str]:
        """The state of every device, by serial: `device` where it is ready. Raises DeviceError."""
        done = self._run(["devices"], max(self._timeout_s, _START_TIMEOUT_S))
        if done.status != 0:
            raise DeviceError(f"'adb devices' failed: {done.complaint}", remedy="Run 'adb kill-server' and try again.")
        _, header, listing = done.stdout.decode("utf-8", errors="replace").partition("List of devices attached")
        if not header:
            raise DeviceError(f"'adb devices' lists none: {done.complaint!r}", remedy="Run 'adb devices' and look.")
        matches = map(_STATE.fullmatch, listing.splitlines()[: _MAX_DEVICES + 1])
        return {match["serial"]: match["state"] for match in matches if match is not None}

    def ask(
        self, commands: Sequence[str], *, max_bytes: int = _MAX_OUTPUT_BYTES, timeout_s: float | None = None
    ) -> list[Part]:
        """Run commands on the phone, one after another, in one call of adb: what each printed.

        They are lines of the phone's shell: only constants, or names that were checked and quoted. Raises DeviceError
        where the phone cannot be asked, or its answer is not whole.
        """
        token = f"fedmeter-{os.urandom(16).hex()}"  # drawn for each call: no file can hold it by chance or intent
        script = "; ".join(
            f"{{ {command}; }} 2>&1 </dev/null; s=$?; echo; echo {token} {n} $s" for n, command in enumerate(commands)
        )
        done = self._run(["-s", self.serial, "exec-out", script], timeout_s or self._timeout_s, max_bytes)
        if done.status != 0:
            raise DeviceError(
                f"{self.serial} cannot be reached: {done.complaint or f'adb ended with status {done.status}'}",
                remedy=f"Look at 'adb devices'; over Wi-Fi run 'adb connect {self.serial}'.",
            )
        return self._split(done.stdout, token, len(commands))

    def run(self, arguments: Sequence[str], *, timeout_s: float | None = None) -> Finished:
        """A command of adb's own for this phone, such as `reverse` or `install`. Raises DeviceError.

        `select` must have chosen the phone. How the command ended is for the caller to see.
        """
        return self._run(["-s", self.serial, *arguments], timeout_s or self._timeout_s)

    def connect(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Have adb's server reach for a phone in the Wi-Fi, where the wanted serial is an address. Raises DeviceError.

        Whether it came shows in `select`.
        """
        if self._wanted is not None and ":" in self._wanted:
            self._run(["connect", self._wanted], timeout_s)

    def _split(self, output: bytes, token: str, n_parts: int) -> list[Part]:
        pieces = re.split(rb"\r?\n%s ([0-9]+) ([0-9]{1,3})\r?\n" % token.encode(), output)
        contents, numbers, statuses = pieces[:-1:3], pieces[1::3], pieces[2::3]
        if list(map(int, numbers)) != list(range(n_parts)) or pieces[-1].strip():
            got = f"{len(numbers)} of {n_parts} answers came"
            raise DeviceError(f"{self.serial} broke off: {got}", remedy="Look at the connection: 'adb devices'.")
        return [Part(int(status), content) for status, content in zip(statuses, contents, strict=True)]

    def _run(self, arguments: Sequence[str], timeout_s: float, max_bytes: int = _MAX_OUTPUT_BYTES) -> Finished:
        try:
            return run_bounded([self._adb, *arguments], timeout_s=timeout_s, max_bytes=max_bytes)
        except FileNotFoundError as error:
            raise AdbMissing(f"there is no command {self._adb!r}", remedy=_INSTALL) from error
        except TimeoutError as error:
            raise DeviceError(f"{error}", remedy="Look at 'adb devices'; 'adb kill-server' starts it anew.") from error
        except OverflowError as error:
            raise DeviceError(f"adb: {error}", remedy="Look at what it prints: no phone answers so.") from error
        except OSError as error:
            raise DeviceError(f"{self._adb} cannot be run: {error}", remedy=_INSTALL) from error


def _listed(states: Mapping[str, str]) -> str:
    return ", ".join(f"{serial} ({state})" for serial, state in states.items()) or "none"


def _only(states: Mapping[str, str]) -> str:
    """The one that is ready, or the only one at all. Raises DeviceError where there are several."""
    ready = [serial for serial, state in states.items() if state == "device"] or list(states)
    if len(ready) > 1:
        raise DeviceError(
            f"several devices are attached: {_listed(states)}",
            remedy=f"Say which: 'export ANDROID_SERIAL={ready[0]}', or serial={ready[0]!r}.",
        )
    return ready[0]


def _refuse(serial: str, state: str) -> NoReturn:
    remedy = _NO_PERMISSIONS if state.startswith("no permissions") else _REMEDIES.get(state, _ATTACH)
    raise DeviceError(f"{serial} is {state[:80]}", remedy=remedy.replace("SERIAL", serial))
