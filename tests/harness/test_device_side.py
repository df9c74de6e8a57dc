"""The device's half of the ssh launcher, run here by an interpreter of its own, as ssh runs it there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.launchers import device_side
from harness.launchers.provisioning import packed
from harness.launchers.remote import RemoteCommand
from tests.fixtures.sshd import bare_environment
from tests.harness.running import wait_until

pytestmark = [pytest.mark.timeout(60)]

SLEEPER = "import sys, time; print('up', file=sys.stderr, flush=True); time.sleep(60)"
ESCAPER = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {SLEEPER!r}], start_new_session=True)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


@contextmanager
def asked(request: dict[str, Any], python: str | Path = sys.executable) -> Iterator[tuple[RemoteCommand, list[bytes]]]:
    """A request that runs, and what it and its client print besides."""
    printed: list[bytes] = []
    running = RemoteCommand([str(python), "-I", "-S", device_side.__file__], printed.append)
    try:
        running.send(json.dumps(request).encode() + b"\n")
        yield running, printed
    finally:
        running.end()


def supervise(folder: Path, program: str, **more: Any) -> dict[str, Any]:
    command = [sys.executable, "-S", "-c", program]
    return {
        "do": "supervise",
        "command": command,
        "environment": {"GREETING": "hello"},
        "folder": str(folder),
        "files": {"token": "c2VjcmV0"},
        "files_variable": "SECRETS",
        "patience_s": 60.0,
        **more,
    }


def processes_in(folder: Path) -> list[int]:
    """Those that work below a folder, as a client does."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_client_ends_by_itself(tmp_path: Path) -> None:
    program = (
        "import os, sys; secret = open(os.environ['SECRETS'] + '/token').read()\n"
        "print(secret, os.environ['GREETING'], file=sys.stderr); sys.exit(7)"
    )
    with asked(supervise(tmp_path, program)) as (running, printed):
        assert (running.receive(10.0) or {})["started"] > 0
        assert running.receive(10.0) == {"ended": 7}
        assert running.receive(10.0) is None
        assert running.receive(10.0) is None
    assert b"".join(printed) == b"secret hello\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("program", "ending"), [(SLEEPER, -15), (DEAF, -9)])
def test_a_client_is_told_to_stop(tmp_path: Path, program: str, ending: int) -> None:
    with asked(supervise(tmp_path, program)) as (running, printed):
        assert running.receive(10.0)
        wait_until(lambda: b"up" in b"".join(printed))
        running.send(b"beat\nstop 0.2\n")
        assert running.receive(10.0) == {"ended": ending}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["closed", "silent", "killed"])
def test_a_client_ends_when_nobody_is_there(tmp_path: Path, how: str) -> None:
    patience_s = 0.5 if how == "silent" else 60.0
    with asked(supervise(tmp_path, SLEEPER, patience_s=patience_s)) as (running, printed):
        client = (running.receive(10.0) or {})["started"]
        wait_until(lambda: b"up" in b"".join(printed))
        if how == "closed":
            running.close_input()
        if how == "killed":
            psutil.Process(psutil.Process(client).ppid()).kill()
        wait_until(lambda: not processes_in(tmp_path), 10.0)
    left = list(tmp_path.iterdir())
    assert len(left) == (1 if how == "killed" else 0)
    with asked(supervise(tmp_path, "")) as (running, _):
        assert running.receive(10.0)
        assert running.receive(10.0) == {"ended": 0}
    assert list(tmp_path.iterdir()) == [], "what a killed supervisor has left, the next one removes"


SPOOLER = "open({!r}, 'wb').write(b'of the {}\\ntorn'); " + SLEEPER


def spools_of(running: RemoteCommand) -> list[tuple[str, str]]:
    """What is handed over before the client's end is told."""
    told = []
    while "ended" not in (answer := running.receive(10.0) or {}):
        told.append((answer["of"], answer["spool"]))
    return told


@pytest.mark.parametrize("how", ["told", "closed", "killed"])
def test_what_a_client_could_not_send_is_handed_over_now_or_to_the_next(tmp_path: Path, how: str) -> None:
    spool = str(tmp_path / "spools" / "run.a")
    with asked(supervise(tmp_path, SPOOLER.format(spool, "first"), spool=spool)) as (running, printed):
        client = (running.receive(10.0) or {})["started"]
        wait_until(lambda: b"up" in b"".join(printed))
        if how == "told":
            running.send(b"stop 1\n")
            assert spools_of(running) == [("own", "of the first\n")]
        elif how == "closed":
            running.close_input()
        else:
            psutil.Process(psutil.Process(client).ppid()).kill()
        wait_until(lambda: not processes_in(tmp_path), 10.0)
    with asked(supervise(tmp_path, SPOOLER.format(spool, "second"), spool=spool)) as (running, printed):
        assert running.receive(10.0)
        wait_until(lambda: b"up" in b"".join(printed))
        running.send(b"stop 1\n")
        before = [] if how == "told" else [("before", "of the first\n")]
        assert spools_of(running) == [*before, ("own", "of the second\n")]
    assert list(tmp_path.iterdir()) == []


def test_spools_of_long_ago_are_removed(tmp_path: Path) -> None:
    (tmp_path / "spools").mkdir()
    for name, age_s in (("run.old", 8 * 86400), ("run.new", 60)):
        (tmp_path / "spools" / name).write_bytes(b"of another run\n")
        os.utime(tmp_path / "spools" / name, (time.time() - age_s, time.time() - age_s))
    with asked(supervise(tmp_path, "", spool=str(tmp_path / "spools" / "run.a"))) as (running, _):
        assert running.receive(10.0)
        assert running.receive(10.0) == {"ended": 0}
    assert [path.name for path in (tmp_path / "spools").iterdir()] == ["run.new"]


def test_a_clock_that_was_set_ahead_makes_no_spool_old(tmp_path: Path) -> None:
    (tmp_path / "spools").mkdir()
    written_s = time.time() - 30 * 86400  # by a clock that was set ahead by a month since
    (tmp_path / "spools" / "run.new").write_bytes(b"of another run\n")
    os.utime(tmp_path / "spools" / "run.new", (written_s, written_s))
    request = supervise(tmp_path, "", spool=str(tmp_path / "spools" / "run.a")) | {"now_s": written_s + 60}
    with asked(request) as (running, _):
        assert running.receive(10.0)
        assert running.receive(10.0) == {"ended": 0}
    assert [path.name for path in (tmp_path / "spools").iterdir()] == ["run.new"]


def test_children_that_leave_the_group_end_too(tmp_path: Path) -> None:
    with asked(supervise(tmp_path, ESCAPER)) as (running, _):
        assert running.receive(10.0)
        assert running.receive(10.0) == {"ended": 0}
    assert processes_in(tmp_path) == []


def test_a_command_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    with asked(supervise(tmp_path, "", command=["/no/such/python"])) as (running, _):
        answer = running.receive(10.0) or {}
    assert (answer["error"], answer["path"]) == ("No such file or directory", "/no/such/python")
    assert list(tmp_path.iterdir()) == []


def test_what_a_login_shell_prints_is_no_answer() -> None:
    script = """echo Welcome; echo 'fedmeter: no json'; echo 'fedmeter: [1]'; echo 'fedmeter: {"a": 1}'"""
    running = RemoteCommand(["sh", "-c", script], lambda _: None)
    assert [running.receive(5.0), running.receive(5.0)] == [{"a": 1}, None]
    running.end()


# --- installing ------------------------------------------------------------------------------------------------------


def wheel_of(name: str) -> tuple[str, bytes]:
    """A wheel of an installed package, and what to call it."""
    installed = distribution(name)
    base = f"{name}-{installed.version}"
    tag = next(line[5:] for line in (installed.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: "))
    paths = [path for path in installed.files or () if "__pycache__" not in path.parts and ".." not in path.parts]
    members = {path.as_posix(): path.locate().read_bytes() for path in paths if path.name != "RECORD"}  # type: ignore[attr-defined]
    return f"{base}-{tag}.whl", packed(base, members)


def environment_without(folder: Path, package: str) -> Path:
    """An interpreter with the packages of this one, but for one; they are links."""
    made, here = bare_environment(folder, sys.executable), Path(sysconfig.get_path("platlib"))
    links = folder / "links"
    links.mkdir()
    for entry in here.iterdir():
        if not entry.name.startswith((package, "fedmeter", "__editable__")):
            (links / entry.name).symlink_to(entry)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "links.pth").write_text(f"{links}\n")
    return made


def installation(site: Path, files: Sequence[tuple[str, bytes]], requirements: Sequence[str]) -> dict[str, Any]:
    described = [
        {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files
    ]
    return {
        "do": "install",
        "site": str(site),
        "files": described,
        "requirements": list(requirements),
        "offline": True,
    }


OWN = ("own-1.0-py3-none-any.whl", packed("own-1.0", {"own.py": b"import psutil\nprint(psutil.__file__)\n"}))


def install(python: Path, site: Path, files: Sequence[tuple[str, bytes]], *requirements: str) -> dict[str, Any]:
    with asked(installation(site, files, requirements), python) as (running, _):
        for _, content in files:
            running.send(content)
        return dict(running.receive(60.0) or {})


def test_what_is_missing_comes_from_the_wheelhouse_and_the_rest_stays(tmp_path: Path) -> None:
    python, site = environment_without(tmp_path / "env", "psutil"), tmp_path / "there" / "own"
    site.parent.mkdir()
    assert subprocess.run([python, "-c", "import psutil"], capture_output=True, check=False).returncode != 0
    assert install(python, site, [OWN, wheel_of("psutil")], "psutil>=5.9") == {"installed": str(site)}
    assert [path.name for path in site.parent.iterdir()] == ["own"]
    assert (site / device_side.COMPLETE).exists()
    done = subprocess.run(
        [python, "-m", "own"], env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(site))
    assert install(python, site, [OWN]) == {"installed": str(site)}, "somebody else was as fast"
    assert not list(site.glob("numpy*"))


def test_what_pip_cannot_do_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    python, site = environment_without(tmp_path / "env", "psutil"), tmp_path / "there" / "own"
    site.parent.mkdir()
    answer = install(python, site, [OWN], "psutil>=5.9")
    assert "No matching distribution found for psutil" in answer["pip_failed"]
    assert list(site.parent.iterdir()) == []


def test_what_does_not_arrive_whole_is_refused(tmp_path: Path) -> None:
    request = installation(tmp_path / "own", [OWN], [])
    request["files"][0]["sha256"] = "0" * 64
    with asked(request) as (running, _):
        running.send(OWN[1])
        answer = running.receive(10.0) or {}
    assert answer["error"] == "did not arrive as it was sent"
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_of_ours_lists_what_it_holds(tmp_path: Path) -> None:
    name, content = OWN
    (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / name) as wheel:
        lines = wheel.read("own-1.0.dist-info/RECORD").decode().splitlines()
    assert lines[0].startswith("own.py,sha256=")
    assert lines[-1] == "own-1.0.dist-info/RECORD,,"
