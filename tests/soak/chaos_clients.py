"""Many asyncio clients in one process, a part of which misbehave by seed; started by `tests.soak.chaos`.

    python -m tests.soak.chaos_clients PORT SPEC OUT

SPEC is a JSON file: seed, deadline_s, and role by device. When the server has sent everybody home, OUT gets by device
the ids of all spans that it measured, and of those that it never got to send.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import sys
import time
from pathlib import Path

import grpc
import grpc.aio
import numpy as np

from fl.client import JOIN
from fl.instrument import Spool
from fl.messages import DisconnectRes, FitIns, FitRes, GetPropertiesIns, GetPropertiesRes, Parameters, ReconnectIns
from fl.responder import HANDOVER_KEY, RECEIVED_KEY
from fl.security import DEVICE_KEY, INSTANCE_KEY
from fl.wire import codec
from fl.wire.measurement import RECORD_KEY, encode_spans
from profiler.records import SpanRecord

GIANT_BYTES = 5 << 20  # the chaos server takes 4 MiB
MISDEEDS = 0.3  # part of the rounds in which one that misbehaves does so
GIVE_UP_S, GIVE_UP_DEADLINES = 3.0, 2  # without a server: the longer of so many seconds and deadlines

_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class Cut(Exception):
    """The client's network is gone, in the middle of something."""


class ChaosClient:
    """Adds 1 to every parameter and measures how long that took, as its role lets it."""

    def __init__(self, device: str, role: str, seed: int, deadline_s: float) -> None:
        self.spool = Spool()
        self.measured: list[str] = []
        self._device = device
        self._role = role
        self._deadline_s = deadline_s
        self._random = random.Random(f"{seed}/{device}")
        self._instance = secrets.token_hex(16)

    async def live(self, address: str) -> None:
        """Until told to leave; give up where there has been no server for long."""
        longest_s, last_s = 0.1, time.monotonic()
        patience_s = max(GIVE_UP_S, GIVE_UP_DEADLINES * self._deadline_s)
        while time.monotonic() - last_s < patience_s:
            began_s = time.monotonic()
            try:
                if await self._stream(address):
                    return
            except (Cut, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass
            if time.monotonic() - began_s > 1.0:
                longest_s, last_s = 0.1, time.monotonic()
            await asyncio.sleep(self._random.uniform(0, longest_s))
            longest_s = min(2.0, 2 * longest_s)

    async def _stream(self, address: str) -> bool:
        """Whether the server said goodbye."""
        self.spool.give_back()
        has_replied = False
        metadata = ((DEVICE_KEY, self._device), (INSTANCE_KEY, self._instance))
        async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            call = channel.stream_stream(JOIN)(metadata=metadata)
            while (data := await call.read()) is not grpc.aio.EOF:
                if has_replied:
                    self.spool.confirm()
                has_replied = True
                ins = codec.decode_instruction(data)
                await call.write(await self._reply(ins, time.monotonic_ns()))
                if self._role == "cut" and self._strikes():
                    raise Cut  # whether the reply arrived, nobody knows
                if isinstance(ins, ReconnectIns):
                    await call.done_writing()
                    while await call.read() is not grpc.aio.EOF:
                        pass
                    return True
        return False

    async def _reply(self, ins: object, received_ns: int) -> bytes:
        if isinstance(ins, FitIns):
            return await self._fit(ins, received_ns)
        if isinstance(ins, GetPropertiesIns):
            return codec.encode_reply(GetPropertiesRes(self._own(received_ns) if ins.config else {}))
        return codec.encode_reply(DisconnectRes())

    async def _fit(self, ins: FitIns, received_ns: int) -> bytes:
        lies = self._strikes()
        arrays = tuple(array + 1 for array in ins.parameters.arrays)
        await asyncio.sleep(self._random.uniform(0, 0.05))
        if self._role == "slowed" and lies:
            await asyncio.sleep(self._deadline_s * self._random.uniform(1.05, 1.5))
        self._measure(ins, received_ns)
        if self._role == "cut" and lies:
            raise Cut
        if self._role == "garbage" and lies:
            return self._random.randbytes(self._random.randrange(2000))
        if self._role == "giant" and lies:
            return codec.encode_reply(FitRes(Parameters((np.zeros(GIANT_BYTES, np.uint8),)), 1))
        if self._role == "shapes" and lies:
            arrays = (np.zeros(7, np.float32), *arrays[1:])
        if self._role == "nan" and lies:
            arrays = (np.full_like(arrays[0], np.nan), *arrays[1:])
        return codec.encode_reply(FitRes(Parameters(arrays), 10, self._own(received_ns)))

    def _strikes(self) -> bool:
        return self._random.random() < MISDEEDS

    def _measure(self, ins: FitIns, received_ns: int) -> None:
        span_id = f"{self._device}/{len(self.measured)}"
        duration_s = (time.monotonic_ns() - received_ns) / 1e9
        attributes = {"round": int(ins.config["round"]), "call": "fit"}
        self.spool.add(SpanRecord(span_id, "fit", received_ns, duration_s, attributes=attributes))
        self.measured.append(span_id)

    def _own(self, received_ns: int) -> dict[str, bytes | int]:
        spans = self.spool.take()
        record = {RECORD_KEY: encode_spans(spans)} if spans else {}
        return {**record, RECEIVED_KEY: received_ns, HANDOVER_KEY: time.monotonic_ns()}

    def left(self) -> list[str]:
        """Ids of the spans that never got away."""
        self.spool.give_back()
        found: list[str] = []
        while spans := self.spool.take():
            found += [span.span_id for span in spans]
        return found


async def run(address: str, spec: dict[str, object]) -> dict[str, object]:
    roles = spec["roles"]
    clients = {name: ChaosClient(name, role, spec["seed"], spec["deadline_s"]) for name, role in roles.items()}  # type: ignore[attr-defined,arg-type]
    await asyncio.gather(*(client.live(address) for client in clients.values()))
    return {name: {"measured": client.measured, "left": client.left()} for name, client in clients.items()}


if __name__ == "__main__":
    report = asyncio.run(run(f"127.0.0.1:{sys.argv[1]}", json.loads(Path(sys.argv[2]).read_text())))
    Path(sys.argv[3]).write_text(json.dumps(report))
