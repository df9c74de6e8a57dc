"""A fleet file that asks for TLS and foreign devices, from its words to a run over real sockets."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import psutil
import pytest

from fl.certificates import make
from fl.security import CA, FOLDER_VARIABLE, TOKEN
from fl.workload import load_workload
from harness.device import DeviceSpec
from harness.experiment import parse_experiment
from harness.fleet import FleetSpec, parse_fleet
from harness.launchers.external import ExternalLauncher
from harness.plan import make_plan
from harness.run import main
from harness.run_spec import RunSpec, access, message_bound
from harness.sessions import Sessions
from profiler.errors import SpecError
from tests.harness.running import Bench, environment, module, wait_until

DEVICE = '[[device]]\nid = "a"\nprocessor = "cpu"\n'
FOREIGN = '[[device]]\nid = "phone"\nprocessor = "pixel"\nforeign = true\n'
_EXPERIMENT = parse_experiment('name = "x"\nworkload = "digits"\n', "x.toml")

needs_entry_point = pytest.mark.skipif(
    not entry_points(group="fedmeter.launchers", name="foreign"), reason="installed before there were foreign devices"
)
needs_cryptography = pytest.mark.skipif(
    importlib.util.find_spec("cryptography") is None, reason="making certificates needs the package cryptography"
)


def parse(text: str) -> FleetSpec:
    return parse_fleet(text, "lab.toml", cores=2)


def test_a_fleet_is_private_or_says_that_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = parse(f'name = "x"\n{DEVICE}')
    assert (plain.tls, plain.insecure, plain.foreign_address) == (None, False, None)
    assert parse(f'name = "x"\n[server]\ntls = "keys"\n{DEVICE}').tls == tmp_path / "keys"
    assert parse(f'name = "x"\n[server]\ninsecure = true\n{DEVICE}').insecure


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'[server]\ntls = "keys"\ninsecure = true\n{DEVICE}', "'tls' and 'insecure' contradict"),
        (f'[server]\nforeign_address = "127.0.0.1:0"\n{DEVICE}', "'foreign_address' is for foreign devices"),
        (f"[server]\ntls = true\n{DEVICE}", "'tls' must be a string"),
        (f'{DEVICE}foreign = "yes"\n', "'foreign' must be true or false"),
        (f'{FOREIGN}launcher = "local"\n', "launcher 'local' does not go with foreign = true"),
        (f'{DEVICE}launcher = "foreign"\n', "launcher 'foreign' does not go with foreign = false"),
    ],
)
def test_contradictions_are_told(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(f'name = "x"\n{text}')


@needs_entry_point
def test_foreign_devices_beside_private_ones_need_a_port_of_their_own() -> None:
    text = f'name = "x"\n{DEVICE}{FOREIGN}'
    assert [device.foreign for device in parse(text).devices] == [False, True]
    with pytest.raises(SpecError, match='foreign_address = "HOST:PORT"'):
        parse(f'{text}[server]\ntls = "keys"\n')
    parse(f'{text}[server]\ntls = "keys"\nforeign_address = "127.0.0.1:0"\n')


@needs_entry_point
@pytest.mark.parametrize(
    ("server", "phone", "expected"),
    [
        ("", "", True),
        ("", 'tensors = "float32"\n', False),
        ("asks_names = true\n", 'tensors = "float32"\n', True),
        ("asks_names = false\n", "", False),
    ],
)
def test_phones_with_raw_tensors_are_not_asked_for_names_unless_it_is_said(
    server: str, phone: str, expected: bool
) -> None:
    fleet = parse(f'name = "x"\n[server]\n{server}{DEVICE}{FOREIGN}{phone}')
    spec = RunSpec(fleet, _EXPERIMENT, make_plan(fleet, _EXPERIMENT, load_workload("digits").defaults))
    assert access(spec).asks_names is expected


def test_a_foreign_client_is_nobody_to_start_to_watch_or_to_end(tmp_path: Path) -> None:
    device = DeviceSpec("phone", "foreign", "pixel", 0, foreign=True)
    launcher = ExternalLauncher(tmp_path)
    session = launcher.start(device, None)  # type: ignore[arg-type]
    session.stop(0.0)
    assert (session.pid, session.exit_status(), launcher.cores(device)) == (None, None, 0.0)
    sessions = Sessions({"foreign": launcher}, None, set)  # type: ignore[arg-type]
    sessions.start(device)
    assert "which its owner starts" in sessions.post_mortem("phone")
    assert not sessions.is_dead("phone")
    launcher.close()


def test_a_message_is_bounded_by_the_model() -> None:
    small = message_bound([np.zeros(10, np.float32)])
    assert 16 * 2**20 < small < 64 * 2**20, "a measurement fits"
    assert message_bound([np.zeros(10_000_000, np.float32)]) == small + 4 * (40_000_000 - 40)
    assert message_bound([np.broadcast_to(np.float32(0), (2**31,))]) == 2**31 - 1


@pytest.mark.parametrize("more", [[], ["--check"]])
def test_a_folder_that_is_not_there_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.toml").write_text(f'name = "x"\n[server]\ntls = "keys"\n{DEVICE}')
    assert main(["fleet.toml", *more]) == 3
    assert "ca.pem cannot be read: No such file" in capsys.readouterr().err
    assert main(["fleet.toml", "--insecure"]) == 2
    assert "contradict" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.toml"]


@pytest.mark.parametrize("flags", [[], ["--check"]])
def test_plain_text_to_others_is_refused_before_anything_is_made(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.toml").write_text(f'name = "x"\n[server]\naddress = "0.0.0.0:0"\n{DEVICE}')
    assert main(["fleet.toml", *flags]) == 3
    assert "can be reached by other machines" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.timeout(120)
@needs_entry_point
@needs_cryptography
def test_ours_and_a_foreign_client_train_over_tls_and_no_command_line_holds_a_secret(tmp_path: Path) -> None:
    keys = make(tmp_path / "keys", devices=["a"]).folder
    token = (keys / TOKEN).read_text().strip()
    port = _free_port()
    bench = Bench(tmp_path)
    bench.write(rounds=1, idle_s=0.0)
    server = f'[server]\naddress = "0.0.0.0:0"\ntls = "{keys}"\nforeign_address = "127.0.0.1:{port}"\n'
    (tmp_path / "fleet.toml").write_text(f'name = "private"\n{server}{DEVICE}{FOREIGN}')
    with bench.running("--quiet") as run, _foreign_client(port, keys / CA) as phone:
        ours = wait_until(lambda: _client_of(run.pid))
        assert token not in " ".join(ours.cmdline())
        assert ours.environ()[FOLDER_VARIABLE] == str(keys)
        assert token not in "".join(ours.environ().values())
        _, err = run.communicate(timeout=90)
        assert run.returncode == 0, err
        assert phone.wait(20) == 0
    [row] = bench.records("round")
    assert row["n_results"] == 2
    assert bench.device_file("phone")["launcher"] == "foreign"


def _client_of(pid: int) -> psutil.Process | None:
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a helper such as git, which has ended meanwhile
            command = process.cmdline()
            if "fl.client" in command and command[1] == "-m":
                return process
    return None


def _foreign_client(port: int, ca: Path) -> subprocess.Popen[bytes]:
    """Somebody's client: it trusts the authority, and has neither a name, a certificate nor a token."""
    flags: Sequence[object] = ("--server", f"127.0.0.1:{port}", "--workload", "digits", "--shards", 2, "--shard", 1)
    tls = ("--root-certificates", ca, "--meter", "none")
    return subprocess.Popen(module("fl.client", *flags, *tls), env=environment(), stderr=subprocess.DEVNULL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
