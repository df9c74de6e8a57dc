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
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc

from fl.addresses import check_target
from fl.clock_watch import ClockWatch
from fl.freed_memory import give_back
from fl.instrument import InstrumentedClient, instrument
from fl.messages import ReconnectIns
from fl.metering import best_samplers
from fl.responder import Responder
from fl.security import (
    DEVICE_KEY,
    FOLDER_VARIABLE,
    INSTANCE_KEY,
    ClientSecurity,
    bearer,
    channel_credentials,
    check_token_way,
    client_folder,
    client_security,
    is_loopback,
)
from fl.spool_file import SpoolFile
from fl.workload import PARTITIONS, Partition, load_workload, parse_option
from profiler.clock import Clock, SystemClock
from profiler.errors import DeviceError, FedmeterError, PreconditionError, UsageError
from profiler.span import Profiler

JOIN = "/flwr.proto.FlowerService/Join"
MAX_MESSAGE_BYTES = 512 * 1024 * 1024
MAX_WAIT_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
CONNECT_S = 10.0
STOOD_S = 2 * CONNECT_S  # a stream that lasted for so long was one to a server, also where no instruction came
GOODBYE_S = 5.0
HEARTBEAT_KEY = "fedmeter-heartbeat-s"
LEAST_HEARTBEAT_S = 1.0
# To any gRPC server: pings more often than every 5 minutes are answered with GOAWAY too_many_pings by default.
STRANGERS_PING_S, STRANGERS_PONG_S = 330.0, 60.0
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
    client: object = None,
    *,
    client_fn: None = None,
    transport: str | None = None,
    authentication_keys: None = None,
    max_retries: int | None = None,
    max_wait_time: float | None = None,
    device: str = "",
    profiler: Profiler | None = None,
    grpc_max_message_length: int = MAX_MESSAGE_BYTES,
    root_certificates: bytes | str | Path | None = None,
    insecure: bool | None = None,
    security: ClientSecurity | None = None,
    server_name: str | None = None,
    max_wait_s: float = MAX_WAIT_S,
    clock: Clock | None = None,
) -> None:
    """Serve a server's calls until it says to leave. Blocks.

    `client` is a NumPyClient, ours or Flower's, a Flower `Client`, or one that is instrumented already. `max_wait_time`
    is Flower's name for `max_wait_s`, and `max_retries` bounds the attempts in a row that find no server.

    `device` names this client; without it the server makes up a name, as for Flower's clients. `root_certificates`
    (PEM, or a path to it) or `insecure=False` ask for TLS; `security` instead of them brings certificate and token
    too. `server_name` is the name that the server's certificate must hold, where it is reached by another.
    `max_wait_s` bounds the time without any server, at the start and after each broken connection. The profiler is
    started and stopped here.

    Raises UsageError for what is no address or not supported, where the ways to ask for TLS contradict each other,
    PreconditionError where no server answers in time or a token would go in plain text to another machine, DeviceError
    where one refuses, WireError where it does not speak the protocol.
    """
    _refuse(client, client_fn, transport, authentication_keys)
    check_target(server_address)
    instrumented = client if isinstance(client, InstrumentedClient) else instrument(client, profiler)
    token = None if security is None else security.token
    credentials = _credentials(root_certificates, insecure, security)
    if token is not None:
        check_token_way(server_address, has_tls=credentials is not None)
    connection = _Connection(
        server_address, _metadata(device, token), credentials, grpc_max_message_length, server_name
    )
    wait_s = max_wait_s if max_wait_time is None else max_wait_time
    with instrumented.profiler:
        now = clock or SystemClock()
        _serve(connection, instrumented, _BackOff(wait_s, now, max_retries), now)


def start_numpy_client(*, server_address: str, client: object, **options: Any) -> None:
    """Flower's older name for `start_client`, which see for the options."""
    start_client(server_address, client, **options)


def _refuse(client: object, client_fn: object, transport: str | None, authentication_keys: object) -> None:
    if client_fn is not None or client is None:
        raise UsageError("start_client needs client=; client_fn= is not supported.", remedy="Pass the client itself.")
    if transport not in (None, "grpc-bidi"):
        raise UsageError(f"transport = {transport!r} is not supported.", remedy="Use 'grpc-bidi', or leave it out.")
    if authentication_keys is not None:
        raise UsageError("authentication_keys is not supported on grpc-bidi.", remedy="Use TLS: root_certificates.")


def _serve(connection: _Connection, client: InstrumentedClient, backoff: _BackOff, clock: Clock) -> None:
    while True:
        began_ns = clock.monotonic_ns()
        broken: grpc.RpcError | None = None
        leave: ReconnectIns | None = None
        try:
            leave = connection.run(client, backoff.reset)
        except _Rejoin:
            continue
        except grpc.RpcError as error:
            broken = error
        if clock.monotonic_ns() - began_ns > STOOD_S * 1e9:
            backoff.reset()
        if leave is None:
            backoff.pause(connection.address, broken)
        elif leave.seconds <= 0:
            client.spool.part()
            return
        else:
            backoff.leave(leave.seconds)


class _BackOff:
    """Pauses that grow and are jittered, so that a fleet does not come back in one moment; bounded in sum.

    "Full jitter", from nothing to a limit that doubles: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture
    Blog, 2015, which finds that it makes clients that compete for a server do the least work.
    """

    def __init__(self, max_wait_s: float, clock: Clock, max_retries: int | None = None) -> None:
        self._max_wait_s = max_wait_s
        self._max_retries = max_retries
        self._clock = clock
        self._random = random.Random()
        self.reset()

    def reset(self) -> None:
        self._since_ns = self._clock.monotonic_ns()
        self._longest_s = FIRST_PAUSE_S
        self._retries = 0

    def leave(self, seconds: int) -> None:
        """The server said when to come again."""
        self._clock.sleep(min(seconds, LONGEST_LEAVE_S))
        self.reset()

    def pause(self, address: str, error: grpc.RpcError | None) -> None:
        """Wait a little, or raise PreconditionError where the time is up, DeviceError where waiting cannot help."""
        what = "the server ended the connection" if error is None else _explain(error)
        if error is not None and error.code() not in _PASSING:
            raise DeviceError(f"{address}: the server refused this client: {what}.")
        waited_s = (self._clock.monotonic_ns() - self._since_ns) / 1e9
        is_worn_out = self._max_retries is not None and self._retries >= self._max_retries
        pause_s = self._random.uniform(0.0, self._longest_s)
        if is_worn_out or waited_s + pause_s > self._max_wait_s:
            raise PreconditionError(
                f"{address}: no server for {waited_s:.1f} s: {what}.",
                remedy="Start the server first, check address and port, or wait longer.",
            )
        self._retries += 1
        _log.info("%s: %s; trying again", address, what)
        self._clock.sleep(pause_s)
        self._longest_s = min(LONGEST_PAUSE_S, 2 * self._longest_s)


def _explain(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}"


class _Rejoin(Exception):
    """The server can be watched more closely than this connection does: make another, before anything is answered."""


class _Connection:
    """One stream after another to one server.

    The heartbeat is an option of a connection, and a server tells only on one whether it may be pinged: ours says so
    in its metadata, with the first instruction. Until then a server is a stranger. A client that named its device is
    only asked for its properties then; one without a name may be told to train at once, and does not rejoin.
    """

    def __init__(
        self,
        address: str,
        metadata: tuple[tuple[str, str], ...],
        credentials: grpc.ChannelCredentials | None,
        max_message_bytes: int,
        server_name: str | None = None,
    ) -> None:
        self.address = address
        self._clock_watch = ClockWatch()
        self._credentials = credentials
        self._heartbeat_s: float | None = None
        self._has_name = any(key == DEVICE_KEY for key, _ in metadata)
        self._metadata = (*metadata, (INSTANCE_KEY, secrets.token_hex(16)))
        self._options: list[tuple[str, int | str]] = [
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
            # grpc's own pause after a refused connection would outlast ours
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.min_reconnect_backoff_ms", round(CONNECT_S * 1e3)),  # the time one attempt has
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if credentials is None and is_loopback(address):
            self._options.append(("grpc.enable_http_proxy", 0))  # else `http_proxy` takes what is meant for ourselves
        if server_name is not None:
            self._options += [("grpc.ssl_target_name_override", server_name), ("grpc.enable_http_proxy", 0)]

    def run(self, client: InstrumentedClient, on_instruction: Callable[[], None]) -> ReconnectIns | None:
        """Join and answer until told to leave; None where the server ended the stream without a word.

        Raises grpc.RpcError where the stream breaks, _Rejoin where another connection is better.
        """
        with self._channel() as channel:
            replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            join = channel.stream_stream(JOIN)
            instructions = join(iter(replies.get, None), metadata=self._metadata)
            responder = Responder(client, self._clock_watch)
            try:
                for data in instructions:
                    received_ns = client.clock.monotonic_ns()
                    on_instruction()
                    self._learn_heartbeat(instructions)
                    response = responder.answer(data, received_ns)
                    del data
                    replies.put(response.data)
                    client.spool.save()
                    leave, n_bytes = response.leave, len(response.data)
                    del response  # a model's size, as `data`: neither may lie here while the next one comes
                    give_back(n_bytes)
                    if leave is not None:
                        _part(instructions, replies)
                        return leave
            finally:
                responder.close()
                client.spool.save()
                replies.put(None)
                instructions.cancel()
        return None

    def _learn_heartbeat(self, instructions: grpc.Call) -> None:
        """Raises _Rejoin where the server allows another heartbeat than this connection has."""
        if not self._has_name:
            return
        told_s = _heartbeat_s(instructions.initial_metadata())
        if told_s != self._heartbeat_s:
            self._heartbeat_s = told_s
            raise _Rejoin

    def _channel(self) -> grpc.Channel:
        options = [*self._options, *_keepalive(self._heartbeat_s)]
        if self._credentials is None:
            return grpc.insecure_channel(self.address, options=options)
        return grpc.secure_channel(self.address, self._credentials, options=options)


def _keepalive(heartbeat_s: float | None) -> list[tuple[str, int]]:
    """A ping after a third of the heartbeat without a byte, and two thirds to answer it, as the server does."""
    ping_s, pong_s = (
        (STRANGERS_PING_S, STRANGERS_PONG_S) if heartbeat_s is None else (heartbeat_s / 3, heartbeat_s * 2 / 3)
    )
    return [
        ("grpc.keepalive_time_ms", round(ping_s * 1e3)),
        ("grpc.keepalive_timeout_ms", round(pong_s * 1e3)),
        ("grpc.http2.ping_timeout_ms", round(pong_s * 1e3)),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _heartbeat_s(metadata: Iterable[tuple[str, str | bytes]] | None) -> float | None:
    """What a server of ours allows; None of any other, and where it says nonsense."""
    for key, value in metadata or ():
        if key == HEARTBEAT_KEY:
            try:
                told_s = float(value)
            except ValueError:
                return None
            return told_s if LEAST_HEARTBEAT_S <= told_s < STRANGERS_PING_S else None
    return None


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


def _metadata(device: str, token: str | None) -> tuple[tuple[str, str], ...]:
    named = ((DEVICE_KEY, device),) if device else ()
    return named if token is None else (*named, bearer(token))


def _credentials(
    root_certificates: bytes | str | Path | None, insecure: bool | None, security: ClientSecurity | None
) -> grpc.ChannelCredentials | None:
    """As Flower: certificates mean TLS, `insecure=False` alone means TLS with the system's roots."""
    if security is not None and security.root_certificates is not None:
        if root_certificates is not None or insecure:
            raise UsageError("security brings TLS; leave out root_certificates and insecure.")
        return channel_credentials(security)
    if root_certificates is None:
        return grpc.ssl_channel_credentials() if insecure is False else None
    if insecure:
        raise UsageError("root_certificates and insecure=True contradict each other.")
    if not isinstance(root_certificates, bytes):
        root_certificates = _read_certificates(Path(root_certificates))
    return grpc.ssl_channel_credentials(root_certificates)


def _read_certificates(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PreconditionError(f"root_certificates {path} cannot be read: {error.strerror}.") from None


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
    workload = load_workload(arguments.workload, **dict(map(parse_option, arguments.workload_option)))
    partition = Partition(arguments.partition, arguments.shards, arguments.alpha, arguments.partition_seed)
    client = workload.client(arguments.shard, partition)
    limit_threads(arguments.threads)
    root = Path(arguments.sysfs_root)
    samplers = best_samplers(root, clock, arguments.allow_charging) if arguments.meter == "auto" else ()
    profiler = Profiler(samplers, clock, id_prefix=f"{arguments.device}/{secrets.token_hex(4)}/")
    instrumented = instrument(client, profiler, root=root)
    if arguments.spool is not None:
        instrumented.spool.save_to(_spool_file(arguments.spool))
    start_client(
        arguments.server,
        instrumented,
        device=arguments.device,
        root_certificates=arguments.root_certificates,
        security=client_security(client_folder(Path(arguments.tls), arguments.device)) if arguments.tls else None,
        server_name=arguments.server_name,
        max_wait_s=arguments.max_wait,
    )


def _spool_file(path: Path) -> SpoolFile:
    try:
        return SpoolFile(path)
    except OSError as error:
        raise PreconditionError(f"--spool {path} cannot be written: {error.strerror}.") from None


def limit_threads(threads: int) -> None:
    """Torch takes all cores otherwise. It is the workload's import; without it there is nothing to limit."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fl.client", description="One federated learning client.")
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--server-name", metavar="HOST", help="what its certificate calls it, where that is not HOST")
    parser.add_argument("--device", default="", metavar="ID", help="what the server calls this client")
    parser.add_argument("--workload", required=True, metavar="NAME")
    parser.add_argument("--workload-option", action="append", default=[], metavar="KEY=VALUE", help="may be repeated")
    parser.add_argument("--shard", type=int, default=0, metavar="I", help="which part of the data is ours, from 0")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="parts that the data are split into")
    parser.add_argument("--partition", choices=PARTITIONS, default="iid")
    parser.add_argument("--alpha", type=float, default=0.5, metavar="A", help="concentration of a Dirichlet split")
    parser.add_argument("--partition-seed", type=int, default=0, metavar="S")
    parser.add_argument("--meter", choices=("auto", "none"), default="auto", help="none: somebody else meters")
    parser.add_argument(
        "--allow-charging", action="store_true", help="meter what flows at a battery also with a charger connected"
    )
    parser.add_argument("--sysfs-root", default="/", metavar="DIR", help="file system root that sensors read below")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads that training uses")
    parser.add_argument("--root-certificates", metavar="PEM", help="talk TLS and trust this file")
    parser.add_argument(
        "--tls",
        default=os.environ.get(FOLDER_VARIABLE),
        metavar="DIR",
        help=f"talk TLS with the files of a security folder, or of its devices/ID (default: ${FOLDER_VARIABLE})",
    )
    parser.add_argument(
        "--spool", type=Path, metavar="FILE", help="keep there what was measured and has not arrived yet"
    )
    parser.add_argument("--max-wait", type=float, default=MAX_WAIT_S, metavar="S", help="seconds to wait for a server")
    parser.add_argument("-v", "--verbose", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
