"""One process of the bench of the wire, ours or Flower's: `python flower_roles.py ROLE ...`, told as JSON lines.

Run by the interpreter that has what the role needs; Flower's knows nothing of ours but this folder. CPU is the
process's own, memory is VmHWM and VmRSS of /proc/self/status (Linux, filesystems/proc.rst).
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

STARTED_S = time.perf_counter()

import numpy as np  # noqa: E402  the clock comes first: imports are part of a start

from tests.bench import payload  # noqa: E402

HUGE_BYTES = 2**31 - 1
N_DISTINCT = 10  # updates that differ; more would be copies in memory that no processor's cache could tell apart
# the tags that a ServerMessage begins with
FIT_INS, RECONNECT_INS, PROPERTIES_INS = 4 << 3 | 2, 1 << 3 | 2, 2 << 3 | 2
GOODBYE = b"\x0a\x02\x08\x04"  # DisconnectRes, reason ACK
NO_PROPERTIES = b"\x12\x00"


def tell(**figures: object) -> None:
    print(json.dumps(figures), flush=True)


def memory_bytes(field: str) -> int:
    """VmHWM is the peak so far, VmRSS what is resident now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"no {field} in /proc/self/status")


class Marks:
    """Seconds, CPU seconds and memory from each mark to the next."""

    def __init__(self) -> None:
        self._last = (time.perf_counter(), time.process_time())

    def tell(self, round_: int) -> None:
        """What telling itself costs is nobody's."""
        (began_s, began_cpu_s), now_s, now_cpu_s = self._last, time.perf_counter(), time.process_time()
        peak_bytes, rss_bytes = memory_bytes("VmHWM"), memory_bytes("VmRSS")
        tell(round=round_, s=now_s - began_s, cpu_s=now_cpu_s - began_cpu_s, peak_bytes=peak_bytes, rss_bytes=rss_bytes)
        self._last = (time.perf_counter(), time.process_time())


# --- servers ---------------------------------------------------------------------------------------------------------


def serve_flwr(port: int, n_clients: int, rounds: int, model: str) -> None:
    from flwr.common import ndarrays_to_parameters
    from flwr.server import ServerConfig, start_server
    from flwr.server.strategy import FedAvg

    class Timed(FedAvg):  # type: ignore[misc, unused-ignore]
        marks: Marks | None = None

        def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
            client_manager.wait_for(n_clients, 600)
            self.marks = self.marks or Marks()
            return super().configure_fit(server_round, parameters, client_manager)

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            if len(results) != n_clients:
                raise SystemExit(f"{len(results)} results, failures: {failures}")
            aggregated = super().aggregate_fit(server_round, results, failures)
            assert self.marks is not None
            self.marks.tell(server_round)
            return aggregated

    strategy = Timed(
        fraction_evaluate=0.0,
        min_fit_clients=n_clients,
        min_available_clients=n_clients,
        on_fit_config_fn=lambda server_round: {"round": server_round, "telemetry": "full"},
        fit_metrics_aggregation_fn=lambda results: {},
        initial_parameters=ndarrays_to_parameters(payload.make(model)),
    )
    start_server(
        server_address=f"127.0.0.1:{port}",
        strategy=strategy,
        config=ServerConfig(num_rounds=rounds),
        grpc_max_message_length=HUGE_BYTES,
    )


def serve_ours(port: int, n_clients: int, rounds: int, model: str) -> None:
    """The server, the loop and plain FedAvg; every record that comes is written down, as the harness does."""
    import tempfile

    with tempfile.TemporaryFile("w") as records:
        asyncio.run(_serve_ours(port, n_clients, rounds, model, records))


async def _serve_ours(port: int, n_clients: int, rounds: int, model: str, records: Any) -> None:
    from fl.loop import run_rounds
    from fl.messages import Parameters
    from fl.server import Server
    from fl.strategies.fedavg import FedAvg
    from profiler.clock import SystemClock
    from profiler.records import span_row

    async with Server(f"127.0.0.1:{port}") as server:
        await server.wait_for(n_clients, 600)
        marks = Marks()
        results = run_rounds(
            FedAvg(epochs=1, batch_size=32, lr=0.1, evaluate=False, telemetry="full"),
            server.proxies,
            parameters=Parameters(tuple(payload.make(model))),
            rounds=range(1, rounds + 1),
            clock=SystemClock(),
            min_clients=n_clients,
        )
        async for result in results:
            if result.n_results != n_clients:
                raise SystemExit(f"failures: {[call.failure for call in result.calls if call.failure]}")
            for call in result.calls:
                for span in call.answer.spans if call.answer is not None else ():
                    records.write(json.dumps(span_row(span)) + "\n")
            marks.tell(result.round)
        await server.farewell()


# --- clients ---------------------------------------------------------------------------------------------------------


def lean(port: int, n_clients: int, model: str) -> None:
    """Clients that cost next to nothing: raw bytes, and one ready-made reply with a record in it for all of them."""
    asyncio.run(_lean(port, n_clients, _ready_reply(model)))


def _ready_reply(model: str) -> bytes:
    from fl.messages import FitRes, Parameters, Scalar
    from fl.wire import codec
    from fl.wire.measurement import RECORD_KEY, encode_spans
    from profiler.records import SpanRecord

    spans = [
        SpanRecord(span_id=f"bench/{n}", name=name, start_ns=n, duration_s=0.1, status="ok", attributes={"round": 1})
        for n, name in enumerate(("receive", "fit", "send"))
    ]
    metrics: dict[str, Scalar] = {"fit.duration_s": 0.1, "fit.steps_done": 4, RECORD_KEY: encode_spans(spans)}
    return codec.encode_reply(FitRes(Parameters(tuple(payload.make(model, seed=1))), 10, metrics))


async def _lean(port: int, n_clients: int, reply: bytes) -> None:
    import grpc.aio

    async def one() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_options()) as channel:
            stream = channel.stream_stream("/flwr.proto.FlowerService/Join")(wait_for_ready=True)
            while True:
                kind = (await stream.read())[0]
                if kind == RECONNECT_INS:
                    await stream.write(GOODBYE)
                    await stream.done_writing()
                    await stream.code()
                    return
                if kind not in (FIT_INS, PROPERTIES_INS):
                    raise SystemExit(f"an instruction that begins with {kind}")
                await stream.write(reply if kind == FIT_INS else NO_PROPERTIES)

    await asyncio.gather(*(one() for _ in range(n_clients)))


def _options() -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", HUGE_BYTES),
        ("grpc.max_receive_message_length", HUGE_BYTES),
        ("grpc.use_local_subchannel_pool", 1),
    ]


class Trainer:
    """Gives back what it got, as a client of either kind; each fit tells what the process has used since the last."""

    def __init__(self) -> None:
        self._round = 0
        self._marks: Marks | None = None

    def get_properties(self, config: Any) -> dict[str, Any]:
        return {}

    def get_parameters(self, config: Any) -> list[Any]:
        return []

    def fit(self, parameters: list[Any], config: Any) -> tuple[list[Any], int, dict[str, Any]]:
        if self._marks is None:
            self._marks = Marks()
        else:
            self._marks.tell(self._round)
        self._round += 1
        return [np.multiply(array, 0.5, out=array) for array in parameters], 10, {}

    def evaluate(self, parameters: list[Any], config: Any) -> tuple[float, int, dict[str, Any]]:
        return 0.0, 1, {}


def client_flwr(port: int) -> None:
    from flwr.client import NumPyClient, start_client

    class Client(Trainer, NumPyClient):  # type: ignore[misc, unused-ignore]
        pass

    client = Client().to_client()
    _tell_start()
    start_client(server_address=f"127.0.0.1:{port}", client=client, insecure=True, grpc_max_message_length=HUGE_BYTES)
    _tell_end()


def client_ours(port: int) -> None:
    from fl.client import start_client

    _tell_start()
    start_client(f"127.0.0.1:{port}", Trainer(), device="bench")
    _tell_end()


def _tell_start() -> None:
    tell(start_s=time.perf_counter() - STARTED_S, start_bytes=memory_bytes("VmRSS"))


def _tell_end() -> None:
    tell(peak_bytes=memory_bytes("VmHWM"), torch=int("torch" in sys.modules))


# --- folding alone ---------------------------------------------------------------------------------------------------


def fold_flwr(n_updates: int, model: str) -> None:
    from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
    from flwr.server.strategy.aggregate import aggregate_inplace

    models = [ndarrays_to_parameters(arrays) for arrays in _models(model)]
    results: Any = [(None, FitRes(Status(Code.OK, ""), models[n % N_DISTINCT], 10 + n, {})) for n in range(n_updates)]
    _fold(lambda: aggregate_inplace(results))


def fold_ours(n_updates: int, model: str) -> None:
    """From the bytes of the replies: parsing, every check, folding."""
    from fl.aggregate import WeightedMean
    from fl.messages import FitRes, Parameters
    from fl.wire import codec

    template = Parameters(tuple(payload.make(model)))
    messages = [codec.encode_reply(FitRes(Parameters(tuple(arrays)), 10, {})) for arrays in _models(model)]

    def work() -> object:
        mean = WeightedMean(template)
        for n in range(n_updates):
            update = codec.decode_reply(messages[n % N_DISTINCT])
            assert isinstance(update, FitRes)
            mean.fold(str(n), update)
        return mean.result()

    _fold(work)


def _models(model: str) -> Iterator[list[Any]]:
    return ([array + np.float32(n) for array in payload.make(model)] for n in range(N_DISTINCT))


def _fold(work: Callable[[], object]) -> None:
    """The peak is reset before (clear_refs 5, Linux: filesystems/proc.rst), or making the inputs would hide it.

    What malloc keeps of them for later is given back first (malloc_trim(3)), or the extra memory would come from there.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    start_bytes, start_s = memory_bytes("VmRSS"), time.process_time()
    kept = work()
    tell(cpu_s=time.process_time() - start_s, extra_bytes=memory_bytes("VmHWM") - start_bytes)
    del kept


ROLES: dict[str, Callable[..., None]] = {
    role.__name__: role for role in (serve_flwr, serve_ours, lean, client_flwr, client_ours, fold_flwr, fold_ours)
}


def main(argv: Sequence[str]) -> int:
    ROLES[argv[0]](*(int(word) if word.isdigit() else word for word in argv[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
