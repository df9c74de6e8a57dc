"""A client that behaves as Flower's Java example does never makes our server hang.

Its FlowerWorker.java (flower, examples/android) speaks raw float32 with the tensor type "ND", takes ten tensors of what
comes, reads messages of 10 MiB at most, tells texts for metrics and no status, and knows nothing of goodbyes: what is
no fit, no evaluation and no question for parameters it answers by an empty message, or, where its gRPC refuses that,
not at all. Neither does it answer where it fails.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable

import grpc
import numpy as np
import pytest

import fl
from fl.client import JOIN
from fl.messages import FitIns, Parameters
from fl.server import Server
from fl.wire import transport_pb2 as pb
from profiler.errors import ClientFailure
from tests.fl.clients import Unruly
from tests.fl.test_server import free_address

LIMIT_BYTES = 10 * 1024 * 1024
N_TENSORS = 10
NAMED = {"device": "pi", "max_wait_s": 20.0}


class FlowerJavaExample(threading.Thread):
    """It adds 2 and has 30 examples; `otherwise` is what it says to what it does not know."""

    def __init__(self, address: str, otherwise: bytes | None) -> None:
        super().__init__()
        self._address = address
        self._otherwise = otherwise
        self.ended: grpc.StatusCode | None = None

    def run(self) -> None:
        options = [("grpc.max_receive_message_length", LIMIT_BYTES), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._address, options=options) as channel:
            grpc.channel_ready_future(channel).result(20)
            replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            try:
                for data in channel.stream_stream(JOIN)(iter(replies.get, None)):
                    if (reply := self._answer(data)) is not None:
                        replies.put(reply)
            except grpc.RpcError as error:
                self.ended = error.code()
            finally:
                replies.put(None)

    def _answer(self, data: bytes) -> bytes | None:
        message = pb.ServerMessage()
        message.ParseFromString(data)
        kind = message.WhichOneof("msg")
        if kind not in ("fit_ins", "evaluate_ins"):
            return self._otherwise
        tensors = [np.frombuffer(tensor, "<f4") for tensor in getattr(message, kind).parameters.tensors]
        if len(tensors) < N_TENSORS:
            return None  # an IndexOutOfBoundsException, which is caught and logged
        reply = pb.ClientMessage()
        if kind == "fit_ins":
            trained = [(tensor + np.float32(2)).tobytes() for tensor in tensors[:N_TENSORS]]
            reply.fit_res.parameters.CopyFrom(pb.Parameters(tensors=trained, tensor_type="ND"))
            reply.fit_res.num_examples = 30
            reply.fit_res.metrics["start_time"].string = "2023-10-16 10:00:00"
        else:
            reply.evaluate_res.loss = float(tensors[0].mean())
            reply.evaluate_res.num_examples = 30
            reply.evaluate_res.metrics["Accuracy"].string = "0.5"
        return reply.SerializeToString()


def model(n_tensors: int, n_floats: int) -> Parameters:
    return Parameters(tuple(np.zeros(n_floats, np.float32) for _ in range(n_tensors)))


def train(example: FlowerJavaExample, address: str, start: Parameters, rounds: int = 2) -> fl.History:
    """With a client of ours beside, which adds 1 and has 10 examples; all of it ends."""
    ours = threading.Thread(target=fl.start_client, args=(address, Unruly()), kwargs=NAMED)
    for thread in (example, ours):
        thread.start()
    try:
        strategy = fl.FedAvgAndroid(initial_parameters=start)
        return fl.start_server(address, config=fl.ServerConfig(rounds, 20.0), strategy=strategy, wait_s=20.0)
    finally:
        for thread in (example, ours):
            thread.join(20.0)
            assert not thread.is_alive()


def failures(history: fl.History) -> list[dict[str, str | None]]:
    return [{call.device: call.failure for call in result.calls if call.call == "fit"} for result in history.rounds]


@pytest.mark.parametrize("otherwise", [b"", None], ids=["an empty message", "silence"])
def test_it_trains_beside_a_client_of_ours_and_its_missing_goodbye_is_not_waited_for(otherwise: bytes | None) -> None:
    address = free_address()
    example = FlowerJavaExample(address, otherwise)
    history = train(example, address, model(N_TENSORS, 3))
    assert failures(history) == [{"client-1": None, "pi": None}] * 2
    assert history.parameters is not None
    assert [array.tolist() for array in history.parameters.arrays] == [[3.5] * 3] * N_TENSORS
    assert example.ended in (None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
    told = [call.answer for call in history.rounds[0].calls if call.device == "client-1"]
    assert [answer.result.metrics for answer in told if answer is not None] == [
        {"start_time": "2023-10-16 10:00:00"},
        {"Accuracy": "0.5"},
    ]


def test_a_model_that_it_does_not_read_ends_its_stream_but_not_the_round() -> None:
    address = free_address()
    example = FlowerJavaExample(address, b"")
    history = train(example, address, model(N_TENSORS, LIMIT_BYTES // (4 * N_TENSORS) + 1), rounds=1)
    assert example.ended is grpc.StatusCode.RESOURCE_EXHAUSTED
    [told] = failures(history)
    assert told["pi"] is None
    assert str(told["client-1"]).startswith(("the connection ended", "the connection broke"))  # whoever sees it first


@pytest.mark.parametrize("leaves", [Server.farewell, Server.close], ids=["farewell", "close"])
def test_what_it_does_not_answer_is_given_up_in_time(leaves: Callable[[Server], object]) -> None:
    """Of a model of other than ten tensors it says nothing at all."""

    async def test() -> None:
        server = Server(foreign_tensors="float32")
        await server.start()
        example = FlowerJavaExample(f"127.0.0.1:{server.port}", None)
        example.start()
        try:
            await server.wait_for(1, 20.0)
            [proxy] = server.proxies()
            with pytest.raises(ClientFailure, match=r"no answer within 0\.2 s"):
                await proxy.fit(FitIns(model(4, 3)), 0.2)
            began_s = time.monotonic()
            await (server.farewell(0.3) if leaves is Server.farewell else server.close())
            assert time.monotonic() - began_s < 8.0
        finally:
            await server.close()
            await asyncio.to_thread(example.join, 20.0)
        assert not example.is_alive()

    asyncio.run(test())
