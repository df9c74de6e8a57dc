"""What is known of Jetson boards: which supply rails make up a module's total, and how well their monitors measure.

Rails: energymon's `jetson/JetsonPowerRails.md`, after NVIDIA's developer guide and the device trees of L4T 32.6.1, and
for the Orin boards Jon Hunter's device tree patch for Linux of 2023-09-21. Limits: data sheets of Texas Instruments,
SBOS576 (INA3221) and SLYS025 (INA238). A board is known by the labels of its rails; the model's name only tells apart
boards that share them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from profiler.quantities import Scope

NOT_CONNECTED = "NC"
"""Label of a channel that no rail is wired to. To be matched whole: VDD_NCORE would be a rail."""

INA238_LABEL = "VIN"
"""The INA238 has no label in sysfs. On Thor it measures the input of the whole module."""

UNKNOWN_BOARD = "no known board has the rails {labels}: which of them make up a total is not known"
SAY_WHICH = "Add the board to BOARDS in profiler/sensors/jetson_boards.py, or send these labels and the board's name."


@dataclass(frozen=True, slots=True)
class Board:
    """`labels` must all be there; they include `total`. `fed_by` names the rail that already contains another.

    `rest_fed_by` is the parent of rails that the table does not name. `shunt_ohm` and `bus_v` serve where the system
    does not say: the smallest shunt and the highest supply voltage, which give the widest limits.
    """

    name: str
    models: tuple[str, ...]
    labels: frozenset[str]
    total: tuple[str, ...]
    fed_by: dict[str, str]
    rest_fed_by: str | None = None
    shunt_ohm: float = 0.005
    bus_v: float = 20.0

    def parent(self, label: str) -> str | None:
        return None if label in self.total else self.fed_by.get(label, self.rest_fed_by)


def _one_input(name: str, models: tuple[str, ...], total: str, *inner: str, bus_v: float = 5.05) -> Board:
    """A board whose first rail feeds all the others of its module."""
    return Board(name, models, frozenset((total, *inner)), (total,), dict.fromkeys(inner, total), bus_v=bus_v)


_AGX_XAVIER = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")
_AGX_ORIN = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
_CPU_GPU_CV = ("VDD_CPU_GPU_CV", "VDD_SOC")

BOARDS = (
    # The carrier's VDD_MUX branches off beside VDD_IN and is no part of the module.
    _one_input("Jetson TX1", ("TX1",), "VDD_IN", "VDD_GPU", "VDD_CPU", bus_v=20.0),
    _one_input(
        "Jetson TX2", ("TX2",), "VDD_IN", "VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_SYS_CPU", "VDD_SYS_DDR", bus_v=20.0
    ),
    _one_input("Jetson Nano", ("Nano",), "POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"),
    _one_input("Jetson Xavier NX", ("Xavier NX",), "VDD_IN", *_CPU_GPU_CV),
    # No rail feeds the others: SYS_VIN_HV and SYS_VIN_MV both come straight from the input.
    Board("Jetson AGX Xavier", ("AGX Xavier",), frozenset(_AGX_XAVIER), _AGX_XAVIER, {}),
    _one_input("Jetson Orin Nano or NX", ("Orin Nano", "Orin NX"), "VDD_IN", *_CPU_GPU_CV),
    # VIN_SYS_5V0 feeds VDDQ_VDD2_1V8AO: adding both counts the memory twice.
    Board(
        "Jetson AGX Orin",
        ("AGX Orin",),
        frozenset(_AGX_ORIN),
        _AGX_ORIN,
        {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"},
        shunt_ohm=0.002,
    ),
    Board(
        "Jetson AGX Thor",
        ("Thor",),
        frozenset((INA238_LABEL,)),
        (INA238_LABEL,),
        {},
        rest_fed_by=INA238_LABEL,
        shunt_ohm=0.001,  # not documented: smaller than any that we know of
    ),
)

_SCOPES = {
    "GPU": Scope.GPU,
    "VDD_GPU": Scope.GPU,
    "VDD_SYS_GPU": Scope.GPU,
    "POM_5V_GPU": Scope.GPU,
    "CPU": Scope.CPU,
    "VDD_CPU": Scope.CPU,
    "VDD_SYS_CPU": Scope.CPU,
    "POM_5V_CPU": Scope.CPU,
    "VDDRQ": Scope.DRAM,
    "VDD_SYS_DDR": Scope.DRAM,
}
"""Rails of one consumer. VDD_CPU_GPU_CV, VDD_GPU_SOC and their like feed several and are just rails."""


def find_board(labels: Collection[str], model: str = "") -> Board | None:
    """The board that these labels belong to: the table's, else one made up of a single `*_IN` rail, else None.

    A board with more of its labels there wins, then one that the model's name names. Labels must differ from each
    other; one that two chips share belongs in here with its address, so that it matches nothing by accident.
    """
    matching = [board for board in BOARDS if board.labels <= set(labels)]
    if matching:
        return _closest(matching, model)
    inputs = [label for label in labels if label.endswith("_IN")]
    if len(inputs) != 1:
        return None
    name = f"a board that is not in the table, by {inputs[0]}, its only input rail"
    return Board(name, (), frozenset(inputs), tuple(inputs), {})


def _closest(boards: Sequence[Board], model: str) -> Board:
    n_labels = max(len(board.labels) for board in boards)
    alike = [board for board in boards if len(board.labels) == n_labels]
    named = [board for board in alike if _is_named(board, model)]
    if named or len(alike) == 1:
        return (named or alike)[0]
    return replace(alike[0], name=" or ".join(board.name for board in alike))


def _is_named(board: Board, model: str) -> bool:
    return any(name in model for name in board.models)


def scope_of(label: str, board: Board) -> Scope:
    if board.total == (label,):
        return Scope.MODULE
    return _SCOPES.get(label, Scope.RAIL)


@dataclass(frozen=True, slots=True)
class Chip:
    """Limits of a power monitor as its data sheet gives them, all maxima; V across the shunt and at the supply.

    `cycle_s` is the longest time between two conversions of one quantity in the kernel's default configuration, and
    `waits` whether each read of a quantity waits for one.
    """

    shunt_offset_v: float
    shunt_lsb_v: float
    bus_offset_v: float
    bus_lsb_v: float
    gain_err: float
    cycle_s: float
    waits: bool


INA3221 = Chip(80e-6, 40e-6, 16e-3, 8e-3, 0.0025, 0.0066, waits=True)  # 3 channels x (1.1 + 1.1 ms), no averaging
INA238 = Chip(5e-6, 5e-6, 5e-3, 3.125e-3, 0.001, 0.0505, waits=False)  # 3 quantities x 1052 us x 16 averaged
_SHUNT_GAIN_ERR = 0.01  # tolerance of the shunt resistor


@dataclass(frozen=True, slots=True)
class Limits:
    """Rectangular limits of a power reading: `gain_err` relative, `offset_err_w` and `resolution_w` absolute."""

    gain_err: float
    offset_err_w: float
    resolution_w: float


def limits(chip: Chip, shunt_ohm: float, bus_v: float) -> Limits:
    """Limits of P = U·I, I being the voltage across the shunt over its resistance (`shunt_ohm` > 0, `bus_v` > 0).

    Both voltages have a gain error and the shunt a tolerance. What the bus voltage is off by, and half a digit of it,
    grows with the current like a gain; the shunt's offset and digit are watts at any load.
    """
    bus_err = (chip.bus_offset_v + chip.bus_lsb_v / 2) / bus_v
    return Limits(
        gain_err=2 * chip.gain_err + _SHUNT_GAIN_ERR + bus_err,
        offset_err_w=chip.shunt_offset_v / shunt_ohm * bus_v,
        resolution_w=chip.shunt_lsb_v / shunt_ohm * bus_v,
    )
