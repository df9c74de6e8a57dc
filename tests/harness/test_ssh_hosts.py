"""Several machines over ssh, each with an address of its own: namespaces of this one, and a cable that is pulled."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.links import Link, Shape
from tests.fixtures.network import left_behind, usable_link
from tests.fixtures.sshd import Sshd, running_sshd
from tests.harness.running import Bench, device_entry, wait_until

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]

HOSTS, ROUNDS = 2, 30
CUT_S = 3.0
EXPERIMENT = (
    f'name = "long"\nworkload = "linear"\nrounds = {ROUNDS}\nidle_s = 0.2\n[sweep]\nepochs = [4]\n'
    "[workload_options]\nexamples = 20000\n"
)


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Sshd]]:
    before = left_behind()
    with running_sshd() as here, ExitStack() as stack:
        links = [stack.enter_context(usable_link(Shape(latency_ms=1.0), name=f"host-{n}")) for n in range(HOSTS)]
        servers = [here.at(link) for link in links]
        for server in servers:
            server.start()
            stack.callback(server.stop)
        yield servers
    wait_until(lambda: left_behind() <= before)


def write(folder: Path, hosts: list[Sshd]) -> None:
    entries: list[dict[str, object]] = [
        {"id": f"host-{n}", "processor": "cpu", "launcher": "ssh", "meter": "none", **host.options}
        for n, host in enumerate(hosts)
    ]
    (folder / "fleet.toml").write_text('name = "hosts"\n' + "".join(device_entry(**entry) for entry in entries))
    (folder / "experiment.toml").write_text(EXPERIMENT)


def set_cable(link: Link, state: str) -> None:
    """Of the host's end: a device that is down carries nothing, and nobody is told."""
    shown = subprocess.run(["ip", "-br", "address"], capture_output=True, text=True, check=True).stdout
    [device] = [line.split()[0].partition("@")[0] for line in shown.splitlines() if f"{link.here}/" in line]
    subprocess.run(["ip", "link", "set", device, state], check=True)


def test_a_cable_that_is_pulled_and_plugged_again_costs_time_and_no_round(hosts: list[Sshd], tmp_path: Path) -> None:
    write(tmp_path, hosts)
    bench = Bench(tmp_path)
    assert hosts[0].link is not None
    with bench.running() as run:
        wait_until(lambda: len(bench.records("round")) >= 2)
        set_cable(hosts[0].link, "down")
        time.sleep(CUT_S)
        n_while_cut = len(bench.records("round"))
        set_cable(hosts[0].link, "up")
        _, told = run.communicate(timeout=120)
    rounds = bench.records("round")
    assert [row["round"] for row in rounds] == list(range(1, ROUNDS + 1)), told
    assert n_while_cut < ROUNDS, "it was over before the cable was pulled"
    assert max(row["time_s"] for row in rounds) > CUT_S / 2, "nobody has felt it"
    answered = {(row["round"], row["device"]) for row in bench.records("span") if row["name"] == "call"}
    failed = {(row["round"], row["device"]) for row in bench.records("failure")}
    due = {(round_, f"host-{n}") for round_ in range(1, ROUNDS + 1) for n in range(HOSTS)}
    assert due <= answered | failed
    assert (ROUNDS, "host-0") in answered, "it is back"
    assert run.returncode == (1 if failed else 0)
    assert {bench.device_file(f"host-{n}")["host"] for n in range(HOSTS)} == {host.address for host in hosts}
    wait_until(lambda: not hosts[0].left_behind(), 15.0)
