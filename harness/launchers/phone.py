"""A phone's own state around a run: looked at, changed where the fleet file asks for it, and set right afterwards.

Whatever is changed is first written down in the phone's claim (`phone_claim`). What the phone prints is parsed, never
used as a command or a path. Sources: `settings`, `input`, `dumpsys power` and `dumpsys battery` of AOSP.
"""

from __future__ import annotations

import logging
import re
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from harness.launchers.adb_options import LEAVE, ON, AdbOptions
from harness.launchers.phone_claim import PhoneClaim, Undo, left_behind
from profiler.errors import DeviceError
from profiler.files import printable
from profiler.sensors.adb_client import AdbClient, Part
from profiler.sensors.adb_control import UNPLUG
from profiler.sensors.dumpsys_battery import RESET, BatteryState, parse_battery
from profiler.sensors.phone_gauge import DUMPSYS

log = logging.getLogger("harness")

SECRETS_FOLDER = "files/fedmeter-tls"
"""Below an app's private folder: where its security files are put."""
_POWER = "dumpsys power | grep -m1 mWakefulness="
_PROPERTIES = ("ro.product.manufacturer", "ro.product.model", "ro.build.version.release", "ro.product.cpu.abi")
_WAKEFULNESS = re.compile(r"mWakefulness=(?P<state>[A-Za-z]{1,20})")
_WAY = re.compile(r"tcp:(?P<there>\d{1,5}) tcp:(?P<here>\d{1,5})$")
_KEYS = {"on": "KEYCODE_WAKEUP", "off": "KEYCODE_SLEEP"}
# While it is plugged in, by any charger (BatteryManager.BATTERY_PLUGGED_*); and the longest time-out, 24.8 days.
_AWAKE = (("global", "stay_on_while_plugged_in", "15"), ("system", "screen_off_timeout", "2147483647"))
_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0)
_USB, _NETWORK = "usb", "network"


class Phone:
    """One phone whose serial `client` has. `note` takes a line for the log."""

    def __init__(self, client: AdbClient, claim: PhoneClaim, note: Callable[[str], None]) -> None:
        self._client = client
        self._claim = claim
        self._note = note
        self._changes = threading.Lock()
        self.facts: dict[str, Any] = {}

    def prepare(self, options: AdbOptions) -> None:
        """Set right what an earlier run has left, look, and change what is asked for. Raises DeviceError."""
        if self._claim.undos:
            self._note("an earlier run was killed before it could set the phone right: doing so now")
            self._undo_all()
        battery, power, *properties = self._client.ask([DUMPSYS, _POWER, *(f"getprop {name}" for name in _PROPERTIES)])
        state = _battery(battery)
        if state is not None and state.is_stopped:
            self._note("its battery's state was faked by somebody, and is reset")
            self._client.ask([RESET])
            state = self._look_at_battery()
        is_awake = _is_awake(power)
        self.facts = {
            "phone": [printable(one.text().strip(), 64) for one in properties],
            "connected_by": connected_by(self._client.serial),
            "screen": options.screen if options.screen != LEAVE else _SCREENS[is_awake],
            "screen_before": _SCREENS[is_awake],
            **_battery_facts(state, "before"),
            **_energy_facts(state, options),
        }
        self._set_screen(options, is_awake)
        if options.fake_unplugged:
            self._change(Undo("battery"), [UNPLUG])

    def _set_screen(self, options: AdbOptions, is_awake: bool | None) -> None:
        if options.screen == LEAVE:
            return
        if options.screen == ON:
            for namespace, key, value in _AWAKE:
                (part,) = self._client.ask([f"settings get {namespace} {key}"])
                self._change(
                    _setting_before(namespace, key, part.text().strip()), [f"settings put {namespace} {key} {value}"]
                )
        if is_awake is not None and is_awake != (options.screen == ON):
            self._change(Undo("screen", (_SCREENS[is_awake],)), [f"input keyevent {_KEYS[options.screen]}"])

    def forward(self, port: int) -> int:
        """A port of the phone's loopback that leads to this machine's `port`. Raises DeviceError."""
        self.note(Undo("reverse", (str(port),)))
        done = self._client.run(["reverse", "tcp:0", f"tcp:{port}"])
        told = done.stdout.decode("ascii", errors="replace").strip()
        if done.status != 0 or not re.fullmatch(r"\d{1,5}", told):
            raise DeviceError(
                f"adb reverse was refused: {done.complaint}",
                remedy="Let the phone reach this machine by the network: reverse = false, and 'server'.",
            )
        return int(told)

    def note(self, undo: Undo) -> None:
        """Write down what is about to be done. Raises DeviceError where it cannot be, for then it must not be done."""
        try:
            with self._changes:
                self._claim.note(undo)
        except OSError as error:
            raise DeviceError(f"what is changed of the phone cannot be written down: {error}") from None

    def _change(self, undo: Undo, commands: Sequence[str]) -> None:
        self.note(undo)
        for command, part in zip(commands, self._client.ask(commands), strict=True):
            if part.status != 0:
                said = printable(part.text().strip(), 120)
                raise DeviceError(
                    f"the phone refused '{command}': {said}", remedy=f"Try it: {self._client.by_hand(command)}"
                )

    def _look_at_battery(self) -> BatteryState | None:
        (part,) = self._client.ask([DUMPSYS])
        return _battery(part)

    def restore(self) -> None:
        """Undo all that was changed, trying for some seconds; what remains is for the next run, and is said."""
        for pause_s in _PAUSES_S:
            time.sleep(pause_s)
            try:
                self._undo_all()
                self.facts |= _battery_facts(self._look_at_battery(), "after")
                return
            except DeviceError as error:
                trouble = str(error)
        names = ", ".join(sorted({undo.kind for undo in self._claim.undos})) or "nothing of it"
        self._note(f"the phone cannot be reached to be set right ({names} changed); the next run does so: {trouble}")

    def _undo_all(self) -> None:
        """In the opposite order. Raises DeviceError where the phone does not do so."""
        for undo in reversed(list(self._claim.undos)):
            undo_one(self._client, undo)
            with self._changes:
                self._claim.forget(undo)


_SCREENS = {True: "on", False: "off", None: "unknown"}


def undo_one(client: AdbClient, undo: Undo) -> None:
    """Raises DeviceError where the phone cannot be reached, or refuses."""
    if undo.kind == "reverse":
        _remove_ways(client, undo.arguments[0])
        return
    (part,) = client.ask([_undoing(undo)])
    if part.status != 0:
        said = printable(part.text().strip(), 120)
        raise DeviceError(f"the phone refused '{_undoing(undo)}': {said}", remedy=client.by_hand(_undoing(undo)))


def _undoing(undo: Undo) -> str:
    if undo.kind == "setting":
        namespace, key, old = undo.arguments
        put = ["put", namespace, key, old] if old != "null" else ["delete", namespace, key]
        return shlex.join(["settings", *put])
    if undo.kind == "screen":
        return f"input keyevent {_KEYS[undo.arguments[0]]}"
    if undo.kind == "app":
        return shlex.join(["am", "force-stop", *undo.arguments])
    if undo.kind == "files":
        return shlex.join(["run-as", *undo.arguments, "rm", "-rf", SECRETS_FOLDER])
    return RESET


def _remove_ways(client: AdbClient, port: str) -> None:
    """The phone's ports that lead to this port of ours; others' stay."""
    listed = client.run(["reverse", "--list"])
    if listed.status != 0:
        raise DeviceError(f"adb reverse --list: {listed.complaint}")
    ways = (_WAY.search(line) for line in listed.stdout.decode("ascii", errors="replace").splitlines())
    for there in [way["there"] for way in ways if way is not None and way["here"] == port]:
        client.run(["reverse", "--remove", f"tcp:{there}"])


def sweep() -> None:
    """Set right the phones that killed runs have left changed, as far as they are attached and nobody uses them."""
    for serial in left_behind():
        try:
            claim = PhoneClaim(serial, "a phone")
        except DeviceError:
            continue  # in use, by whoever will set it right
        try:
            client = AdbClient(serial=serial)
            client.select()
            Phone(client, claim, log.warning)._undo_all()
        except DeviceError as error:
            log.warning("a phone that a killed run has left changed cannot be set right yet: %s", hidden(error, serial))
        finally:
            claim.release()


def hidden(text: object, serial: str) -> str:
    """Without the serial number, which is its owner's."""
    return str(text).replace(serial, "SERIAL")


def connected_by(serial: str) -> str:
    """`network` where the serial number is an address, or the name of a service in the network; else `usb`."""
    return _NETWORK if ":" in serial or "._adb" in serial else _USB


def charging(state: BatteryState | None) -> str | None:
    """Why the phone's energy is missing; None where its battery tells it."""
    return "the phone does not tell its battery's state" if state is None else state.refusal


def _battery(part: Part) -> BatteryState | None:
    try:
        return parse_battery(part.text())
    except ValueError:
        return None


def _battery_facts(state: BatteryState | None, when: str) -> dict[str, Any]:
    if state is None:
        return {f"battery_{when}": None}
    told = {
        "level_percent": state.level_percent,
        "status": state.status,
        "powered_by": list(state.powered_by),
        "voltage_v": state.voltage_v,
        "temperature_c": state.temperature_c,
        "charge_uah": state.charge_uah,
    }
    return {f"battery_{when}": told}


def _energy_facts(state: BatteryState | None, options: AdbOptions) -> dict[str, Any]:
    reason = charging(state)
    if reason is None:
        return {}
    if options.allow_charging:
        return {"charging_allowed": reason}
    return {"energy_missing": f"{reason}; run it over Wi-Fi, unplugged, or set allow_charging"}


def _is_awake(part: Part) -> bool | None:
    found = _WAKEFULNESS.search(part.text())
    return None if found is None else found["state"] == "Awake"


def _setting_before(namespace: str, key: str, told: str) -> Undo:
    """Raises DeviceError where the phone tells no value that could be put back."""
    try:
        return Undo("setting", (namespace, key, told))
    except ValueError:
        raise DeviceError(
            f"the phone tells {printable(told, 60)!r} for setting {key}, which could not be put back",
            remedy='Set screen = "leave".',
        ) from None
