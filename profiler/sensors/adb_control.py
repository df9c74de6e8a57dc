"""Making a phone count as if unplugged for a run, and making sure that it is set right afterwards.

`dumpsys battery unplug` only fakes that state, so that batterystats accumulates; current still flows over USB, and
figures of `dumpsys battery` stand still until `dumpsys battery reset`. Source: dumpInternal of BatteryService.java,
and https://developer.android.com/topic/performance/power/setup-battery-historian.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from profiler.clock import Clock
from profiler.errors import DeviceError
from profiler.sensors.adb_client import AdbClient, Part
from profiler.sensors.batterystats import COMMAND, MAX_BYTES, Checkin, parse_checkin
from profiler.sensors.dumpsys_battery import RESET, parse_battery
from profiler.sensors.phone_gauge import DUMPSYS

UNPLUG = "dumpsys battery unplug"
RESET_STATISTICS = "dumpsys batterystats --reset"

_CUT_OFF = "DUMP TIMEOUT"  # dumpsys gives a service 10 s (frameworks/native, dumpsys.cpp)
_LONG_S = 20.0

_log = logging.getLogger(__name__)
_ATTEMPTS = 5
_PAUSE_S = 0.5  # doubled after every attempt: 15 s in all, in which a Wi-Fi connection comes back by itself


def read_checkin(client: AdbClient) -> Checkin:
    """What batterystats knows since its last reset. Raises DeviceError where the phone cannot be asked."""
    (part,) = client.ask([COMMAND], max_bytes=2 * MAX_BYTES, timeout_s=_LONG_S)
    text = part.text()
    try:
        if _CUT_OFF in text:
            raise ValueError("batterystats took too long and was cut off")
        return parse_checkin(text)
    except ValueError as error:
        raise DeviceError(f"{client.serial}: {error}", remedy=f"Look at '{client.by_hand(COMMAND)}'.") from error


@contextmanager
def faked_unplugged(
    client: AdbClient, clock: Clock, *, reset_statistics: bool = True, attempts: int = _ATTEMPTS
) -> Iterator[None]:
    """Within the block the phone takes itself for unplugged, and batterystats counts from its beginning.

    However the block ends, the true state is set again, and looked at; a connection that is lost is tried `attempts`
    times. Where even that fails it is logged as an error with the command to run by hand, and DeviceError raised
    unless the block has raised already. A state that somebody else has faked is refused with DeviceError, as is a
    phone that does not obey.
    """
    if _is_faked(client):
        raise DeviceError(
            f"{client.serial}: its battery's state is faked already", remedy=f"Run '{client.by_hand(RESET)}'."
        )
    is_done = False
    try:
        commands = [UNPLUG, RESET_STATISTICS] if reset_statistics else [UNPLUG]
        _obeyed(client, client.ask(commands, timeout_s=_LONG_S))
        if not _is_faked(client):
            raise DeviceError(f"{client.serial} does not take '{UNPLUG}'", remedy=f"Run '{client.by_hand(UNPLUG)}'.")
        yield
        is_done = True
    finally:
        trouble = _restored(client, clock, attempts)
        if trouble is not None:
            _shout(trouble)
            if is_done:
                raise trouble


def _obeyed(client: AdbClient, parts: list[Part]) -> None:
    for part in parts:
        if part.status != 0:
            said = part.text().strip()[:120]
            raise DeviceError(f"{client.serial} refused: {said!r}", remedy=f"Look at '{client.by_hand(DUMPSYS)}'.")


def _is_faked(client: AdbClient) -> bool:
    (part,) = client.ask([DUMPSYS])
    try:
        return parse_battery(part.text()).is_stopped
    except ValueError as error:
        raise DeviceError(f"{client.serial}: {error}", remedy=f"Look at '{client.by_hand(DUMPSYS)}'.") from error


def _restored(client: AdbClient, clock: Clock, attempts: int) -> DeviceError | None:
    """None once the phone says its true state again. Ctrl-C cuts the pauses short, and is raised after that."""
    interrupted: KeyboardInterrupt | None = None
    said: str | None = "it was not tried"
    for n in range(max(1, attempts)):
        try:
            clock.sleep(_PAUSE_S * 2 ** (n - 1) if n > 0 else 0.0)
        except KeyboardInterrupt as error:
            interrupted = error
        try:
            said = _reset(client)
        except KeyboardInterrupt as error:
            interrupted = error
        if said is None:
            break
    trouble = None if said is None else _left_faked(client, said)
    if interrupted is not None:
        if trouble is not None:
            _shout(trouble)
        raise interrupted
    return trouble


def _reset(client: AdbClient) -> str | None:
    """Why the phone does not say its true state; None where it does."""
    try:
        client.ask([RESET])
        return "it still says UPDATES STOPPED" if _is_faked(client) else None
    except DeviceError as error:
        return Exception.__str__(error)


def _shout(trouble: DeviceError) -> None:
    _log.error("%s %s", Exception.__str__(trouble), trouble.remedy)


def _left_faked(client: AdbClient, said: str) -> DeviceError:
    return DeviceError(
        f"{client.serial} STILL TAKES ITSELF FOR UNPLUGGED and will not tell its true state: {said}.",
        remedy=f"Run by hand: {client.by_hand(RESET)}",
    )
