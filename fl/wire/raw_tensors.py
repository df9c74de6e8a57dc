"""Android's tensors: raw little-endian float32, without a header, so that the shapes are lost on the wire.

The convention of Flower's `FedAvgAndroid` (flwr/server/strategy/fedavg_android.py): each tensor is `ndarray.tobytes()`,
and `tensor_type` is, literally, "numpy.nda". What comes back gets its shapes and dtypes from the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from fl.messages import Array, EvaluateIns, FitIns, FitRes, Parameters, Reply
from fl.wire import codec
from fl.wire import transport_pb2 as pb
from profiler.errors import WireError

RAW_TENSOR_TYPE = "numpy.nda"
_WIRE = np.dtype("<f4")


def encode_raw_parameters(parameters: Parameters) -> bytes:
    """The `parameters` field of a FitIns or EvaluateIns, for `codec.encode_fit_ins` and `codec.encode_evaluate_ins`."""
    tensors = [np.ascontiguousarray(array, dtype=_WIRE).tobytes() for array in parameters.arrays]
    part = pb.ServerMessage.FitIns(parameters=pb.Parameters(tensors=tensors, tensor_type=RAW_TENSOR_TYPE))
    return part.SerializeToString()


def encode_raw_work(ins: FitIns | EvaluateIns) -> bytes:
    """A ServerMessage. Raises WireError for a config value that the wire does not carry."""
    part = encode_raw_parameters(ins.parameters)
    encode = codec.encode_fit_ins if isinstance(ins, FitIns) else codec.encode_evaluate_ins
    return encode(part, ins.config)


def decode_raw_reply(data: bytes, model: Parameters | None) -> Reply:
    """A reply whose tensors are raw, in the shapes and dtypes of `model`. Raises WireError, naming the tensor.

    Integers come back rounded: float32 holds them exactly up to 2^24.
    """
    message = pb.ClientMessage()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"{len(data)} bytes that are no message of the Flower Protocol: {error}.") from None
    field = message.WhichOneof("msg")
    if field == "get_parameters_res" and message.get_parameters_res.parameters.tensors:
        raise WireError(
            "raw float32 tensors do not tell their shapes: they are no initial model.",
            remedy="Give initial_parameters.",
        )
    if field != "fit_res":
        return codec.decode_reply(data)
    tensors = list(message.fit_res.parameters.tensors)
    message.fit_res.ClearField("parameters")
    reply = codec.decode_reply(message.SerializeToString())
    if model is None or not isinstance(reply, FitRes) or not tensors:
        return reply
    return replace(reply, parameters=Parameters(_shaped(tensors, model.arrays)))


def _shaped(tensors: Sequence[bytes], model: Sequence[Array]) -> tuple[Array, ...]:
    if len(tensors) != len(model):
        raise WireError(f"{len(tensors)} raw tensors came; the model has {len(model)}.")
    return tuple(_array(index, data, like) for index, (data, like) in enumerate(zip(tensors, model, strict=True)))


def _array(index: int, data: bytes, like: Array) -> Array:
    wanted_bytes = like.size * _WIRE.itemsize
    if len(data) != wanted_bytes:
        raise WireError(
            f"raw tensor {index} has {len(data)} bytes; float32 of shape {like.shape} needs {wanted_bytes}.",
            remedy="A client that sends NPY tensors must not be marked tensors = 'float32'.",
        )
    values = np.frombuffer(data, _WIRE).reshape(like.shape)
    array = _cast(index, values, like.dtype)
    array.flags.writeable = False
    return array


def _cast(index: int, values: Array, dtype: np.dtype[Any]) -> Array:
    """NaN and infinity stay for the aggregator to refuse by device; in an integer they would be lost unseen."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    if not np.isfinite(values).all():
        raise WireError(f"raw tensor {index} holds values that are not finite; the model has {dtype} there.")
    whole = np.asarray(np.rint(values.astype(np.float64)))  # of no dimensions, rint makes a scalar
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if whole.size and not (limits.min <= whole.min() and whole.max() <= limits.max):
            raise WireError(f"raw tensor {index} holds values that do not fit into {dtype}.")
    return whole.astype(dtype)
