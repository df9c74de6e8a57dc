"""Our server and client beside Flower's over the same wire, each a process of its own; and folding alone.

Servers are asked by lean clients, which cost next to nothing, so that what is timed is the server. Flower is 1.32.1
and its newest. The first two rounds are warm-up.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PathDistribution
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.payload import make
from tests.fixtures.environments import NotInstalled, python_with

ROOT = Path(__file__).parents[2]
PEERS = ("flwr==1.32.1", "flwr==1.42.0")
OURS = Path(sys.executable)
ROUNDS, WARM_UP = 6, 2
TIMEOUT_S = 280.0
MODEL_BYTES = sum(array.nbytes for array in make("resnet18"))

Told = Mapping[str, float]


def flower() -> list[Figure]:
    """Ten clients of 44.7 MB, a hundred of 100 kB, one client of each kind, a hundred updates folded."""
    figures: list[Figure] = []
    for requirement in PEERS:
        try:
            python = python_with(requirement)
        except NotInstalled as error:
            figures.append(Figure(f"beside {requirement}: {error}", "", [float("nan")]))
            continue
        peer = f"flwr {_version(python)}"
        figures += _servers(peer, python, 10, "resnet18", {"cpu_s": "ratio <= 0.33", "peak_bytes": "ratio <= 0.4"})
        figures += _servers(peer, python, 100, "100k", {"s": "ratio <= 0.5", "cpu_s": "ratio <= 0.5"})
        figures += _clients(peer, python)
        figures += _folding(peer, python)
    return figures


def flower_100() -> list[Figure]:
    """A hundred clients of 44.7 MB: ours alone, since Flower's server takes over 14 GB."""
    rounds = _served(OURS, "serve_ours", 100, "resnet18", rounds=3)
    what = "server, 100 clients of resnet18"
    return [
        Figure(f"{what}, a round", "s", [each["s"] for each in rounds]),
        Figure(f"{what}, CPU a round", "s", [each["cpu_s"] for each in rounds]),
        Figure(f"{what}, peak memory", "MB", [rounds[-1]["peak_bytes"] / 1e6], goal="<= 5000 MB"),
    ]


def flower_1000() -> list[Figure]:
    """A thousand clients of 100 kB, none of them in trouble, beside Flower 1.32.1."""
    python = python_with(PEERS[0])
    return _servers(f"flwr {_version(python)}", python, 1000, "100k", {"s": "ratio <= 0.5"})


def _servers(peer: str, python: Path, n_clients: int, model: str, goals: Mapping[str, str]) -> list[Figure]:
    ours = _served(OURS, "serve_ours", n_clients, model, ROUNDS)
    its = _served(python, "serve_flwr", n_clients, model, ROUNDS)
    what = f"server, {n_clients} clients of {model}"
    return [
        _figure(f"{what}, a round", "s", 1.0, "s", ours, peer, its, goals),
        _figure(f"{what}, CPU a round", "s", 1.0, "cpu_s", ours, peer, its, goals),
        _figure(f"{what}, peak memory", "MB", 1e-6, "peak_bytes", ours[-1:], peer, its[-1:], goals),
    ]


def _clients(peer: str, python: Path) -> list[Figure]:
    return [*_client_of_resnet18(peer, python), *_client_of_100k(peer, python)]


def _client_of_resnet18(peer: str, python: Path) -> list[Figure]:
    (ours, our_rounds), (its, its_rounds) = _both_trained(python, "resnet18")
    what, goals = "client of resnet18", {"cpu_s": "ratio <= 0.5", "extra_bytes": f"<= {7 * MODEL_BYTES / 1e6:.0f} MB"}
    return [
        _figure(f"{what}, CPU a round", "ms", 1e3, "cpu_s", our_rounds, peer, its_rounds, goals),
        _figure(f"{what}, memory over its start", "MB", 1e-6, "extra_bytes", [ours], peer, [its], goals),
    ]


def _client_of_100k(peer: str, python: Path) -> list[Figure]:
    (ours, our_rounds), (its, its_rounds) = _both_trained(python, "100k")
    what, goals = "client of 100k", {"cpu_s": "ratio <= 0.5", "start_s": "< 1 s", "peak_bytes": "< 60 MB"}
    return [
        _figure(f"{what}, CPU a round", "ms", 1e3, "cpu_s", our_rounds, peer, its_rounds, goals),
        _figure(f"{what}, its start", "s", 1.0, "start_s", [ours], peer, [its], goals),
        _figure(f"{what}, peak memory", "MB", 1e-6, "peak_bytes", [ours], peer, [its], goals),
    ]


def _folding(peer: str, python: Path) -> list[Figure]:
    pairs = [(_fold(OURS, "fold_ours"), _fold(python, "fold_flwr")) for _ in range(3)]
    ours, its = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    goals = {"cpu_s": "ratio <= 0.85", "extra_bytes": f"<= {3.6 * MODEL_BYTES / 1e6:.0f} MB"}
    peer = f"{peer} aggregate_inplace"
    return [
        _figure("fold 100 updates of resnet18, CPU", "s", 1.0, "cpu_s", ours, peer, its, goals),
        _figure("fold 100 updates of resnet18, extra memory", "MB", 1e-6, "extra_bytes", ours, peer, its, goals),
    ]


def _figure(
    what: str,
    unit: str,
    factor: float,
    key: str,
    ours: Sequence[Told],
    peer: str,
    its: Sequence[Told],
    goals: Mapping[str, str],
) -> Figure:
    values = ([each[key] * factor for each in side] for side in (ours, its))
    return Figure(what, unit, next(values), peer, next(values), goals.get(key, ""))


# --- processes -------------------------------------------------------------------------------------------------------


def _served(python: Path, role: str, n_clients: int, model: str, rounds: int) -> list[Told]:
    """What each round after the warm-up told, of a server that lean clients ask."""
    port = str(_free_port())
    clients = _start(OURS, "lean", port, str(n_clients), model)
    try:
        lines = _finish(_start(python, role, port, str(n_clients), str(rounds), model))
        _finish(clients)
    finally:
        clients.kill()
        clients.wait()
    return _rounds(lines)


def _both_trained(python: Path, model: str) -> list[tuple[Told, list[Told]]]:
    return [_trained(OURS, "client_ours", model), _trained(python, "client_flwr", model)]


def _trained(python: Path, role: str, model: str) -> tuple[Told, list[Told]]:
    """What one client told of its whole run, and of each round after the warm-up. The server is ours for both."""
    port = str(_free_port())
    server = _start(OURS, "serve_ours", port, "1", str(ROUNDS + WARM_UP), model)
    try:
        _until_listening(int(port), server)
        lines = _finish(_start(python, role, port))
        _finish(server)
    finally:
        server.kill()
        server.wait()
    whole = {**lines[0], **lines[-1]}
    return {**whole, "extra_bytes": whole["peak_bytes"] - whole["start_bytes"]}, _rounds(lines)


def _fold(python: Path, role: str) -> Told:
    return _finish(_start(python, role, "100", "resnet18"))[-1]


def _rounds(lines: Sequence[Told]) -> list[Told]:
    return [line for line in lines if line.get("round", 0) > WARM_UP]


def _start(python: Path, *words: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    environment["FLWR_HOME"] = tempfile.gettempdir()
    command = [str(python), "-m", "tests.bench.flower_roles", *words]
    with tempfile.TemporaryFile() as nowhere:  # a pipe that nobody reads would fill up with Flower's log
        return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=nowhere)


def _finish(process: subprocess.Popen[str]) -> list[Told]:
    """The lines it told. Raises CalledProcessError where it fails."""
    try:
        out, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, process.args, out)
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _until_listening(port: int, server: subprocess.Popen[str]) -> None:
    """Flower's client gives up at once where no server is."""
    while server.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise subprocess.CalledProcessError(server.returncode, server.args)


def _version(python: Path) -> str:
    (info,) = python.parents[1].glob("lib/python*/site-packages/flwr-*.dist-info")
    return PathDistribution(info).version


def main() -> int:
    """This bench alone: `python -m tests.bench.flower [flower_100 | flower_1000]`."""
    from tabulate import tabulate

    larger = {"flower_100": flower_100, "flower_1000": flower_1000}
    figures = larger.get(next(iter(sys.argv[1:]), ""), flower)()
    print(tabulate([figure.cells() for figure in figures], headers="keys", disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
