"""Devices that somebody else starts: told how to join, waited for, named where they are missing, treated like any."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fl.security import CLIENT_FILES, TOKEN
from fl.workload import Partition
from harness.device import DeviceSpec
from harness.fleet import parse_fleet
from harness.launcher import JoinSpec
from harness.launchers.external import ExternalLauncher, invitations
from harness.spec import Table
from profiler.errors import SpecError
from tests.harness.running import Bench, environment, wait_until

JOIN = JoinSpec("0.0.0.0:8443", "digits", Partition(shards=4))
ENTRY = '[[device]]\nid = "board"\nprocessor = "pi5"\nlauncher = "external"\n'


def external(id_: str, *, foreign: bool = False, **options: object) -> DeviceSpec:
    read = ExternalLauncher.read_options(Table(options, "fleet.toml"))
    return DeviceSpec(id_, "external", "pi5", 2, options=read, foreign=foreign)


def test_the_command_of_a_client_of_ours_can_be_pasted() -> None:
    [line] = invitations([external("board", threads=4, meter="none", server="lab")], JOIN, None, 0)
    what, _, command = line.partition(": ")
    assert what == "start board there"
    words = shlex.split(command)
    assert words[:7] == ["python3", "-m", "fl.client", "--server", "lab:8443", "--device", "board"]
    told = dict(zip(words[3::2], words[4::2], strict=True))
    assert (told["--shard"], told["--threads"], told["--meter"]) == ("2", "4", "none")


def test_the_command_names_the_files_of_a_device_and_holds_no_secret(tmp_path: Path) -> None:
    own = tmp_path / "devices" / "board"
    own.mkdir(parents=True)
    (own / TOKEN).write_text("a-secret-token-of-some-length")
    join = JoinSpec("0.0.0.0:8443", "digits", Partition(), tmp_path)
    [line] = invitations([external("board", server="lab")], join, None, 0)
    assert f"a copy of {', '.join(CLIENT_FILES)} of {own}" in line
    assert line.endswith("--tls fedmeter-tls")
    assert "a-secret" not in line


def test_strangers_are_told_address_and_trust(tmp_path: Path) -> None:
    phones = [external("p-0", foreign=True, server="lab"), external("p-1", foreign=True)]
    told = "\n".join(invitations(phones, JOIN, None, 0))
    assert "start 2 clients of others (p-0, p-1): at lab:8443 by plain text" in told
    assert 'start_client(server_address="lab:8443", client=..., insecure=True)' in told
    join = JoinSpec("0.0.0.0:8443", "digits", Partition(), tmp_path)
    told = "\n".join(invitations(phones, join, "0.0.0.0:0", 8444))
    assert f"at lab:8444 by TLS with a copy of {tmp_path / 'ca.pem'}" in told
    assert 'root_certificates=Path("ca.pem").read_bytes()' in told


def test_nobody_else_is_invited() -> None:
    assert invitations([DeviceSpec("a", "local", "cpu", 0)], JOIN, None, 0) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"meter": "maybe"}, "it is 'auto' or 'none'"),
        ({"server": "lab; reboot"}, "no such thing"),
        ({"threads": 0}, "at least 1"),
        ({"threads": 5000}, "more than 4096"),
    ],
)
def test_options_are_checked(options: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        external("board", **options)


@pytest.mark.parametrize(
    ("more", "is_foreign"), [("", False), ("foreign = true\n", True)], ids=["a client of ours", "a stranger"]
)
def test_external_is_for_both_kinds_of_clients(more: str, is_foreign: bool) -> None:
    [device] = parse_fleet(f'name = "x"\n{ENTRY}{more}', "fleet.toml", cores=1).devices
    assert (device.launcher, device.foreign) == ("external", is_foreign)


def test_who_is_missing_is_said_again_and_again_until_it_has_joined(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launcher = ExternalLauncher(tmp_path, remind_s=0.02)
    first, second = (launcher.start(external(name), JOIN) for name in ("a", "b"))
    wait_until(lambda: "that others start: a, b" in caplog.text)
    first.settle()
    wait_until(lambda: caplog.text.endswith("that others start: b\n"))
    second.settle()
    launcher.close()
    n_said = len(caplog.records)
    assert n_said >= 2
    launcher.close()
    assert len(caplog.records) == n_said


@pytest.mark.timeout(150)
def test_a_colleagues_client_joins_by_the_command_that_was_printed(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from harness.init import init

    init(tmp_path / "keys", [], None, ["board"])
    bench = Bench(tmp_path)
    bench.write(rounds=1, idle_s=0.2)
    local = '[[device]]\nid = "here"\nprocessor = "cpu"\n'
    (tmp_path / "fleet.toml").write_text(f'name = "x"\n[server]\ntls = "{tmp_path / "keys"}"\n{local}{ENTRY}')
    init(tmp_path / "keys", [], None, ["here"])
    with bench.running() as run:
        assert run.stderr is not None
        found = None
        while found is None:
            line = run.stderr.readline()
            found = re.search(r"start board there, with a copy of (.*) of (\S+) in fedmeter-tls: (.*)", line)
        files, folder, command = found.groups()
        for name in files.split(", "):
            (tmp_path / "there" / "fedmeter-tls").mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder) / name, tmp_path / "there" / "fedmeter-tls" / name)
        words = [sys.executable, *shlex.split(command)[1:]]
        with subprocess.Popen(words, cwd=tmp_path / "there", env=environment(), stderr=subprocess.DEVNULL) as client:
            _, err = run.communicate(timeout=100)
            assert run.returncode == 0, err
            assert client.wait(30) == 0
    [row] = bench.records("round")
    assert row["n_results"] == 2
    facts = bench.device_file("board")
    assert (facts["launcher"], facts["processor"]) == ("external", "pi5")


@pytest.mark.timeout(100)
def test_a_client_that_nobody_starts_is_named_when_time_is_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rounds=1, idle_s=0.0)
    two = ENTRY.replace('"board"', '"board-{n}"\ncount = 2')
    (tmp_path / "fleet.toml").write_text(f'name = "x"\n[server]\njoin_timeout_s = 1\n{two}')
    with bench.running() as run:
        _, err = run.communicate(timeout=80)
    assert run.returncode == 3
    assert "board-0: did not join within 1 s; a client which its owner starts" in err
