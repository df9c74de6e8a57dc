"""The RPC client: joins a server, trains when it is told to, leaves when it is told to.

    python -m fl.client --server HOST:PORT --device pi-1 --workload digits --shard 0 --shards 4

Unlike Flower's, it waits for a server that is not up yet, comes back after a broken connection, and survives an
exception in user code: the server gets the reason, and the client stays.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import random
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from fl.freed_memory import give_back
from fl.instrument import InstrumentedClient, instrument
from fl.messages import ReconnectIns
from fl.responder import Responder
from fl.workload import NumPyClient, Partition, load_workload
from profiler.clock import Clock, SystemClock
from profiler.combined import combined
from profiler.errors import DeviceError, FedmeterError, PreconditionError, UsageError
from profiler.sampler import Sampler
from profiler.sensor import Probe, best, discover
from profiler.span import Profiler

JOIN = "/flwr.proto.FlowerService/Join"
DEVICE_KEY = "fedmeter-device"
MAX_MESSAGE_BYTES = 512 * 1024 * 1024
MAX_WAIT_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S, PAUSE_GROWTH = 0.1, 5.0, 1.6
GOODBYE_S = 5.0
LONGEST_LEAVE_S = 24 * 3600

_log = logging.getLogger("fl")

# Trouble on the way, or a stale connection of ours that the server has yet to notice. Other codes are the server's no.
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


def start_client(
    server_address: str,
    client: NumPyClient | InstrumentedClient,
    *,
    device: str = "",
    profiler: Profiler | None = None,
    grpc_max_message_length: int = MAX_MESSAGE_BYTES,
    root_certificates: bytes | str | None = None,
    insecure: bool | None = None,
    max_wait_s: float = MAX_WAIT_S,
    clock: Clock | None = None,
) -> None:
    """Serve a server's calls until it says to leave. Blocks.

    `device` names this client; without it the server makes up a name, as for Flower's clients. `root_certificates`
    (PEM, or a path to it) or `insecure=False` ask for TLS. `max_wait_s` bounds the time without any server, at the
    start and after each broken connection. The profiler is started and stopped here.

    Raises PreconditionError where no server answers in time, DeviceError where one refuses, WireError where it does not
    speak the protocol.
    """
    instrumented = client if isinstance(client, InstrumentedClient) else instrument(client, profiler)
    connection = _Connection(server_address, device, _credentials(root_certificates, insecure), grpc_max_message_length)
    with instrumented.profiler:
        _serve(connection, instrumented, max_wait_s, clock or SystemClock())


def _serve(connection: _Connection, client: InstrumentedClient, max_wait_s: float, clock: Clock) -> None:
    backoff = _BackOff(max_wait_s, clock)
    while True:
        try:
            leave = connection.run(client, backoff.reset)
        except grpc.RpcError as error:
            backoff.pause(connection.address, error)
            continue
        if leave is None:
            backoff.pause(connection.address, None)
        elif leave.seconds <= 0:
            return
        else:
            clock.sleep(min(leave.seconds, LONGEST_LEAVE_S))
            backoff.reset()


class _BackOff:
    """Pauses that grow and are jittered, so that a fleet does not come back in one moment; bounded in sum."""

    def __init__(self, max_wait_s: float, clock: Clock) -> None:
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._random = random.Random()
        self.reset()

    def reset(self) -> None:
        self._since_ns = self._clock.monotonic_ns()
        self._pause_s = FIRST_PAUSE_S

    def pause(self, address: str, error: grpc.RpcError | None) -> None:
        """Wait a little, or raise PreconditionError where the time is up, DeviceError where waiting cannot help."""
        what = "the server ended the connection" if error is None else _explain(error)
        if error is not None and error.code() not in _PASSING:
            raise DeviceError(f"{address}: the server refused this client: {what}.")
        waited_s = (self._clock.monotonic_ns() - self._since_ns) / 1e9
        if waited_s + self._pause_s > self._max_wait_s:
            raise PreconditionError(
                f"{address}: no server for {waited_s:.1f} s: {what}.",
                remedy="Start the server first, check address and port, or wait longer.",
            )
        _log.info("%s: %s; trying again", address, what)
        self._clock.sleep(self._pause_s * self._random.uniform(0.5, 1.0))
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * PAUSE_GROWTH)


def _explain(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}"


class _Connection:
    """One stream after another to one server."""

    def __init__(
        self, address: str, device: str, credentials: grpc.ChannelCredentials | None, max_message_bytes: int
    ) -> None:
        self.address = address
        self._credentials = credentials
        self._metadata = ((DEVICE_KEY, device),) if device else ()
        self._options = [
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
            # grpc's own pause after a refused connection would outlast ours
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.use_local_subchannel_pool", 1),
        ]

    def run(self, client: InstrumentedClient, on_instruction: Callable[[], None]) -> ReconnectIns | None:
        """Join and answer until told to leave; None where the server ended the stream without a word.

        Raises grpc.RpcError where the stream breaks.
        """
        with self._channel() as channel:
            replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            join = channel.stream_stream(JOIN)
            instructions = join(iter(replies.get, None), metadata=self._metadata)
            responder = Responder(client)
            try:
                for data in instructions:
                    received_ns = client.clock.monotonic_ns()
                    on_instruction()
                    response = responder.answer(data, received_ns)
                    del data
                    replies.put(response.data)
                    leave, n_bytes = response.leave, len(response.data)
                    del response  # a model's size, as `data`: neither may lie here while the next one comes
                    give_back(n_bytes)
                    if leave is not None:
                        _part(instructions, replies)
                        return leave
            finally:
                responder.close()
                replies.put(None)
                instructions.cancel()
        return None

    def _channel(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self.address, options=self._options)
        return grpc.secure_channel(self.address, self._credentials, options=self._options)


def _part(instructions: grpc.Call, replies: queue.SimpleQueue[bytes | None]) -> None:
    """End our half and wait until the server has the goodbye, but not for ever."""
    replies.put(None)
    timer = threading.Timer(GOODBYE_S, instructions.cancel)
    timer.start()
    try:
        for _ in instructions:
            pass
    except grpc.RpcError as error:
        _log.debug("after the goodbye: %s", _explain(error))
    finally:
        timer.cancel()


def _credentials(root_certificates: bytes | str | None, insecure: bool | None) -> grpc.ChannelCredentials | None:
    """As Flower: certificates mean TLS, `insecure=False` alone means TLS with the system's roots."""
    if root_certificates is None:
        return grpc.ssl_channel_credentials() if insecure is False else None
    if insecure:
        raise UsageError("root_certificates and insecure=True contradict each other.")
    if isinstance(root_certificates, str):
        root_certificates = Path(root_certificates).read_bytes()
    return grpc.ssl_channel_credentials(root_certificates)


# --- python -m fl.client ---------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run one client of a workload. Exit codes as everywhere: 0, 1, 2, 3, 130."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format=f"%(asctime)s {arguments.device or 'client'} %(name)s %(levelname)s %(message)s",
    )
    try:
        _run(arguments)
    except FedmeterError as error:
        _log.error("%s", error, exc_info=arguments.verbose)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    clock = SystemClock()
    os.environ.setdefault("OMP_NUM_THREADS", str(arguments.threads))
    workload = load_workload(arguments.workload)
    partition = Partition(arguments.partition, arguments.shards, arguments.alpha, arguments.partition_seed)
    client = workload.client(arguments.shard, partition)
    _limit_threads(arguments.threads)
    root = Path(arguments.sysfs_root)
    samplers = _samplers(root, clock) if arguments.meter == "auto" else ()
    profiler = Profiler(samplers, clock, id_prefix=f"{arguments.device}/{os.getpid()}/")
    start_client(
        arguments.server,
        instrument(client, profiler, root=root),
        device=arguments.device,
        root_certificates=arguments.root_certificates,
        max_wait_s=arguments.max_wait,
    )


def _limit_threads(threads: int) -> None:
    """Torch takes all cores otherwise. It is the workload's import; without it there is nothing to limit."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _samplers(root: Path, clock: Clock) -> tuple[Sampler, ...]:
    """The best sensor there is, said in one line; none is no reason not to train."""
    used = best([Probe(sensor, sensor.probe()) for sensor in discover(root, clock)])
    if not used:
        _log.warning("no energy sensor is available: energy will be missing; see python -m profiler list")
        return ()
    chosen = combined(used)
    _log.info("energy from %s: %s", chosen.sensor.name, getattr(chosen.outcome, "notes", ""))
    return (Sampler(chosen.sensor, clock),)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fl.client", description="One federated learning client.")
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--device", default="", metavar="ID", help="what the server calls this client")
    parser.add_argument("--workload", required=True, metavar="NAME")
    parser.add_argument("--shard", type=int, default=0, metavar="I", help="which part of the data is ours, from 0")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="parts that the data are split into")
    parser.add_argument("--partition", choices=("iid", "dirichlet"), default="iid")
    parser.add_argument("--alpha", type=float, default=0.5, metavar="A", help="concentration of a Dirichlet split")
    parser.add_argument("--partition-seed", type=int, default=0, metavar="S")
    parser.add_argument("--meter", choices=("auto", "none"), default="auto", help="none: somebody else meters")
    parser.add_argument("--sysfs-root", default="/", metavar="DIR", help="file system root that sensors read below")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads that training uses")
    parser.add_argument("--root-certificates", metavar="PEM", help="talk TLS and trust this file")
    parser.add_argument("--max-wait", type=float, default=MAX_WAIT_S, metavar="S", help="seconds to wait for a server")
    parser.add_argument("-v", "--verbose", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
