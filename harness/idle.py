"""Clients that wait: idle power before and after the tasks, of the meter that a host's clients share and of devices
with their own; and the wait after a task's last round."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fl.instrument import TELEMETRY_KEY
from fl.messages import GetPropertiesIns
from fl.proxy import ClientProxy
from fl.receipts import Stray
from fl.responder import IDLE_KEY
from harness.meter import HOST, HostMeter
from profiler.errors import ClientFailure
from profiler.quantities import EnergyReading
from profiler.records import Row, energy_columns

_DEADLINE_S = 10.0


async def measure_idle(
    duration_s: float, phase: str, meter: HostMeter | None, proxies: Sequence[ClientProxy], wall_time: str
) -> list[Row]:
    """One idle record a meter, all of the same while: the host's where clients share it, and that of each of these
    clients that has one.

    A client that cannot be asked, since it is late with an answer or gone, has no record.
    """

    def row(device: str, reading: EnergyReading, seconds: float) -> Row:
        return _row(device, phase, reading, seconds, wall_time)

    begun = [proxy for proxy in proxies if await _begin(proxy, phase)]
    if meter is None:
        await asyncio.sleep(duration_s)
        host = []
    else:
        host = [row(HOST, *await meter.measure_idle(duration_s))]
    own = await asyncio.gather(*(_end(proxy) for proxy in begun))
    return [*host, *(row(*found) for found in own if found is not None)]


def filled_in(
    rows: Sequence[Row], phase: str, readings: Mapping[str, EnergyReading], window_s: float, wall_time: str
) -> list[Row]:
    """The records of a while, with those of `readings` (by device) for the devices that told no joules themselves."""
    told = [row for row in rows if row["device"] not in readings or row.get("energy_j") is not None]
    others = readings.keys() - {row["device"] for row in told}
    return told + [_row(device, phase, readings[device], window_s, wall_time) for device in sorted(others)]


def _row(device: str, phase: str, reading: EnergyReading, seconds: float, wall_time: str) -> Row:
    columns = {"device": device, "phase": phase, "duration_s": seconds, **energy_columns(reading)}
    return {"kind": "idle", "wall_time": wall_time, **columns}


async def _begin(proxy: ClientProxy, phase: str) -> bool:
    try:
        await proxy.get_properties(GetPropertiesIns({IDLE_KEY: phase}), _DEADLINE_S)
    except ClientFailure:
        return False
    return True


async def _end(proxy: ClientProxy) -> tuple[str, EnergyReading, float] | None:
    try:
        answer = await proxy.get_properties(GetPropertiesIns({TELEMETRY_KEY: "full"}), _DEADLINE_S)
    except ClientFailure:
        return None
    for span in answer.spans:
        if span.name == "idle" and span.total is not None:
            return proxy.info.device, span.total, span.duration_s
    return None


async def last_waits(proxies: Iterable[ClientProxy]) -> list[Stray]:
    """The waits of a task's last round, which no reply would bring any more. They are over when clients are asked.

    Who is late or gone is not asked: its wait comes later, and counts for no round.
    """
    found = await asyncio.gather(*(_last_wait(proxy) for proxy in proxies))
    return [stray for stray in found if stray is not None]


async def _last_wait(proxy: ClientProxy) -> Stray | None:
    if not proxy.is_ready:
        return None
    try:
        answer = await proxy.get_properties(GetPropertiesIns({TELEMETRY_KEY: "full"}), _DEADLINE_S)
    except ClientFailure:
        return None
    return Stray(proxy.info.device, proxy.info.processor, answer.spans)


def idle_facts(rows: Iterable[Row], device: str) -> dict[str, Any]:
    """For devices/<id>.json: each idle power of a device in W, with its error (k = 2); nothing where none was taken."""
    facts = [
        {
            "phase": row["phase"],
            "power_w": row["energy_j"] / row["duration_s"],
            "power_err_w": row["energy_err_j"] / row["duration_s"],
            "duration_s": row["duration_s"],
        }
        for row in rows
        if row["device"] == device and row.get("energy_j") is not None and row["duration_s"] > 0
    ]
    return {"idle": facts} if facts else {}
