"""`--init`: what it writes is read by our own reader, and runs; what is not ready is a comment, with the reason."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import fleet_draft
from harness.fleet import load_fleet, parse_fleet
from harness.fleet_draft import Entry, draft, read_targets
from harness.run import main
from profiler.errors import UsageError
from tests.fixtures.adb import SERIAL, FakePhone
from tests.fixtures.sshd import Sshd, running_sshd
from tests.harness.running import EXPERIMENT, Bench, finish, module

needs_cryptography = pytest.mark.skipif(
    importlib.util.find_spec("cryptography") is None, reason="making certificates needs the package cryptography"
)


@pytest.fixture
def no_adb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@needs_cryptography
@pytest.mark.usefixtures("no_adb")
def test_it_writes_a_fleet_beside_its_certificates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "lab keys"
    assert main(["--init", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{folder}\n"
    assert f"harness.run {folder / 'fleet.toml'} --check" in err
    fleet = load_fleet(str(folder / "fleet.toml"), cores=2)
    assert (fleet.tls, fleet.name, fleet.address) == (folder, "lab-keys", "127.0.0.1:0")
    assert {device.launcher for device in fleet.devices} == {"local"}
    assert (folder / "token").read_text().strip() not in fleet.text + out + err
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@needs_cryptography
@pytest.mark.usefixtures("no_adb")
def test_it_overwrites_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "fleet.toml").write_text("mine")
    assert main(["--init", str(folder)]) == 3
    assert [path.name for path in folder.iterdir()] == ["fleet.toml"]
    assert (folder / "fleet.toml").read_text() == "mine"


@needs_cryptography
@pytest.mark.usefixtures("no_adb")
def test_a_fleet_that_there_is_stays_the_only_one(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('name = "x"\n[[device]]\nid = "a"\nprocessor = "cpu"\n')
    assert main([str(mine), "--init", str(tmp_path / "keys")]) == 0
    assert not (tmp_path / "keys" / "fleet.toml").exists()
    assert main([str(mine), "--init", str(tmp_path / "more"), "--ssh", "pi"]) == 2
    assert not (tmp_path / "more").exists()
    assert main(["--ssh", "pi"]) == 2


@needs_cryptography
@pytest.mark.timeout(170)
def test_what_it_writes_runs_in_private(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    made = finish(module("harness.run", "--init", "keys"), tmp_path)
    assert made.returncode == 0, made.stderr
    (tmp_path / "experiment.toml").write_text(
        EXPERIMENT.format(rounds=1, idle_s=0.2, epochs=[1]).replace("clients = [2]", "clients = [1]")
    )
    fixed = ["keys/fleet.toml", "--experiment", "experiment.toml", "-o", "results"]
    checked = finish(module("harness.run", *fixed, "--check", "--json"), tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert all(device["ok"] for device in json.loads(checked.stdout)["devices"])
    done = finish(module("harness.run", *fixed), tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(bench.records("round")) == 1


def test_targets_come_from_the_line_and_from_lists(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("pi-1.lab\n# of the lab\nubuntu@pi-2.lab:2222   # the slow one\n\npi-1.lab\n")
    assert read_targets(["a", f"@{hosts}", "a"]) == ["a", "pi-1.lab", "ubuntu@pi-2.lab:2222"]
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_targets([f"@{tmp_path / 'none'}"])
    hosts.write_text("x\n" * 200_000)
    with pytest.raises(UsageError, match="no list of hosts"):
        read_targets([f"@{hosts}"])
    hosts.write_text("".join(f"pi-{n}\n" for n in range(fleet_draft.MAX_HOSTS + 1)))
    with pytest.raises(UsageError, match="at most 1000"):
        read_targets([f"@{hosts}"])


@pytest.mark.parametrize("target", ["-oProxyCommand=x", "a b", "pi:port", "root@", "a@b@c", "pi:99999999"])
@pytest.mark.usefixtures("no_adb")
def test_what_is_no_host_is_refused_before_anything_is_made(target: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--ssh "):
        draft(tmp_path / "fleet.toml", tmp_path, [target])
    assert main(["--init", str(tmp_path / "keys"), f"--ssh={target}"]) == 2
    assert not (tmp_path / "keys").exists()


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with running_sshd() as server:
        yield server


def test_a_host_that_answers_takes_part_and_one_that_does_not_is_a_comment(sshd: Sshd) -> None:
    keys = {"id": "there", "launcher": "ssh", "processor": "cpu", **sshd.options}
    good = Entry("[[device]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in keys.items()))
    bad = Entry(good.text.replace("there", "away").replace(f"port = {sshd.port}", "port = 9"))
    there, away = fleet_draft._checked([good, bad])
    assert "GB free" in there
    assert "Python 3." in there
    [device] = parse_fleet(f'name = "x"\n{there}{away}', "x", cores=1).devices
    assert device.id == "there"
    assert "# Not yet: away: connect: 127.0.0.1: nothing listens there" in away
    assert all(line.startswith("#") for line in away.splitlines())


def test_phones_are_listed_and_wait_for_what_can_start_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phone = FakePhone(tmp_path / "adb")
    monkeypatch.setenv("PATH", f"{Path(phone.adb).parent}{os.pathsep}{os.environ['PATH']}")
    text = draft(tmp_path / "fleet.toml", tmp_path, [])
    assert f'serial = "{SERIAL}"' in text
    phone.goes("garbage")
    assert "serial" not in draft(tmp_path / "fleet.toml", tmp_path, [])


@given(st.text(max_size=200))
def test_remarks_stay_remarks(remark: str) -> None:
    entry = Entry('[[device]]\nid = "a"\nprocessor = "cpu"\n', (remark,))
    for text in (entry.render(), entry.as_comment(remark)):
        body = [line for line in text.splitlines() if not line.startswith("#")]
        assert body in ([], entry.text.splitlines())


@given(st.text(max_size=60))
def test_any_name_gives_an_id(name: str) -> None:
    id_ = fleet_draft._id(f"1-{name}")
    [device] = parse_fleet(f'name = "x"\n[[device]]\nid = "{id_}"\nprocessor = "c"\n', "x", cores=1).devices
    assert device.id == id_
