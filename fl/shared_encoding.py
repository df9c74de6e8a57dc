"""One encoding of the model, and of each message, for all clients that are sent the same."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from fl.freed_memory import give_back
from fl.messages import EvaluateIns, FitIns, Instruction, Parameters
from fl.threads import off_loop
from fl.wire import codec

MAX_CACHED_MESSAGES = 8
MAX_DECODING = 2  # at once: a message that is not plain is held three times (itself, protobuf's copy, arrays)


class SharedEncoding:
    """Encodes the model once a round for all clients, and each message once for all clients of equal config.

    Keeps what belongs to the latest parameters only. `decoding` bounds how many replies are decoded at once.
    """

    def __init__(self) -> None:
        self.decoding = asyncio.Semaphore(MAX_DECODING)
        self._parameters: Parameters | None = None
        self._part: asyncio.Future[bytes] | None = None
        self._messages: dict[Hashable, bytes] = {}

    async def message(self, ins: Instruction) -> bytes:
        """Raises WireError as `codec.encode_instruction`."""
        if not isinstance(ins, (FitIns, EvaluateIns)):
            return codec.encode_instruction(ins)
        part = await self._encoded(ins.parameters)
        encode = codec.encode_fit_ins if isinstance(ins, FitIns) else codec.encode_evaluate_ins
        if self._parameters is not ins.parameters:  # newer ones came while these were encoded
            return encode(part, ins.config)
        key = _key(ins)
        if (message := self._messages.get(key)) is None:
            if len(self._messages) >= MAX_CACHED_MESSAGES:
                self._messages.clear()
            message = self._messages[key] = encode(part, ins.config)
        return message

    async def _encoded(self, parameters: Parameters) -> bytes:
        if self._part is None or self._parameters is not parameters:
            self._messages.clear()
            self._parameters = parameters
            self._part = None
            self._part = asyncio.ensure_future(off_loop(parameters.n_bytes, _encoded_anew, parameters))
        return self._part.result() if self._part.done() else await asyncio.shield(self._part)


def _key(ins: FitIns | EvaluateIns) -> Hashable:
    """What tells apart what is sent as different bytes: to Python 1, 1.0 and True are equal, 0.0 and -0.0 too."""
    return type(ins), tuple((key, type(value), _told_apart(value)) for key, value in ins.config.items())


def _told_apart(value: object) -> Hashable:
    return value if isinstance(value, (int, str, bytes)) else repr(value)


def _encoded_anew(parameters: Parameters) -> bytes:
    """A new model is when the last one's updates are gone."""
    give_back(parameters.n_bytes)
    return codec.encode_parameters(parameters)
