"""Android's raw float32 tensors: what goes out, and what comes back shaped by the model or is refused by place."""

from __future__ import annotations

import numpy as np
import pytest

from fl.messages import DisconnectRes, EvaluateIns, EvaluateRes, FitIns, FitRes, GetParametersRes, Parameters
from fl.wire import codec
from fl.wire import transport_pb2 as pb
from fl.wire.raw_tensors import RAW_TENSOR_TYPE, decode_raw_reply, encode_raw_work
from profiler.errors import WireError

MODEL = Parameters((np.arange(6, dtype=np.float64).reshape(2, 3), np.array(7), np.zeros((0, 4), np.float32)))


def reply(*tensors: bytes, code: int = 0) -> bytes:
    parameters = pb.Parameters(tensors=tensors, tensor_type=RAW_TENSOR_TYPE)
    fit = pb.ClientMessage.FitRes(
        parameters=parameters, num_examples=5, status=pb.Status(code=pb.Code.Name(code), message="why")
    )
    return pb.ClientMessage(fit_res=fit).SerializeToString()


@pytest.mark.parametrize(("ins", "field"), [(FitIns, "fit_ins"), (EvaluateIns, "evaluate_ins")])
def test_the_model_goes_out_as_bytes_of_float32(ins: type[FitIns] | type[EvaluateIns], field: str) -> None:
    message = pb.ServerMessage()
    message.ParseFromString(encode_raw_work(ins(MODEL, {"local_epochs": 2})))
    sent = getattr(message, field)
    assert sent.parameters.tensor_type == "numpy.nda"
    assert sent.parameters.tensors[0] == bytes.fromhex("00000000 0000803f 00000040 00004040 00008040 0000a040")
    assert list(sent.parameters.tensors[1:]) == [bytes.fromhex("0000e040"), b""]
    assert sent.config["local_epochs"].sint64 == 2


def test_a_transposed_array_goes_out_in_the_order_of_its_shape() -> None:
    message = pb.ServerMessage()
    message.ParseFromString(encode_raw_work(FitIns(Parameters((np.array([[1, 2], [3, 4]], np.float32).T,)))))
    assert np.frombuffer(message.fit_ins.parameters.tensors[0], "<f4").tolist() == [1, 3, 2, 4]


def test_what_comes_back_has_the_shapes_and_dtypes_of_the_model() -> None:
    weights = np.linspace(0, 1, 6, dtype="<f4")
    result = decode_raw_reply(reply(weights.tobytes(), np.array([8.0], "<f4").tobytes(), b""), MODEL)
    assert isinstance(result, FitRes)
    assert result.num_examples == 5
    for array, like in zip(result.parameters.arrays, MODEL.arrays, strict=True):
        assert (array.shape, array.dtype) == (like.shape, like.dtype)
        assert not array.flags.writeable
    np.testing.assert_array_equal(result.parameters.arrays[0].reshape(-1), weights.astype(np.float64))
    assert result.parameters.arrays[1].item() == 8


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ((b"", b"\0" * 4, b""), r"tensor 0 has 0 bytes; float32 of shape \(2, 3\) needs 24"),
        ((b"\0" * 24, b"\0" * 8, b""), r"tensor 1 has 8 bytes"),
        ((b"\0" * 24, b"\0" * 4), r"2 raw tensors came; the model has 3"),
        ((b"\0" * 24, np.array([np.nan], "<f4").tobytes(), b""), r"tensor 1 holds values that are not finite"),
        ((b"\0" * 24, np.array([1e30], "<f4").tobytes(), b""), r"tensor 1 holds values that do not fit"),
    ],
)
def test_other_sizes_and_values_are_refused_by_place(tensors: tuple[bytes, ...], what: str) -> None:
    with pytest.raises(WireError, match=what):
        decode_raw_reply(reply(*tensors), MODEL)


def test_other_replies_are_read_as_ever() -> None:
    assert decode_raw_reply(codec.encode_reply(DisconnectRes()), None) == DisconnectRes()
    evaluated = EvaluateRes(0.5, 3, {"accuracy": 1.0})
    assert decode_raw_reply(codec.encode_reply(evaluated), MODEL) == evaluated
    failed = decode_raw_reply(reply(code=3), MODEL)
    assert isinstance(failed, FitRes)
    assert (failed.message, failed.parameters.arrays) == ("why", ())
    with pytest.raises(WireError, match="initial_parameters"):
        decode_raw_reply(codec.encode_reply(GetParametersRes(MODEL)), None)
    with pytest.raises(WireError, match="no message"):
        decode_raw_reply(b"\xff\xff", MODEL)
