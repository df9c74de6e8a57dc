"""How Flower's programs are told what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.flower import versions
from harness.device import DeviceSpec
from harness.flower import supernodes
from harness.flower.supernodes import (
    Ports,
    Simulation,
    SuperNodes,
    app_files,
    environment,
    program,
    require_commands,
    superlink_command,
)
from profiler.errors import PreconditionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PORTS = Ports("127.0.0.1:1001", "127.0.0.1:1002", "127.0.0.1:1003")


@pytest.fixture(params=["1.24.0", "1.42.0"])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each generation, whether it is installed or not."""
    monkeypatch.setattr(supernodes, "installed_flwr", lambda: request.param)
    monkeypatch.setattr(versions, "installed_flwr", lambda: request.param)
    monkeypatch.setattr(supernodes, "program", lambda name: name)
    return str(request.param)


@pytest.mark.parametrize("found", ["1.24.0", "1.29.0", "1.41.0", "1.42.0", "1.43.0.dev1"])
def test_generations_that_are_known(found: str) -> None:
    require_commands(found)


@pytest.mark.parametrize(("found", "said"), [("1.23.0", "1.24 to 1.42"), ("1.30.0", "1.41 to 1.42"), ("", "1.24")])
def test_others_say_which_are_supported(found: str, said: str) -> None:
    with pytest.raises(PreconditionError, match="flwr") as raised:
        require_commands(found)
    assert said in str(raised.value)
    assert "pip install 'fedmeter[flower]'" in str(raised.value)


@given(plan=st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"])))
def test_a_plan_of_ascii_comes_through_the_apps_file_but_for_apostrophes(plan: str) -> None:
    project = tomllib.loads(app_files(plan, PORTS.control, None)["pyproject.toml"])
    assert project["tool"]["flwr"]["app"]["config"]["fedmeter"] == plan.replace("'", "\\u0027")


def test_where_to_run_is_in_the_app_of_the_older_generation_alone(version: str) -> None:
    simulation = Simulation(n_devices=3, cpus_each=2, cpus=4)
    flwr = tomllib.loads(app_files("{}", PORTS.control, simulation)["pyproject.toml"])["tool"]["flwr"]
    if version == "1.42.0":
        assert "federations" not in flwr
        [_, told] = simulation.run_options()
        assert told == "num-supernodes=3 client-resources-num-cpus=2 init-args-num-cpus=4"
    else:
        federation = flwr["federations"]["fedmeter"]
        assert federation["address"] == PORTS.control
        assert federation["options"]["num-supernodes"] == 3
        assert federation["options"]["backend"]["client-resources"]["num-cpus"] == 2
        assert federation["options"]["backend"]["init-args"]["num-cpus"] == 4
        assert simulation.run_options() == []


def test_a_superlink_listens_on_this_machine_alone_and_installs_nothing(version: str) -> None:
    words = superlink_command(PORTS, is_simulated=False)
    addresses = [word for word in words if word.startswith("127.")]
    assert addresses
    assert ("--disable-runtime-dependency-installation" in words) == (version == "1.42.0")
    assert superlink_command(PORTS, is_simulated=True)[-1] == "--simulation"


def test_free_ports_are_of_this_machine(version: str) -> None:
    ports = Ports.free()
    assert {address.rpartition(":")[0] for address in (ports.fleet, ports.control, ports.apps)} == {"127.0.0.1"}
    assert len({ports.fleet, ports.control, ports.apps}) == (1 if version == "1.42.0" else 3)


def test_a_node_is_told_its_device_and_where_to_join(version: str) -> None:
    nodes = SuperNodes("127.0.0.1:1001", "127.0.0.1:1004", Path("/tmp/x"))
    device = DeviceSpec("pi-1", "local", "arm", 0)
    words = nodes.here(device)
    assert words[words.index("--node-config") + 1] == 'device="pi-1"'
    assert words[words.index("--superlink") + 1] == "127.0.0.1:1001"
    there = nodes.there(device, "/usr/bin/python3", "127.0.0.1:7")
    assert there == ["/usr/bin/python3", "-m", "fl.flower.supernode", "127.0.0.1:7", "pi-1", version]
    assert nodes.packages == (("flwr", version),), "what runs elsewhere is what runs here"


def test_of_the_environment_it_gets_what_this_process_has_not(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    added = SuperNodes("127.0.0.1:1001", "127.0.0.1:1004", Path("/tmp/x")).environment
    assert added["FLWR_HOME"] == "/tmp/x"
    assert "FLWR_TELEMETRY_ENABLED" not in added


def test_nothing_is_told_to_others_or_left_elsewhere(tmp_path: Path) -> None:
    told = environment(tmp_path)
    assert told["FLWR_TELEMETRY_ENABLED"] == "0"
    assert told["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert told["RAY_USAGE_STATS_ENABLED"] == "0"
    assert told["FLWR_HOME"] == str(tmp_path)
    assert "RAY_ADDRESS" not in told
    short = environment(Path("/tmp/x"))
    assert short["RAY_TMPDIR"] == "/tmp/x/ray"
    cluster = environment(Path("/tmp/x"), "127.0.0.1:6379")
    assert cluster["RAY_ADDRESS"] == "127.0.0.1:6379"
    assert "RAY_TMPDIR" not in cluster


def test_a_program_that_is_missing_says_what_brings_it() -> None:
    with pytest.raises(PreconditionError, match="flower-nothing is missing"):
        program("flower-nothing")
