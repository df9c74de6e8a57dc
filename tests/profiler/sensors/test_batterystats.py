from __future__ import annotations

import math

import pytest

from profiler.quantities import Provenance, Scope
from profiler.sensors.batterystats import energy_of_package, energy_of_uid, parse_checkin

CHECKIN = """9,0,i,vers,36,214,AP1A.240405.002,AP2A.240805.005
9,0,i,uid,1000,android
9,0,i,uid,1000,com.android.settings
9,0,i,uid,10155,org.fedmeter.client
9,0,i,uid,10200,"com.odd,name"
9,0,i,uid,1010155,org.other
9,0,i,uid,10155,org.fedmeter.client
9,hsp,0,10155,"a \\"quoted\\" name, with a comma"
9,h,0:RESET:TIME:1700000000000
9,h,0,Bl=100,Bs=d,Bh=g,Bt=251,Bv=4395,Bcc=4263
9,h,10000,+r,wr=0
9,h,20000,Bl=99,Bv=4100
9,h,30000:TIME:1700000060000
9,h,0,Bv=4000,Bcc=4200
9,0,l,bt,0,100,100,90,90,1700000000000,80,80,4300,4200,0
9,0,l,pws,4383,2000,190,207
9,0,l,pwi,scrn,120.5,1,0,0
9,0,l,pwi,cpu,88.2,1,0,0
9,0,l,pwi,unacc,3.1,1,0,0
9,1000,l,pwi,uid,40.25,0,0,1.5
9,10155,l,pwi,uid,0.0820,0,0.134,0.0342
9,10155,l,cpu,100,200,0
"""


def test_what_is_listed() -> None:
    checkin = parse_checkin(CHECKIN)
    assert checkin.version == 36
    assert checkin.packages[1000] == ("android", "com.android.settings")
    assert checkin.packages[10155] == ("org.fedmeter.client",)
    assert checkin.packages[10200] == ("com.odd,name",)
    assert (checkin.capacity_mah, checkin.computed_mah, checkin.discharge_mah) == (4383, 2000, (190, 207))
    assert checkin.uid_mah == {1000: 40.25, 10155: 0.082}
    assert checkin.components_mah == {"scrn": 120.5, "cpu": 88.2, "unacc": 3.1}


def test_the_history_keeps_what_did_not_change() -> None:
    checkin = parse_checkin(CHECKIN)
    told = [(m.t_s, m.level_percent, m.voltage_v, m.charge_mah) for m in checkin.history]
    assert told == [
        (0.0, None, None, None),
        (0.0, 100, 4.395, 4263.0),
        (10.0, 100, 4.395, 4263.0),
        (30.0, 99, 4.1, 4263.0),
        (60.0, 99, 4.1, 4263.0),
        (60.0, 99, 4.0, 4200.0),
    ]
    assert checkin.voltage_v == pytest.approx((30 * 4.395 + 30 * 4.1) / 60)  # over time, not over lines


def test_energy_of_an_app_is_an_estimate_with_the_error_of_such_models() -> None:
    checkin = parse_checkin(CHECKIN)
    reading = energy_of_package(checkin, "org.fedmeter.client", voltage_v=3.85)
    assert reading.energy_j == pytest.approx(0.082 * 3.6 * 3.85)
    assert reading.provenance is Provenance.ESTIMATED
    assert reading.scope is Scope.PROCESS
    assert reading.energy_err_j == pytest.approx(2 * 9.59 / math.sqrt(3) * reading.energy_j)
    by_history = energy_of_uid(checkin, 10155)
    assert by_history.energy_j == pytest.approx(0.082 * 3.6 * checkin.voltage_v)


def test_a_shared_user_id_says_so() -> None:
    reading = energy_of_package(parse_checkin(CHECKIN), "android")
    assert reading.energy_j is not None
    assert reading.reason == "shared by android, com.android.settings"


def test_what_is_not_known_is_missing_and_never_0() -> None:
    checkin = parse_checkin(CHECKIN)
    for reading, words in (
        (energy_of_uid(checkin, 4711), "lists no use"),
        (energy_of_package(checkin, "org.unknown"), "no such package"),
        (energy_of_package(checkin, "org.other"), "lists no use"),
    ):
        assert reading.provenance is Provenance.MISSING
        assert words in (reading.reason or "")
    both = parse_checkin(CHECKIN + "9,0,i,uid,1010155,org.fedmeter.client\n")
    assert "10155, 1010155" in (energy_of_package(both, "org.fedmeter.client").reason or "")
    no_history = parse_checkin("\n".join(line for line in CHECKIN.splitlines() if not line.startswith("9,h")))
    assert no_history.voltage_v is None
    assert "no voltage" in (energy_of_uid(no_history, 1000).reason or "")
    assert energy_of_uid(no_history, 1000, voltage_v=4.0).energy_j == pytest.approx(40.25 * 3.6 * 4)
    with pytest.raises(ValueError, match="voltage_v"):
        energy_of_uid(no_history, 1000, voltage_v=4000.0)


def test_components_are_not_added_to_apps() -> None:
    with_more = parse_checkin(CHECKIN.replace("scrn,120.5", "scrn,999"))
    assert energy_of_uid(with_more, 1000) == energy_of_uid(parse_checkin(CHECKIN), 1000)


@pytest.mark.parametrize(
    "line",
    [
        "9,10155,l,pwi,uid,1.0,0,0,0",  # a second time
        "9,10300,l,pwi,uid,-1,0,0,0",
        "9,10300,l,pwi,uid,nan,0,0,0",
        "9,10300,l,pwi,uid,1e400,0,0,0",
        "9,10300,l,pwi,uid",
        "9,x,l,pwi,uid,1,0,0,0",
        "9,0,l,pws,1,2",
        "9,0,i,uid,ten,a",
        "9,0,i,uid,10400",
        "9,h,5,Bv=four",
        "9,0,i,vers,",
        '9,0,i,vers,"36',
    ],
)
def test_a_line_that_makes_no_sense_is_named(line: str) -> None:
    if line.endswith('"36'):  # a quote that is not closed ends with its line: the next lines are read all the same
        assert parse_checkin(f"{line}\n{CHECKIN}").uid_mah == parse_checkin(CHECKIN).uid_mah
        return
    number = len(CHECKIN.splitlines()) + 1
    with pytest.raises(ValueError, match=f"batterystats, line {number}: "):
        parse_checkin(f"{CHECKIN}{line}\n")


@pytest.mark.parametrize("text", ["", "Can't find service: batterystats", "\0" * 100, CHECKIN.replace("vers", "verse")])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no version"):
        parse_checkin(text)
