"""devices/<id>.json: what a device told of itself over the wire, and what the harness believes of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from fl.client import start_client
from fl.instrument import instrument
from fl.messages import Config, Scalar
from fl.proxy import ClientInfo
from fl.server import Server
from harness.device import DeviceSpec
from harness.host import device_facts, host_facts, told_facts
from harness.store import Store
from profiler.machine_facts import machine_facts
from tests.fixtures.machine import build_orin_nano
from tests.fl.clients import Unruly
from tests.harness.running import Bench

ORIN = DeviceSpec("orin-1", "ssh", "orin-nano-15w", 0)


class Telling(Unruly):
    """A client that knows better than its files what it runs on, as a foreign one may."""

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        return {"cores": 4, "device.model": "my own carrier"}


def joined(root: Path, client: Unruly) -> ClientInfo:
    """What a server knows of a client that runs on the machine below `root`, and has told it over the real wire."""

    async def test() -> ClientInfo:
        async with Server() as server:
            joining = asyncio.to_thread(
                start_client,
                f"127.0.0.1:{server.port}",
                instrument(client, root=root),
                device="orin-1",
                max_wait_s=20.0,
            )
            task = asyncio.ensure_future(joining)
            await server.wait_for({"orin-1"}, 20.0)
            info = server.proxies()[0].info
            await server.farewell()
            await task
            return info

    return asyncio.run(asyncio.wait_for(test(), 60.0))


def test_the_power_mode_of_a_remote_jetson_is_in_its_file(tmp_path: Path) -> None:
    build_orin_nano(tmp_path / "orin")
    info = joined(tmp_path / "orin", Unruly())
    store = Store.create(tmp_path / "results", {}, "", [])
    store.write_device("orin-1", device_facts(ORIN, {"launcher": "ssh"}, info.properties))
    store.close()
    written = json.loads((store.folder / "devices/orin-1.json").read_text())
    assert (written["processor"], written["launcher"]) == ("orin-nano-15w", "ssh")
    assert written["machine"] == machine_facts(tmp_path / "orin")
    assert (written["machine"]["power_mode"], written["machine"]["power_mode_id"]) == ("15W", 0)
    assert written["machine"]["gpu.0.max_hz"] == 624_750_000
    assert info.properties["cores"] == 4


def test_what_a_client_says_itself_wins(tmp_path: Path) -> None:
    build_orin_nano(tmp_path)
    told = told_facts(joined(tmp_path, Telling()).properties)
    assert told["model"] == "my own carrier"
    assert told["power_mode"] == "15W"
    assert "cores" not in told


def test_only_a_server_that_asks_is_told(tmp_path: Path) -> None:
    build_orin_nano(tmp_path)
    client = instrument(Unruly(), root=tmp_path)
    assert client.get_properties({}) == client.get_properties({"telemetry": "flat"}) == {"cores": 4}
    assert client.get_properties({"telemetry": "full"})["device.l4t"] == "36.4.3"


def test_a_client_that_tells_nothing_has_no_machine() -> None:
    assert device_facts(ORIN, {}, {"cores": 4})["machine"] is None


def test_what_comes_over_the_network_is_bounded_and_made_harmless() -> None:
    hostile: dict[str, object] = {
        "device.model": "\x1b[31m" + "x" * 5000,
        "device.nan": float("nan"),
        "device.bytes": b"\0",
        "device.list": [1],
        "device.a b": "space",
        "device." + "n" * 65: 1,
        "device.": 1,
        "device.x\n": 1,
        "pid": 1,
        "device.is_ok": True,
        "device.surrogate": "\ud800",
    }
    told = told_facts(hostile)
    assert told == {"model": "?[31m" + "x" * 195, "is_ok": True, "surrogate": "?"}
    json.dumps(told, ensure_ascii=False, allow_nan=False).encode()
    assert len(told_facts({f"device.{n}": n for n in range(9000)})) == 400


def test_told_names_cannot_replace_what_the_harness_knows() -> None:
    facts = device_facts(ORIN, {"pid": 7}, {"device.pid": 1, "device.processor": "fast"})
    assert (facts["pid"], facts["processor"]) == (7, "orin-nano-15w")


def test_the_host_is_described_from_its_root(tmp_path: Path) -> None:
    build_orin_nano(tmp_path)
    facts = host_facts(tmp_path)
    assert (facts["model"], facts["power_mode"]) == (machine_facts(tmp_path)["model"], "15W")
    assert facts["cores"] >= 1
    assert np.isscalar(facts["memory_bytes"])
    assert host_facts(tmp_path / "nothing")["memory_bytes"] > 2**20


def test_check_shows_the_power_mode_and_a_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path)
    bench.write()
    build_orin_nano(tmp_path / "root", pinned=True)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert bench.main("--check", "--sysfs-root", "root") == 0
    out = capsys.readouterr().out
    assert "power mode: 15W (id 0), clocks pinned" in out
    assert 'processor = "orin-nano-15w"' in out
    assert bench.main("--check", "--json", "--sysfs-root", "root") == 0
    assert json.loads(capsys.readouterr().out)["machine"]["power_mode"] == "15W"
    assert bench.main("--check", "--sysfs-root", "empty") == 0
    assert "power mode" not in capsys.readouterr().out
