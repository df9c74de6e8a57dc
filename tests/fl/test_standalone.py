"""`start_server` and `start_client` with Flower's arguments: what they do, what they refuse; phones in mixed fleets."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

import fl
from fl.calls import CallingProxy, Exchange
from fl.client import JOIN
from fl.loop import RoundResult
from fl.messages import Config, DisconnectRes, EvaluateRes
from fl.proxy import ClientInfo
from fl.wire import codec
from fl.wire import transport_pb2 as pb
from profiler.errors import PreconditionError, UsageError
from tests.fl.clients import Unruly
from tests.fl.test_server import free_address

START = fl.ndarrays_to_parameters([np.zeros(3, dtype=np.float32)])


class Phone(threading.Thread):
    """A client as in Flower's Android example: no name, raw tensors. It adds 2; `n_floats` is how many it sends."""

    def __init__(self, address: str, n_floats: int = 3) -> None:
        super().__init__()
        self._address = address
        self._n_floats = n_floats
        self.tensor_types: list[str] = []
        self.configs: list[set[str]] = []

    def run(self) -> None:
        with grpc.insecure_channel(self._address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            grpc.channel_ready_future(channel).result(20)
            replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            try:
                for data in channel.stream_stream(JOIN)(iter(replies.get, None)):
                    replies.put(self._answer(data))
            except grpc.RpcError as error:  # the server has closed, as a phone may find it
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            finally:
                replies.put(None)

    def _answer(self, data: bytes) -> bytes:
        message = pb.ServerMessage()
        message.ParseFromString(data)
        kind = message.WhichOneof("msg")
        if kind == "fit_ins":
            sent = message.fit_ins.parameters
            self.tensor_types.append(sent.tensor_type)
            self.configs.append(set(message.fit_ins.config))
            new = np.frombuffer(sent.tensors[0], "<f4") + np.float32(2)
            told = pb.Parameters(tensors=[np.resize(new, self._n_floats).tobytes()], tensor_type="numpy.nda")
            return pb.ClientMessage(
                fit_res=pb.ClientMessage.FitRes(parameters=told, num_examples=30)
            ).SerializeToString()
        if kind == "evaluate_ins":
            loss = float(np.frombuffer(message.evaluate_ins.parameters.tensors[0], "<f4").mean())
            return codec.encode_reply(EvaluateRes(loss, 30, {"accuracy": 0.5}))
        assert kind == "reconnect_ins", f"a phone knows nothing of {kind}"
        return codec.encode_reply(DisconnectRes())


def train(phone: Phone, address: str, **options: Any) -> fl.History:
    """Two rounds of the phone (30 examples, adds 2) with a client of ours (10 examples, adds 1)."""
    ours = threading.Thread(
        target=fl.start_client, args=(address, Unruly()), kwargs={"device": "pi", "max_wait_s": 20.0}
    )
    for thread in (phone, ours):
        thread.start()
    try:
        strategy = fl.FedAvgAndroid(initial_parameters=START, **options)
        return fl.start_server(address, config=fl.ServerConfig(2, 20.0), strategy=strategy, wait_s=20.0)
    finally:
        for thread in (phone, ours):
            thread.join(20.0)
            assert not thread.is_alive()


def failures(result: RoundResult) -> dict[str, str | None]:
    return {call.device: call.failure for call in result.calls if call.call == "fit"}


def test_a_phone_and_a_client_of_ours_train_in_one_round() -> None:
    address = free_address()
    phone = Phone(address)
    history = train(phone, address, on_fit_config_fn=lambda round_: {"local_epochs": 1})
    assert phone.tensor_types == ["numpy.nda"] * 2
    assert {"local_epochs"} <= phone.configs[0]
    assert [failures(result) for result in history.rounds] == [{"client-1": None, "pi": None}] * 2
    assert history.parameters is not None
    [weights] = history.parameters.arrays
    assert weights.dtype == np.float32
    assert weights.tolist() == [3.5] * 3, "two rounds of (30 * 2 + 10 * 1) / 40"
    # the phone's loss is the mean weight, ours is 0.25 of 5 examples
    assert dict(history.losses_distributed) == pytest.approx({1: (30 * 1.75 + 5 * 0.25) / 35, 2: (105 + 1.25) / 35})


@pytest.mark.parametrize(("told", "expected"), [("float32", "float32"), ("float16", "npy"), (7, "npy"), (None, "npy")])
def test_a_client_that_names_itself_may_tell_how_its_tensors_are_encoded(told: object, expected: str) -> None:
    class Silent:
        lost = None

        async def exchange(self, data: bytes) -> Exchange:
            raise AssertionError("nothing is asked")

    proxy = CallingProxy(ClientInfo("phone"), Silent())
    proxy.describe({"cores": 4, **({} if told is None else {"fedmeter.tensors": told})})
    assert proxy.info.tensors == expected
    assert proxy.info.properties["cores"] == 4


def test_a_phone_of_another_model_is_refused_by_name_and_the_round_goes_on() -> None:
    address = free_address()
    history = train(Phone(address, n_floats=4), address)
    for result in history.rounds:
        told = failures(result)
        assert told["pi"] is None
        assert "raw tensor 0 has 16 bytes; float32 of shape (3,) needs 12" in str(told["client-1"])


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: fl.start_server(server=object()), "server= is not supported.*strategy"),  # type: ignore[arg-type]
        (lambda: fl.start_server(client_manager=object()), "client_manager=.*fl.selection"),  # type: ignore[arg-type]
        (lambda: fl.start_server(config=fl.ServerConfig(0)), "num_rounds"),
        (lambda: fl.FedAvg(accept_failures=False), "accept_failures=False.*n_failures"),
        (lambda: fl.FedAvg(fraction_fit=1.5), "fraction_fit = 1.5"),
        (lambda: fl.FedAvg(min_fit_clients=0), "min_fit_clients = 0"),
        (lambda: fl.FedAvg(initial_parameters=[1]), "ndarrays_to_parameters"),  # type: ignore[arg-type]
        (lambda: fl.FedAvgAndroid(), "initial_parameters"),
        (lambda: fl.start_client("127.0.0.1:1", client_fn=print), "client="),  # type: ignore[arg-type]
        (lambda: fl.start_client("127.0.0.1:1", Unruly(), transport="rest"), "'rest'.*grpc-bidi"),
        (lambda: fl.start_client("127.0.0.1:1", Unruly(), authentication_keys=()), "TLS"),  # type: ignore[arg-type]
        (lambda: fl.start_numpy_client(server_address="127.0.0.1:1", client=object()), "fit and evaluate"),
    ],
)
def test_what_is_not_supported_is_refused_with_what_to_use(call: Callable[[], object], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        call()


def test_attempts_without_a_server_are_bounded_as_asked() -> None:
    with pytest.raises(PreconditionError, match="no server for"):
        fl.start_client(free_address(), Unruly(), max_retries=2, max_wait_time=60.0)
    with pytest.raises(PreconditionError, match=r"nowhere\.pem cannot be read"):
        fl.start_client(free_address(), Unruly(), root_certificates="/nowhere.pem")


def test_a_round_draws_flowers_number_of_clients_the_same_for_one_seed() -> None:
    clients = [ClientInfo(f"d{n}") for n in range(10)]

    def drawn(seed: int, round_: int = 1) -> list[str]:
        strategy = fl.FedAvg(fraction_fit=0.35, min_fit_clients=2, seed=seed)
        return [assignment.device for assignment in strategy.configure_fit(round_, clients)]

    assert len(drawn(1)) == 3
    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(8)}) > 1
    assert fl.FedAvg(fraction_evaluate=0.0).configure_evaluate(1, clients) == []
    configs: list[Config] = [assignment.config for assignment in fl.FedAvg().configure_evaluate(3, clients)]
    assert configs == [{"round": 3, "telemetry": "full"}] * 10
