"""The codec: messages survive the round trip, the bytes are protobuf's own, and hostile bytes are refused."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.messages import (
    Code,
    Config,
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Instruction,
    Parameters,
    Reason,
    ReconnectIns,
    Reply,
)
from fl.wire import codec
from fl.wire import transport_pb2 as pb
from fl.wire.tensors import encode_tensor
from profiler.errors import WireError

PARAMETERS = Parameters((np.arange(6, dtype=np.float32).reshape(2, 3), np.int64(7).reshape(()), np.zeros((0, 4))))
CONFIG: Config = {"round": 3, "lr": 0.1, "name": "ä", "raw": b"\x00\xff", "flag": True, "zero": 0, "off": False}
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
)
CONFIGS = st.dictionaries(st.text(max_size=10), SCALARS, max_size=8)


@given(CONFIGS)
def test_what_entries_take_on_the_wire_is_known_without_encoding_them(config: Config) -> None:
    message = pb.ServerMessage.GetPropertiesIns()
    for key, value in config.items():
        message.config[key].CopyFrom(codec.encode_scalar(key, value))
    assert codec.entries_bytes(config) == message.ByteSize()


def assert_same(one: object, other: object) -> None:
    assert type(one) is type(other)
    for name in getattr(one, "__dataclass_fields__", {}):
        left, right = getattr(one, name), getattr(other, name)
        if isinstance(left, Parameters):
            assert len(left.arrays) == len(right.arrays)
            for a, b in zip(left.arrays, right.arrays, strict=True):
                assert a.dtype == b.dtype
                assert a.shape == b.shape
                np.testing.assert_array_equal(a, b)
        else:
            assert left == right


@pytest.mark.parametrize(
    "ins",
    [
        FitIns(PARAMETERS, CONFIG),
        FitIns(Parameters(())),
        EvaluateIns(PARAMETERS, CONFIG),
        GetParametersIns(CONFIG),
        GetParametersIns(),
        GetPropertiesIns(CONFIG),
        GetPropertiesIns(),
        ReconnectIns(),
        ReconnectIns(5),
    ],
)
def test_every_instruction_survives(ins: Instruction) -> None:
    assert_same(ins, codec.decode_instruction(codec.encode_instruction(ins)))


@pytest.mark.parametrize(
    "reply",
    [
        FitRes(PARAMETERS, 5, CONFIG),
        FitRes(Parameters(()), 0, {}, Code.FIT_NOT_IMPLEMENTED, "why"),
        EvaluateRes(0.5, 7, CONFIG),
        EvaluateRes(math.inf, 1),
        GetParametersRes(PARAMETERS),
        GetPropertiesRes(CONFIG),
        GetPropertiesRes({}, Code.GET_PROPERTIES_NOT_IMPLEMENTED, "no"),
        DisconnectRes(),
        DisconnectRes(Reason.UNKNOWN),
        DisconnectRes(Reason.RECONNECT),
    ],
)
def test_every_reply_survives(reply: Reply) -> None:
    assert_same(reply, codec.decode_reply(codec.encode_reply(reply)))


@given(CONFIGS)
def test_any_config_survives_with_its_types(config: Config) -> None:
    back = codec.decode_instruction(codec.encode_instruction(GetPropertiesIns(config)))
    assert isinstance(back, GetPropertiesIns)
    assert back.config == config
    assert {key: type(value) for key, value in back.config.items()} == {k: type(v) for k, v in config.items()}


@given(CONFIGS, CONFIGS)
def test_a_reply_made_in_two_parts_is_the_whole_reply(early: Config, late: Config) -> None:
    draft = codec.draft_reply(FitRes(PARAMETERS, 5, early))
    assert_same(FitRes(PARAMETERS, 5, {**early, **late}), codec.decode_reply(codec.finish_reply(draft, late)))


def test_the_bytes_are_those_of_protobuf() -> None:
    config: Config = {"lr": 0.5}
    tensors = [encode_tensor(array) for array in PARAMETERS.arrays]
    whole = pb.ServerMessage(
        fit_ins=pb.ServerMessage.FitIns(
            parameters=pb.Parameters(tensors=tensors, tensor_type="numpy.ndarray"), config={"lr": pb.Scalar(double=0.5)}
        )
    )
    assert codec.encode_fit_ins(codec.encode_parameters(PARAMETERS), config) == whole.SerializeToString()


def test_one_parameters_part_serves_many_configs() -> None:
    part = codec.encode_parameters(PARAMETERS)
    for cutoff_s in (1.0, 2.0):
        ins = codec.decode_instruction(codec.encode_evaluate_ins(part, {"cutoff_s": cutoff_s}))
        assert_same(EvaluateIns(PARAMETERS, {"cutoff_s": cutoff_s}), ins)


@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_arrays_of_any_layout_are_sent_by_value(order: str) -> None:
    array = np.arange(24.0).reshape(4, 6)
    given_ = array[::2, ::3] if order == "strided" else np.array(array, order="F" if order == "F" else "C")
    back = codec.decode_instruction(codec.encode_instruction(FitIns(Parameters((given_,)))))
    assert isinstance(back, FitIns)
    np.testing.assert_array_equal(back.parameters.arrays[0], given_)


def test_ints_travel_as_flower_sends_them() -> None:
    assert codec.encode_scalar("k", 2**63 - 1).WhichOneof("scalar") == "sint64"
    assert codec.encode_scalar("k", 2**63).WhichOneof("scalar") == "uint64"
    assert codec.encode_scalar("k", True).WhichOneof("scalar") == "bool"
    assert codec.encode_scalar("k", np.float64(0.5)).double == 0.5


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, np.float32(1), np.int64(1), 2**64, -(2**63) - 1, "\ud800"])
def test_other_scalars_are_refused_by_key(value: object) -> None:
    config: dict[str, object] = {"momentum": value}
    with pytest.raises(WireError, match="momentum"):
        codec.encode_instruction(GetPropertiesIns(config))  # type: ignore[arg-type]


def test_a_reply_without_status_is_ok() -> None:
    message = pb.ClientMessage(fit_res=pb.ClientMessage.FitRes(num_examples=3))
    back = codec.decode_reply(message.SerializeToString())
    assert isinstance(back, FitRes)
    assert (back.code, back.num_examples) == (Code.OK, 3)


def test_an_unknown_status_code_is_refused() -> None:
    data = pb.ClientMessage(fit_res=pb.ClientMessage.FitRes(status=pb.Status(message="x"))).SerializeToString()
    assert isinstance(codec.decode_reply(data), FitRes)
    with pytest.raises(WireError, match="status code 9"):
        codec.decode_reply(b"\x22\x04\x0a\x02\x08\x09")


def test_tensors_of_another_encoding_are_refused() -> None:
    parameters = pb.Parameters(tensors=[b"\x00\x00\x80\x3f"], tensor_type="numpy.nda")
    data = pb.ClientMessage(fit_res=pb.ClientMessage.FitRes(parameters=parameters)).SerializeToString()
    with pytest.raises(WireError, match=r"numpy\.nda"):
        codec.decode_reply(data)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x22\x05abc", b"\x9a\x06\x00"])
def test_bytes_that_are_no_message_are_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        codec.decode_reply(data)
    with pytest.raises(WireError):
        codec.decode_instruction(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for decode in (codec.decode_reply, codec.decode_instruction):
        with contextlib.suppress(WireError):
            decode(data)


def test_a_scalar_without_value_is_refused() -> None:
    res = pb.ClientMessage.FitRes(metrics={"empty": pb.Scalar()})
    with pytest.raises(WireError, match="empty"):
        codec.decode_reply(pb.ClientMessage(fit_res=res).SerializeToString())


@pytest.mark.parametrize("num_examples", [-1, 2**63, 1.0, True])
def test_a_count_that_is_none_is_refused(num_examples: int) -> None:
    with pytest.raises(WireError, match="num_examples"):
        codec.encode_reply(FitRes(PARAMETERS, num_examples))


@pytest.mark.parametrize("n_early", [*range(90, 110), *range(16_350, 16_370)])
def test_a_tail_that_makes_the_length_longer_still_gives_protobufs_bytes(n_early: int) -> None:
    draft = codec.draft_reply(GetPropertiesRes({"a": b"x" * n_early}))
    data = codec.finish_reply(draft, {"b": b"y" * 20})
    assert_same(GetPropertiesRes({"a": b"x" * n_early, "b": b"y" * 20}), codec.decode_reply(data))
    told = pb.ClientMessage()
    told.ParseFromString(data)
    assert told.SerializeToString(deterministic=True) == data
