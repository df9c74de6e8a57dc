"""What `--dry-run` catches: whatever would end a run before its first round, as far as it can be told from here."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.run import main
from tests.harness.running import device_entry


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dry_run(here: Path, *arguments: str, server: str = "", **device: object) -> int:
    entry = device_entry(**{"id": "a", "processor": "cpu"} | device)
    (here / "fleet.toml").write_text(f'name = "x"\n[server]\n{server}\n{entry}')
    return main(["fleet.toml", "--workload", "linear", "--dry-run", *arguments])


def test_a_sound_command_touches_nothing(here: Path) -> None:
    (here / "key").touch()
    assert dry_run(here, "--live", "127.0.0.1:0", launcher="ssh", host="pi", identity="key") == 0
    assert sorted(path.name for path in here.iterdir()) == ["fleet.toml", "key"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--live", "127.0.0.1:70000"], "'70000' is no port: 0 to 65535"),
        (["--live", "fleet.toml"], "it is HOST:PORT"),
        (["--live", ":8470"], "it is HOST:PORT"),
        (["--live", "300.0.0.1:8470"], "'300.0.0.1' is no host"),
        (["--workers", "0"], "at least 1"),
        (["--sysfs-root", "nowhere"], "not a folder"),
        (["-o", "fleet.toml"], "fleet.toml is no folder"),
        (["-o", "fleet.toml/results"], "fleet.toml is no folder"),
        (["--check"], "leave out one of them"),
        (["--init", "keys"], "--init makes files"),
    ],
)
def test_a_wrong_argument_is_told(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert dry_run(here, *arguments) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["fleet.toml"]


@pytest.mark.parametrize(
    ("server", "device", "status", "said"),
    [
        ('address = "127.0.0.1:70000"', {}, 2, "address = '127.0.0.1:70000': '70000' is no port"),
        ('address = "lab"', {}, 2, "address = 'lab': it is HOST:PORT"),
        ('address = "::1:8443"', {}, 2, "an IPv6 one in [brackets]"),
        ("join_timeout_s = inf", {}, 2, "'join_timeout_s' must be finite"),
        ('address = "0.0.0.0:8443"', {}, 3, "without TLS they could read"),
        ('tls = "keys"', {}, 3, "harness.run --init"),
        ("", {"cores": [4095]}, 3, "cores = [4095]: this host has"),
        ("", {"require": ["rapll"]}, 2, "there is no sensor 'rapll'. Did you mean 'rapl'?"),
        ("", {"launcher": "ssh", "host": "pi", "identity": "nokey"}, 3, "nokey is not there"),
        ("", {"launcher": "ssh", "host": "pi", "wheel": "fedmeter.zip"}, 2, "no file of that kind (.whl)"),
        ("", {"launcher": "ssh", "host": "pi", "connect_timeout_s": float("inf")}, 2, "must be finite"),
        ("", {"launcher": "adb", "serial": "R1", "wheelhouse": "wheels"}, 3, "wheels is not there"),
    ],
)
def test_a_wrong_value_of_a_fleet_file_is_told(
    here: Path, capsys: pytest.CaptureFixture[str], server: str, device: dict[str, object], status: int, said: str
) -> None:
    values = {key: value for key, value in device.items() if value != float("inf")}
    more = "".join(f"\n{key} = inf" for key in device.keys() - values.keys())
    entry = device_entry(**{"id": "a", "processor": "cpu"} | values)
    (here / "fleet.toml").write_text(f'name = "x"\n[server]\n{server}\n{entry}{more}')
    assert main(["fleet.toml", "--workload", "linear", "--dry-run"]) == status
    assert said in capsys.readouterr().err


def test_one_port_is_not_for_ours_and_foreign_clients_at_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = 'tls = "keys"\naddress = "0.0.0.0:8443"\nforeign_address = "0.0.0.0:8443"'
    assert dry_run(here, server=server, foreign=True) == 2
    assert "cannot be both address and foreign_address" in capsys.readouterr().err


def test_a_time_without_end_is_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "e.toml").write_text('name = "e"\nworkload = "linear"\nidle_s = inf\n')
    assert dry_run(here, "--experiment", "e.toml") == 2
    assert "idle_s must be finite" in capsys.readouterr().err
