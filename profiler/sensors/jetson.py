"""NVIDIA Jetson: the power monitors of the module, INA3221 and INA238, through sysfs.

JetPack 4 (L4T r32) has NVIDIA's driver `ina3221x` below iio, with channels 0..2 in mV, mA and mW; JetPack 5 and later
have the mainline drivers below hwmon (Documentation/hwmon/ina3221.rst and ina238.rst), INA3221 with channels 1..3 in
mV and mA, without power. Which rails make up the total is in `jetson_boards`.

The resistance of a shunt is in `shuntN_resistor` (uOhm) below hwmon. `ina3221x` does not show it; it has it from the
device tree, where each channel is a node with `reg` (0..2) and `ti,shunt-resistor-mohm` below that of the chip, which
sysfs links as `of_node` (nvidia/drivers/staging/iio/meter/ina3221.c of L4T r32, `ina3221_get_platform_data_dt`).
"""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from profiler.clock import Clock
from profiler.errors import SensorError
from profiler.files import cell, head, integer, line, printable, text
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Available, Unavailable, sys_dir
from profiler.sensors.jetson_boards import (
    INA238,
    INA238_LABEL,
    INA3221,
    NOT_CONNECTED,
    SAY_WHICH,
    UNKNOWN_BOARD,
    Board,
    Chip,
    find_board,
    limits,
    scope_of,
)

_I2C_DEVICE = re.compile(r"(?P<bus>\d{1,4})-(?P<address>[0-9a-f]{4})")
_COUNT = re.compile(rb"-?\d{1,10}")
_MAX_CHIPS = 256
_MAX_COUNT = 10**9  # 1 kW in uW; no rail of a module comes near
_MAX_LABEL_CHARS = 64
_MAX_INTERVAL_MS = 100_000  # 1024 samples of 2 x 8.244 ms on three channels make 51 s
_CHANNELS = 3
_MIN_BUS_V, _MAX_BUS_V = 1.0, 100.0
_SHUNT_OHM = (1e-4, 1.0)  # beyond: a mistake in the device tree, from which errors would look small

_NO_CHIP = "neither an INA3221 nor an INA238 below {where}"
_IS_IT_A_JETSON = (
    "On a Jetson run 'sudo modprobe -a ina3221 ina238'; in a container mount /sys into it. "
    "A Nano 2GB has no power monitor, nor has any machine but a Jetson: use another sensor."
)
_MAKE_READABLE = "Run 'sudo chmod a+r {where}' (until the next boot), or run as root."
_LOOK = "Look at the files beside it, and at 'dmesg | grep -i ina'."


@dataclass(frozen=True, slots=True)
class _Channel:
    """One rail of one chip. Power is the product of `counts`, in `unit_w` watts: one file of power, or mV and mA.

    `where` is the chip's i2c bus and address and the channel's number, such as 1-0040.2.
    """

    label: str
    chip: Chip
    where: str
    counts: tuple[Path, ...]
    unit_w: float
    bus_mv_path: Path
    shunt_ohm: float | None
    cycle_s: float
    has_newlines: bool


class JetsonSensor:
    """Power of a Jetson module and of its supply rails, in W.

    The scope of the total is `module`: the carrier board and the loss of its power supply are not in it. Rails that
    others already contain are handed out but not added. A reading of U and I of the INA3221 waits for two conversions,
    up to 13 ms a rail, so that three rails take up to 40 ms; the two are of different conversions.
    """

    name = "jetson"

    def __init__(self, root: Path, clock: Clock) -> None:
        self._sys = sys_dir(root)
        self._model_path = root / "proc/device-tree/model"
        self._channels: tuple[_Channel, ...] = ()
        self._files: list[list[_File]] = []
        self._why: list[str | None] = []

    def probe(self) -> Available | Unavailable:
        try:
            channels = _find_channels(self._sys)
        except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in circles
            return Unavailable(f"{error}", _LOOK)
        if not channels:
            return Unavailable(_NO_CHIP.format(where=self._sys), _IS_IT_A_JETSON, is_absent=True)
        model = line(self._model_path) or ""
        labels = [channel.label for channel in channels]
        board = find_board(labels, model)
        if board is None:
            return Unavailable(UNKNOWN_BOARD.format(labels=", ".join(labels)), SAY_WHICH)
        return self._measured(channels, board, model)

    def _measured(self, channels: list[_Channel], board: Board, model: str) -> Available | Unavailable:
        """The outcome once every rail was tried. A rail that the total needs must be readable."""
        notes = [f"{board.name}, model {model or 'not said'}", "the carrier board is not in the total"]
        unknown = [channel.label for channel in channels if channel.shunt_ohm is None]
        if unknown:
            notes.append(f"shunt of {', '.join(unknown)} not said, {board.shunt_ohm * 1e3:g} mOhm assumed")
        for channel in channels:
            try:
                _look(channel)
            except (OSError, ValueError) as error:
                if channel.label in board.total:
                    return _refused(error)
                notes.append(f"{channel.label} cannot be read now: {error}")
        self._channels = tuple(channels)
        scan_s = sum(_duration_s(channel) for channel in channels)
        rails = tuple(_rail(channel, board, scan_s) for channel in channels)
        return Available(rails, board.total, Scope.MODULE, Provenance.INTEGRATED, "; ".join(notes))

    def open(self) -> None:
        """Raises SensorError where the sensor is unavailable. The files stay open."""
        self.close()
        outcome = None if self._channels else self.probe()  # rails stay those that were probed
        if isinstance(outcome, Unavailable):
            raise SensorError(f"jetson: {outcome.reason}.", remedy=outcome.remedy)
        self._files = [[_File(path, channel.has_newlines) for path in channel.counts] for channel in self._channels]
        if all(value is None for value in self._values()):
            self.close()
            raise SensorError(f"jetson: no rail below {self._sys} can be read.", remedy=_LOOK)

    def read(self) -> list[float | None]:
        if not self._files:
            raise SensorError("jetson: not open.", remedy="Call open() first.")
        values = self._values()
        if all(value is None for value in values):
            raise SensorError(f"jetson: no rail below {self._sys} can be read: {self._why[0]}.", remedy=_LOOK)
        return values

    def why(self) -> Sequence[str | None]:
        return tuple(self._why)

    def _values(self) -> list[float | None]:
        self._why = [None] * len(self._channels)
        return [self._read_w(n, channel) for n, channel in enumerate(self._channels)]

    def _read_w(self, n: int, channel: _Channel) -> float | None:
        """Watts, or None where this rail cannot be read now: a disabled channel gives ENODATA, a busy bus EIO."""
        try:
            return _watts(channel, [file.count() for file in self._files[n]])
        except (OSError, ValueError) as error:
            self._why[n] = f"{channel.label}: {error}"
            return None

    def close(self) -> None:
        channels, self._files = self._files, []
        for files in channels:
            for file in files:
                file.close()


class _File:
    """A file that is kept open. After an error it is opened anew: a driver that was reloaded has new files."""

    __slots__ = ("_fd", "_has_newlines", "_path")

    def __init__(self, path: Path, has_newlines: bool) -> None:
        self._path = path
        self._has_newlines = has_newlines
        self._fd: int | None = None

    def count(self) -> int:
        """Raises OSError, or ValueError where what is there is no whole number."""
        if self._fd is not None and os.fstat(self._fd).st_nlink == 0:  # replaced: a copied tree
            self.close()
        if self._fd is None:  # O_NONBLOCK: a pipe in its place must not hold us up
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            text = os.pread(self._fd, 64, 0)
        except OSError:
            self.close()
            raise
        return _parse(text, self._has_newlines)

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _parse(text: bytes, has_newlines: bool) -> int:
    """A whole decimal number, maybe negative: at no load the offset of the shunt may be. Raises ValueError."""
    is_whole = text.endswith(b"\n") or not has_newlines  # else cut off, and might pass for a smaller number
    if not is_whole or _COUNT.fullmatch(text.strip()) is None or abs(int(text)) > _MAX_COUNT:
        raise ValueError(f"{text!r:.80} is no reading")
    return int(text)


def _watts(channel: _Channel, counts: list[int]) -> float:
    product = 1
    for count in counts:
        product *= count
    return product * channel.unit_w


def _look(channel: _Channel) -> float:
    """Watts now, through files of its own. Raises OSError or ValueError that names the file."""
    counts = []
    for path in channel.counts:
        file = _File(path, channel.has_newlines)
        try:
            counts.append(file.count())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        except OSError as error:  # pread leaves the name out
            raise OSError(error.errno or errno.EIO, os.strerror(error.errno or errno.EIO), str(path)) from error
        finally:
            file.close()
    return _watts(channel, counts)


def _refused(error: OSError | ValueError) -> Unavailable:
    if isinstance(error, PermissionError):
        return Unavailable(f"{error.filename} is readable by root only", _MAKE_READABLE.format(where=error.filename))
    return Unavailable(f"{error}", _LOOK)


def _find_channels(sys: Path) -> list[_Channel]:
    """Every rail once, by i2c address and channel, so that the order does not change between boots."""
    found: dict[str, list[_Channel]] = {}
    for where, folder, chip in _chip_folders(sys):
        found.setdefault(where, list(_channels(where, folder, chip)))
    channels = [channel for where in sorted(found, key=_wired_order) for channel in found[where]]
    repeated = {label for label, n in Counter(channel.label for channel in channels).items() if n > 1}
    return [_renamed(channel) if channel.label in repeated else channel for channel in channels]


def _wired_order(where: str) -> tuple[str, str]:
    return where.partition("-")[2], where


def _renamed(channel: _Channel) -> _Channel:
    return replace(channel, label=f"{channel.label}@{channel.where}")


def _chip_folders(sys: Path) -> Iterator[tuple[str, Path, str]]:
    """(bus and address, folder of the files, name of the driver) of each chip; the same chip may come twice."""
    drivers = sys / "bus/i2c/drivers"
    patterns = [("ina3221x", "iio:device*"), ("ina3221", "hwmon/hwmon*"), ("ina238", "hwmon/hwmon*")]
    for driver, pattern in patterns:
        for device in _entries(drivers / driver):
            if _I2C_DEVICE.fullmatch(device.name):
                for folder in sorted(device.glob(pattern))[:1]:
                    yield device.name, folder, driver
    for folder in _entries(sys / "class/hwmon"):
        name = line(folder / "name")
        if name in ("ina3221", "ina238"):
            yield _where(folder), folder, name


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())[:_MAX_CHIPS] if folder.is_dir() else []


def _where(folder: Path) -> str:
    """Bus and address of a hwmon folder from its device, else from its real path, else its own name."""
    parts = [(folder / "device").resolve().name, *reversed(folder.resolve().parts)]
    return next((part for part in parts if _I2C_DEVICE.fullmatch(part)), f"?-{folder.name}")


def _channels(where: str, folder: Path, driver: str) -> Iterator[_Channel]:
    if driver == "ina3221x":
        return _iio_channels(where, folder)
    if driver == "ina3221":
        return _hwmon_channels(where, folder)
    return _ina238_channel(where, folder)


def _iio_channels(where: str, folder: Path) -> Iterator[_Channel]:
    """JetPack 4. The driver's own power needs one file where the product needs two that may drift apart."""
    for n in range(_CHANNELS):
        label_path = folder / f"rail_name_{n}"
        label = _label(label_path)
        if label is None:
            continue
        mw_path, mv_path, ma_path = (folder / f"in_{what}{n}_input" for what in ("power", "voltage", "current"))
        counts, unit_w = ((mw_path,), 1e-3) if mw_path.exists() else ((mv_path, ma_path), 1e-6)
        channel = _channel(label, INA3221, f"{where}.{n}", counts, unit_w, mv_path, label_path)
        yield replace(channel, shunt_ohm=_shunt_in_tree_ohm(folder.parent / "of_node", n))


def _shunt_in_tree_ohm(chip: Path, channel: int) -> float | None:
    """By `reg`, as the driver does: the names of the nodes need not be in order."""
    for node in _entries(chip):
        if cell(node / "reg") == channel:
            return _shunt_ohm(cell(node / "ti,shunt-resistor-mohm"), 1e-3)
    return None


def _shunt_ohm(count: int | None, unit_ohm: float) -> float | None:
    """None where there is none, or none that could be meant."""
    return None if count is None or not _SHUNT_OHM[0] <= count * unit_ohm <= _SHUNT_OHM[1] else count * unit_ohm


def _hwmon_channels(where: str, folder: Path) -> Iterator[_Channel]:
    """JetPack 5 and later. in4..in7 are voltages across shunts and curr4 their sum: no rails."""
    cycle_s = _cycle_s(folder)
    for n in range(1, _CHANNELS + 1):
        label_path = folder / f"in{n}_label"
        label = _label(label_path)
        if label is None or integer(folder / f"in{n}_enable") == 0:
            continue
        mv_path, ma_path = folder / f"in{n}_input", folder / f"curr{n}_input"
        channel = _channel(label, INA3221, f"{where}.{n}", (mv_path, ma_path), 1e-6, mv_path, label_path)
        yield replace(channel, shunt_ohm=_shunt_ohm(integer(folder / f"shunt{n}_resistor"), 1e-6), cycle_s=cycle_s)


def _ina238_channel(where: str, folder: Path) -> Iterator[_Channel]:
    """One rail: power1 in uW, or in1 in mV and curr1 in mA. The device tree has the shunt in uOhm, big-endian."""
    uw_path, mv_path, ma_path = folder / "power1_input", folder / "in1_input", folder / "curr1_input"
    counts, unit_w = ((uw_path,), 1e-6) if uw_path.exists() else ((mv_path, ma_path), 1e-6)
    channel = _channel(INA238_LABEL, INA238, where, counts, unit_w, mv_path, folder / "name")
    yield replace(channel, shunt_ohm=_shunt_ohm(cell(folder / "device/of_node/shunt-resistor"), 1e-6))


def _channel(
    label: str, chip: Chip, where: str, counts: tuple[Path, ...], unit_w: float, bus_mv_path: Path, text_path: Path
) -> _Channel:
    has_newlines = (head(text_path) or b"").endswith(b"\n")  # a kernel's files all have, those of a bare copy may not
    return _Channel(label, chip, where, counts, unit_w, bus_mv_path, None, chip.cycle_s, has_newlines)


def _label(path: Path) -> str | None:
    """None for a channel without a rail. What cannot be printed is replaced: labels go to terminals."""
    label = printable(text(path) or "", _MAX_LABEL_CHARS)
    return None if label in ("", NOT_CONNECTED) else label


def _cycle_s(folder: Path) -> float:
    """Time between two conversions of a channel: root may have set averaging, which `update_interval` (ms) includes."""
    interval_ms = integer(folder / "update_interval") or 0
    return max(INA3221.cycle_s, interval_ms / 1e3 if interval_ms <= _MAX_INTERVAL_MS else 0.0)


def _duration_s(channel: _Channel) -> float:
    """How long a reading of one rail may take: each file of an INA3221 waits for a conversion."""
    return max(0.001, 2 * channel.cycle_s if channel.chip.waits else 0.0)


def _rail(channel: _Channel, board: Board, scan_s: float) -> Rail:
    """A reading is as old as its conversion, and up to half the scan away from the midpoint it is stamped with."""
    known = limits(channel.chip, channel.shunt_ohm or board.shunt_ohm, _bus_v(channel) or board.bus_v)
    return Rail(
        name=channel.label,
        scope=scope_of(channel.label, board),
        kind=RailKind.POWER_W,
        provenance=Provenance.INTEGRATED,
        min_period_s=max(scan_s, channel.cycle_s),
        resolution=known.resolution_w,
        gain_err=known.gain_err,
        offset_err_w=known.offset_err_w,
        edge_jitter_s=channel.cycle_s + scan_s / 2,
        parent=board.parent(channel.label),
    )


def _bus_v(channel: _Channel) -> float | None:
    """Supply voltage now to a tenth of a volt: the limits in watts scale with it, and need it no finer.

    None where it cannot be read or the rail is off: limits of 0 V would hold for no load that it has later.
    """
    volts = round((integer(channel.bus_mv_path) or 0) / 1e3, 1)
    return volts if _MIN_BUS_V <= volts <= _MAX_BUS_V else None
