"""Messages to bytes and back: pure functions, no connection.

A heavy message is put together by hand around what protobuf makes of its small parts. In protobuf's encoding the
concatenation of two serialised messages is the serialisation of their merge ("Last One Wins", protobuf.dev encoding
guide), so the tensors are serialised once and serve every client's own config (`encode_parameters`), and a client can
encode its tensors first, then take the time, then append the metrics that tell it (`draft_reply`, `finish_reply`).
The result is byte for byte what protobuf itself would write, but for the order of map entries.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf.message import DecodeError, Message

from fl.messages import (
    Array,
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
    Scalar,
)
from fl.wire import transport_pb2 as pb
from fl.wire.scan import scan
from fl.wire.tensors import MAX_TENSORS, TENSOR_TYPE, decode_tensors, encode_header
from profiler.errors import WireError

MAX_ENTRIES = 10_000  # of a config or of metrics
MAX_KEY_CHARS = 1_000
MAX_STRING_CHARS = 100_000  # of one value; bytes are bounded by the message, a measurement has bounds of its own
MAX_INT64 = 2**63 - 1
MAX_UINT64 = 2**64 - 1
MAX_TEXT_CHARS = 10_000  # of a status message

# Field numbers of the heavy messages: ServerMessage.*, ClientMessage.*, and the fields within them.
_FIT_INS, _EVALUATE_INS = 4, 5
_GET_PROPERTIES_RES, _GET_PARAMETERS_RES, _FIT_RES, _EVALUATE_RES = 2, 3, 4, 5
_INS_PARAMETERS, _RES_PARAMETERS = 1, 2
_TENSORS, _TENSOR_TYPE_FIELD = 1, 2


# --- scalars ---------------------------------------------------------------------------------------------------------


def encode_scalar(key: str, value: Scalar) -> pb.Scalar:
    """Flower's mapping: int as sint64, above 2^63-1 as uint64. Raises WireError, naming the key, for other types."""
    if isinstance(value, bool):
        return pb.Scalar(bool=value)
    if isinstance(value, float):
        return pb.Scalar(double=value)
    if isinstance(value, int):
        return _encode_int(key, value)
    if isinstance(value, str):
        return pb.Scalar(string=value)
    if isinstance(value, bytes):
        return pb.Scalar(bytes=value)
    raise WireError(
        f"{key!r} is {type(value).__name__}, which the Flower Protocol does not carry.",
        remedy="Use bool, int, float, str or bytes; float(x) makes a NumPy number one of them.",
    )


def _encode_int(key: str, value: int) -> pb.Scalar:
    if -MAX_INT64 - 1 <= value <= MAX_INT64:
        return pb.Scalar(sint64=value)
    if 0 <= value <= MAX_UINT64:
        return pb.Scalar(uint64=value)
    raise WireError(f"{key!r} = {value} does not fit into 64 bits.")


def _fill(target: Mapping[str, pb.Scalar], config: Config) -> None:
    """Copy a config into a protobuf map, which makes an entry on access."""
    if len(config) > MAX_ENTRIES:
        raise WireError(f"{len(config)} config or metrics entries; at most {MAX_ENTRIES} are carried.")
    for key, value in config.items():
        if not isinstance(key, str):
            raise WireError(f"{key!r} is no key: the Flower Protocol carries strings as keys.")
        try:
            target[key].CopyFrom(encode_scalar(key, value))
        except ValueError as error:  # a string that is no Unicode text
            raise WireError(f"{key!r:.80} cannot be sent: {error}.") from None


def _config(source: Mapping[str, pb.Scalar]) -> dict[str, Scalar]:
    if len(source) > MAX_ENTRIES:
        raise WireError(f"{len(source)} config or metrics entries came; at most {MAX_ENTRIES} are read.")
    config: dict[str, Scalar] = {}
    for key, scalar in source.items():
        field = scalar.WhichOneof("scalar")
        if field is None:
            raise WireError(f"{key!r:.80} has no value, or one of a type that the Flower Protocol does not know.")
        value: Scalar = getattr(scalar, field)
        if len(key) > MAX_KEY_CHARS or (isinstance(value, str) and len(value) > MAX_STRING_CHARS):
            raise WireError(f"{key!r:.80}: a key or a string longer than is read.")
        config[key] = value
    return config


def entries_bytes(config: Config) -> int:
    """How many bytes these entries take on the wire, in a map of config or metrics; nothing is encoded."""
    n_bytes = 0
    for key, value in config.items():
        scalar_bytes = 1 + _value_bytes(value)
        n_bytes += _delimited_bytes(_delimited_bytes(len(key.encode())) + _delimited_bytes(scalar_bytes))
    return n_bytes


def _value_bytes(value: Scalar) -> int:
    """Without its tag. sint64 is zigzag (protobuf.dev, "Encoding"): as many bits as the magnitude, and the sign."""
    if isinstance(value, bool):
        return 1
    if isinstance(value, float):
        return 8
    if isinstance(value, int):
        return _varint_bytes(value if value > MAX_INT64 else value << 1 if value >= 0 else ~value << 1 | 1)
    return _delimited_bytes(len(value.encode() if isinstance(value, str) else value)) - 1


def _delimited_bytes(n_bytes: int) -> int:
    """With tag and length."""
    return 1 + _varint_bytes(n_bytes) + n_bytes


def _varint_bytes(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


# --- parameters ------------------------------------------------------------------------------------------------------


def encode_parameters(parameters: Parameters) -> bytes:
    """The `parameters` field of a FitIns or EvaluateIns. Serialise it once and share it between clients."""
    return _parameters_field(_INS_PARAMETERS, parameters)


def _parameters_field(number: int, parameters: Parameters) -> bytes:
    return b"".join(_parameters_chunks(number, parameters))


def _parameters_chunks(number: int, parameters: Parameters) -> list[bytes | memoryview]:
    """The same in parts, the arrays' own bytes among them, so that whoever joins them makes the only copy."""
    if len(parameters.arrays) > MAX_TENSORS:
        raise WireError(f"{len(parameters.arrays)} tensors; at most {MAX_TENSORS} are sent.")
    chunks: list[bytes | memoryview] = []
    n_bytes = 0
    for array in parameters.arrays:
        header = encode_header(array)
        data = _raw(array)
        prefix = _length_prefix(_TENSORS, len(header) + len(data))
        chunks += (prefix, header, data)
        n_bytes += len(prefix) + len(header) + len(data)
    tensor_type = TENSOR_TYPE.encode()
    tail = _length_prefix(_TENSOR_TYPE_FIELD, len(tensor_type)) + tensor_type
    return [_length_prefix(number, n_bytes + len(tail)), *chunks, tail]


def _raw(array: Array) -> bytes | memoryview:
    """The array's bytes in C order, without a copy where it already lies so."""
    contiguous = np.ascontiguousarray(array)
    return contiguous.reshape(-1).view(np.uint8).data if contiguous.size else b""


def _parameters(tensors: Sequence[bytes | memoryview], tensor_type: str) -> Parameters:
    if tensors and tensor_type != TENSOR_TYPE:
        raise WireError(f"tensors of type {tensor_type!r:.40} came; {TENSOR_TYPE!r} is understood.")
    return Parameters(decode_tensors(tensors))


def _copied(message: pb.Parameters) -> Parameters:
    return _parameters(message.tensors, message.tensor_type)


def _length_prefix(number: int, n_bytes: int) -> bytes:
    return bytes([number << 3 | 2]) + _varint(n_bytes)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# --- server to client ------------------------------------------------------------------------------------------------


def encode_fit_ins(parameters_part: bytes, config: Config) -> bytes:
    """A ServerMessage with a FitIns, from the shared `encode_parameters` and this client's config."""
    ins = pb.ServerMessage.FitIns()
    _fill(ins.config, config)
    return _around(_FIT_INS, parameters_part, _serialise(ins))


def encode_evaluate_ins(parameters_part: bytes, config: Config) -> bytes:
    """A ServerMessage with an EvaluateIns, likewise."""
    ins = pb.ServerMessage.EvaluateIns()
    _fill(ins.config, config)
    return _around(_EVALUATE_INS, parameters_part, _serialise(ins))


def encode_instruction(ins: Instruction) -> bytes:
    """Raises WireError for a tensor or a config value that the wire does not carry."""
    if isinstance(ins, FitIns):
        return encode_fit_ins(encode_parameters(ins.parameters), ins.config)
    if isinstance(ins, EvaluateIns):
        return encode_evaluate_ins(encode_parameters(ins.parameters), ins.config)
    message = pb.ServerMessage()
    if isinstance(ins, ReconnectIns):
        message.reconnect_ins.seconds = ins.seconds
        message.reconnect_ins.SetInParent()
    elif isinstance(ins, GetPropertiesIns):
        message.get_properties_ins.SetInParent()
        _fill(message.get_properties_ins.config, ins.config)
    else:
        message.get_parameters_ins.SetInParent()
        _fill(message.get_parameters_ins.config, ins.config)
    return _serialise(message)


def carries_work(data: bytes) -> bool:
    """Whether the bytes begin as a FitIns or EvaluateIns: known before decoding, which is already work to be timed."""
    return len(data) > 0 and data[0] in (_FIT_INS << 3 | 2, _EVALUATE_INS << 3 | 2)


def decode_instruction(data: bytes) -> Instruction:
    """Raises WireError for anything but one well-formed ServerMessage. Arrays are views of `data` where possible."""
    if scanned := scan(data, _FIT_INS, _INS_PARAMETERS, MAX_TENSORS):
        fit_ins = pb.ServerMessage.FitIns()
        _parse(fit_ins, scanned.rest)
        return FitIns(_parameters(scanned.tensors, scanned.tensor_type), _config(fit_ins.config))
    if scanned := scan(data, _EVALUATE_INS, _INS_PARAMETERS, MAX_TENSORS):
        evaluate_ins = pb.ServerMessage.EvaluateIns()
        _parse(evaluate_ins, scanned.rest)
        return EvaluateIns(_parameters(scanned.tensors, scanned.tensor_type), _config(evaluate_ins.config))
    return decode_instruction_by_protobuf(data)


def decode_instruction_by_protobuf(data: bytes) -> Instruction:
    """The same for a message of any form, at the price of copies."""
    message = pb.ServerMessage()
    _parse(message, data)
    field = message.WhichOneof("msg")
    if field == "fit_ins":
        return FitIns(_copied(message.fit_ins.parameters), _config(message.fit_ins.config))
    if field == "evaluate_ins":
        return EvaluateIns(_copied(message.evaluate_ins.parameters), _config(message.evaluate_ins.config))
    if field == "get_properties_ins":
        return GetPropertiesIns(_config(message.get_properties_ins.config))
    if field == "get_parameters_ins":
        return GetParametersIns(_config(message.get_parameters_ins.config))
    if field == "reconnect_ins":
        return ReconnectIns(message.reconnect_ins.seconds)
    raise WireError("an instruction without content, or of a kind that the Flower Protocol does not know.")


# --- client to server ------------------------------------------------------------------------------------------------


class ReplyDraft:
    """A reply that is encoded, metrics included, and to which the last metrics are still to be added, once.

    The one copy of the tensors that a reply needs is made here. `io.BytesIO` gives its buffer away without another, so
    the field and the length that go before the body are written in front of it when they are known, into the room that
    was left: as many bytes as the body's own length takes.
    """

    def __init__(self, field: int, chunks: Sequence[bytes | memoryview]) -> None:
        self.field = field
        self.n_bytes = sum(len(chunk) for chunk in chunks)
        self._room = len(_length_prefix(field, self.n_bytes))
        self._buffer = io.BytesIO()
        self._buffer.seek(self._room)
        for chunk in chunks:
            self._buffer.write(chunk)

    def finish(self, tail: bytes) -> bytes:
        """The whole message, its body ended by `tail`. The draft is empty then."""
        prefix = _length_prefix(self.field, self.n_bytes + len(tail))
        buffer, self._buffer = self._buffer, io.BytesIO()
        buffer.write(tail)
        if len(prefix) != self._room:  # the tail took the length over a power of 128
            return prefix + buffer.getbuffer()[self._room :]
        buffer.seek(0)
        buffer.write(prefix)
        return buffer.getvalue()


def draft_reply(reply: Reply) -> ReplyDraft:
    """Raises WireError for a tensor or a metric that the wire does not carry, and for a DisconnectRes."""
    if isinstance(reply, DisconnectRes):
        raise WireError("a DisconnectRes has no metrics that could be added.")
    text = reply.message[:MAX_TEXT_CHARS].encode(errors="replace").decode()
    status = pb.Status(code=reply.code.name, message=text)
    if isinstance(reply, FitRes):
        fit = pb.ClientMessage.FitRes(status=status, num_examples=_count(reply.num_examples))
        _fill(fit.metrics, reply.metrics)
        return ReplyDraft(_FIT_RES, [_serialise(fit), *_parameters_chunks(_RES_PARAMETERS, reply.parameters)])
    if isinstance(reply, EvaluateRes):
        evaluated = pb.ClientMessage.EvaluateRes(
            status=status, loss=_loss(reply.loss), num_examples=_count(reply.num_examples)
        )
        _fill(evaluated.metrics, reply.metrics)
        return ReplyDraft(_EVALUATE_RES, [_serialise(evaluated)])
    if isinstance(reply, GetParametersRes):
        head = _serialise(pb.ClientMessage.GetParametersRes(status=status))
        return ReplyDraft(_GET_PARAMETERS_RES, [head, *_parameters_chunks(_RES_PARAMETERS, reply.parameters)])
    told = pb.ClientMessage.GetPropertiesRes(status=status)
    _fill(told.properties, reply.properties)
    return ReplyDraft(_GET_PROPERTIES_RES, [_serialise(told)])


def finish_reply(draft: ReplyDraft, more_metrics: Config) -> bytes:
    """A draft with `more_metrics` (or properties) appended. A GetParametersRes carries none: there they are dropped."""
    return draft.finish(_metrics_part(draft.field, more_metrics))


def _metrics_part(field: int, metrics: Config) -> bytes:
    if field == _FIT_RES:
        fit = pb.ClientMessage.FitRes()
        _fill(fit.metrics, metrics)
        return _serialise(fit)
    if field == _EVALUATE_RES:
        evaluated = pb.ClientMessage.EvaluateRes()
        _fill(evaluated.metrics, metrics)
        return _serialise(evaluated)
    if field == _GET_PROPERTIES_RES:
        told = pb.ClientMessage.GetPropertiesRes()
        _fill(told.properties, metrics)
        return _serialise(told)
    return b""


def encode_reply(reply: Reply) -> bytes:
    """Raises WireError for a tensor or a metric that the wire does not carry."""
    if isinstance(reply, DisconnectRes):
        left = pb.ClientMessage.DisconnectRes(reason=reply.reason.name)
        return _serialise(pb.ClientMessage(disconnect_res=left))
    return finish_reply(draft_reply(reply), {})


def decode_reply(data: bytes) -> Reply:
    """Raises WireError for anything but one well-formed ClientMessage. A reply without status counts as OK.

    The arrays of a FitRes are views of `data` where possible, and keep it alive.
    """
    if scanned := scan(data, _FIT_RES, _RES_PARAMETERS, MAX_TENSORS):
        fit = pb.ClientMessage.FitRes()
        _parse(fit, scanned.rest)
        return _fit_res(fit, _parameters(scanned.tensors, scanned.tensor_type))
    return decode_reply_by_protobuf(data)


def decode_reply_by_protobuf(data: bytes) -> Reply:
    """The same for a message of any form, at the price of copies."""
    message = pb.ClientMessage()
    _parse(message, data)
    field = message.WhichOneof("msg")
    if field == "fit_res":
        return _fit_res(message.fit_res, _copied(message.fit_res.parameters))
    if field == "evaluate_res":
        evaluated = message.evaluate_res
        code, text = _status(evaluated.status)
        return EvaluateRes(evaluated.loss, evaluated.num_examples, _config(evaluated.metrics), code, text)
    if field == "get_properties_res":
        code, text = _status(message.get_properties_res.status)
        return GetPropertiesRes(_config(message.get_properties_res.properties), code, text)
    if field == "get_parameters_res":
        code, text = _status(message.get_parameters_res.status)
        return GetParametersRes(_copied(message.get_parameters_res.parameters), code, text)
    if field == "disconnect_res":
        return DisconnectRes(_reason(message.disconnect_res.reason))
    raise WireError("a reply without content, or of a kind that the Flower Protocol does not know.")


def _fit_res(fit: pb.ClientMessage.FitRes, parameters: Parameters) -> FitRes:
    code, text = _status(fit.status)
    return FitRes(parameters, fit.num_examples, _config(fit.metrics), code, text)


def _status(status: pb.Status) -> tuple[Code, str]:
    try:
        return Code(status.code), status.message[:MAX_TEXT_CHARS]
    except ValueError:
        raise WireError(f"a reply with the unknown status code {status.code}.") from None


def _reason(number: int) -> Reason:
    try:
        return Reason(number)
    except ValueError:
        return Reason.UNKNOWN


def _count(num_examples: int) -> int:
    if isinstance(num_examples, bool) or not isinstance(num_examples, int) or not 0 <= num_examples <= MAX_INT64:
        raise WireError(f"num_examples = {num_examples!r:.40} is no number of examples: return a whole int from 0.")
    return num_examples


def _loss(loss: float) -> float:
    if isinstance(loss, bool) or not isinstance(loss, (int, float)):
        raise WireError(f"a loss of type {type(loss).__name__} cannot be sent.", remedy="Return float(loss).")
    return float(loss)


# --- protobuf --------------------------------------------------------------------------------------------------------


def _around(number: int, head: bytes, tail: bytes) -> bytes:
    return b"".join([_length_prefix(number, len(head) + len(tail)), head, tail])


def _serialise(message: Message) -> bytes:
    try:
        return message.SerializeToString(deterministic=True)
    except (ValueError, UnicodeError) as error:
        raise WireError(f"a message cannot be encoded: {error}.") from None


def _parse(message: Message, data: bytes) -> None:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"{len(data)} bytes that are no message of the Flower Protocol: {error}.") from None
