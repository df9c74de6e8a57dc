"""Links for real: what is asked of them is there, by each way that this host has, and nothing is left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.device import DeviceSpec
from harness.launchers import packets
from harness.launchers.local import LocalLauncher
from harness.launchers.packets import Direction
from harness.links import (
    PACKETS,
    TC,
    Link,
    Shape,
    make_link,
    read_shape,
    run,
    shape_of,
    stale_namespaces,
    sweep_stale_links,
)
from harness.spec import Table
from profiler.errors import DeviceError, SpecError
from tests.contract.test_launcher import join
from tests.fixtures.network import left_behind, usable_link
from tests.harness.running import wait_until

LATENCY_MS = 40.0
BANDWIDTH_MBPS = 4.0
N_BYTES = 1_000_000
SENDER = (
    "import socket, sys\n"
    "with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:\n"
    "    s.sendall(bytes(int(sys.argv[3]))); s.shutdown(socket.SHUT_WR); s.recv(1)\n"
)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = left_behind()
    yield
    wait_until(lambda: left_behind() <= before)  # the kernel takes a moment to remove what its last user has left


def ping() -> str:
    return shutil.which("ping") or pytest.skip("needs ping: apt install iputils-ping")


def round_trip_ms(link: Link) -> float:
    """The median of five pings."""
    command = [ping(), "-n", "-c", "5", "-i", "0.2", "-W", "5", link.there]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return statistics.median(float(found) for found in re.findall(r"time=([\d.]+)", said))


def transfer_s(link: Link, n_bytes: int) -> float:
    """From the client's side to the host's, first byte to last."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, _, port = link.serve(f"127.0.0.1:{server.getsockname()[1]}").rpartition(":")
        took: list[float] = []
        taker = threading.Thread(target=_take, args=(server, n_bytes, took))
        taker.start()
        command = link.inside([sys.executable, "-I", "-S", "-c", SENDER, host, port, str(n_bytes)])
        subprocess.run(command, check=True, timeout=60)
        taker.join(60)
    return took[0]


def _take(server: socket.socket, n_bytes: int, took: list[float]) -> None:
    connection, _ = server.accept()
    with connection:
        began_s, left = time.monotonic(), n_bytes
        while left and (got := len(connection.recv(65536))):
            left -= got
        took.append(time.monotonic() - began_s)
        assert left == 0


@pytest.mark.serial
@pytest.mark.parametrize("way", [TC, PACKETS])
def test_latency_is_there_each_way(way: str) -> None:
    with usable_link(Shape(latency_ms=LATENCY_MS), way) as link:
        found_ms = round_trip_ms(link)
    assert found_ms > 2 * LATENCY_MS - 0.5
    assert found_ms < 4 * LATENCY_MS, "also on a busy machine"


@pytest.mark.serial
@pytest.mark.parametrize("way", [TC, PACKETS])
def test_bandwidth_is_bounded(way: str) -> None:
    """At most what was asked for, but for what passes at once; and not much less: headers are 4 % of a packet."""
    least_s = N_BYTES * 8 / (BANDWIDTH_MBPS * 1e6)
    with usable_link(Shape(bandwidth_mbps=BANDWIDTH_MBPS), way) as link:
        found_s = transfer_s(link, N_BYTES)
    assert 0.9 * least_s < found_s < 2 * least_s


@pytest.mark.serial
def test_the_way_to_the_server_is_not_for_neighbours() -> None:
    """One who sends packets for the relay's address to another network device of this host, here another link's."""
    with (
        usable_link(Shape(latency_ms=1.0)) as link,
        usable_link(Shape(latency_ms=1.0), name="neighbour") as other,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        host, _, port = link.serve(f"127.0.0.1:{server.getsockname()[1]}").rpartition(":")
        run("ip", "-n", other.namespace, "route", "add", "default", "via", other.here)
        connect = f"import socket; socket.create_connection(({host!r}, {port}), 10.0)"
        told = {}
        for end in (link, other):
            command = end.inside([sys.executable, "-I", "-S", "-c", connect])
            told[end] = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told[link].returncode == 0, told[link].stderr
    assert "ConnectionRefusedError" in told[other].stderr


@pytest.mark.serial
@pytest.mark.parametrize("way", [TC, PACKETS])
def test_some_are_lost(way: str) -> None:
    with usable_link(Shape(loss=0.5), way) as link:
        command = [ping(), "-n", "-c", "60", "-i", "0.01", "-W", "1", link.there]
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    [lost] = re.findall(r"([\d.]+)% packet loss", said)
    assert 50 < float(lost) < 95, "half of them there, half of the rest on the way back"


@pytest.mark.serial
def test_the_links_of_a_harness_that_was_killed_are_swept() -> None:
    """Its helpers die with it; the namespace stays, and goes at the next start."""
    script = (
        "import os, time\n"
        "from harness.links import Shape, make_link\n"
        "link = make_link(Shape(latency_ms=1.0), 'orphan')\n"
        "print(link.namespace, link.serve('127.0.0.1:1'), flush=True)\n"
        "time.sleep(600)\n"
    )
    with usable_link(Shape(latency_ms=1.0), PACKETS):
        pass
    harness = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert harness.stdout is not None
    namespace = harness.stdout.readline().split()[0]
    sweep_stale_links()
    assert Path("/run/netns", namespace).exists(), "its harness lives"
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    harness.stdout.close()
    assert namespace in list(stale_namespaces())
    sweep_stale_links()
    assert not Path("/run/netns", namespace).exists()


@pytest.mark.serial
def test_what_is_there_is_told_by_the_check() -> None:
    with usable_link(Shape(latency_ms=1.0), PACKETS):
        pass
    options = LocalLauncher.read_options(Table({"latency_ms": 5, "bandwidth_mbps": 2.5}, "fleet.toml"))
    checked = LocalLauncher.check(DeviceSpec("far", "local", "cpu", 0, options=options))
    assert checked.ok, checked.detail
    assert re.search(r"bandwidth_mbps 2\.5 by .+, latency_ms 5 by ", checked.detail)


def test_without_rights_it_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(DeviceError, match=r"far: latency_ms cannot be had: making network namespaces needs root"):
        make_link(Shape(latency_ms=1.0), "far")
    options = LocalLauncher.read_options(Table({"latency_ms": 5}, "fleet.toml"))
    device = DeviceSpec("far", "local", "cpu", 0, options=options)
    checked = LocalLauncher.check(device)
    assert (checked.ok, "Run as root" in checked.detail) == (False, True)
    with pytest.raises(DeviceError, match="needs root"):
        LocalLauncher(tmp_path).start(device, join(1))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"latency_ms": -1}, "'latency_ms' must be at least 0"),
        ({"latency_ms": "far"}, "'latency_ms' must be a number"),
        ({"loss": 1.5}, "'loss' must be at most 0.9"),
        ({"bandwidth_mbps": 0}, "'bandwidth_mbps' must be at least 0.01"),
        ({"bandwidth_mbps": float("nan")}, "'bandwidth_mbps' must be at least 0.01"),
    ],
)
def test_shapes_are_checked(values: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        read_shape(Table(values, "fleet.toml"))


def test_no_shape_is_no_link() -> None:
    assert shape_of(read_shape(Table({}, "fleet.toml"))) is None
    assert shape_of({"latency_ms": 0.0, "loss": 0.0}) is None
    assert shape_of({"loss": 0.1}) == Shape(loss=0.1)


def test_packets_keep_their_order_and_the_pace_of_the_wire() -> None:
    wire = Direction(8000.0, 0.5, 0.0, packets.random.Random(1))
    for n in range(3):
        wire.push(bytes([n]) * 100, now_s=10.0)  # 0.1 s each
    assert wire.next_s == pytest.approx(10.6)
    assert wire.due(10.599) == []
    assert wire.due(10.75) == [bytes(100), bytes([1]) * 100]
    assert wire.due(20.0) == [bytes([2]) * 100]
    assert wire.next_s is None


@given(
    sent=st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 1500)), min_size=1, max_size=50),
    bits_per_s=st.floats(1e4, 1e7),
    latency_s=st.floats(0, 1),
)
def test_no_packet_arrives_before_those_ahead_of_it_are_on_the_wire(
    sent: list[tuple[float, int]], bits_per_s: float, latency_s: float
) -> None:
    """Of any that follow each other, all but the first take the time of their bits; none comes before its latency."""
    wire = Direction(bits_per_s, latency_s, 0.0, packets.random.Random(1))
    now_s, came = 0.0, []
    for gap_s, n_bytes in sent:
        now_s += gap_s
        came.append((now_s, n_bytes))
        wire.push(bytes(n_bytes), now_s)
    arrived_s = []
    while (next_s := wire.next_s) is not None:
        arrived_s += [next_s] * len(wire.due(next_s))
    assert len(arrived_s) == len(sent)
    taken_s = [n_bytes * 8 / bits_per_s for _, n_bytes in came]
    for (pushed_s, _), took_s, there_s in zip(came, taken_s, arrived_s, strict=True):
        assert there_s >= pushed_s + took_s + latency_s - 1e-6
    for n in range(1, len(sent)):
        assert arrived_s[n] - arrived_s[n - 1] >= taken_s[n] - 1e-6


def test_a_queue_that_is_full_drops() -> None:
    wire = Direction(8e6, 0.0, 0.0, packets.random.Random(1))
    for _ in range(2 * packets.QUEUE_PACKETS):
        wire.push(bytes(100), now_s=0.0)
    assert len(wire.due(1e9)) == packets.QUEUE_PACKETS
