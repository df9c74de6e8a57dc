"""Tensors: every array that numpy writes comes back, and nothing else gets in."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl.messages import Array
from fl.wire.tensors import MAX_TENSORS, decode_tensor, decode_tensors, encode_tensor
from profiler.errors import WireError

CARRIED = st.one_of(
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.boolean_dtypes(),
)
ARRAYS = hnp.arrays(CARRIED, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@given(ARRAYS)
def test_what_is_encoded_comes_back_and_numpy_reads_it(array: Array) -> None:
    data = encode_tensor(array)
    for read in (decode_tensor(data), np.load(io.BytesIO(data), allow_pickle=False)):
        assert read.shape == array.shape
        assert read.dtype == array.dtype.newbyteorder("=") or read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


@given(ARRAYS, st.booleans())
def test_what_numpy_writes_is_read(array: Array, is_fortran: bool) -> None:
    ordered = np.asfortranarray(array) if is_fortran else array
    np.testing.assert_array_equal(decode_tensor(npy(ordered)), array)


def test_decoding_copies_nothing() -> None:
    data = encode_tensor(np.arange(1000, dtype=np.float32))
    array = decode_tensor(data)
    assert np.shares_memory(array, np.frombuffer(data, dtype=np.uint8))
    assert not array.flags.writeable


def header(text: bytes, payload: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + payload


GOOD = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"


def test_a_header_in_another_key_order_and_spacing_is_read() -> None:
    data = header(b"{'shape':(2,),'fortran_order':False,'descr':'<f4'}", bytes(8))
    np.testing.assert_array_equal(decode_tensor(data), np.zeros(2, dtype=np.float32))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x80\x04pickle",
        header(GOOD, bytes(7)),
        header(GOOD, bytes(9)),
        header(GOOD)[:20],
        b"\x93NUMPY\x02\x00" + header(GOOD, bytes(8))[8:],
        b"\x93NUMPY\x01\x00\xff\xff" + GOOD,
        header(b"{" * 900),
        header(b"(" * 900),
        header(b"-" * 1000),
        header(b"\x00" * 20),
        header(b"\xff" * 20),
        header(b"{'descr': '\\d'}"),
        header(b"[1, 2]"),
        header(b"{'descr': '<f4', 'shape': (2,)}"),
        header(b"{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}", bytes(8)),
        header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        header(b"{'descr': '<U2', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        header(b"{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        header(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", bytes(8)),
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", bytes(8)),
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 2)}", bytes(8)),
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': 2}", bytes(8)),
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2.0,)}", bytes(8)),
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,2)}", bytes(8)),
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}", bytes(8)),
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 99999999999999999999)}"),
        header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 2147483647, 2147483647, 2147483647)}"),
    ],
)
def test_hostile_bytes_are_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_tensor(data)


@given(st.binary(max_size=200))
def test_any_header_text_is_read_or_refused(text: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_tensor(header(text, bytes(8)))


@given(ARRAYS, st.data())
def test_one_changed_byte_is_read_or_refused(array: Array, data: st.DataObject) -> None:
    encoded = bytearray(encode_tensor(array))
    encoded[data.draw(st.integers(0, min(127, len(encoded) - 1)))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        decode_tensor(bytes(encoded))


def test_the_place_of_a_bad_tensor_is_named() -> None:
    with pytest.raises(WireError, match="tensor 1"):
        decode_tensors([encode_tensor(np.zeros(1)), b"junk"])


def test_too_many_tensors_are_refused() -> None:
    with pytest.raises(WireError, match="at most 10000"):
        decode_tensors([b""] * (MAX_TENSORS + 1))


@pytest.mark.parametrize("array", [np.zeros(1, dtype=complex), np.array(["a"]), np.zeros((1,) * 9)])
def test_what_cannot_be_carried_is_refused_before_sending(array: Array) -> None:
    with pytest.raises(WireError):
        encode_tensor(array)
