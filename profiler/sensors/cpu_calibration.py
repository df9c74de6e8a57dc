"""Watts of one machine's processors, fitted to a meter: a line through idle and busy, its error from half load.

Kept as a small JSON file, which `cpu_model` picks up: what was measured, how, when, on which machine, and the error.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from profiler.errors import SpecError, UsageError, nearest
from profiler.machine import cpu_info
from profiler.quantities import Scope
from profiler.spec import Table

FORMAT = "fedmeter.cpu_model"
VERSION = 1
COVERS = (
    "loads like the calibration's, integer arithmetic on some or all processors at that time's clocks and temperatures;"
    " not memory-bound or vector work, accelerators, disks or network"
)
_MAX_FILE_BYTES = 1 << 14
_ASSUMED_DYNAMIC_ERR = 0.5  # without half load nothing tells how far power is from a straight line in between
_GRID = 100
_REMEDY = "Remove it, or run 'python -m profiler calibrate' again."


@dataclass(frozen=True, slots=True)
class Phase:
    """Mean power over some time, the share of all processors' time that was busy, and the meter's relative limits."""

    power_w: float
    use: float
    gain_err: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Power is `idle_w` at no use and `busy_w` at full use of all processors, and linear between, ± `gain_err`."""

    idle_w: float
    busy_w: float
    gain_err: float


def fit(idle: Phase, busy: Phase, half: Phase | None = None) -> Fit:
    """The line through idle and busy, extended to no use and to full use.

    The error is the largest, over all uses from 0 to 1, of the meter's limits as the line carries them on, plus how far
    the parabola through the third point, half load, is from the line, relative to the line. Without half load half of
    the dynamic part is in doubt. Raises ValueError where the phases do not allow for a line that rises.
    """
    width = busy.use - idle.use
    if not (0 <= idle.use < busy.use <= 1) or not 0 < idle.power_w < busy.power_w < math.inf:
        raise ValueError(
            f"needs more power at more use, got {idle.power_w:.4g} W at {idle.use:.0%}, "
            f"{busy.power_w:.4g} W at {busy.use:.0%}"
        )

    def line_w(use: float) -> float:
        return idle.power_w + (busy.power_w - idle.power_w) * (use - idle.use) / width

    def doubt_w(use: float) -> float:
        meter_w = idle.gain_err * idle.power_w * abs(busy.use - use) + busy.gain_err * busy.power_w * abs(
            use - idle.use
        )
        return meter_w / width + bend_w(use)

    def bend_w(use: float) -> float:
        if half is None:
            return _ASSUMED_DYNAMIC_ERR * (line_w(use) - line_w(0.0))
        bow = (use - idle.use) * (busy.use - use) / ((half.use - idle.use) * (busy.use - half.use))
        return abs((half.power_w - line_w(half.use)) * bow)

    if half is not None and not idle.use < half.use < busy.use:
        raise ValueError(f"half load must lie between idle and busy, got {half.use:.0%}")
    if not line_w(0.0) > 0:
        raise ValueError(f"the line through both leaves {line_w(0.0):.3g} W for an idle machine")
    uses = [n / _GRID for n in range(_GRID + 1)]
    gain_err = max(doubt_w(use) / line_w(use) for use in uses)
    if not gain_err < 1:
        raise ValueError(f"the line through both would be in error by {gain_err:.0%}")
    return Fit(line_w(0.0), line_w(1.0), gain_err)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fit with what makes it this machine's: its processors' name and number, the date, and how it was made."""

    fit: Fit
    scope: Scope
    cpu: str
    n_cpus: int
    date: str
    method: str

    def misfit(self, cpu: str, n_cpus: int) -> str | None:
        """Why it is of another machine than the one that has these processors; None where it is not."""
        if (self.cpu, self.n_cpus) == (cpu, n_cpus):
            return None
        return f"'cpu' and 'n_cpus' are {self.cpu!r} x {self.n_cpus}, this machine has {cpu!r} x {n_cpus}"


def processor_name(root: Path) -> str:
    """What tells one kind of processor from another in a calibration."""
    about = cpu_info(root)
    return about.get("model name") or about.get("CPU part") or ""


def default_path(environment: Mapping[str, str]) -> Path | None:
    """`cpu_model.json` in the user's configuration (XDG Base Directory Specification); None where there is none."""
    home = environment.get("XDG_CONFIG_HOME", "")
    if not home.startswith("/") and environment.get("HOME", "").startswith("/"):
        home = f"{environment['HOME']}/.config"
    return Path(home) / "fedmeter" / "cpu_model.json" if home.startswith("/") else None


def candidates(root: Path, environment: Mapping[str, str]) -> list[Path]:
    """Where a calibration is looked for: the user's, then the machine's. A copied tree has none of this user's."""
    own = default_path(environment) if root == Path("/") else None
    return [*([own] if own is not None else []), root / "etc" / "fedmeter" / "cpu_model.json"]


def write_calibration(path: Path, calibration: Calibration, *, overwrite: bool = False) -> None:
    """Raises UsageError where the file exists or cannot be written."""
    row = {
        "format": FORMAT,
        "version": VERSION,
        **asdict(calibration.fit),
        "scope": calibration.scope.value,
        "cpu": calibration.cpu,
        "n_cpus": calibration.n_cpus,
        "date": calibration.date,
        "method": calibration.method,
        "covers": COVERS,
    }
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists, and is not overwritten.", remedy="Give --force, or name another file.")
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(row, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)  # noqa: PTH105 (a sensor never sees half a file)
    except OSError as error:
        raise UsageError(f"{path}: {error}.", remedy="Name a file that can be written with -o.") from error


def read_calibration(path: Path) -> Calibration:
    """Raises FileNotFoundError, or SpecError that names file and field."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError(f"larger than {_MAX_FILE_BYTES} bytes")
        row = json.loads(data)
        if not isinstance(row, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: {error}.", remedy=_REMEDY) from None
    return _calibration(Table(row, str(path)))


def _calibration(table: Table) -> Calibration:
    found = table.take("format", str), table.take("version", int)
    if found != (FORMAT, VERSION):
        raise SpecError(f"{table.where}: 'format' and 'version' are {found[0]!r:.40} {found[1]}.", remedy=_REMEDY)
    idle_w, busy_w, gain_err = (table.take(key, float) for key in ("idle_w", "busy_w", "gain_err"))
    for key, value, is_sane in (
        ("idle_w", idle_w, 0 < idle_w < math.inf),
        ("busy_w", busy_w, idle_w < busy_w < math.inf),
        ("gain_err", gain_err, 0 <= gain_err < 1),
    ):
        if not is_sane:
            raise SpecError(f"{table.where}: '{key}' cannot be {value}.", remedy=_REMEDY)
    scopes = [scope.value for scope in Scope]
    scope = table.take("scope", str)
    if scope not in scopes:
        raise SpecError(f"{table.where}: 'scope' is {scope!r:.40}.", remedy=nearest(scope, scopes))
    cpu, n_cpus = table.take("cpu", str), table.take("n_cpus", int)
    date, method = table.take("date", str), table.take("method", str)
    table.take("covers", str)
    table.finish()
    return Calibration(Fit(idle_w, busy_w, gain_err), Scope(scope), cpu, n_cpus, date, method)
