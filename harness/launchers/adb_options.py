"""What a fleet file says of a phone that is reached by adb, checked so that no value can be taken for anything else."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from string import Formatter
from typing import Any, cast, get_args

from harness.device import DeviceSpec
from harness.launchers.shared_options import HOST, check_names, take_file, take_meter, take_threads, take_wait_s
from harness.spec import Table
from profiler.errors import PreconditionError, SpecError
from profiler.sensors.power_supply import CurrentUnit

TERMUX = "com.termux"
PYTHON, APP = "python", "app"
RUN_AS, SU, SHELL = "run-as", "su", "shell"
LEAVE, ON, OFF = "leave", "on", "off"
PLACEHOLDERS = ("server", "host", "port", "id", "shard", "shards", "workload", "tls")
_SERIAL = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:%\]-]{0,127}")
_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]{0,63}")
PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}(?:\.[A-Za-z][A-Za-z0-9_]{0,63}){1,10}")
_COMPONENT = re.compile(
    rf"{PACKAGE.pattern}/(?:\.?[A-Za-z][A-Za-z0-9_$]{{0,63}})(?:\.[A-Za-z][A-Za-z0-9_$]{{0,63}}){{0,10}}"
)
_ACTION = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,127}")
_EXTRA = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")
_PHONE_PATH = re.compile(r"/[A-Za-z0-9_./+@,=-]{1,511}")
_MAX_EXTRAS, _MAX_EXTRA_CHARS = 50, 1000


@dataclass(frozen=True, slots=True)
class AdbOptions:
    """Which phone, what runs on it, and what may be changed of it meanwhile.

    `serial` may be `$NAME`: an environment variable that holds it, as fleet files go into the results. `via` is how
    the client's folder is entered: `run-as` its package, `su`, or not at all (`shell`). `reverse` None: by USB, and
    where the server listens on this machine alone. `server` is this machine's name as the phone knows it. What an app's
    phone draws is sampled from here unless `meter` is none; `current_unit` settles what is guessed of its gauge.
    """

    serial: str
    client: str
    via: str
    package: str
    python: str
    folder: str
    wheel: str | None
    wheelhouse: str | None
    meter: str
    threads: int
    component: str | None
    action: str | None
    service: bool
    extras: Mapping[str, str | int | bool]
    apk: str | None
    reverse: bool | None
    server: str | None
    screen: str
    fake_unplugged: bool
    allow_charging: bool
    current_unit: CurrentUnit | None
    connect_timeout_s: float
    reconnect_s: float

    @classmethod
    def read(cls, entry: Table) -> AdbOptions:
        """Raises SpecError."""
        client: str = entry.take("client", str, PYTHON)
        package: str = entry.take("package", str) if client == APP else entry.take("package", str, TERMUX)
        via: str = entry.take("via", str, RUN_AS)
        files = "/data/local/tmp" if via == SHELL else f"/data/data/{package}/files"
        options = cls(
            serial=entry.take("serial", str),
            client=client,
            via=via,
            package=package,
            python=entry.take("python", str, f"{files}/usr/bin/python3"),
            folder=entry.take("folder", str, f"{files}/fedmeter"),
            wheel=take_file(entry, "wheel", ".whl"),
            wheelhouse=take_file(entry, "wheelhouse"),
            meter=take_meter(entry),
            threads=take_threads(entry),
            component=entry.take("component", str, None),
            action=entry.take("action", str, None),
            service=entry.take("service", bool, False),
            extras=entry.take("extras", dict, {}),
            apk=take_file(entry, "apk", ".apk"),
            reverse=entry.take("reverse", bool, None),
            server=entry.take("server", str, None),
            screen=entry.take("screen", str, LEAVE),
            fake_unplugged=entry.take("fake_unplugged", bool, False),
            allow_charging=entry.take("allow_charging", bool, False),
            current_unit=cast("CurrentUnit | None", entry.take("current_unit", str, None)),  # checked below
            connect_timeout_s=take_wait_s(entry, "connect_timeout_s", 20.0, 1),
            reconnect_s=take_wait_s(entry, "reconnect_s", 300.0, 0),
        )
        options._check(entry)
        return options

    @classmethod
    def of(cls, device: DeviceSpec) -> AdbOptions:
        """As they were read."""
        return cls(**device.options)

    def as_mapping(self) -> Mapping[str, Any]:
        return asdict(self)

    def _check(self, entry: Table) -> None:
        self._check_choices(entry)
        patterns = {
            "package": PACKAGE,
            "component": _COMPONENT,
            "action": _ACTION,
            "server": HOST,
            "python": _PHONE_PATH,
            "folder": _PHONE_PATH,
        }
        check_names(entry, asdict(self), patterns)
        serial = self.serial.replace("{n}", "0")
        if not (_SERIAL.fullmatch(serial) or _VARIABLE.fullmatch(serial)):
            raise SpecError(f"{entry.where}: serial = {self.serial!r} is none that 'adb devices' shows.")
        if (self.client == APP) != (self.component is not None):
            raise SpecError(f"{entry.where}: 'component' says what is started of an app: client = \"app\" needs it.")
        if self.component is not None and not self.component.startswith(f"{self.package}/"):
            raise SpecError(f"{entry.where}: component = {self.component!r} is not of package {self.package!r}.")
        self._check_extras(entry)

    def _check_choices(self, entry: Table) -> None:
        choices: dict[str, tuple[str | None, ...]] = {
            "client": (PYTHON, APP),
            "via": (RUN_AS, SU, SHELL),
            "screen": (LEAVE, ON, OFF),
            "current_unit": (None, *get_args(CurrentUnit)),
        }
        for key, known in choices.items():
            if getattr(self, key) not in known:
                names = ", ".join(name for name in known if name is not None)
                raise SpecError(f"{entry.where}: {key} = {getattr(self, key)!r}; it is one of {names}.")

    def _check_extras(self, entry: Table) -> None:
        if len(self.extras) > _MAX_EXTRAS:
            raise SpecError(f"{entry.where}: more than {_MAX_EXTRAS} extras.")
        for name, value in self.extras.items():
            if not _EXTRA.fullmatch(name):
                raise SpecError(f"{entry.where}: extras: {name!r} is no name of an extra.")
            if not isinstance(value, (str, int, bool)) or len(str(value)) > _MAX_EXTRA_CHARS:
                raise SpecError(f"{entry.where}: extras: {name} must be a text, a whole number, true or false.")
            if not _is_template(str(value)):
                known = ", ".join(f"{{{one}}}" for one in PLACEHOLDERS)
                raise SpecError(f"{entry.where}: extras: {name} = {value!r}; what is filled in is {known}.")

    @property
    def is_in_variable(self) -> bool:
        return self.serial.startswith("$")

    def phone(self, device: str) -> str:
        """The serial number. Raises PreconditionError where the variable that should hold it does not."""
        if not self.is_in_variable:
            return self.serial
        serial = os.environ.get(self.serial[1:], "")
        if not _SERIAL.fullmatch(serial):
            raise PreconditionError(
                f"{device}: the environment variable {self.serial[1:]} holds no serial number.",
                remedy=f"Run 'export {self.serial[1:]}=SERIAL' with one that 'adb devices' shows.",
            )
        return serial

    @property
    def entering(self) -> tuple[str, ...]:
        """The words before a command that is to run where the client's folder is."""
        if self.via == RUN_AS:
            return ("run-as", self.package)
        return ("su", "0") if self.via == SU else ()


def _is_template(text: str) -> bool:
    """Whether all that is to be filled in has a name of `PLACEHOLDERS`, as it is."""
    try:
        fields = [part[1:] for part in Formatter().parse(text) if part[1] is not None]
    except ValueError:
        return False
    return all(name in PLACEHOLDERS and not kind and conversion is None for name, kind, conversion in fields)
