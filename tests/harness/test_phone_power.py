"""A fleet of phones whose apps train, over the real adb client: what they draw is read from here, or missing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from profiler.records import Row
from tests.fixtures.adb_server import APP, Phone, running_adb
from tests.harness.running import Bench, device_entry, wait_until

pytestmark = pytest.mark.serial

NAMES = ("microamps", "milliamps", "charging", "fading", "own")
WATTS = 1.38  # 345 mA at 4 V
EXPERIMENT = 'name = "e"\nworkload = "linear"\nrounds = 3\nidle_s = 1\n[sweep]\nepochs = [{epochs}]\n'
EPOCHS = 600


def install_app(phone: Phone, *, meter: str) -> None:
    script = phone.install(APP) / "run"
    script.write_text(
        "#!/bin/sh\n"
        'while [ $# -ge 3 ]; do eval "$2=\\$3"; shift 3; done\n'
        f'exec {sys.executable} -m fl.client --server "$server" --device "$id" --shard "$shard" --shards {len(NAMES)} '
        f"--workload linear --meter {meter}\n"
    )
    script.chmod(0o755)


def entry(name: str, phone: Phone) -> str:
    return (
        device_entry(
            id=name,
            launcher="adb",
            serial=phone.serial,
            processor="soc",
            client="app",
            package=APP,
            component=f"{APP}/.TrainService",
        )
        + 'extras = { server = "{server}", id = "{id}", shard = "{shard}" }\n'
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One run over five phones; the gauge of one goes when the first round is over."""
    folder = tmp_path_factory.mktemp("phones")
    with pytest.MonkeyPatch.context() as patch, running_adb(folder / "adb", patch, *map(str.upper, NAMES)) as server:
        phones = {name: server.phones[name.upper()] for name in NAMES}
        for name, phone in phones.items():
            install_app(phone, meter="auto" if name == "own" else "none")
            phone.show_gauge(-345 if name == "milliamps" else -345_000)
        phones["charging"].set_gauge(status="Charging")
        made = Bench(folder)
        (folder / "fleet.toml").write_text('name = "phones"\n' + "".join(entry(*one) for one in phones.items()))
        (folder / "experiment.toml").write_text(EXPERIMENT.format(epochs=EPOCHS))
        patch.chdir(folder)
        fading = threading.Thread(target=_fade, args=(made, phones["fading"]), daemon=True)
        fading.start()
        assert made.main("--quiet") == 0
        fading.join(5)
        assert not fading.is_alive()
        assert not server.ways
        yield made


def _fade(bench: Bench, phone: Phone) -> None:
    wait_until(lambda: bench.records("round"))
    phone.hide_gauge()


def spans(bench: Bench, device: str, name: str) -> list[Row]:
    found = [row for row in bench.records("span") if (row["device"], row["name"]) == (device, name)]
    return sorted(found, key=lambda row: (row["round"], row["start_ns"]))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["microamps", "milliamps"])
@pytest.mark.parametrize("span", ["fit", "evaluate", "call"])
def test_each_call_of_a_phone_on_its_battery_has_joules(bench: Bench, name: str, span: str) -> None:
    found = spans(bench, name, span)
    assert len(found) == (6 if span == "call" else 3)
    for row in found:
        assert (row["provenance"], row["energy_scope"]) == ("integrated", "device")
        assert row["energy_j"] == pytest.approx(WATTS * row["duration_s"], abs=row["energy_err_j"])
        assert row["energy_err_j"] > 0.05 * row["energy_j"], "the gauge's gain, its steps, and what adb takes"


@pytest.mark.timeout(180)
def test_idle_power_is_read_from_here_as_well(bench: Bench) -> None:
    idle = [row for row in bench.records("idle") if row["device"] == "microamps"]
    assert [row["phase"] for row in idle] == ["before", "after"]
    for row in idle:
        assert row["energy_j"] / row["duration_s"] == pytest.approx(WATTS)


@pytest.mark.timeout(180)
def test_a_phone_that_charges_is_missing_as_its_battery_says(bench: Bench) -> None:
    for row in spans(bench, "charging", "fit"):
        assert row.get("energy_j") is None
        assert row["energy_reason"].startswith("charging: a charger may feed the device")
    facts = bench.device_file("charging")
    assert not facts["metered_from_here"]
    assert facts["energy_missing"].startswith("charging: ")


@pytest.mark.timeout(180)
def test_a_gauge_that_vanishes_leaves_joules_before_and_a_reason_after(bench: Bench) -> None:
    found = spans(bench, "fading", "fit")
    assert found[0]["energy_j"] == pytest.approx(WATTS * found[0]["duration_s"], abs=found[0]["energy_err_j"])
    assert found[-1].get("energy_j") is None
    assert "not discharging: battery says Unknown" in found[-1]["energy_reason"]


@pytest.mark.timeout(180)
def test_a_client_that_meters_itself_keeps_its_own_joules(bench: Bench) -> None:
    for row in spans(bench, "own", "fit"):
        assert row["energy_scope"] != "device", "not the phone's gauge"
    assert all(row.get("energy_j") is None for row in spans(bench, "own", "call"))
    facts = bench.device_file("own")
    assert facts["metered_from_here"]


@pytest.mark.timeout(180)
def test_a_round_with_a_phone_that_charges_has_no_smaller_total(bench: Bench) -> None:
    for row in bench.records("round"):
        assert (row.get("energy_j"), row["provenance"]) == (None, "missing")
        assert row["energy_reason"].startswith("charging: ")


@pytest.mark.timeout(180)
def test_no_serial_number_is_in_what_the_meter_says(bench: Bench) -> None:
    folder = bench.run_folders()[-1]
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "fleet.toml")
    assert not [name for name in NAMES if name.upper().encode() in written]
