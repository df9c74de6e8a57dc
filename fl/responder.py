"""A client's half of one exchange: instruction bytes in, reply bytes out. No connection, so every transport shares it.

The timeline of one call on the device's monotonic clock, each part a span:

    received | receive: decode | fit or evaluate | send: encode | handover | wait ... until the next instruction

`send` and the time of handing over are in the reply itself, since its tensors are encoded before its last metrics. The
wait that follows travels with the next reply. After a get_properties whose config has the key `fedmeter.idle` it is a
span `idle`: the server lets every client wait then.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import numpy as np

from fl.clock_watch import SET_KEY, ClockWatch
from fl.instrument import InstrumentedClient, call_attributes
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
    Parameters,
    Reason,
    ReconnectIns,
    Scalar,
)
from fl.wire import codec
from profiler.errors import WireError

RECEIVED_KEY = "fedmeter.received_ns"
HANDOVER_KEY = "fedmeter.handover_ns"
IDLE_KEY = "fedmeter.idle"

_log = logging.getLogger("fl")

CallInstruction = GetPropertiesIns | GetParametersIns | FitIns | EvaluateIns
CallReply = GetPropertiesRes | GetParametersRes | FitRes | EvaluateRes


@dataclass(frozen=True, slots=True)
class Response:
    """What to send back, and, where the server said so, when to come again (`seconds` = 0: never)."""

    data: bytes
    leave: ReconnectIns | None = None


class Responder:
    """Answers the instructions of one connection, in order, from one thread.

    An exception in user code becomes an error status with its message, so that the server can tell device, phase and
    reason, and the client stays. Bytes that are no instruction raise WireError: there is nothing to answer then.

    Strict ping-pong: an instruction confirms the reply before it, and what the last reply of an earlier connection
    carried may be lost, so it is sent again. `clock_watch` is asked with each instruction to work.
    """

    def __init__(self, client: InstrumentedClient, clock_watch: ClockWatch | None = None) -> None:
        self._client = client
        self._clock_watch = clock_watch
        self._has_replied = False
        client.spool.give_back()
        self._wait = ExitStack()

    def answer(self, data: bytes, received_ns: int) -> Response:
        """`received_ns`: when the whole instruction was there, on the client's clock. Raises WireError."""
        self.close()
        if self._has_replied:
            self._client.spool.confirm()
        self._has_replied = True
        with self._client.profiler.span("receive") if codec.carries_work(data) else nullcontext() as span:
            ins = codec.decode_instruction(data)
            if span is not None:
                span.set(n_bytes=len(data), **call_attributes(_CALLS[type(ins)], getattr(ins, "config", {})))
                if self._clock_watch is not None and (set_by_s := self._clock_watch.set_by_s()) is not None:
                    span.set(**{SET_KEY: set_by_s})
        if isinstance(ins, ReconnectIns):
            reason = Reason.RECONNECT if ins.seconds > 0 else Reason.ACK
            return Response(codec.encode_reply(DisconnectRes(reason)), ins)
        reply = self._run(ins)
        if isinstance(ins, (FitIns, EvaluateIns)):
            return Response(self._send_work(ins, reply, received_ns))
        config = ins.config if isinstance(ins, GetPropertiesIns) else {}
        data = self._finish(_draft(ins, reply), received_ns, config)
        if IDLE_KEY in config:
            self._wait.enter_context(self._client.profiler.span("idle")).set(phase=str(config[IDLE_KEY]))
        return Response(data)

    def close(self) -> None:
        """End the wait that is going on, if any."""
        self._wait.close()

    def _send_work(self, ins: FitIns | EvaluateIns, reply: CallReply, received_ns: int) -> bytes:
        attributes = call_attributes(_CALLS[type(ins)], ins.config)
        with self._client.profiler.span("send") as span:
            draft = _draft(ins, reply)
            span.set(n_bytes=draft.n_bytes, **attributes)
        data = self._finish(draft, received_ns, ins.config)
        self._wait.enter_context(self._client.profiler.span("wait")).set(**attributes)
        return data

    def _finish(self, draft: codec.ReplyDraft, received_ns: int, config: Config) -> bytes:
        record = self._client.record(config)
        times: dict[str, Scalar] = {RECEIVED_KEY: received_ns, HANDOVER_KEY: self._client.clock.monotonic_ns()}
        return codec.finish_reply(draft, times | record)

    def _run(self, ins: CallInstruction) -> CallReply:
        try:
            return self._call(ins)
        except Exception as error:  # noqa: BLE001  the boundary to user code, which may raise anything
            _log.warning("%s failed", _CALLS[type(ins)], exc_info=True)
            return failed_reply(ins, f"{type(error).__name__}: {error}")

    def _call(self, ins: CallInstruction) -> CallReply:
        if isinstance(ins, FitIns):
            arrays, num_examples, metrics = self._client.measured_fit(ins.parameters.copy(), ins.config)
            return FitRes(Parameters(tuple(arrays)), num_examples, metrics)
        if isinstance(ins, EvaluateIns):
            loss, num_examples, metrics = self._client.measured_evaluate(ins.parameters.copy(), ins.config)
            return EvaluateRes(loss, num_examples, metrics)
        if isinstance(ins, GetParametersIns):
            return GetParametersRes(
                Parameters(tuple(np.asarray(array) for array in self._client.get_parameters(ins.config)))
            )
        return GetPropertiesRes(self._client.get_properties(ins.config))


_CALLS: dict[type, str] = {
    GetPropertiesIns: "get_properties",
    GetParametersIns: "get_parameters",
    FitIns: "fit",
    EvaluateIns: "evaluate",
    ReconnectIns: "reconnect",
}


def _draft(ins: CallInstruction, reply: CallReply) -> codec.ReplyDraft:
    try:
        return codec.draft_reply(reply)
    except WireError as error:  # user code returned what cannot be sent
        return codec.draft_reply(failed_reply(ins, str(error)))


def failed_reply(ins: CallInstruction, reason: str) -> CallReply:
    """The answer to what could not be done: "not implemented" of the call is the nearest code that there is."""
    if isinstance(ins, FitIns):
        return FitRes(Parameters(()), 0, {}, Code.FIT_NOT_IMPLEMENTED, reason)
    if isinstance(ins, EvaluateIns):
        return EvaluateRes(0.0, 0, {}, Code.EVALUATE_NOT_IMPLEMENTED, reason)
    if isinstance(ins, GetParametersIns):
        return GetParametersRes(Parameters(()), Code.GET_PARAMETERS_NOT_IMPLEMENTED, reason)
    return GetPropertiesRes({}, Code.GET_PROPERTIES_NOT_IMPLEMENTED, reason)
