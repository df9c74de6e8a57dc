"""Idle power of a shared host and of clients that have a meter of their own, over the protocol they train by."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fl.in_process import InProcessProxy
from fl.instrument import instrument
from fl.messages import FitIns, Parameters
from fl.proxy import ClientInfo
from harness.idle import idle_facts, measure_idle
from harness.meter import HostMeter
from profiler.clock import SystemClock
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.records import Row, encode_line
from profiler.sampler import Sampler
from profiler.sensors.fake import FakeSensor
from profiler.span import Profiler
from tests.fl.clients import Unruly

WALL = "2026-01-01T00:00:00Z"
CLOCK = SystemClock()


def board(watts: float) -> Sampler:
    rail = Rail("board", Scope.DEVICE, RailKind.POWER_W, Provenance.INTEGRATED, gain_err=0.01)
    return Sampler(FakeSensor([rail], lambda t_s: [watts], CLOCK, scope=Scope.DEVICE), CLOCK, rate_hz=50)


def client(device: str, samplers: Sequence[Sampler]) -> tuple[InProcessProxy, Profiler, Unruly]:
    profiler, user = Profiler(samplers, CLOCK, id_prefix=device), Unruly()
    return InProcessProxy(ClientInfo(device), instrument(user, profiler)), profiler, user


def idle_rows(proxies: Sequence[InProcessProxy]) -> list[Row]:
    meter = HostMeter([], None, CLOCK, rate_hz=10)
    rows = asyncio.run(measure_idle(0.2, "before", meter, proxies, WALL))
    for row in rows:
        encode_line(row)
    return rows


def test_a_device_with_its_own_meter_tells_what_it_draws_when_it_waits() -> None:
    metered, profiler, _ = client("pi-1", [board(3.0)])
    with profiler:
        host, pi = idle_rows([metered])
    metered.close()
    assert (host["device"], host["provenance"], host["energy_reason"]) == ("host", "missing", "no sensor is available")
    assert (pi["device"], pi["phase"], pi["provenance"]) == ("pi-1", "before", "integrated")
    assert pi["duration_s"] == pytest.approx(0.2, abs=0.1)
    assert pi["energy_j"] / pi["duration_s"] == pytest.approx(3.0, rel=0.02)
    (fact,) = idle_facts([host, pi], "pi-1")["idle"]
    assert fact["power_w"] == pytest.approx(3.0, rel=0.02)
    assert fact["power_err_w"] > 0
    assert idle_facts([host, pi], "host") == {}


def test_one_that_is_late_with_an_answer_has_no_idle_power() -> None:
    late, profiler, user = client("slow", [board(3.0)])

    async def test() -> list[Row]:
        fitting = asyncio.create_task(late.fit(FitIns(Parameters(()), {"mode": "hang"}), 20.0))
        await asyncio.sleep(0.05)
        rows = await measure_idle(0.05, "after", HostMeter([], None, CLOCK, rate_hz=10), [late], WALL)
        user.release.set()
        await fitting
        return rows

    with profiler:
        rows = asyncio.run(test())
    late.close()
    assert [row["device"] for row in rows] == ["host"]


def test_without_a_meter_of_its_own_a_device_has_a_missing_one() -> None:
    bare, profiler, _ = client("bare", [])
    with profiler:
        _, row = idle_rows([bare])
    bare.close()
    assert (row["device"], row["provenance"], row.get("energy_j")) == ("bare", "missing", None)
