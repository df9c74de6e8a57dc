"""The figures of one metered piece of work, as a table for people and as one JSON object."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from profiler.commands.child import Finished
from profiler.quantities import EnergyReading, Provenance
from profiler.records import Resources
from profiler.sensor import Available

MISSING = "missing"
_MAX_DECIMALS = 6  # the finest counter we know counts in microjoules
_MAX_COMMAND_CHARS = 200


@dataclass(frozen=True, slots=True)
class Figures:
    """`readings` are those of every rail, then the total; `peaks_w` go with them.

    `start_ns` and `end_ns` are the first and the last sample, on CLOCK_MONOTONIC: what mean power is over. The work
    lies between them and took `duration_s`. Of `machine` only what tells of the machine is shown: CPU time and memory
    are those of the process that meters.
    """

    sensor: str
    available: Available
    rate_hz: float
    start_ns: int
    end_ns: int
    duration_s: float
    readings: tuple[EnergyReading, ...]
    peaks_w: tuple[float | None, ...]
    sampler_cpu_s: float | None
    command: tuple[str, ...] = ()
    finished: Finished | None = None
    machine: Resources | None = None
    what: str = "this machine"

    @property
    def total(self) -> EnergyReading:
        return self.readings[-1]

    def as_json(self) -> dict[str, Any]:
        """Keys carry their units; `rails` and `total` have the fields of EnergyReading and the power."""
        rows = [self._reading(i) for i in range(len(self.readings))]
        finished = {} if self.finished is None else asdict(self.finished)
        return {
            "command": list(self.command),
            "sensor": self.sensor,
            "notes": self.available.notes,
            "rate_hz": self.rate_hz,
            "start_ns": self.start_ns,
            "end_ns": self.end_ns,
            "duration_s": self.duration_s,
            "sampler_cpu_s": self.sampler_cpu_s,
            **finished,
            "machine": self._machine(),
            "total": rows[-1],
            "rails": rows[:-1],
        }

    def _machine(self) -> dict[str, Any]:
        used = {} if self.machine is None else asdict(self.machine)
        return {name: value for name, value in used.items() if name not in ("cpu_s", "peak_rss_bytes")}

    def _reading(self, i: int) -> dict[str, Any]:
        reading = self.readings[i]
        return asdict(reading) | {
            "mean_power_w": self._per_second(reading.energy_j),
            "mean_power_err_w": self._per_second(reading.energy_err_j),
            "peak_power_w": self.peaks_w[i],
        }

    def _per_second(self, energy_j: float | None) -> float | None:
        window_s = (self.end_ns - self.start_ns) / 1e9
        return None if energy_j is None or window_s <= 0 else energy_j / window_s

    def as_table(self) -> str:
        what = f"'{plain(shlex.join(self.command))[:_MAX_COMMAND_CHARS]}'" if self.command else plain(self.what)
        total = self.total
        head = f"{what}: {self.sensor}, {total.provenance.value}, scope {total.scope.value}, {self.rate_hz:g} Hz"
        rows: list[tuple[str, ...]] = [
            ("", "energy (J)", "mean (W)", "peak (W)", "provenance", "scope", "coverage", "samples")
        ]
        rows += [self._row(i) for i in range(len(self.readings))]
        sum_ = "+".join(total.total_of)
        lines = [head, "", *(f"  {line}" for line in aligned(rows)), "", f"  {seconds(self.duration_s)} elapsed"]
        lines += [f"  total = {plain(sum_)}"] if sum_ else []
        lines += self._uses()
        lines += [] if self.machine is None else machine_lines(self.machine)
        lines += [f"  {plain(r.rail)}: {plain(r.reason)}" for r in self.readings[:-1] if r.reason]
        lines += [f"  {plain(self.available.notes)}"] if self.available.notes else []
        if total.provenance in (Provenance.ESTIMATED, Provenance.SIMULATED):
            lines.append(
                "  Nothing was measured, this is a model. 'python -m profiler doctor' says what would measure."
            )
        return "\n".join(lines)

    def _row(self, i: int) -> tuple[str, ...]:
        reading = self.readings[i]
        energy_j, err_j = reading.energy_j, reading.energy_err_j
        return (
            plain(reading.rail),
            with_error(energy_j, err_j),
            with_error(self._per_second(energy_j), self._per_second(err_j)),
            watts(self.peaks_w[i]),
            reading.provenance.value,
            reading.scope.value,
            f"{reading.coverage:.0%}",
            str(reading.n_samples),
        )

    def _uses(self) -> list[str]:
        lines = []
        if self.sampler_cpu_s is not None:
            share = self.sampler_cpu_s / self.duration_s if self.duration_s > 0 else 0.0
            lines.append(f"  {seconds(self.sampler_cpu_s)} CPU of the meter itself ({share:.2%} of a core)")
        if self.finished is None:
            return lines
        used = self.finished
        cpu = f"  {seconds(used.user_s)} CPU user, {seconds(used.system_s)} system"
        status = [] if used.exit_status == 0 else [f"  exit status {used.exit_status}"]
        return [cpu, *lines, *status]


def machine_lines(machine: Resources) -> list[str]:
    """What the machine told of itself, nothing of what it did not."""
    gpu = [
        "" if machine.gpu_use is None else f"{machine.gpu_use:.0%} busy",
        *_heat_and_clock(machine.gpu_temperature_c, machine.gpu_frequency_hz),
    ]
    processor = _heat_and_clock(machine.temperature_c, machine.frequency_hz)
    told = [("processor", processor), ("GPU", gpu)]
    lines = [f"  {name}: {', '.join(filter(None, parts))}" for name, parts in told if any(parts)]
    if machine.throttling is not None:
        lines.append(f"  throttled by: {plain(machine.throttling.replace(',', ', ')) or 'nothing'}")
    return lines


def _heat_and_clock(temperature_c: float | None, frequency_hz: float | None) -> list[str]:
    return [
        "" if temperature_c is None else f"{temperature_c:.1f} °C at the end",
        "" if frequency_hz is None else f"{frequency_hz / 1e6:.0f} MHz at the end",
    ]


def with_error(value: float | None, error: float | None) -> str:
    """`20.03 ± 0.58`: as many digits as two of the error's say something of. An error is never cut to nothing."""
    if value is None or error is None:
        return MISSING
    decimals = 3
    if error > 0:
        decimals = min(_MAX_DECIMALS, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def watts(power_w: float | None) -> str:
    if power_w is None:
        return "-"
    return f"{power_w:.3f}" if abs(power_w) < 10 else f"{power_w:.1f}"


def seconds(duration_s: float) -> str:
    return f"{duration_s:.3f} s"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, figures to the right, words to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    is_right = [i > 0 and all(_is_figure(row[i]) for row in rows[1:]) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_right, strict=True)
        ).rstrip()
        for row in rows
    ]


def _is_figure(cell: str) -> bool:
    return cell in ("", "-", MISSING) or cell[0].isdigit() or cell[:2].lstrip("-").isdigit()


def plain(text: str) -> str:
    """Names come from files and devices: nothing of them may steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
