"""A Jetson's rails out of jtop.service, through the package jetson-stats: where sysfs cannot be read.

`jtop().power` has, since jetson-stats 4.2, a table of rails in mW, mV and mA; in 3.x it was a pair. Source:
https://rnext.it/jetson_stats/reference/jtop.html and the package's versions 4.2.0 to 7.2.2.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.quantities import Provenance, Scope
from profiler.sensor import Available, Unavailable
from profiler.sensors.jetson_boards import SAY_WHICH, UNKNOWN_BOARD, find_board
from profiler.sensors.jtop_client import (
    INSTALL,
    LOOK,
    UPGRADE,
    USE_JETSON,
    Client,
    Library,
    Refused,
    check_socket,
    check_version,
    foreign_errors,
    load_jtop,
    translated,
    within,
)
from profiler.sensors.tegrastats import rail_of_line

_INTERVAL_S = 1.0  # jtop's own default; the first of its users sets it for all
_STALE_INTERVALS = 3.0
_CONNECT_S = 10.0  # the first values come within three intervals; jtop itself waits for ever on a service that hangs
_MAX_RAILS = 256
_MAX_MODEL_CHARS = 128
_MAX_W = 1000.0  # no rail of a module comes near
# Monitors of the board are called VDD_IN or GPU; what the power_supply class has (`ucsi-source-psy-1`) is beside it.
_LABEL = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class _Snapshot:
    watts: dict[str, float | None]
    uptime: object
    taken_ns: int


class _Connection:
    """A started client, and the newest of its snapshots; jtop's thread replaces it, whoever reads takes it."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self.latest: _Snapshot | None = None
        self.error: ValueError | None = None
        client.attach(self._note)

    def start(self) -> None:
        self._client.start()
        if self.latest is None and self.error is None:  # jtop need not call observers for its first values
            self._note(self._client)

    def _note(self, client: Client) -> None:
        """jtop hands out old values again where its service has none: only a new `uptime` shows a new tick."""
        uptime = client.uptime
        if self.latest is not None and self.latest.uptime == uptime:
            return
        try:
            watts = rails_w(client.power)
        except ValueError as error:
            self.error = error
            return
        self.latest = _Snapshot(watts, uptime, self._clock.monotonic_ns())

    @property
    def interval_s(self) -> float:
        told = self._client.interval
        return float(told) if isinstance(told, (int, float)) and 0 < told < math.inf else _INTERVAL_S

    @property
    def model(self) -> str:
        board = self._client.board
        hardware = board.get("hardware") if isinstance(board, Mapping) else None
        told = f"{hardware.get('Model', '')}" if isinstance(hardware, Mapping) else ""
        return "".join(char if char.isprintable() else "?" for char in told[:_MAX_MODEL_CHARS])

    def close(self) -> None:
        self._client.close()


class JtopSensor:
    """Power of a Jetson's rails as jtop.service measured it last, W; below `jetson`, which needs no service.

    The total is made of rails by our own table of boards: jtop's sums every rail it finds and so counts the memory of
    an AGX Orin twice. Its `avg` is no mean (it halves the distance to the newest value at each tick) and is not used.
    A value was measured up to one interval before; after three intervals without a new one the sensor fails.

    jtop starts threads of its own, one of which receives the values; a read only takes the newest and never waits.
    Its messages are pickles, which run what they say: a socket that is neither root's nor our own is refused. `root`
    must be / unless `load`, which hands out the module and raises ImportError where there is none, says otherwise.

    Raises ValueError where `interval_s` is not positive.
    """

    name = "jtop"
    same_as = "jetson"

    def __init__(
        self,
        root: Path,
        clock: Clock,
        *,
        interval_s: float = _INTERVAL_S,
        load: Callable[[], Library] | None = None,
        connect_timeout_s: float = _CONNECT_S,
    ) -> None:
        if not 0 < interval_s < math.inf:
            raise ValueError(f"interval_s must be positive, got {interval_s}")
        self._root = root
        self._clock = clock
        self._interval_s = interval_s
        self._load = load or load_jtop
        self._is_injected = load is not None
        self._connect_timeout_s = connect_timeout_s
        self._labels: tuple[str, ...] = ()
        self._connection: _Connection | None = None

    def probe(self) -> Available | Unavailable:
        try:
            connection, library = self._connect()
            try:
                return self._available(connection, library)
            finally:
                self._disconnect(connection)
        except Refused as refused:
            return refused.outcome

    def _available(self, connection: _Connection, library: Library) -> Available:
        watts = connection.latest.watts if connection.latest is not None else {}
        labels = self._labels if self._connection is not None else tuple(watts)
        if not labels:
            raise Refused("jtop has no power monitor on this board", SAY_WHICH)
        board = find_board(labels, connection.model)
        if board is None:
            raise Refused(UNKNOWN_BOARD.format(labels=", ".join(labels)), SAY_WHICH)
        self._labels = labels
        rails = tuple(rail_of_line(label, board, connection.interval_s) for label in labels)
        notes = (
            f"{board.name}, out of jetson-stats {library.__version__}; the carrier board is not in the total; "
            "jtop's own total is not used"
        )
        return Available(rails, board.total, Scope.MODULE, Provenance.INTEGRATED, notes, self.same_as)

    def _connect(self) -> tuple[_Connection, Library]:
        """Raises Refused."""
        self._check_place()
        try:
            library = self._load()
        except ImportError as error:
            raise Refused(f"jetson-stats cannot be imported: {error}", INSTALL, is_absent=True) from error
        check_version(library)
        check_socket(self._root)
        abandoned = threading.Event()
        known: tuple[type[Exception], ...] = (library.JtopException, *foreign_errors())
        try:
            connection = within(self._connect_timeout_s, lambda: self._started(library, abandoned), known)
        except TimeoutError as error:
            abandoned.set()
            raise Refused(f"jtop.service gave no answer within {self._connect_timeout_s:g} s", LOOK) from error
        except known as error:
            raise translated(error) from error
        if connection.error is not None:
            self._disconnect(connection)
            said = f"jetson-stats {library.__version__}: {connection.error}"
            raise Refused(said, UPGRADE)
        return connection, library

    def _check_place(self) -> None:
        if not self._is_injected and self._root.resolve() != Path("/"):
            raise Refused(f"jtop asks this machine, not what is below {self._root}", USE_JETSON, is_absent=True)

    def _started(self, library: Library, abandoned: threading.Event) -> _Connection:
        """Closed again where it fails, or where nobody waits for it any more."""
        connection = _Connection(library.jtop(self._interval_s), self._clock)
        try:
            connection.start()
        except BaseException:
            connection.close()
            raise
        if abandoned.is_set():
            connection.close()
        return connection

    def _disconnect(self, connection: _Connection) -> None:
        """jtop's close waits for a thread that looks for libraries; nobody waits for that longer than a while."""
        with suppress(*foreign_errors()):  # TimeoutError is an OSError
            within(self._connect_timeout_s, connection.close, foreign_errors())

    def open(self) -> None:
        """Connects. Raises SensorError where the sensor is unavailable."""
        self.close()
        outcome = None if self._labels else self.probe()  # rails stay those that were probed
        if isinstance(outcome, Unavailable):
            raise SensorError(f"jtop: {outcome.reason}.", remedy=outcome.remedy)
        try:
            self._connection, _ = self._connect()
        except Refused as refused:
            raise SensorError(f"jtop: {refused.outcome.reason}.", remedy=refused.outcome.remedy) from refused

    def read(self) -> list[float | None]:
        if self._connection is None:
            raise SensorError("jtop: not open.", remedy="Call open() first.")
        snapshot = self._connection.latest
        if snapshot is None:
            raise SensorError("jtop: no values have arrived.", remedy=LOOK)
        age_s = (self._clock.monotonic_ns() - snapshot.taken_ns) / 1e9
        if age_s > _STALE_INTERVALS * self._connection.interval_s:
            raise SensorError(f"jtop: no new values for {age_s:.3g} s; has jtop.service ended?", remedy=LOOK)
        values = [snapshot.watts.get(label) for label in self._labels]
        if all(value is None for value in values):
            raise SensorError(f"jtop: none of {', '.join(self._labels)} can be read.", remedy=LOOK)
        return values

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._disconnect(connection)


def rails_w(power: object) -> dict[str, float | None]:
    """Watts of every rail in what `jtop().power` gives; None for one that is offline or tells nothing.

    A rail that jtop took for the whole board is only found as its total: it has a name there, a sum has none. Raises
    ValueError for another layout, as of jetson-stats 3.
    """
    rails = power.get("rail") if isinstance(power, Mapping) else None
    if power != {} and not isinstance(rails, Mapping):
        raise ValueError("its power has another layout, a table of rails was expected")
    found = dict(rails) if isinstance(rails, Mapping) else {}
    total = power.get("tot") if isinstance(power, Mapping) else None
    if isinstance(total, Mapping) and "name" in total:
        found.setdefault(total["name"], total)
    if len(found) > _MAX_RAILS:
        raise ValueError(f"its power has {len(found)} rails, no board has more than {_MAX_RAILS}")
    return {
        label: _watts(entry)
        for label, entry in sorted(found.items(), key=lambda item: f"{item[0]}")
        if _is_rail(label, entry)
    }


def _is_rail(label: object, entry: object) -> bool:
    """Whether it is a monitor of the board: those of power_supply have a `status`, or small letters in their names."""
    is_named = isinstance(label, str) and label != "NC" and _LABEL.fullmatch(label) is not None
    return is_named and isinstance(entry, Mapping) and "status" not in entry


def _watts(entry: Mapping[str, object]) -> float | None:
    """mW, or mV times mA where there is no power."""
    if entry.get("online") is False:
        return None
    milliwatts = _number(entry.get("power"))
    if milliwatts is not None:
        watts = milliwatts / 1e3
    else:
        millivolts, milliamperes = _number(entry.get("volt")), _number(entry.get("curr"))
        if millivolts is None or milliamperes is None:
            return None
        watts = millivolts * milliamperes / 1e6
    return watts if abs(watts) <= _MAX_W else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 1e12 else None  # False for a NaN
