"""Finds the tensors in a heavy message where they lie, so that a model exists once: in the bytes that came.

Protobuf copies every tensor out of a message twice. Here the wire format (protobuf.dev, "Encoding") is walked by hand
down to the tensors; everything else is handed back as bytes, for protobuf to parse. Only the plain form is walked, as
every protobuf library writes it: one message field, with one `parameters` in it, of tensors and their type. For what
is not plain, or not whole, `scan` gives None, and protobuf decides.
"""

from __future__ import annotations

from dataclasses import dataclass

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are not plain
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_LENGTH_BYTES = 5  # of the varint before a field; a field holds less than 2 GiB
_MAX_VARINT_BYTES = 10
_TENSOR, _TENSOR_TYPE = 1 << 3 | _LENGTH, 2 << 3 | _LENGTH


class _NotPlain(Exception):
    """Protobuf must look at this message itself."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """The tensors as views of the message, and `rest`: the same message without its parameters, still to be parsed."""

    tensors: tuple[memoryview, ...]
    tensor_type: str
    rest: bytes


def scan(data: bytes, message_field: int, parameters_field: int, max_tensors: int) -> Scanned | None:
    """None where the message is not `message_field`, or not plain, or has more than so many tensors."""
    try:
        start, end = _only_field(data, message_field << 3 | _LENGTH)
        return _scanned(memoryview(data), start, end, parameters_field << 3 | _LENGTH, max_tensors)
    except _NotPlain:
        return None


def _only_field(data: bytes, tag: int) -> tuple[int, int]:
    if not data or data[0] != tag:
        raise _NotPlain
    start, end = _length_field(memoryview(data), 1, len(data))
    if end != len(data):
        raise _NotPlain
    return start, end


def _scanned(view: memoryview, start: int, end: int, parameters_tag: int, max_tensors: int) -> Scanned:
    rest: list[memoryview] = []
    found: tuple[tuple[memoryview, ...], str] | None = None
    at = start
    while at < end:
        tag, field = view[at], at
        if tag == parameters_tag:
            if found is not None:  # several are merged
                raise _NotPlain
            inner, at = _length_field(view, at + 1, end)
            found = _tensors(view, inner, at, max_tensors)
        else:
            at = _after(view, tag, at + 1, end)
            rest.append(view[field:at])
    if found is None:
        raise _NotPlain
    return Scanned(*found, b"".join(rest))


def _tensors(view: memoryview, at: int, end: int, max_tensors: int) -> tuple[tuple[memoryview, ...], str]:
    tensors: list[memoryview] = []
    tensor_type = ""
    while at < end:
        tag = view[at]
        start, at = _length_field(view, at + 1, end)
        if tag == _TENSOR and len(tensors) < max_tensors:
            tensors.append(view[start:at])
        elif tag == _TENSOR_TYPE:
            tensor_type = _text(view[start:at])
        else:
            raise _NotPlain
    return tuple(tensors), tensor_type


def _text(raw: memoryview) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise _NotPlain from None


def _after(view: memoryview, tag: int, at: int, end: int) -> int:
    """Where the field with this tag ends. A tag of one byte is a field number from 1 to 15."""
    kind = tag & 7
    if tag < 8 or tag > 0x7F:
        raise _NotPlain
    if kind == _LENGTH:
        return _length_field(view, at, end)[1]
    if kind == _VARINT:
        at = _after_varint(view, at, end)
    else:
        at += _FIXED_BYTES.get(kind, end)
    if at > end:
        raise _NotPlain
    return at


def _after_varint(view: memoryview, at: int, end: int) -> int:
    for n in range(at, min(at + _MAX_VARINT_BYTES, end)):
        if view[n] < 0x80:
            return n + 1
    raise _NotPlain


def _length_field(view: memoryview, at: int, end: int) -> tuple[int, int]:
    """Start and end of the content behind a length, which is in its shortest form and stays within `end`."""
    length = shift = 0
    for n in range(at, min(at + _MAX_LENGTH_BYTES, end)):
        byte = view[n]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            start = n + 1
            if start + length > end or (byte == 0 and shift > 7):
                raise _NotPlain
            return start, start + length
    raise _NotPlain
