"""Hostile messages through the codec, and hostile clients over live streams.

    python -m tests.soak.fuzz --seed 1 --messages 1000000 --streams 20000

Every message must be read or refused by a WireError, quickly, without a warning, without more memory than it is worth;
every stream must leave the server as it was. Exit: 0 if so; 1 with what was found. One seed gives one run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio
import psutil

from fl.admission import JoinRates
from fl.client import JOIN
from fl.messages import EvaluateRes, FitIns, FitRes, GetParametersRes, GetPropertiesRes
from fl.proxy import ClientProxy
from fl.security import DEVICE_KEY
from fl.server import Limits, Server
from fl.wire import codec
from fl.wire.measurement import decode_spans
from fl.wire.tensors import decode_tensor
from profiler.errors import ClientFailure, WireError
from tests.fixtures import hostile

SLOWEST_S = 2.0  # for one message of at most some kilobytes, on a machine that does something else too
GROWTH_BYTES = 48 * 1024 * 1024
WARM_UP = 0.2  # of a run, before memory is looked at: pools and caches fill
CONCURRENCY = 32
CALL_S = 0.5
STREAM_S = 10.0
_BIG_METADATA = 100_000


@dataclass(slots=True)
class Findings:
    """What happened, by kind, and what must not have."""

    counts: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    growth_bytes: int = 0

    def defect(self, text: str) -> None:
        if len(self.defects) < 20:
            self.defects.append(text)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of input: its well-formed examples, its reader, and how much of what is read must be in the input."""

    name: str
    examples: list[bytes]
    read: Callable[[bytes], object]


def kinds() -> list[Kind]:
    return [
        Kind("reply", hostile.replies(), _read_reply),
        Kind("reply", hostile.replies(), _read_reply),
        Kind("instruction", hostile.instructions(), codec.decode_instruction),
        Kind("measurement", hostile.measurements(), decode_spans),
        Kind("tensor", hostile.tensors(), decode_tensor),
    ]


def _read_reply(data: bytes) -> object:
    """As the server does; what it has read it must be able to count, and it must be no larger than what came."""
    reply = codec.decode_reply(data)
    if isinstance(reply, (FitRes, GetParametersRes)) and reply.parameters.n_bytes > len(data):
        raise AssertionError(f"{len(data)} bytes became {reply.parameters.n_bytes}")
    metrics = reply.metrics if isinstance(reply, (FitRes, EvaluateRes)) else {}
    record = metrics.get("fedmeter.record")
    if isinstance(record, bytes):
        decode_spans(record)
    return reply


def fuzz_codec(seed: int, n_messages: int) -> Findings:
    """Read so many hostile messages; five of eight are mutated in structure, two in bytes, one is as it should be."""
    rng, found, inputs = random.Random(seed), Findings(), kinds()
    donors = [example for kind in inputs for example in kind.examples if kind.name != "tensor"]
    base_bytes = 0
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for n in range(n_messages):
            kind = rng.choice(inputs)
            how, data = _hostile(rng, kind, donors)
            found.counts[how] += 1
            _read_one(kind, how, data, found)
            if warned:
                found.defect(f"{kind.name}, {how}: warned {warned[0].message}: {data[:400]!r}")
                warned.clear()
            if n == int(n_messages * WARM_UP):
                base_bytes = _rss_bytes()
    _check_growth(found, base_bytes)
    return found


def _hostile(rng: random.Random, kind: Kind, donors: list[bytes]) -> tuple[str, bytes]:
    data = rng.choice(kind.examples)
    draw = rng.randrange(8)
    if draw == 0:
        return "well-formed", data
    if draw <= 2:
        return "bytes", hostile.mutate_bytes(rng, data)
    if kind.name == "tensor":
        return "structure", hostile.mutate_tensor(rng, data)
    return "structure", hostile.mutate_structure(rng, data, donors)


def _read_one(kind: Kind, how: str, data: bytes, found: Findings) -> None:
    begin_s = time.perf_counter()
    try:
        kind.read(data)
        found.counts["read"] += 1
    except WireError:
        found.counts["refused"] += 1
        if how == "well-formed":
            found.defect(f"{kind.name}: a well-formed message was refused: {data[:400]!r}")
    except Exception as error:  # noqa: BLE001  this is what is looked for
        found.defect(f"{kind.name}, {how}: {type(error).__name__}: {error}: {data[:400]!r}")
    took_s = time.perf_counter() - begin_s
    found.slowest_s = max(found.slowest_s, took_s)
    if took_s > SLOWEST_S:
        found.defect(f"{kind.name}, {how}: took {took_s:.1f} s: {data[:400]!r}")


def _rss_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _check_growth(found: Findings, base_bytes: int) -> None:
    found.growth_bytes = _rss_bytes() - base_bytes
    if base_bytes and found.growth_bytes > GROWTH_BYTES:
        found.defect(f"memory grew by {found.growth_bytes / 2**20:.0f} MiB")


# --- live streams ----------------------------------------------------------------------------------------------------


async def fuzz_streams(seed: int, n_streams: int) -> Findings:
    """So many hostile clients, some at a time, against one server that trains with whoever seems ready."""
    found = Findings()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.defect(f"event loop: {context}"))
    logs = _Logs(found)
    limits = Limits(probe_s=CALL_S, late_reply_s=1.0, joins=JoinRates(10**9, 1e9, 10**9, 1e9))
    with logs.watching():
        async with Server(max_message_bytes=2**20, limits=limits) as server, _training(server, found):
            channels = [_channel(server.port) for _ in range(CONCURRENCY)]
            await _all_streams(seed, n_streams, channels, found)
            await _settled(server, found)
            await _one_good_client(channels[0], server, found)
            for channel in channels:
                await channel.close()
    return found


def _channel(port: int) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_metadata_size", 2 * _BIG_METADATA)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)


async def _all_streams(seed: int, n_streams: int, channels: list[grpc.aio.Channel], found: Findings) -> None:
    numbers = iter(range(n_streams))
    base_bytes = 0

    async def worker(channel: grpc.aio.Channel) -> None:
        nonlocal base_bytes
        for n in numbers:
            await _one_stream(random.Random(f"{seed}/{n}"), n, channel, found)
            if n == int(n_streams * WARM_UP):
                base_bytes = _rss_bytes()

    await asyncio.gather(*(worker(channel) for channel in channels))
    _check_growth(found, base_bytes)


async def _one_stream(rng: random.Random, n: int, channel: grpc.aio.Channel, found: Findings) -> None:
    """One hostile client, from joining to whatever ends it: an error status, its own leaving, or a cancel."""
    metadata: list[tuple[str, str]] = []
    draw = rng.random()
    if draw < 0.6:
        metadata.append((DEVICE_KEY, rng.choice((*[f"d{n}"] * 12, "shared", "a b", "x" * 200, "../up"))))
    if draw < 0.02:
        metadata.append(("padding", "y" * _BIG_METADATA))
    begin_s = time.perf_counter()
    call = channel.stream_stream(JOIN)(metadata=tuple(metadata))
    try:
        await asyncio.wait_for(_converse(rng, call), STREAM_S)
        found.counts["left"] += 1
    except grpc.aio.AioRpcError as error:
        found.counts[error.code().name] += 1
        if error.code() is grpc.StatusCode.UNKNOWN:
            found.defect(f"stream {n}: the server's handler raised: {error.details()}")
    except asyncio.InvalidStateError:
        found.counts["ended while writing"] += 1
    except asyncio.TimeoutError:
        found.defect(f"stream {n}: nothing within {STREAM_S:g} s")
    finally:
        call.cancel()
    found.slowest_s = max(found.slowest_s, time.perf_counter() - begin_s)


async def _converse(rng: random.Random, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
    if rng.random() < 0.1:
        await call.write(_answer(rng, None))  # unasked
    for _ in range(rng.randrange(1, 7)):
        if rng.random() < 0.03:
            return  # without a word
        data = await call.read()
        if data is grpc.aio.EOF:
            break
        for _ in range(rng.choice((1, 1, 1, 1, 1, 1, 0, 2))):  # 0: owes it for ever; 2: one too many
            await call.write(_answer(rng, data))
    if rng.random() < 0.5:
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass


def _answer(rng: random.Random, data: bytes | None) -> bytes:
    """Right, right in kind but mutated, of another kind, or mere bytes."""
    right = _RIGHT.get(None if data is None else type(codec.decode_instruction(data)).__name__, 0)
    examples = hostile.replies()
    reply = examples[right] if rng.random() < 0.8 else rng.choice(examples)
    draw = rng.random()
    if draw < 0.4:
        return reply
    if draw < 0.85:
        return hostile.mutate_structure(rng, reply, examples)
    return hostile.mutate_bytes(rng, reply) if draw < 0.98 else bytes(2**21)  # above the bound


_RIGHT = {"FitIns": 0, "EvaluateIns": 2, "GetParametersIns": 3, "GetPropertiesIns": 4, "ReconnectIns": 5}


@contextlib.asynccontextmanager
async def _training(server: Server, found: Findings) -> AsyncIterator[None]:
    """Meanwhile, call `fit` on whoever is ready, as a loop of rounds would."""
    calls: set[asyncio.Task[None]] = set()

    async def forever() -> None:
        while True:
            for proxy in server.proxies():
                if proxy.is_ready:
                    calls.add(task := asyncio.create_task(_fit(proxy, found)))
                    task.add_done_callback(calls.discard)
            await asyncio.sleep(0.002)

    training = asyncio.create_task(forever())
    try:
        yield
    finally:
        training.cancel()
        if calls:
            await asyncio.wait(calls, timeout=2 * CALL_S)


async def _fit(proxy: ClientProxy, found: Findings) -> None:
    try:
        await proxy.fit(FitIns(hostile.MODEL, {"round": 1, "telemetry": "full"}), CALL_S)
        found.counts["calls answered"] += 1
    except ClientFailure:
        found.counts["calls failed"] += 1
    except Exception as error:  # noqa: BLE001  this is what is looked for
        found.defect(f"fit: {type(error).__name__}: {error}")


async def _settled(server: Server, found: Findings) -> None:
    """After the last stream nobody is connected any more."""
    until_s = time.monotonic() + 5.0
    while server.n_streams and time.monotonic() < until_s:
        await asyncio.sleep(0.02)
    if server.n_streams:
        found.defect(f"{server.n_streams} streams are left after the last client")


async def _one_good_client(channel: grpc.aio.Channel, server: Server, found: Findings) -> None:
    call = channel.stream_stream(JOIN)(metadata=((DEVICE_KEY, "good"),))
    for _ in range(4):
        ins = codec.decode_instruction(await asyncio.wait_for(call.read(), STREAM_S))
        good = FitRes(ins.parameters, 1) if isinstance(ins, FitIns) else GetPropertiesRes({})
        await call.write(codec.encode_reply(good))
    await asyncio.wait_for(server.wait_for({"good"}, STREAM_S), STREAM_S)
    call.cancel()
    found.counts["good client served"] += 1


class _Logs(logging.Handler):
    """An error that gRPC or asyncio logs is one that nobody handled."""

    def __init__(self, found: Findings) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        self._found.defect(
            f"log of {record.name}: {record.getMessage()[:2000]} {record.exc_info and record.exc_info[1]!r}"
        )

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        loggers = [logging.getLogger(name) for name in ("grpc", "grpc._cython.cygrpc", "asyncio")]
        for logger in loggers:
            logger.addHandler(self)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(self)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--streams", type=int, default=20_000)
    arguments = parser.parse_args(argv)
    logging.getLogger("fl").setLevel(logging.CRITICAL)
    codes = [
        _report("messages", arguments.messages, lambda n: fuzz_codec(arguments.seed, n)),
        _report("streams", arguments.streams, lambda n: asyncio.run(fuzz_streams(arguments.seed, n))),
    ]
    return max(codes)


def _report(what: str, n: int, run: Callable[[int], Findings]) -> int:
    begin_s = time.perf_counter()
    found = run(n)
    print(
        f"{n} {what} in {time.perf_counter() - begin_s:.0f} s: "
        f"{', '.join(f'{key} {value}' for key, value in sorted(found.counts.items()))}; "
        f"slowest {found.slowest_s:.3f} s, memory {found.growth_bytes / 2**20:+.1f} MiB"
    )
    for defect in found.defects:
        print(f"  defect: {defect}")
    return 1 if found.defects else 0


if __name__ == "__main__":
    sys.exit(main())
