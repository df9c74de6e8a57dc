"""Runs over clients at the end of slow links: a process and a container, by mutual TLS, on one host."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl.certificates import make
from harness.links import PACKETS, Shape
from tests.fixtures.containers import usable_image
from tests.fixtures.network import left_behind, usable_link
from tests.harness.running import Bench, device_entry, wait_until

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]

LATENCY_MS = 100.0
ROUNDS = 2
EXPERIMENT = f'name = "short"\nworkload = "linear"\nrounds = {ROUNDS}\nidle_s = 0.2\n[sweep]\nepochs = [1]\n'


@pytest.mark.parametrize("launcher", ["local", "container"])
def test_what_is_far_away_communicates_for_longer(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="making certificates needs the package cryptography")
    with usable_link(Shape(latency_ms=LATENCY_MS), PACKETS):
        pass
    image = usable_image() if launcher == "container" else {}
    keys = make(tmp_path / "keys", devices=["near", "far"]).folder
    near = device_entry(id="near", processor="near")
    far = device_entry(
        id="far", processor="far", launcher=launcher, latency_ms=LATENCY_MS, bandwidth_mbps=50.0, **image
    )
    server = f'[server]\ntls = "{keys}"\n'
    (tmp_path / "fleet.toml").write_text(f'name = "far"\n{server}{near}{far}')
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    bench = Bench(tmp_path)
    before = left_behind()
    bench.run_ok()
    wait_until(lambda: left_behind() <= before)

    calls = [row for row in bench.records("span") if row["name"] == "call" and row["call"] == "fit"]
    works = [row for row in bench.records("span") if row["name"] == "fit"]
    for round_ in range(1, ROUNDS + 1):
        communication_s = {
            row["device"]: row["duration_s"] - sum(w["duration_s"] for w in works if same(w, row))
            for row in calls
            if row["round"] == round_
        }
        assert communication_s["far"] >= 2 * LATENCY_MS / 1e3, "once there and once back"
        assert communication_s["near"] < communication_s["far"]
    facts = bench.device_file("far")
    assert (facts["latency_ms"], facts["bandwidth_mbps"]) == (LATENCY_MS, 50.0)
    assert set(facts["network_shaped_by"]) == {"latency_ms", "bandwidth_mbps"}
    assert "network_shaped_by" not in bench.device_file("near")


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    return (one["device"], one["round"]) == (other["device"], other["round"])
