"""Runs of the real command whose clients are Java, Python with numpy alone and Python with torch, on one workload."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.launchers.local import thread_variables
from profiler.records import Row
from tests.android.java_client import Built, JavaClient, java_clients
from tests.harness.running import Bench, device_entry, environment
from tests.interop.flower import free_port

NAME = "office31-mobilenetv2"
_WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from fl.client import main; sys.exit(main(sys.argv[1:]))"
_WAIT_S = 120
_END_S = 30.0
# `wait` runs from one reply to the next instruction; the spans of a call are closed in this order
_SPANS_OF_A_FIT = ("receive", "fit", "send", "call")


@dataclass(frozen=True)
class Fleet:
    """How many clients of each kind; they take the shards in this order. A kind is also the label of its cutoff."""

    java: int = 0
    numpy: int = 0
    torch: int = 0

    @property
    def size(self) -> int:
        return self.java + self.numpy + self.torch

    def devices(self) -> list[str]:
        counts = {"java": self.java, "numpy": self.numpy, "torch": self.torch}
        return [f"{kind}-{n}" for kind, count in counts.items() for n in range(count)]

    def text(self, port: int) -> str:
        """A fleet file: what is in Java, or must not see torch, is started by its owner."""
        launchers = {"java": "external", "numpy": "external", "torch": "local"}
        entries = [
            device_entry(id=device, processor=kind, launcher=launchers[kind])
            for device in self.devices()
            for kind in [device.partition("-")[0]]
        ]
        server = f'[server]\naddress = "127.0.0.1:{port}"\njoin_timeout_s = {_WAIT_S}\n'
        return f'name = "mixed"\n{server}' + "".join(entries)


@dataclass(frozen=True)
class Data:
    """`shards` is what `fl.workloads.export` wrote for as many clients as there are; `options` are the workload's."""

    shards: Path
    classes: int
    options: dict[str, str | int]


def experiment(
    data: Data,
    *,
    rounds: int,
    epochs: int,
    clients: Sequence[int],
    seeds: Sequence[int] = (1,),
    taus_s: Mapping[str, float] | None = None,
) -> str:
    """An experiment file; `taus_s` holds the cutoff of each kind of client, where there are cutoffs."""
    options = "".join(f"{key} = {json.dumps(value)}\n" for key, value in data.options.items())
    cutoffs = ", ".join(f"{kind} = {tau_s!r}" for kind, tau_s in (taus_s or {}).items())
    strategy = f'[strategy]\nname = "cutoff"\ncutoffs = {{ {cutoffs} }}\n' if taus_s else ""
    return (
        f'name = "mixed"\nworkload = "{NAME}"\nrounds = {rounds}\nidle_s = 0\n[workload_options]\n{options}'
        f"[sweep]\nepochs = [{epochs}]\nclients = {list(clients)}\nseeds = {list(seeds)}\n{strategy}"
    )


def run(bench: Bench, fleet: Fleet, data: Data, built: Built, *words: object, timeout_s: float = 150.0) -> str:
    """To its end, and that of all its clients, each of which ends well; what the command said on stderr."""
    port = free_port()
    (bench.folder / "fleet.toml").write_text(fleet.text(port))
    with ExitStack() as stack:
        command = stack.enter_context(bench.running("--quiet", *words))
        clients = stack.enter_context(java_clients())
        others = []
        for shard, device in enumerate(fleet.devices()):
            if device.startswith("java"):
                head = ("--workload", NAME, "--classes", str(data.classes))
                wait = ("--max-wait", str(_WAIT_S))
                clients.append(
                    JavaClient(built, f"127.0.0.1:{port}", device, data.shards, *wait, shard=shard, head=head)
                )
            elif device.startswith("numpy"):
                others.append(stack.enter_context(_numpy_client(f"127.0.0.1:{port}", device, shard, fleet.size)))
        _, said = command.communicate(timeout=timeout_s)
        assert command.returncode == 0, said
        assert [client.wait(_END_S)[0] for client in clients] == [0] * len(clients)
        assert [other.wait(_END_S) for other in others] == [0] * len(others)
    return said


@contextmanager
def _numpy_client(address: str, device: str, shard: int, shards: int) -> Iterator[subprocess.Popen[bytes]]:
    """As on a phone under Termux: an import of torch fails."""
    words = ["--server", address, "--device", device, "--workload", NAME, "--meter", "none", "--max-wait", _WAIT_S]
    command = [sys.executable, "-c", _WITHOUT_TORCH, *words, "--shard", shard, "--shards", shards]
    variables = environment() | thread_variables(1)  # as launchers set them
    process = subprocess.Popen([str(word) for word in command], env=variables, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def not_measured(bench: Bench, fleet: Fleet, *, run: int = -1) -> list[str]:
    """What is missing of the measurements that a run owes: every span of every fit of every client, and its steps."""
    rounds, spans = bench.records("round", run), bench.records("span", run)
    found = [f"a failure: {row}" for row in bench.records("failure", run)]
    count = Counter((row["task"], row["round"], row["device"], row["name"]) for row in spans if row["call"] == "fit")
    for row in rounds:
        for device in fleet.devices()[: row["n_selected"]]:
            for name in _SPANS_OF_A_FIT:
                if count[row["task"], row["round"], device, name] != 1:
                    found.append(f"{device}, round {row['round']}: {name} is missing or there twice")
    return found + [f"{row['device']}, round {row['round']}: {said}" for row in spans for said in _doubts(row)]


def _doubts(row: Row) -> Iterator[str]:
    if row["name"] != "fit":
        return
    if not 1 <= row["steps_done"] <= row["steps_planned"] or len(row["steps_s"]) != row["steps_done"]:
        yield f"{row['steps_done']} steps of {row['steps_planned']}, {len(row['steps_s'])} of them timed"
    if not sum(row["steps_s"]) <= row["duration_s"]:
        yield "steps that took longer than the fit"
    if row.get("energy_j") is None and not row.get("energy_reason"):
        yield "no joules and no reason"
