"""What an engine can have of a fleet: the rest is refused by device and key."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from fl.flower.versions import installed_flwr
from harness.experiment import load_experiment
from harness.fleet import parse_fleet
from harness.flower import choice as choices
from harness.flower.choice import SIMULATION, SUPERNODES, EngineChoice
from harness.run import main
from profiler.errors import PreconditionError, SpecError, UsageError

PLAIN = '[[device]]\nid = "pi-{n}"\ncount = 2\nprocessor = "arm"\n'
ADDRESS = "127.0.0.1:8000"


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if flwr and Ray were there; what is started by them is for the tests beside Flower."""
    monkeypatch.setattr(choices, "require_commands", lambda: None)
    monkeypatch.setattr(choices, "require_ray", lambda: None)


def carried(choice: EngineChoice, devices: str) -> tuple[dict[str, str], float]:
    """Launcher by device, and how long idle power is measured."""
    fleet = parse_fleet(f'name = "test"\n{devices}', "test.toml", cores=2)
    experiment, _ = load_experiment("demo")
    fleet, experiment = choice.carried(fleet, experiment)
    return {device.id: device.launcher for device in fleet.devices}, experiment.idle_s


@pytest.mark.usefixtures("flower")
def test_supernodes_are_started_by_launchers_of_ours() -> None:
    boxed = PLAIN + 'launcher = "container"\nimage = "fedmeter"\ncpu_limit = 0.5\n'
    assert carried(EngineChoice(SUPERNODES), boxed) == ({"pi-0": "container", "pi-1": "container"}, 5.0)
    elsewhere = PLAIN + 'launcher = "ssh"\nhost = "pi-{n}.lab"\ntunnel = true\n'
    assert carried(EngineChoice(SUPERNODES), elsewhere) == ({"pi-0": "ssh", "pi-1": "ssh"}, 5.0)
    assert carried(EngineChoice(SUPERNODES), PLAIN) == ({"pi-0": "local", "pi-1": "local"}, 5.0)
    limited = PLAIN + "cpu_limit = 0.5\nmemory_limit_mb = 500\ncores = [0]\nthreads = 2\n"
    assert carried(EngineChoice(SUPERNODES), limited)[0] == {"pi-0": "local", "pi-1": "local"}


@pytest.mark.usefixtures("flower")
@pytest.mark.parametrize("choice", [EngineChoice(SIMULATION), EngineChoice(SUPERNODES, ADDRESS)])
def test_nodes_of_others_are_waited_for_and_have_no_idle_power(choice: EngineChoice) -> None:
    assert carried(choice, PLAIN) == ({"pi-0": "external", "pi-1": "external"}, 0.0)
    elsewhere = PLAIN + 'launcher = "ssh"\nhost = "pi-{n}.lab"\n'
    assert carried(EngineChoice(SUPERNODES, ADDRESS), elsewhere)[0] == {"pi-0": "external", "pi-1": "external"}


@pytest.mark.usefixtures("flower")
@pytest.mark.parametrize(
    ("choice", "more", "named"),
    [
        (EngineChoice(SUPERNODES), "latency_ms = 20\n", "latency_ms"),
        (EngineChoice(SUPERNODES), 'launcher = "adb"\nserial = "R58M12345"\n', "launcher 'adb'"),
        (EngineChoice(SUPERNODES), 'launcher = "container"\nimage = "x"\nlatency_ms = 20\n', "latency_ms"),
        (EngineChoice(SUPERNODES), 'launcher = "ssh"\nhost = "pi-{n}.lab"\ntunnel = false\n', "tunnel = false"),
        (EngineChoice(SUPERNODES), "foreign = true\n", "foreign devices"),
        (EngineChoice(SUPERNODES), 'launcher = "simulated"\nprofile = "jetson-tx2-gpu"\n', "simulated devices"),
        (EngineChoice(SIMULATION), "cpu_limit = 0.5\nmemory_limit_mb = 500\n", "cpu_limit, memory_limit_mb"),
        (EngineChoice(SIMULATION), "bandwidth_mbps = 5\n", "bandwidth_mbps"),
        (EngineChoice(SIMULATION), 'require = ["rapl"]\n', "require"),
        (EngineChoice(SUPERNODES, ADDRESS), "cores = [0]\n", "cores"),
    ],
)
def test_what_an_engine_cannot_have_is_refused(choice: EngineChoice, more: str, named: str) -> None:
    with pytest.raises(SpecError, match=named) as raised:
        carried(choice, PLAIN + more)
    assert "pi-{n}" in str(raised.value)
    assert choice.name in str(raised.value)


def test_our_own_engine_takes_all_and_wants_no_flower() -> None:
    launchers, idle_s = carried(EngineChoice(), PLAIN + "latency_ms = 20\ncpu_limit = 0.5\n")
    assert (set(launchers.values()), idle_s) == ({"local"}, 5.0)


@pytest.mark.parametrize(
    ("name", "federation", "said"),
    [
        ("ray", None, "it is one of fedmeter, flower, flower-sim"),
        ("fedmeter", ADDRESS, "goes with --engine flower"),
        ("flower", "somewhere", "it is HOST:PORT"),
        ("flower", "here:65536", "is no port"),
        ("flower", "-v:1; rm", "is no port"),
    ],
)
def test_what_is_no_engine_or_no_address(name: str, federation: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        EngineChoice(name, federation)


@pytest.mark.parametrize("choice", [EngineChoice(), EngineChoice(SIMULATION), EngineChoice(SUPERNODES, ADDRESS)])
def test_a_choice_comes_back_from_what_is_written_down(choice: EngineChoice) -> None:
    assert EngineChoice.from_facts(choice.facts(["local"])) == choice


def test_runs_of_before_there_were_engines_are_of_our_own() -> None:
    assert EngineChoice.from_facts(None) == EngineChoice()


def test_what_is_missing_is_said_with_its_reason() -> None:
    assert EngineChoice().facts(["ssh"]).keys() == {"name", "federation"}
    missing = EngineChoice(SUPERNODES).facts(["local"])["missing"]
    assert missing.keys() == {"download", "upload", "wait"}
    with_others = EngineChoice(SUPERNODES).facts(["local", "ssh"])["missing"]
    assert with_others.keys() - missing.keys() == {"idle power, net energy (ssh)"}
    assert "idle power, net energy" in EngineChoice(SIMULATION).facts(["external"])["missing"]


def test_without_flower_it_is_said_what_to_install() -> None:
    if installed_flwr():
        pytest.skip("flwr is here")
    with pytest.raises(PreconditionError, match=r"1\.24 to 1\.42") as raised:
        carried(EngineChoice(SUPERNODES), PLAIN)
    assert "fedmeter[flower]" in str(raised.value)


def test_without_ray_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "require_commands", lambda: None)
    with pytest.raises(PreconditionError, match="needs Ray") as raised:
        carried(EngineChoice(SIMULATION), PLAIN)
    assert "flwr[simulation]" in str(raised.value)
    ray = types.ModuleType("ray")
    ray.__spec__ = ModuleSpec("ray", None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert carried(EngineChoice(SIMULATION), PLAIN)[0] == {"pi-0": "external", "pi-1": "external"}


def test_the_command_says_what_is_missing_or_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--federation", ADDRESS, "--dry-run"]) == 2
    assert "goes with --engine flower" in capsys.readouterr().err
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(f'name = "test"\n{PLAIN}')
    assert main([str(fleet), "--dry-run"]) == 0
    assert "engine" not in capsys.readouterr().out
    if not installed_flwr():
        assert main([str(fleet), "--engine", SUPERNODES, "--dry-run"]) == 3
        assert "pip install 'fedmeter[flower]'" in capsys.readouterr().err
