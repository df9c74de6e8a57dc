"""Java clients as processes against our real server: training beside Python clients, cutoffs, trouble on the way."""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fl.admission import Access
from fl.certificates import make
from fl.in_process import InProcessProxy
from fl.instrument import instrument
from fl.loop import RoundResult, run_rounds
from fl.messages import EvaluateIns, FitIns, GetParametersIns, Parameters
from fl.proxy import ClientProxy
from fl.security import ServerSecurity, server_security
from fl.server import SERVICE, Server
from fl.strategies.fedavg import FedAvg
from fl.wire import codec
from fl.workload import Partition
from profiler.clock import SystemClock
from tests.android.java_client import Built, JavaClient, digits, export_digits, initial, java_clients
from tests.fl.test_server import free_address

pytestmark = pytest.mark.serial

SHARDS = 4
SENSORS = {
    *("fit.frequency_hz", "fit.temperature_c", "fit.throttling"),
    *("fit.gpu_use", "fit.gpu_temperature_c", "fit.gpu_frequency_hz"),
}
ROUNDS = 5
START_S = 60.0  # a JVM on a busy machine
FULL = {"round": 1, "epochs": 1, "batch_size": 16, "lr": 0.1, "telemetry": "full"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_digits(tmp_path_factory.mktemp("shards"), SHARDS)


@pytest.fixture
def clients() -> Iterator[list[JavaClient]]:
    with java_clients() as started:
        yield started


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 150.0))


def start() -> Parameters:
    return Parameters(tuple(initial()))


def ended(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(30)
    finally:
        process.kill()
        process.wait()


def python_client(port: int, device: str, shard: int) -> subprocess.Popen[bytes]:
    words = ["--workload", "digits", "--workload-option", "hidden=32", "--meter", "none"]
    where = ["--shard", str(shard), "--shards", str(SHARDS)]
    command = [sys.executable, "-m", "fl.client", "--server", f"127.0.0.1:{port}", "--device", device, *words, *where]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)


async def trained(proxies: Callable[[], Sequence[ClientProxy]]) -> list[RoundResult]:
    workload = digits()
    made = run_rounds(
        FedAvg(epochs=2, batch_size=16, lr=0.1, telemetry="full", seed=1),
        proxies,
        parameters=start(),
        rounds=range(1, ROUNDS + 1),
        clock=SystemClock(),
        evaluate=lambda model: workload.evaluate(model.copy()),
        min_clients=SHARDS,
    )
    return [result async for result in made]


def python_alone() -> list[RoundResult]:
    """The same rounds with a Python client for every shard."""
    workload = digits()
    proxies = [
        InProcessProxy(f"python-{shard}", instrument(workload.client(shard, Partition("iid", SHARDS))))
        for shard in range(SHARDS)
    ]
    try:
        return asyncio.run(trained(lambda: proxies))
    finally:
        for proxy in proxies:
            proxy.close()


def test_java_and_python_clients_train_one_model_as_python_clients_alone(
    java: Built, shards: Path, clients: list[JavaClient]
) -> None:
    async def test() -> list[RoundResult]:
        async with Server() as server:
            clients.extend(
                JavaClient(java, f"127.0.0.1:{server.port}", f"java-{shard}", shards, shard=shard) for shard in range(3)
            )
            python = python_client(server.port, "python-3", 3)
            try:
                await server.wait_for({"java-0", "java-1", "java-2", "python-3"}, START_S)
                results = await trained(server.proxies)
                await server.farewell()
            finally:
                await asyncio.to_thread(ended, python)
            return results

    mixed = asyncio.run(asyncio.wait_for(test(), 150.0))
    assert [client.wait()[0] for client in clients] == [0, 0, 0]
    accuracies = [statistics.mean(r.accuracy or 0.0 for r in results[-2:]) for results in (mixed, python_alone())]
    assert accuracies[1] > 0.9
    # Of 359 test images, one either way: both meet the same batches.
    assert abs(accuracies[0] - accuracies[1]) <= 1.5 / 359
    for result in mixed:
        assert not result.n_failures
        for call in result.calls:
            names = [span.name for span in call.spans]
            assert names[-3:] == ["receive", call.call, "send"], (call.device, names)


def test_a_fit_makes_the_same_update_and_tells_the_same_keys_and_spans_as_a_python_client(
    java: Built, shards: Path, clients: list[JavaClient]
) -> None:
    async def test() -> None:
        async with Server() as server:
            clients.append(JavaClient(java, f"127.0.0.1:{server.port}", "java", shards))
            python = python_client(server.port, "python", 0)
            try:
                await server.wait_for({"java", "python"}, START_S)
                config = {**FULL, "epochs": 3, "seed": 7, "round": 2}
                answers = {p.info.device: await p.fit(FitIns(start(), config), 60.0) for p in server.proxies()}
                evaluated = {
                    p.info.device: await p.evaluate(EvaluateIns(start(), FULL), 60.0) for p in server.proxies()
                }
                await server.farewell()
            finally:
                await asyncio.to_thread(ended, python)
            keys = {device: set(answer.result.metrics) for device, answer in answers.items()}
            assert keys["python"] - keys["java"] <= SENSORS, "of sensors that it does not read"
            assert keys["java"] <= keys["python"]
            fits = {d: next(s for s in a.spans if s.name == "fit") for d, a in answers.items()}
            assert set(fits["java"].attributes) == set(fits["python"].attributes)
            assert fits["java"].attributes["examples"] == fits["python"].attributes["examples"]
            assert len(fits["java"].steps_s) == fits["java"].attributes["steps_done"] == len(fits["python"].steps_s)
            assert sum(fits["java"].steps_s) <= fits["java"].duration_s
            assert fits["java"].warmup_steps == 1
            # The same batches, in the same order: NumPy's.
            trained = [answers[device].result.parameters.arrays for device in ("java", "python")]
            for own, expected in zip(*trained, strict=True):
                assert np.abs(own - expected).max() <= 1e-4 * np.abs(expected).max()
            assert answers["java"].result.metrics["loss"] == pytest.approx(
                answers["python"].result.metrics["loss"], 1e-4
            )
            assert not np.allclose(trained[0][0], initial()[0], rtol=1e-2), "and they have moved"
            # The same weights on the same examples: evaluation has no order and must agree.
            java_res, python_res = (evaluated[device].result for device in ("java", "python"))
            assert java_res.loss == pytest.approx(python_res.loss, rel=1e-4)
            assert java_res.metrics["accuracy"] == pytest.approx(python_res.metrics["accuracy"])

    run(test())


def test_a_cutoff_ends_a_fit_in_time_and_is_told(java: Built, shards: Path, clients: list[JavaClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            clients.append(JavaClient(java, f"127.0.0.1:{server.port}", "java", shards))
            await server.wait_for({"java"}, START_S)
            [proxy] = server.proxies()
            long = {**FULL, "epochs": 1_000_000, "batch_size": 16}
            for cutoff_s in (0.5, 1e-9):
                answer = await proxy.fit(FitIns(start(), {**long, "cutoff_s": cutoff_s}), 60.0)
                metrics = answer.result.metrics
                assert metrics["fit.stopped_by"] == "cutoff"
                assert metrics["fit.stopped_by_cutoff"] == 1
                done = int(metrics["fit.steps_done"])
                assert metrics["fit.steps_planned"] == 1_000_000 * -(-answer.result.num_examples // 16)
                assert done == 1 if cutoff_s < 0.1 else done > 10
                [fit] = [span for span in answer.spans if span.name == "fit"]
                assert fit.attributes["cutoff_s"] == cutoff_s
                assert 1 <= len(fit.steps_s) <= min(done, 10_000)
            await server.farewell()
        assert (await asyncio.to_thread(clients[0].wait))[0] == 0

    run(test())


def test_raw_tensors_are_a_choice_of_the_client(java: Built, shards: Path, clients: list[JavaClient]) -> None:
    async def test() -> None:
        async with Server() as server:
            clients.append(JavaClient(java, f"127.0.0.1:{server.port}", "java", shards, "--tensors", "float32"))
            await server.wait_for({"java"}, START_S)
            [proxy] = server.proxies()
            assert proxy.info.tensors == "float32"
            answer = await proxy.fit(FitIns(start(), FULL), 60.0)
            assert [array.shape for array in answer.result.parameters.arrays] == [array.shape for array in initial()]
            assert not np.array_equal(answer.result.parameters.arrays[0], initial()[0])
            await server.farewell()
        assert (await asyncio.to_thread(clients[0].wait))[0] == 0

    run(test())


def test_what_does_not_fit_fails_the_call_and_the_client_stays(
    java: Built, shards: Path, clients: list[JavaClient]
) -> None:
    async def test() -> None:
        async with Server() as server:
            clients.append(JavaClient(java, f"127.0.0.1:{server.port}", "java", shards))
            await server.wait_for({"java"}, START_S)
            [proxy] = server.proxies()
            for parameters, config, reason in (
                (Parameters((np.zeros(3, np.float32),)), FULL, "the head's tensors have shapes"),
                (Parameters((np.zeros(3, np.float64),)), FULL, "tensor 0: an array of dtype <f8"),
                (start(), {**FULL, "epochs": 0}, "epochs = 0"),
                (start(), {**FULL, "lr": "fast"}, "lr = fast"),
                (start(), {**FULL, "cutoff_s": float("nan")}, "cutoff_s = NaN"),
            ):
                with pytest.raises(Exception, match=reason):
                    await proxy.fit(FitIns(parameters, config), 60.0)
            assert (await proxy.fit(FitIns(start(), FULL), 60.0)).result.num_examples > 300
            assert len((await proxy.get_parameters(GetParametersIns(), 30.0)).result.parameters.arrays) == 4
            await server.farewell()
        assert (await asyncio.to_thread(clients[0].wait))[0] == 0

    run(test())


def test_a_server_that_dies_is_waited_for(java: Built, shards: Path, clients: list[JavaClient]) -> None:
    """Its successor gets the client, and the measurements of the reply that was the last."""
    address = free_address()

    async def serve(goodbye: bool) -> list[str]:
        server = Server(address)
        await server.start()
        try:
            await server.wait_for({"java"}, START_S)
            answer = await server.proxies()[0].fit(FitIns(start(), FULL), 60.0)
            if goodbye:
                await server.farewell()
            return [span.name for span in (*server.receipts.take()[0].spans, *answer.spans)] if goodbye else []
        finally:
            if not goodbye:
                await server.close()

    clients.append(JavaClient(java, address, "java", shards))
    asyncio.run(asyncio.wait_for(serve(goodbye=False), 150.0))
    names = asyncio.run(asyncio.wait_for(serve(goodbye=True), 150.0))
    code, log = clients[0].wait()
    assert code == 0, log
    assert "trying again" in log
    assert names.count("fit") == 2, "that of the first server comes again, since nothing confirmed it"


def test_tls_with_certificate_and_token(java: Built, shards: Path, clients: list[JavaClient], tmp_path: Path) -> None:
    if find_spec("cryptography") is None:
        pytest.skip("the package cryptography is not installed")
    folder, others = make(tmp_path / "tls").folder, make(tmp_path / "others").folder

    async def test() -> None:
        async with Server(access=Access(server_security(folder))) as server:
            address = f"localhost:{server.port}"
            clients.append(JavaClient(java, address, "java", shards, "--tls", str(folder)))
            clients.append(JavaClient(java, address, "bad", shards, "--tls", str(others), "--max-wait", "3"))
            await server.wait_for({"java"}, START_S)
            assert (await server.proxies()[0].fit(FitIns(start(), FULL), 60.0)).result.num_examples > 300
            code, log = await asyncio.to_thread(clients[1].wait)
            assert code == 3, "it does not trust this server, nor is it trusted"
            assert "no server for" in log
            await server.farewell()
        assert (await asyncio.to_thread(clients[0].wait))[0] == 0

    run(test())


def test_a_token_that_is_wrong_is_a_final_no(
    java: Built, shards: Path, clients: list[JavaClient], tmp_path: Path
) -> None:
    if find_spec("cryptography") is None:
        pytest.skip("the package cryptography is not installed")
    folder = make(tmp_path / "tls").folder

    async def test() -> None:
        secret = server_security(folder)
        other = ServerSecurity(secret.certificates, mutual=True, token="x" * 32)
        async with Server(access=Access(other)) as server:
            clients.append(JavaClient(java, f"localhost:{server.port}", "java", shards, "--tls", str(folder)))
            code, log = await asyncio.to_thread(clients[0].wait)
            assert code == 3
            assert "the server refused this client: UNAUTHENTICATED" in log

    run(test())


# --- servers that do not speak the protocol ---------------------------------------------------------------------------


class Saying:
    """A gRPC server that says these messages on every Join stream, whatever comes back."""

    def __init__(self, *messages: bytes) -> None:
        from concurrent.futures import ThreadPoolExecutor

        ended = threading.Event()

        def join(replies: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            yield from messages
            context.add_callback(ended.set)
            ended.wait(60)

        self._ended = ended
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_send_message_length", -1)])
        handler = grpc.method_handlers_generic_handler(SERVICE, {"Join": grpc.stream_stream_rpc_method_handler(join)})
        self._server.add_generic_rpc_handlers((handler,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def close(self) -> None:
        self._ended.set()
        self._server.stop(0).wait(10)


WHOLE = codec.encode_instruction(FitIns(Parameters(tuple(initial())), FULL))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"<html>404</html>", "no message of the Flower Protocol"),
        (b"", "an instruction without content"),
        (WHOLE[: len(WHOLE) // 2], "no message of the Flower Protocol"),
        (WHOLE + bytes(100_000), "a message was too large"),
    ],
    ids=["garbage", "empty", "truncated", "giant"],
)
def test_messages_that_are_none_end_the_client_with_words(
    java: Built, shards: Path, clients: list[JavaClient], message: bytes, reason: str
) -> None:
    server = Saying(message)
    try:
        words = ("--max-message-bytes", "50000", "--max-wait", "20")
        clients.append(JavaClient(java, f"127.0.0.1:{server.port}", "", shards, *words))
        code, log = clients[0].wait()
    finally:
        server.close()
    assert code == 1, log
    assert reason in log
    assert "\tat " not in log, "no stack trace unless it is asked for"


def test_a_socket_that_is_no_grpc_server_is_given_up_in_time(
    java: Built, shards: Path, clients: list[JavaClient]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(range(256)) * 40)

        threading.Thread(target=answer, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        clients.append(JavaClient(java, address, "java", shards, "--max-wait", "2"))
        code, log = clients[0].wait()
        assert code == 3, log
        assert f"{address}: no server for" in log
