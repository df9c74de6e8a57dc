"""Containers for real: quotas, limits, ends of every kind, and nothing left behind. Skipped where no engine runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fl.certificates import make
from fl.security import CA, CA_KEY, CLIENT, CLIENT_KEY, SERVER_KEY, TOKEN
from harness.device import DeviceSpec
from harness.host import process_cpu_s
from harness.launcher import log_tail, signal_name
from harness.launchers.container import ContainerLauncher, ContainerSession, _run_arguments
from harness.launchers.container_engine import Engine, find_engine
from harness.run import main
from harness.spec import Table
from profiler.errors import DeviceError
from tests.contract.test_launcher import join
from tests.fixtures.command_lines import command_line
from tests.fixtures.containers import containers, usable_engine, usable_image
from tests.fixtures.node_program import Script
from tests.harness.running import wait_until

GREEDY = "taken = [b'x' * 2**20 for _ in range(400)]"
BUSY = "while True: pass"


def device(id_: str = "a", **options: object) -> DeviceSpec:
    given = Table({"image": "nothing", **options}, "fleet.toml [[device]]")
    return DeviceSpec(id_, "container", "cpu", 0, options=ContainerLauncher.read_options(given))


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One that runs containers, and has those afterwards that it had before."""
    engine = usable_engine()
    before = containers(engine)
    yield engine
    assert containers(engine) == before


@pytest.fixture
def launcher(tmp_path: Path) -> ContainerLauncher:
    return ContainerLauncher(tmp_path)


def running(tmp_path: Path, code: str, **options: object) -> DeviceSpec:
    """A device whose interpreter does something else, whatever it is told."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable} -S\n{code}\n")
    script.chmod(0o755)
    image = usable_image()
    mounts = [*image["mounts"], str(tmp_path)]  # type: ignore[misc]
    return device(**{**image, "python": str(script), "mounts": mounts, **options})


def ended(session: ContainerSession) -> int:
    for _ in range(600):
        status = session.exit_status()
        if status is not None:
            return status
        time.sleep(0.05)
    pytest.fail("it runs on")


@pytest.mark.serial
@pytest.mark.parametrize("quota", [0.5, 0.25])
def test_a_quota_is_kept_to_a_tenth(engine: Engine, launcher: ContainerLauncher, tmp_path: Path, quota: float) -> None:
    """In one second of several, since others may want the cores too; never much more."""
    session = launcher.start(running(tmp_path, BUSY, cpu_limit=quota), join(1))
    try:
        assert session.pid is not None
        found: list[float] = []
        while len(found) < 8 and not any(is_near(cores, quota) for cores in found):
            found.append(cores_of(session.pid))
        assert any(is_near(cores, quota) for cores in found), found
        assert max(found) < 1.2 * quota
    finally:
        session.stop(0.0)


def is_near(cores: float, quota: float) -> bool:
    return abs(cores / quota - 1) <= 0.1


def cores_of(pid: int) -> float:
    start_s, before_s = time.monotonic(), process_cpu_s(pid)
    time.sleep(1.0)
    after_s, end_s = process_cpu_s(pid), time.monotonic()
    assert before_s is not None
    assert after_s is not None
    return (after_s - before_s) / (end_s - start_s)


@pytest.mark.serial
def test_one_that_takes_too_much_memory_is_ended_and_its_log_says_why(
    engine: Engine, launcher: ContainerLauncher, tmp_path: Path
) -> None:
    session = launcher.start(running(tmp_path, GREEDY, memory_limit_mb=64), join(1))
    assert signal_name(ended(session)) == "killed by SIGKILL"
    session.stop(0.1)
    assert log_tail(session.log_path).count("taking more than memory_limit_mb = 64") == 1


@pytest.mark.serial
def test_one_that_is_killed_did_not_take_too_much(engine: Engine, launcher: ContainerLauncher, tmp_path: Path) -> None:
    session = launcher.start(running(tmp_path, BUSY, memory_limit_mb=64), join(1))
    assert session.pid is not None
    os.kill(session.pid, signal.SIGKILL)
    assert signal_name(ended(session)) == "killed by SIGKILL"
    session.stop(0.1)
    assert "memory" not in log_tail(session.log_path)


@pytest.mark.serial
def test_one_that_listens_to_nothing_is_ended_all_the_same(
    engine: Engine, launcher: ContainerLauncher, tmp_path: Path
) -> None:
    deaf = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(600)"
    session = launcher.start(running(tmp_path, deaf), join(1))
    before_s = time.monotonic()
    session.stop(1.0)
    assert time.monotonic() - before_s < 30
    assert session.exit_status() is not None
    assert session.pid is not None
    assert process_cpu_s(session.pid) is None


@pytest.mark.serial
def test_one_that_was_paused_is_ended(engine: Engine, launcher: ContainerLauncher, tmp_path: Path) -> None:
    session = launcher.start(running(tmp_path, BUSY), join(1))
    subprocess.run(engine.command("pause", session.facts["container"]), check=True, capture_output=True)
    session.stop(0.1)
    assert session.exit_status() is not None


@pytest.mark.serial
def test_containers_of_a_harness_that_was_killed_end_and_are_swept(engine: Engine, tmp_path: Path) -> None:
    """They get SIGINT as the harness dies; what is left of them goes at the next start. Those of the living stay."""
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from harness.launchers.container import ContainerLauncher\n"
        "from tests.harness.test_container import device, join, usable_image\n"
        f"session = ContainerLauncher(Path({str(tmp_path)!r})).start(device('orphan', **usable_image()), join(1))\n"
        "print(session.facts['container'], session.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    harness = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert harness.stdout is not None
    name, pid = harness.stdout.readline().split()
    assert engine.sweep() == [], "its harness lives"
    time.sleep(1.0)  # until Python in the container listens
    harness.kill()
    harness.wait()
    harness.stdout.close()
    for _ in range(200):
        if process_cpu_s(int(pid)) is None:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the container outlived its harness")
    assert name in containers(engine)
    ContainerLauncher(tmp_path).start(device("next", **usable_image()), join(1)).stop(0.0)
    assert name not in containers(engine)
    assert not list(Path(tempfile.gettempdir()).glob(f"{name}-*"))


@pytest.mark.serial
@pytest.mark.timeout(120)
def test_processes_and_containers_train_together(engine: Engine, tmp_path: Path) -> None:
    """A whole run by mutual TLS: the container reaches the server and has its keys; its device file tells of it."""
    pytest.importorskip("cryptography", reason="making certificates needs the package cryptography")
    keys = make(tmp_path / "keys", devices=["process", "box"]).folder
    entry = {**usable_image(), "cpu_limit": 0.5, "memory_limit_mb": 512}
    values = "\n".join(f"{key} = {json.dumps(value)}" for key, value in entry.items())
    (tmp_path / "fleet.toml").write_text(
        f'name = "mixed"\n[server]\ntls = "{keys}"\n[[device]]\nid = "process"\nprocessor = "cpu"\n'
        f'[[device]]\nid = "box"\nprocessor = "cpu@0.5"\nlauncher = "container"\n{values}\n'
    )
    (tmp_path / "short.toml").write_text(
        'name = "short"\nworkload = "linear"\nrounds = 2\nidle_s = 0.2\n[sweep]\nepochs = [1]\nclients = [2]\n'
    )
    arguments = [str(tmp_path / "fleet.toml"), "--experiment", str(tmp_path / "short.toml")]
    assert main([*arguments, "-o", str(tmp_path / "results")]) == 0
    [run] = (tmp_path / "results").iterdir()
    facts = json.loads((run / "devices/box.json").read_text())
    assert (facts["engine"], facts["image_id"] != "") == (engine.name, True)
    assert (facts["cpu_limit"], facts["memory_limit_mb"]) == (0.5, 512)
    rows = [json.loads(line) for path in (run / "records").glob("*.jsonl") for line in path.read_text().splitlines()]
    fits = [row for row in rows if row["kind"] == "span" and row["device"] == "box" and row["name"] == "fit"]
    assert len(fits) == 2
    assert all(row["energy_scope"] == "process" for row in fits if row["energy_j"] is not None)


def test_keys_travel_by_mount_and_only_those_of_the_client(tmp_path: Path) -> None:
    for name in (CA, CA_KEY, CLIENT, CLIENT_KEY, SERVER_KEY, TOKEN):
        (tmp_path / name).write_text(f"content of {name}")
    words = _run_arguments(device(), replace(join(1), tls=tmp_path), Engine("docker", "1"), "fedmeter-1-a")
    mounted = {Path(word.split(":")[0]).name for word in words if word.startswith(str(tmp_path))}
    assert mounted == {CA, CLIENT, CLIENT_KEY, TOKEN}
    assert all(word.endswith(":ro") for word in words if word.startswith(str(tmp_path)))
    assert not any("content of" in word for word in words)


def test_another_program_gets_no_secret_and_an_empty_folder(tmp_path: Path) -> None:
    for name in (CA, TOKEN):
        (tmp_path / name).write_text("content of it")
    told = replace(join(1), tls=tmp_path, nodes=Script("pass", "0.0.0.0:7"))
    words = _run_arguments(device(), told, Engine("docker", "1"), "fedmeter-1-a")
    assert not any(str(tmp_path) in word for word in words)
    assert words[words.index("--workdir") + 1] == "/run/fedmeter/node"
    assert words[words.index("--entrypoint") + 1 :] == ["python3", "nothing", "-c", "pass", "a", "127.0.0.1:7"]
    assert "--workdir" not in _run_arguments(device(), join(1), Engine("docker", "1"), "fedmeter-1-a")


@pytest.mark.serial
def test_all_that_another_program_starts_ends_with_its_container(engine: Engine, launcher: ContainerLauncher) -> None:
    """Its folder is empty and can be written to; a child in a session of its own does not stay."""
    program = """
import os, pathlib, subprocess, sys
print("in", os.getcwd(), os.listdir(), flush=True)
pathlib.Path("kept").write_text("x")
subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)", "of-box"], start_new_session=True).wait()
"""
    session = launcher.start(device("box", **usable_image()), replace(join(1), nodes=Script(program)))
    try:
        wait_until(lambda: below_with(session.pid, "of-box"), 60.0)
        [child] = below_with(session.pid, "of-box")
    finally:
        session.stop(1.0)
    assert not child.is_running()
    assert "in /run/fedmeter/node []" in session.log_path.read_text()


def below_with(pid: int | None, word: str) -> list[psutil.Process]:
    found = psutil.Process(pid).children(recursive=True)
    return [one for one in found if word in command_line(one)]


def test_each_engine_has_its_own_words_for_gpus_and_runtimes() -> None:
    gpus = device(gpus="0,1", runtime="nvidia")
    docker, podman = Engine("docker", "1", "nvidia"), Engine("podman", "1", "nvidia")
    words = docker.run_command(*_run_arguments(gpus, join(1), docker, "x"))
    assert words[:4] == ["docker", "run", "--runtime", "nvidia"]
    assert words[words.index("--gpus") + 1] == '"device=0,1"'
    words = podman.run_command(*_run_arguments(gpus, join(1), podman, "x"))
    assert words[:4] == ["podman", "--runtime", "nvidia", "run"]
    assert "nvidia.com/gpu=1" in words


def test_a_mount_without_a_target_is_found_at_the_same_place() -> None:
    mounts = device(mounts=["/sys/class/powercap:ro", "/data", "/a:/b:ro"]).options["mounts"]
    assert mounts == ["/sys/class/powercap:/sys/class/powercap:ro", "/data:/data", "/a:/b:ro"]


def test_what_is_missing_is_told_before_anything_starts(engine: Engine, launcher: ContainerLauncher) -> None:
    absent = device(image="localhost/no-such-image", engine=engine.name)
    checked = ContainerLauncher.check(absent)
    assert not checked.ok
    assert f"{engine.name} pull localhost/no-such-image" in checked.detail
    with pytest.raises(DeviceError, match="no-such-image cannot be used"):
        launcher.start(absent, join(1))
    for options in ({"mounts": ["/no/such/folder"]}, {"cores": [4095]}):
        checked = ContainerLauncher.check(device(**{**usable_image(), **options}))
        assert not checked.ok
        assert "this host" in checked.detail


def test_an_engine_that_does_not_answer_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs by the names of the engines: the one answers as Docker does whose service is down."""
    for name, does in (("docker", "echo 'is the docker daemon running?' >&2; exit 1"), ("podman", "echo 9.9")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_engine() == Engine("podman", "9.9")
    with pytest.raises(DeviceError, match="is the docker daemon running"):
        find_engine("docker")
