"""Faking a phone unplugged: whatever happens in between, it is set right again, or somebody is told loudly."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from profiler.clock import FakeClock
from profiler.errors import DeviceError
from profiler.sensors.adb_client import AdbClient
from profiler.sensors.adb_control import faked_unplugged, read_checkin
from tests.fixtures.adb import SERIAL, FakePhone
from tests.profiler.sensors.test_batterystats import CHECKIN

BY_HAND = f"adb -s {SERIAL} shell dumpsys battery reset"


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    return FakePhone(tmp_path / "adb")


@pytest.fixture
def client(phone: FakePhone) -> AdbClient:
    client = AdbClient(adb=phone.adb)
    client.select()
    return client


def is_faked(phone: FakePhone) -> bool:
    return (phone.folder / "dumpsys/stopped").exists()


def test_within_the_block_only(phone: FakePhone, client: AdbClient) -> None:
    with faked_unplugged(client, FakeClock()):
        assert is_faked(phone)
        assert "dumpsys batterystats --reset" in phone.dumped
    assert not is_faked(phone)


def test_the_statistics_may_be_kept(phone: FakePhone, client: AdbClient) -> None:
    with faked_unplugged(client, FakeClock(), reset_statistics=False):
        pass
    assert "dumpsys batterystats --reset" not in phone.dumped


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, DeviceError])
def test_however_the_block_ends(phone: FakePhone, client: AdbClient, error: type[BaseException]) -> None:
    with pytest.raises(error, match="in the block"), faked_unplugged(client, FakeClock()):
        raise error("in the block")
    assert not is_faked(phone)


class Returns(FakeClock):
    """While somebody waits for the second time, the phone comes back."""

    def __init__(self, phone: FakePhone) -> None:
        super().__init__()
        self.phone = phone
        self.n_pauses = 0

    def sleep(self, duration_s: float) -> None:
        super().sleep(duration_s)
        self.n_pauses += 1
        if self.n_pauses == 2:
            self.phone.attach(f"{SERIAL}\tdevice")


def test_a_connection_that_is_lost_is_tried_again(phone: FakePhone, client: AdbClient) -> None:
    clock = Returns(phone)
    with faked_unplugged(client, clock):
        phone.attach()
    assert clock.n_pauses == 2
    assert not is_faked(phone)


class Impatient(FakeClock):
    """Ctrl-C while the phone is being set right."""

    def __init__(self, phone: FakePhone) -> None:
        super().__init__()
        self.phone = phone

    def sleep(self, duration_s: float) -> None:
        self.phone.attach(f"{SERIAL}\tdevice")
        raise KeyboardInterrupt


def test_ctrl_c_waits_until_the_phone_is_set_right(phone: FakePhone, client: AdbClient) -> None:
    with pytest.raises(KeyboardInterrupt), faked_unplugged(client, Impatient(phone)):
        phone.attach()
    assert not is_faked(phone)


def test_what_cannot_be_set_right_is_said_loudly(
    phone: FakePhone, client: AdbClient, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    unplugged = faked_unplugged(client, clock, attempts=3)
    with pytest.raises(DeviceError, match="STILL TAKES ITSELF FOR UNPLUGGED") as raised, unplugged:
        phone.attach()
    assert raised.value.remedy == f"Run by hand: {BY_HAND}"
    assert clock.monotonic_ns() == 1_500_000_000
    assert [(record.levelno, BY_HAND in record.getMessage()) for record in caplog.records] == [(logging.ERROR, True)]


def test_a_phone_that_does_not_obey_the_reset(
    phone: FakePhone, client: AdbClient, caplog: pytest.LogCaptureFixture
) -> None:
    def goes_wrong() -> None:
        phone.goes("stuck")
        raise RuntimeError("the block's own")

    with pytest.raises(RuntimeError, match="the block's own"), faked_unplugged(client, FakeClock(), attempts=2):
        goes_wrong()
    assert "still says UPDATES STOPPED" in caplog.text
    assert BY_HAND in caplog.text


def test_a_phone_that_does_not_take_it(phone: FakePhone, client: AdbClient) -> None:
    phone.goes("stuck")
    unplugged = faked_unplugged(client, FakeClock())
    with pytest.raises(DeviceError, match="does not take 'dumpsys battery unplug'"), unplugged:
        pytest.fail("the block must not run")
    assert phone.dumped[-2:] == ["dumpsys battery reset", "dumpsys battery"]


def test_a_state_that_somebody_else_has_faked_is_not_touched(phone: FakePhone, client: AdbClient) -> None:
    (phone.folder / "dumpsys/stopped").touch()
    with pytest.raises(DeviceError, match="faked already") as raised, faked_unplugged(client, FakeClock()):
        pytest.fail("the block must not run")
    assert BY_HAND in raised.value.remedy
    assert is_faked(phone)


def test_the_statistics_are_read_and_a_list_that_was_cut_off_is_not(phone: FakePhone, client: AdbClient) -> None:
    phone.dump("batterystats", CHECKIN)
    assert read_checkin(client).uid_mah[10155] == 0.082
    for text, words in (
        (CHECKIN + "*** SERVICE 'batterystats' DUMP TIMEOUT (10000ms) EXPIRED ***\n", "too long"),
        ("Permission Denial: can't dump batterystats\n", "no version"),
    ):
        phone.dump("batterystats", text)
        with pytest.raises(DeviceError, match=words):
            read_checkin(client)
