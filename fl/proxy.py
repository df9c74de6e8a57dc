"""The server's view of one client: ask, wait with a deadline, get a result with its timing, or a named failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from fl.messages import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
)
from profiler.records import SpanRecord

TensorEncoding = Literal["npy", "float32"]
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class CallTiming:
    """When and how long, on the server's own monotonic clock; nothing here compares two clocks.

    `device_s` is the client's own time from receiving the instruction to handing over the reply, None where the client
    does not tell. Communication is the round trip less `device_s`; it is split into download and upload by the bounds
    on the clock offset where those are tight (`comm_split` = clock), else in proportion to the bytes (bytes).
    `clock_offset_ns` are those bounds, of the device's clock less the server's.
    `telemetry_bytes` are the part of `reply_bytes` that carries measurements.
    """

    sent_ns: int
    received_ns: int
    request_bytes: int
    reply_bytes: int
    telemetry_bytes: int = 0
    device_s: float | None = None
    download_s: float | None = None
    upload_s: float | None = None
    comm_split: str | None = None
    clock_offset_ns: tuple[float, float] | None = None

    @property
    def round_trip_s(self) -> float:
        return (self.received_ns - self.sent_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Answer(Generic[R_co]):
    """A client's result, the timing of the call, and the span records that came beside it.

    `samples` are raw ones as they came, which `fl.wire.samples` reads when the call is over; empty without any.
    """

    result: R_co
    timing: CallTiming
    spans: tuple[SpanRecord, ...] = ()
    samples: bytes = b""


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """What a strategy may know of a client: who, on what, and what it told of itself.

    `tensors` is how its tensors are encoded: `npy`, or `float32` for Android's raw ones (`fl.wire.raw_tensors`).
    """

    device: str
    processor: str = ""
    properties: Mapping[str, object] = field(default_factory=dict)
    tensors: TensorEncoding = "npy"


class ClientProxy(Protocol):
    """One connected client. Every call has its own deadline in seconds (None: no deadline).

    A failed call raises ClientFailure with device, phase and reason; the client stays connected if it can, and a reply
    that comes after its deadline is dropped without being folded in.
    """

    @property
    def info(self) -> ClientInfo: ...

    @property
    def is_ready(self) -> bool:
        """Connected, and owing no answer to an earlier call."""
        ...

    async def get_properties(self, ins: GetPropertiesIns, deadline_s: float | None) -> Answer[GetPropertiesRes]: ...

    async def get_parameters(self, ins: GetParametersIns, deadline_s: float | None) -> Answer[GetParametersRes]: ...

    async def fit(self, ins: FitIns, deadline_s: float | None) -> Answer[FitRes]: ...

    async def evaluate(self, ins: EvaluateIns, deadline_s: float | None) -> Answer[EvaluateRes]: ...
