"""`--check`: devices side by side, none for ever, and a table that says `-` where nobody has told."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, ClassVar

import pytest

from harness.checks import check_devices, check_json, check_row, of_this_host, power_mode
from harness.device import DeviceSpec
from harness.launcher import DeviceCheck
from profiler.clock import FakeClock
from profiler.errors import DeviceError
from profiler.quantities import Provenance, Rail, RailKind, Scope
from profiler.sensor import Probe, Unavailable
from profiler.sensors.fake import FakeSensor


class Recording:
    """A launcher whose devices do as their names say, and that counts how many are checked at a time."""

    shares_host: ClassVar[bool] = False
    lock = threading.Lock()
    now: ClassVar[int] = 0
    most: ClassVar[int] = 0
    go = threading.Event()

    @classmethod
    def check(cls, device: DeviceSpec) -> DeviceCheck:
        with cls.lock:
            cls.now += 1
            cls.most = max(cls.most, cls.now)
        try:
            if device.id == "hangs":
                cls.go.wait(60)
            if device.id == "fails":
                raise DeviceError("fails: connect: no route to host.", remedy="Look at its cable.")
            time.sleep(0.02)
            return DeviceCheck(True, "ready")
        finally:
            with cls.lock:
                cls.now -= 1


@pytest.fixture(autouse=True)
def recording(monkeypatch: pytest.MonkeyPatch) -> type[Recording]:
    monkeypatch.setattr("harness.checks.launcher_class", lambda name: Recording)
    Recording.now = Recording.most = 0
    Recording.go.clear()
    return Recording


def devices(*ids: str) -> list[DeviceSpec]:
    return [DeviceSpec(id_, "recording", "cpu", n) for n, id_ in enumerate(ids)]


def test_devices_are_checked_side_by_side_but_not_all_at_once(recording: type[Recording]) -> None:
    outcomes = check_devices(devices(*(f"d{n}" for n in range(12))), at_once=4)
    assert [outcome.ok for outcome in outcomes] == [True] * 12
    assert 2 <= recording.most <= 4


def test_one_that_fails_and_one_that_hangs_do_not_keep_the_others(recording: type[Recording]) -> None:
    try:
        good, fails, hangs, last = check_devices(devices("good", "fails", "hangs", "last"), at_once=2, limit_s=2.0)
    finally:
        recording.go.set()
    assert (good.ok, last.ok) == (True, True)
    assert (fails.ok, fails.detail) == (False, "fails: connect: no route to host. Look at its cable.")
    assert (hangs.ok, hangs.reachable, hangs.detail) == (False, False, "no answer within 2 s")


def test_a_row_says_what_is_known_and_no_more() -> None:
    [device] = devices("pi")
    row = check_row(device, DeviceCheck(True, "ready"))
    assert (row["ok"], row["reachable"], row["sensors"], row["free (GB)"], row["clock (ms)"]) == ("yes", *["-"] * 4)
    full = DeviceCheck(
        False,
        "bad \x1b[31m news\n",
        reachable=True,
        version="fedmeter-0.1.0-abc",
        machine="aarch64, Python 3.11.2",
        sensors=(("jetson", "integrated"),),
        clock_offset_s=(-0.0012, 0.0034),
        free_bytes=5_400_000_000,
        power_mode="15W",
    )
    row = check_row(device, full)
    assert row["clock (ms)"] == "-1.20 to +3.40"
    assert (row["ok"], row["free (GB)"], row["sensors"]) == ("NO", "5.4", "jetson (integrated)")
    assert "\x1b" not in row["detail"], "what a device said goes to a terminal"
    assert check_row(device, DeviceCheck(True, "", sensors=()))["sensors"] == "none"


def test_json_has_fields_and_not_one_text() -> None:
    [device] = devices("pi")
    told: dict[str, Any] = json.loads(
        json.dumps(
            check_json(device, DeviceCheck(True, "x", sensors=(("rapl", "counter"),), clock_offset_s=(0.1, 0.2)))
        )
    )
    assert told["sensors"] == [{"sensor": "rapl", "provenance": "counter"}]
    assert (told["clock_offset_s"], told["power_mode"], told["reachable"]) == ([0.1, 0.2], None, None)


def test_a_device_here_has_what_this_host_has() -> None:
    rail = Rail("r", Scope.HOST, RailKind.COUNTER_J, Provenance.COUNTER)
    clock = FakeClock()
    good = FakeSensor([rail], lambda t_s: [t_s], clock, name="meter")
    bad = FakeSensor([rail], lambda t_s: [t_s], clock, name="other", unavailable=Unavailable("no chip"))
    probes = [Probe(sensor, sensor.probe()) for sensor in (good, bad)]
    outcome = of_this_host(DeviceCheck(True, "a process"), probes, {"cpufreq.0.governor": "performance"})
    assert outcome.sensors == (("meter", "counter"),)
    assert (outcome.power_mode, outcome.reachable, outcome.clock_offset_s) == ("governor performance", True, (0.0, 0.0))
    assert (outcome.free_bytes or 0) > 0


def test_the_power_mode_of_a_jetson_goes_before_its_governor() -> None:
    assert power_mode({"power_mode": "MAXN", "cpufreq.0.governor": "schedutil"}) == "MAXN"
    assert power_mode({}) is None
