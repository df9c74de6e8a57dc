"""The shared encoding: the model is serialised once, each message once, and nothing old is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from fl.messages import EvaluateIns, FitIns, GetPropertiesIns, Parameters, Scalar
from fl.shared_encoding import MAX_CACHED_MESSAGES, SharedEncoding
from fl.wire.codec import decode_instruction
from profiler.errors import WireError


def parameters(value: float, n: int = 3) -> Parameters:
    return Parameters((np.full(n, value, dtype=np.float32),))


async def told(encoding: SharedEncoding, ins: FitIns | EvaluateIns) -> tuple[type, float, object]:
    decoded = decode_instruction(await encoding.message(ins))
    assert isinstance(decoded, (FitIns, EvaluateIns))
    return type(decoded), float(decoded.parameters.arrays[0][0]), dict(decoded.config)


def test_clients_of_equal_config_share_one_message() -> None:
    async def test() -> None:
        encoding, model = SharedEncoding(), parameters(1.0, 1_000_000)
        same = await asyncio.gather(*(encoding.message(FitIns(model, {"round": 1, "lr": 0.1})) for _ in range(5)))
        assert all(message is same[0] for message in same)

    asyncio.run(test())


def test_every_client_gets_its_own_config_and_the_right_model() -> None:
    async def test() -> None:
        encoding = SharedEncoding()
        one, two = parameters(1.0), parameters(2.0)
        asked: list[FitIns | EvaluateIns] = [
            FitIns(one, {"cutoff_s": 1.0}),
            FitIns(one, {"cutoff_s": 1}),
            FitIns(one, {"cutoff_s": True}),
            EvaluateIns(one, {"cutoff_s": 1.0}),
            FitIns(two, {"cutoff_s": 1.0}),
            FitIns(one, {"cutoff_s": 1.0}),
        ]
        for ins in asked:
            assert await told(encoding, ins) == (type(ins), float(ins.parameters.arrays[0][0]), dict(ins.config))

    asyncio.run(test())


@pytest.mark.parametrize("values", [(1, True, 1.0), (0.0, -0.0), (b"a", "a")])
def test_values_that_python_takes_for_equal_are_sent_as_they_are(values: tuple[Scalar, ...]) -> None:
    async def test() -> None:
        encoding, model = SharedEncoding(), parameters(1.0)
        for value in values:
            _, _, config = await told(encoding, FitIns(model, {"key": value}))
            assert repr(config) == repr({"key": value})

    asyncio.run(test())


def test_a_value_that_cannot_be_sent_is_named() -> None:
    async def test() -> None:
        ins: Any = FitIns(parameters(1.0), {"key": [1]})  # type: ignore[dict-item]
        with pytest.raises(WireError, match="'key' is list"):
            await SharedEncoding().message(ins)

    asyncio.run(test())


def test_models_that_change_while_they_are_encoded_are_not_mixed_up() -> None:
    async def test() -> None:
        encoding = SharedEncoding()
        models = [parameters(float(i), 1_000_000) for i in range(4)]
        got = await asyncio.gather(*(told(encoding, FitIns(model, {})) for model in models for _ in range(2)))
        assert [value for _, value, _ in got] == [0, 0, 1, 1, 2, 2, 3, 3]

    asyncio.run(test())


def test_the_number_of_kept_messages_is_bounded() -> None:
    async def test() -> None:
        encoding, model = SharedEncoding(), parameters(1.0)
        for round_ in range(3 * MAX_CACHED_MESSAGES):
            await encoding.message(FitIns(model, {"round": round_}))
            assert len(encoding._messages) <= MAX_CACHED_MESSAGES

    asyncio.run(test())


def test_a_model_that_cannot_be_sent_fails_every_call_alike() -> None:
    async def test() -> None:
        encoding, bad = SharedEncoding(), Parameters((np.zeros(1, dtype=complex),))
        for _ in range(2):
            with pytest.raises(WireError, match="complex"):
                await encoding.message(FitIns(bad, {}))
        assert decode_instruction(await encoding.message(GetPropertiesIns({"a": 1}))) == GetPropertiesIns({"a": 1})

    asyncio.run(test())
