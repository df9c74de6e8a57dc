"""The images of docker/ and the files beside them. One is built for real where a base image is named to the tests.

FEDMETER_BASE_IMAGE: an image on this host with Python 3.10 or later; FEDMETER_BUILD_FLAGS: more flags of `build`.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fl.client import _parser as client_parser
from fl.server import Server
from fl.workload import load_workload
from harness.device import DeviceSpec
from harness.fleet import load_fleet, parse_fleet
from harness.launchers.container import ContainerLauncher
from harness.launchers.container_engine import ask
from harness.launchers.limits import read_limits
from harness.sessions import Sessions
from harness.spec import Table
from tests.contract.test_launcher import join
from tests.fixtures.containers import ROOT, usable_engine
from tests.fixtures.documented import code_blocks

DOCKER = ROOT / "docker"
IMAGE = "localhost/fedmeter-test-client"
COMPOSE_KEYS = {"image", "build", "network_mode", "stop_signal", "restart", "command"}


def steps(platform: str) -> list[str]:
    """What an image is made by, after its base."""
    text = (DOCKER / f"{platform}.Dockerfile").read_text()
    return [line for line in text.partition("FROM ${BASE}\n")[2].splitlines() if not line.startswith("#")]


def test_all_platforms_install_the_same_client() -> None:
    assert steps("x86-64") == steps("raspberry-pi")
    without_extra = [line.replace("${EXTRA:+[${EXTRA}]}", "") for line in steps("x86-64") if line != "ARG EXTRA="]
    assert steps("jetson") == without_extra


def test_fleets_beside_them_are_fleets() -> None:
    fleet = load_fleet(str(DOCKER / "fleet.toml"), cores=2)
    assert [device.launcher for device in fleet.devices] == ["local", "local", "container", "container"]
    blocks = [block for block in code_blocks("fleets.md") if block.startswith(("name =", "[[device]]"))]
    named = [block if block.startswith("name") else f'name = "documented"\n{block}' for block in blocks]
    assert [parse_fleet(block, "docs/fleets.md", cores=2).size for block in named] == [3, 1, 8, 4, 1, 1, 2]


def test_compose_starts_clients_that_there_are() -> None:
    """Every path, service and option against what is here: a shard each and all of them, by the services' names."""
    yaml = pytest.importorskip("yaml", reason="reading docker/compose.yaml needs the package pyyaml")
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    shards = []
    for name, service in services.items():
        assert set(service) <= {*COMPOSE_KEYS, "cpus", "mem_limit", "memswap_limit"}
        assert set(service) >= COMPOSE_KEYS
        context = (DOCKER / service["build"]["context"]).resolve()
        assert (context / service["build"]["dockerfile"]).is_file()
        assert service["network_mode"] == "host", "else 127.0.0.1 is its own"
        client = client_parser().parse_args(service["command"])
        assert (client.device, client.meter, client.shards) == (name, "none", len(services))
        load_workload(client.workload)
        shards.append(client.shard)
        limits = {"cpu_limit": service["cpus"], "memory_limit_mb": int(service.get("mem_limit", "64m").rstrip("m"))}
        assert read_limits(Table(limits, name))
        assert service.get("mem_limit") == service.get("memswap_limit"), "no swap beside it"
    assert sorted(shards) == list(range(len(services)))


@pytest.mark.serial
@pytest.mark.timeout(600)
def test_an_image_is_built_and_its_client_joins(tmp_path: Path) -> None:
    base = os.environ.get("FEDMETER_BASE_IMAGE")
    if base is None:
        pytest.skip("FEDMETER_BASE_IMAGE names no base image")
    engine = usable_engine()
    wheel = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path / "dist"),
        str(ROOT),
    ]
    subprocess.run(wheel, check=True)
    (tmp_path / "constraints.txt").write_bytes((ROOT / "constraints.txt").read_bytes())
    flags = shlex.split(os.environ.get("FEDMETER_BUILD_FLAGS", ""))
    file = str(DOCKER / "x86-64.Dockerfile")
    ask(
        engine.command("build", *flags, "--file", file, "--build-arg", f"BASE={base}", "--tag", IMAGE, str(tmp_path)),
        500,
    )
    try:
        options = ContainerLauncher.read_options(Table({"image": IMAGE, "engine": engine.name}, "fleet.toml"))
        asyncio.run(joins(DeviceSpec("built", "container", "cpu", 0, options=options), tmp_path))
    finally:
        ask(engine.command("image", "rm", IMAGE))


async def joins(device: DeviceSpec, log_dir: Path) -> None:
    async with Server("127.0.0.1:0") as server:
        spec = replace(join(server.port), workload="linear")
        launchers = {"container": ContainerLauncher(log_dir)}
        sessions = Sessions(launchers, spec, lambda: {proxy.info.device for proxy in server.proxies()})
        try:
            sessions.start(device)
            assert await sessions.wait_joined([device], 60) == {}
        finally:
            sessions.stop()
