"""Tensors as NPY 1.0, Flower's "numpy.ndarray" encoding.

Format: numpy/lib/format.py, "Format Version 1.0": magic, version, little-endian uint16 header length, and an ASCII
dictionary with the keys descr, fortran_order and shape, padded with spaces and ended by a newline; then the data.
Bytes from the network are hostile until checked: no pickle, known dtypes only, every size bounded before it is used.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fl.messages import Array
from profiler.errors import WireError

TENSOR_TYPE = "numpy.ndarray"
MAX_RANK = 8
MAX_TENSORS = 10_000
MAX_TENSOR_BYTES = 2**31 - 1  # one protobuf field holds no more
MAX_HEADER_BYTES = 1024
MAX_KNOWN_HEADERS = 1024  # all clients send those of one model, again and again
DTYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})

_MAGIC = b"\x93NUMPY\x01\x00"
_PREFIX_BYTES = len(_MAGIC) + 2
_ALIGNMENT = 64  # of the data, as numpy writes it
# What numpy's writer uses, and no more. Python's own tokenizer warns of much that it then refuses, such as `1or 2`, and
# a warning is an exception or a line on stderr, as the program that uses us likes it.
_LITERALS = re.compile(
    r"""(?:[\s(){}\[\],:<>|=]|True\b|False\b|None\b|[0-9]+(?!\w)|-|'[^'\\\n]*'|"[^"\\\n]*")*""", re.ASCII
)
_KEYS = {"descr", "fortran_order", "shape"}
# A header as numpy writes it: read so in a tenth of the time that Python's own parser takes.
_SIZE = rb"(?:0|[1-9]\d{0,9})"
_PLAIN_HEADER = re.compile(
    rb"\{'descr': '([<>|][a-z][1248])', 'fortran_order': (False|True), 'shape': \(((?:%b, ?)*%b?)\), \} *\n"
    % (_SIZE, _SIZE)
)


def encode_header(array: Array) -> bytes:
    """The NPY header of an array; its bytes in C order follow. Raises WireError for a dtype or rank not carried."""
    if array.dtype.str[1:] not in DTYPES:
        raise WireError(f"a tensor of dtype {array.dtype} cannot be sent.", remedy=f"Use one of {_known_dtypes()}.")
    if array.ndim > MAX_RANK:
        raise WireError(f"a tensor of rank {array.ndim} cannot be sent; at most {MAX_RANK} dimensions are.")
    shape = tuple(map(int, array.shape))
    header = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(_PREFIX_BYTES + len(header) + 1) % _ALIGNMENT) + b"\n"
    return _MAGIC + len(header).to_bytes(2, "little") + header


def encode_tensor(array: Array) -> bytes:
    """One array as an NPY 1.0 file. Raises WireError as `encode_header`."""
    return encode_header(array) + array.tobytes()


def decode_tensor(data: bytes | memoryview) -> Array:
    """The array of one NPY 1.0 file: read-only, and not copied unless its byte order is foreign. Raises WireError.

    It lies where the bytes lie, so that it may be unaligned.
    """
    dtype, shape, is_fortran, offset = _parse_header(data)
    count = math.prod(shape)
    n_bytes = count * dtype.itemsize
    if n_bytes != len(data) - offset or n_bytes > MAX_TENSOR_BYTES:
        raise WireError(f"a tensor of {dtype} and shape {shape} needs {n_bytes} bytes, {len(data) - offset} came.")
    flat = np.frombuffer(data, dtype, count, offset) if count else np.empty(0, dtype)
    try:
        array = flat.reshape(shape[::-1]).T if is_fortran else flat.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise WireError(f"a tensor has the impossible shape {shape}: {error}.") from None
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    array.flags.writeable = False
    return array


def decode_tensors(tensors: Sequence[bytes | memoryview]) -> tuple[Array, ...]:
    """Raises WireError, naming the tensor by its place, for what is no tensor or for too many of them."""
    if len(tensors) > MAX_TENSORS:
        raise WireError(f"{len(tensors)} tensors came; at most {MAX_TENSORS} are read.")
    arrays = []
    for index, data in enumerate(tensors):
        try:
            arrays.append(decode_tensor(data))
        except WireError as error:
            raise WireError(f"tensor {index}: {error}") from None
    return tuple(arrays)


def _parse_header(data: bytes | memoryview) -> tuple[np.dtype[np.generic], tuple[int, ...], bool, int]:
    prefix = bytes(data[:_PREFIX_BYTES])
    if prefix[: len(_MAGIC)] != _MAGIC:
        raise WireError(f"not an NPY 1.0 file: it begins with {prefix[:8]!r}.")
    n_header_bytes = int.from_bytes(prefix[len(_MAGIC) :], "little")
    offset = _PREFIX_BYTES + n_header_bytes
    if n_header_bytes > MAX_HEADER_BYTES or offset > len(data):
        raise WireError(
            f"an NPY header of {n_header_bytes} bytes in a file of {len(data)}; at most {MAX_HEADER_BYTES}."
        )
    return *_layout(bytes(data[_PREFIX_BYTES:offset])), offset


@lru_cache(MAX_KNOWN_HEADERS)
def _layout(header: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...], bool]:
    """dtype, shape and order that a header tells. Raises WireError."""
    descr, is_fortran, shape = _entries(header)
    return _dtype(descr), _shape(shape), is_fortran


def _entries(text: bytes) -> tuple[object, bool, object]:
    """descr, fortran_order and shape of a header. Raises WireError."""
    if plain := _PLAIN_HEADER.fullmatch(text):
        descr, order, sizes = plain.groups()
        if b"," in sizes or not sizes:  # (3) is a number, (3,) is a tuple
            return descr.decode(), order == b"True", tuple(map(int, filter(None, sizes.replace(b" ", b"").split(b","))))
    header = _literal(text)
    if not isinstance(header, dict) or set(header) != _KEYS:
        raise WireError(f"an NPY header without exactly the keys {sorted(_KEYS)}.")
    is_fortran = header["fortran_order"]
    if not isinstance(is_fortran, bool):
        raise WireError("an NPY header whose fortran_order is neither True nor False.")
    return header["descr"], is_fortran, header["shape"]


def _literal(header: bytes) -> object:
    try:
        text = header.decode("ascii").strip(" \n")
        if not _LITERALS.fullmatch(text):
            raise ValueError("more than plain literals")
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise WireError(f"an NPY header that is no dictionary of literals: {header[:80]!r}.") from None


def _dtype(descr: object) -> np.dtype[np.generic]:
    if not isinstance(descr, str) or descr[:1] not in ("<", ">", "|", "=") or descr[1:] not in DTYPES:
        raise WireError(f"a tensor of dtype {descr!r:.40} is refused; known are {_known_dtypes()}.")
    return np.dtype(descr)


def _shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or len(shape) > MAX_RANK:
        raise WireError(f"a tensor of shape {shape!r:.80} is refused; at most {MAX_RANK} dimensions are read.")
    for size in shape:
        if type(size) is not int or not 0 <= size <= MAX_TENSOR_BYTES:
            raise WireError(f"a tensor of shape {shape!r:.80} is refused: a size is a whole number from 0.")
    return shape


def _known_dtypes() -> str:
    return ", ".join(sorted(np.dtype(code).name for code in DTYPES))
