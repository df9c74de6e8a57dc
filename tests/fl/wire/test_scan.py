"""The zero-copy reader beside protobuf: the same values or the same refusal, for every message and every mutation."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.messages import Config, EvaluateIns, FitIns, FitRes, Parameters
from fl.wire import codec
from fl.wire import transport_pb2 as pb
from fl.wire.scan import scan
from fl.wire.tensors import decode_tensor
from profiler.errors import WireError
from tests.fl.wire.test_codec import CONFIGS
from tests.fl.wire.test_tensors import ARRAYS, npy

FIT_RES = 4
MODELS = st.lists(ARRAYS, max_size=4).map(lambda arrays: Parameters(tuple(arrays)))


def varint(value: int, n_padding: int = 0) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    for _ in range(n_padding):  # a longer form of the same number
        encoded[-1] |= 0x80
        encoded.append(0)
    return bytes(encoded)


def field(number: int, content: bytes, n_padding: int = 0) -> bytes:
    return varint(number << 3 | 2) + varint(len(content), n_padding) + content


def outcome(decode: Callable[[bytes], object], data: bytes) -> object:
    """What a decoder makes of the bytes, as text, in which NaN equals itself; a refusal counts by its kind."""
    try:
        message = decode(data)
    except WireError:
        return WireError
    values = {name: getattr(message, name) for name in getattr(message, "__dataclass_fields__", {})}
    arrays = values.pop("parameters", Parameters(())).arrays
    return type(message), repr(values), [(array.dtype, array.shape, array.tobytes()) for array in arrays]


def assert_agree(data: bytes) -> None:
    assert outcome(codec.decode_reply, data) == outcome(codec.decode_reply_by_protobuf, data)
    assert outcome(codec.decode_instruction, data) == outcome(codec.decode_instruction_by_protobuf, data)


# One field of a FitRes in wire form: those that it has, those that it has not, in any number and order.
TENSORS = st.one_of(ARRAYS.map(npy), st.binary(max_size=30))
PARAMETERS = st.lists(
    st.one_of(
        TENSORS.map(lambda tensor: field(1, tensor)),
        st.sampled_from([field(2, b"numpy.ndarray"), field(2, b"numpy.nda"), field(2, b"\xff"), field(3, b"?")]),
        st.builds(field, st.just(1), TENSORS, st.integers(0, 5)),
    ),
    max_size=4,
).map(b"".join)
FIELDS = st.one_of(
    PARAMETERS.map(lambda parameters: field(2, parameters + field(2, b"numpy.ndarray"))),
    PARAMETERS.map(lambda parameters: field(2, parameters)),
    st.binary(max_size=6).map(lambda message: field(1, field(2, message))),
    st.integers(0, 6).map(lambda code: field(1, b"\x08" + varint(code))),
    st.integers(0, 2**64 - 1).map(lambda count: b"\x18" + varint(count)),
    CONFIGS.map(lambda config: pb.ClientMessage.FitRes(metrics=_map(config)).SerializeToString()),
    st.integers(1, 40).flatmap(
        lambda number: st.sampled_from(
            [
                varint(number << 3) + varint(300),
                varint(number << 3 | 1) + bytes(8),
                varint(number << 3 | 5) + bytes(4),
                varint(number << 3 | 3) + varint(number << 3 | 4),
                varint(number << 3 | 4),
                field(number, b"xyz"),
                varint(number << 3 | 7),
            ]
        )
    ),
    st.binary(max_size=5),
)


def _map(config: Config) -> dict[str, pb.Scalar]:
    return {key: codec.encode_scalar(key, value) for key, value in config.items()}


@given(MODELS, CONFIGS)
def test_plain_messages_are_read_without_protobuf_and_alike(model: Parameters, config: Config) -> None:
    reply = codec.encode_reply(FitRes(model, 7, config, message="ä"))
    assert scan(reply, FIT_RES, 2, 100) is not None
    assert_agree(reply)
    for kind in (FitIns, EvaluateIns):
        assert_agree(codec.encode_instruction(kind(model, config)))


@given(st.lists(FIELDS, max_size=5), st.integers(0, 3), st.sampled_from([4, 4, 4, 2, 5]))
def test_any_structure_is_read_as_protobuf_reads_it(fields: list[bytes], n_padding: int, number: int) -> None:
    assert_agree(field(number, b"".join(fields), n_padding))


@given(st.lists(FIELDS, max_size=3), st.lists(FIELDS, max_size=3))
def test_messages_that_are_merged_are_read_as_protobuf_merges_them(first: list[bytes], second: list[bytes]) -> None:
    assert_agree(field(FIT_RES, b"".join(first)) + field(FIT_RES, b"".join(second)))


@given(MODELS, CONFIGS, st.data())
def test_mutated_bytes_are_read_or_refused_alike(model: Parameters, config: Config, data: st.DataObject) -> None:
    mutated = bytearray(codec.encode_reply(FitRes(model, 7, config)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        how = data.draw(st.sampled_from(["change", "cut", "insert", "repeat"]))
        if how == "change":
            mutated[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del mutated[at : at + data.draw(st.integers(1, 4))]
        elif how == "insert":
            mutated[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        else:
            mutated[at:at] = mutated[at : at + data.draw(st.integers(1, 40))]
        if not mutated:
            break
    assert_agree(bytes(mutated))


@pytest.mark.parametrize(
    "plain",
    [
        lambda body: field(4, field(2, body)),
        lambda body: field(4, b"\x18\x07" + field(2, body) + field(1, b"")),
        lambda body: field(4, field(2, body) + field(9, b"unknown") + b"\x5d1234\x619abcdefg"),
    ],
)
def test_the_tensors_lie_in_the_message(plain: Callable[[bytes], bytes]) -> None:
    array = np.arange(1000, dtype=np.float32)
    data = plain(field(1, npy(array)) + field(2, b"numpy.ndarray"))
    reply = codec.decode_reply(data)
    assert isinstance(reply, FitRes)
    np.testing.assert_array_equal(reply.parameters.arrays[0], array)
    assert np.shares_memory(reply.parameters.arrays[0], np.frombuffer(data, dtype=np.uint8))
    assert not reply.parameters.arrays[0].flags.writeable


NPY = npy(np.arange(3.0))
TYPE = field(2, b"numpy.ndarray")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        field(4, b""),
        field(4, field(2, TYPE)) + b"\x00",
        field(4, field(2, field(1, NPY) + TYPE) * 2),
        field(4, field(2, field(1, NPY) + TYPE)) * 2,
        field(4, field(2, field(1, NPY) + TYPE), n_padding=1),
        field(4, field(2, field(1, NPY, n_padding=2) + TYPE)),
        field(4, field(2, field(1, NPY) + TYPE))[:-1],
        field(4, field(2, field(1, NPY) + TYPE) + b"\x1b\x1c"),
        field(4, field(2, field(1, NPY) + TYPE) + b"\x18" + b"\xff" * 12),
        field(4, field(2, field(1, NPY) + TYPE + b"\x18\x01")),
        field(4, field(2, field(1, NPY) + field(2, b"\xff"))),
        field(4, field(2, TYPE) + b"\x15\x00"),
        b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x22\x80\x80\x80\x80\x80",
        b"\xa2\x00" + field(4, b"")[1:],
    ],
)
def test_what_is_not_plain_is_left_to_protobuf(data: bytes) -> None:
    assert scan(data, FIT_RES, 2, 100) is None
    assert_agree(data)


def test_more_tensors_than_are_read_are_refused_by_number() -> None:
    data = field(4, field(2, field(1, NPY) * 3 + TYPE))
    assert scan(data, FIT_RES, 2, 3) is not None
    assert scan(data, FIT_RES, 2, 2) is None
    with pytest.raises(WireError, match="10001 tensors"):
        codec.decode_reply(field(4, field(2, field(1, b"") * 10_001 + TYPE)))


HEADERS = st.tuples(
    st.sampled_from(["<f4", "|b1", "=f4", ">i2", "|O", "<f9", "<c8", "|f4"]),
    st.sampled_from(["False", "True", "0", "None"]),
    st.sampled_from(["(2,)", "(2)", "()", "(,)", "(01,)", "(2, )", "(2,1)", "(2, 1, )", "(-2,)", "(2,,)", "(1_0,)"]),
    st.sampled_from([", ", "", ","]),
    st.sampled_from([" \n", "\n", "", "  ", "\n\n", "\x0b\n", "#"]),
)


@given(HEADERS)
def test_a_header_that_is_read_is_read_as_numpy_reads_it(parts: tuple[str, str, str, str, str]) -> None:
    descr, order, shape, comma, end = parts
    text = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}{comma}}}{end}".encode()
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8)
    try:
        array = decode_tensor(data)
    except WireError:
        return
    np.testing.assert_array_equal(array, np.load(io.BytesIO(data), allow_pickle=False))
