"""The messages of the Flower Protocol as plain values. No protobuf, no grpc: those live in `fl.wire`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Scalar = bool | bytes | float | int | str
Config = Mapping[str, Scalar]
Array = npt.NDArray[Any]


class Code(IntEnum):
    """Status codes, numbered as on the wire."""

    OK = 0
    GET_PROPERTIES_NOT_IMPLEMENTED = 1
    GET_PARAMETERS_NOT_IMPLEMENTED = 2
    FIT_NOT_IMPLEMENTED = 3
    EVALUATE_NOT_IMPLEMENTED = 4


class Reason(IntEnum):
    """Why a client leaves, numbered as on the wire."""

    UNKNOWN = 0
    RECONNECT = 1
    POWER_DISCONNECTED = 2
    WIFI_UNAVAILABLE = 3
    ACK = 4


@dataclass(frozen=True, eq=False)
class Parameters:
    """A model's tensors, in the order of the model. Treat the arrays as read-only: they are shared, not copied."""

    arrays: tuple[Array, ...]

    @property
    def n_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def copy(self) -> list[Array]:
        return [np.array(array) for array in self.arrays]


@dataclass(frozen=True)
class GetPropertiesIns:
    config: Config = field(default_factory=dict)


@dataclass(frozen=True)
class GetPropertiesRes:
    properties: Config
    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True)
class GetParametersIns:
    config: Config = field(default_factory=dict)


@dataclass(frozen=True)
class GetParametersRes:
    parameters: Parameters
    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True)
class FitIns:
    parameters: Parameters
    config: Config = field(default_factory=dict)


@dataclass(frozen=True)
class FitRes:
    """`num_examples` weighs the update; `metrics` are flat, measurements among them (`fit.duration_s`, ...)."""

    parameters: Parameters
    num_examples: int
    metrics: Config = field(default_factory=dict)
    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True)
class EvaluateIns:
    parameters: Parameters
    config: Config = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluateRes:
    loss: float
    num_examples: int
    metrics: Config = field(default_factory=dict)
    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True)
class ReconnectIns:
    """0 seconds: leave for good."""

    seconds: int = 0


@dataclass(frozen=True)
class DisconnectRes:
    reason: Reason = Reason.ACK


Instruction = GetPropertiesIns | GetParametersIns | FitIns | EvaluateIns | ReconnectIns
Reply = GetPropertiesRes | GetParametersRes | FitRes | EvaluateRes | DisconnectRes
