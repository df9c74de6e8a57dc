"""Batteries and phones at the command line: --allow-charging, and a phone that is named."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from profiler.__main__ import main
from tests.fixtures.adb import SERIAL, FakePhone, phone_with_files
from tests.fixtures.power_supply import phone_charging
from tests.profiler.commands.running import environment


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    return {row["sensor"]: row for row in json.loads(capsys.readouterr().out)["sensors"]}


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    """The only sensor there is, found by its name on PATH."""
    phone = phone_with_files(tmp_path / "adb")
    entry = EntryPoint("adb", "profiler.sensors.adb:AdbSensor", "fedmeter.sensors")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    monkeypatch.setenv("PATH", str(phone.folder), prepend=":")
    monkeypatch.setenv("ANDROID_SERIAL", SERIAL)
    return phone


def test_a_battery_that_charges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phone_charging(tmp_path)
    main(["list", "--json", "--sysfs-root", str(tmp_path)])
    assert "charging: usb" in rows(capsys)["battery"]["reason"]
    assert main(["list", "--json", "--allow-charging", "--sysfs-root", str(tmp_path)]) == 0
    row = rows(capsys)["battery"]
    assert (row["available"], row["scope"]) == (True, "rail")


def test_a_phone_is_listed_and_not_taken_for_this_machine(phone: FakePhone, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 3
    row = rows(capsys)["adb"]
    assert (row["available"], row["chosen"], row["total"]) == (True, False, ["battery"])
    assert main(["measure", "--", "true"]) == 3


def test_a_phone_that_is_named_is_measured(phone: FakePhone, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "--sensor", "adb", "--json", "--", "sleep", "0.3"]) == 0
    total = json.loads(capfd.readouterr().err.splitlines()[-1])["total"]
    assert total["scope"] == "device"
    assert total["mean_power_w"] == pytest.approx(1.38, rel=0.01)


def test_a_phone_that_charges_is_measured_only_where_it_is_allowed(
    phone: FakePhone, capfd: pytest.CaptureFixture[str]
) -> None:
    phone.set("usb", "online", 1)
    assert main(["measure", "--sensor", "adb", "--", "true"]) == 3
    assert "adb tcpip 5555" in capfd.readouterr().err
    assert main(["measure", "--sensor", "adb", "--allow-charging", "--json", "--", "sleep", "0.2"]) == 0
    assert json.loads(capfd.readouterr().err.splitlines()[-1])["total"]["scope"] == "rail"


def test_without_adb_a_probe_starts_nothing() -> None:
    code = (
        "import sys; from pathlib import Path; from profiler.clock import FakeClock\n"
        "before = set(sys.modules)\n"
        "from profiler.sensors.adb import AdbSensor\n"
        "print(AdbSensor(Path('/'), FakeClock()).probe().is_absent)\n"
        "print([m for m in ('subprocess', 'selectors', 'csv', 'ssl') if m in set(sys.modules) - before])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PATH="/no/where"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split("\n") == ["True", "[]", ""]
