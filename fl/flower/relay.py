"""Our side of a ServerApp: joins our own server for each node of a federation, and carries what is said between them.

For our server every node is a client that joined over the Flower Protocol, under its device's name. Its instructions go
to the node in Flower's messages, and the replies come back as they are, but for energies that several nodes of one
machine have each measured whole: they are shared out (`fl.flower.replies`). What is asked beside work, such as whether
a device is still there, is answered here: to Flower each question is a process on the node.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from flwr.app import Message
from flwr.serverapp import ServerApp

from fl.client import JOIN
from fl.flower import keys
from fl.flower.carried import packed, unpacked
from fl.flower.plan import PLAN_KEY, AppPlan
from fl.flower.replies import shared
from fl.instrument import TELEMETRY_KEY
from fl.messages import (
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetPropertiesIns,
    Reason,
    ReconnectIns,
)
from fl.responder import failed_reply
from fl.security import (
    DEVICE_KEY,
    FOLDER_VARIABLE,
    INSTANCE_KEY,
    ClientSecurity,
    bearer,
    channel_credentials,
    client_folder,
    client_security,
)
from fl.wire import codec
from fl.wire.measurement import RECORD_KEY, decode_spans, encode_spans
from profiler.errors import WireError
from profiler.files import printable

LOOK_S = 1.0  # how often a federation is asked for its nodes
REJOIN_S = 1.0
SERVER_GONE_S = 30.0
"""By when a run ends whose server is not there any more: nobody would end it otherwise."""
NOBODY_S = 900.0  # and by when one ends that no device ever came to
INTRODUCTION_S = 120.0  # a node's first answer, a process with all its imports on a slow device
MAX_REASON_CHARS = 2_000

_log = logging.getLogger("fl")
T = TypeVar("T")


def relay_app() -> ServerApp:
    """The ServerApp of our app inside Flower."""
    app = ServerApp()

    app.main()(relay)
    return app


def relay(grid: Any, context: Any) -> None:
    """Blocks until the run is over. Raises UsageError where the run config holds no plan of ours."""
    plan = AppPlan.from_text(context.run_config.get(PLAN_KEY))
    asyncio.run(Relay(Exchanges(grid, plan.pull_s), plan).run())


class NodeError(Exception):
    """Why a node has not answered, in Flower's words."""


class Exchanges:
    """Messages to nodes and their replies. A Grid blocks, and belongs to one thread."""

    def __init__(self, grid: Any, pull_s: float) -> None:
        self._grid = grid
        self._pull_s = pull_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grid")
        self._due: dict[str, asyncio.Future[Any]] = {}

    async def nodes(self) -> set[int]:
        return set(await self._in_thread(self._grid.get_node_ids))

    async def exchange(self, node_id: int, kind: str, data: bytes, ttl_s: float) -> tuple[bytes, dict[str, Any]]:
        """The reply, and what came beside it. Raises NodeError, saying why, where there is none."""
        message = Message(packed(data), dst_node_id=node_id, message_type=kind, ttl=ttl_s)
        [message_id] = await self._in_thread(lambda: list(self._grid.push_messages([message])))
        if message_id is None:
            raise NodeError("the SuperLink has not taken the message")
        due = self._due[message_id] = asyncio.get_running_loop().create_future()
        try:
            reply = await due
        finally:
            self._due.pop(message_id, None)
        if reply.has_error():
            raise NodeError(printable(f"{reply.error.reason} (code {reply.error.code})", MAX_REASON_CHARS))
        try:
            return unpacked(reply.content)
        except WireError as error:
            raise NodeError(str(error)) from None

    async def pull(self) -> None:
        """Until cancelled: fetch the replies that are there."""
        while True:
            await asyncio.sleep(self._pull_s)
            if self._due:
                for reply in await self._in_thread(partial(self._pulled, list(self._due))):
                    due = self._due.get(reply.metadata.reply_to_message_id)
                    if due is not None and not due.done():
                        due.set_result(reply)

    def _pulled(self, ids: list[str]) -> list[Any]:
        return list(self._grid.pull_messages(ids))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


@dataclass(frozen=True, slots=True)
class Node:
    """A node that has told who it is. `introduction` is its reply to the question for its properties."""

    id: int
    device: str
    machine: str
    introduction: bytes


class Relay:
    """One run: until our server has said goodbye to every device that was here, or is gone."""

    def __init__(self, exchanges: Exchanges, plan: AppPlan) -> None:
        self._exchanges = exchanges
        self._plan = plan
        self._instance = secrets.token_hex(16)
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._nodes: dict[int, Node] = {}
        self._left: set[str] = set()
        self._n_streams = 0
        self._alone_since_s = time.monotonic()

    async def run(self) -> None:
        pulling = asyncio.create_task(self._exchanges.pull())
        try:
            while not self._is_over() and not pulling.done():
                self._attend(await self._exchanges.nodes())
                await asyncio.sleep(LOOK_S)
            if pulling.done():
                pulling.result()  # what it raised ends the run
        finally:
            for task in (pulling, *self._serving.values()):
                task.cancel()
            await asyncio.gather(pulling, *self._serving.values(), return_exceptions=True)

    def _is_over(self) -> bool:
        devices = {node.device for node in self._nodes.values()}
        alone_s = 0.0 if self._n_streams else time.monotonic() - self._alone_since_s
        is_gone = alone_s > (SERVER_GONE_S if devices else NOBODY_S)
        return is_gone or (bool(self._left) and devices <= self._left)

    def _attend(self, present: set[int]) -> None:
        """Serve who has come, and let go of who is gone."""
        for node_id in self._serving.keys() - present:
            self._serving.pop(node_id).cancel()
            self._nodes.pop(node_id, None)
        for node_id in present - self._serving.keys():
            task = self._serving[node_id] = asyncio.create_task(self._serve(node_id))
            task.add_done_callback(_tell_failure)

    async def _serve(self, node_id: int) -> None:
        """A node that cannot say who it is, or is no device of this run, is left alone."""
        try:
            node = await self._met(node_id)
        except (NodeError, WireError) as error:
            _log.warning("node %d takes no part: %s", node_id, error)
            return
        self._replace(node)
        if not self._n_streams:
            self._alone_since_s = time.monotonic()
        _log.info("node %d is %s", node_id, node.device)
        while node.device not in self._left:
            try:
                await self._joined(node)
            except grpc.aio.AioRpcError as error:
                if node.device not in self._left:
                    _log.warning("%s: %s: %s", node.device, error.code().name, error.details())
            await asyncio.sleep(REJOIN_S)

    def _replace(self, node: Node) -> None:
        """A device that was started again is another node; Flower takes a minute to notice that the first is gone."""
        for earlier in [one for one in self._nodes.values() if one.device == node.device]:
            self._serving[earlier.id].cancel()
            del self._nodes[earlier.id]
        self._nodes[node.id] = node

    async def _met(self, node_id: int) -> Node:
        question = codec.encode_instruction(GetPropertiesIns({TELEMETRY_KEY: "full"}))
        data, told = await self._exchanges.exchange(node_id, "query", question, INTRODUCTION_S)
        return Node(node_id, str(told.get(keys.DEVICE, "")), str(told.get(keys.MACHINE, "")), data)

    async def _joined(self, node: Node) -> None:
        """One stream to our server, to its end."""
        async with self._channel(node.device) as channel:
            stream = channel.stream_stream(JOIN)(metadata=self._metadata(node.device))
            await stream.initial_metadata()  # our server sends it at once: it is there
            self._n_streams += 1
            try:
                while (data := await stream.read()) is not grpc.aio.EOF:
                    reply, is_last = await self._answer(node, data)
                    await stream.write(reply)
                    if is_last:
                        self._left.add(node.device)
                        await stream.done_writing()
            finally:
                self._n_streams -= 1
                self._alone_since_s = time.monotonic()

    async def _answer(self, node: Node, data: bytes) -> tuple[bytes, bool]:
        """The reply, and whether it is a goodbye."""
        ins = codec.decode_instruction(data)
        if isinstance(ins, (FitIns, EvaluateIns)):
            return await self._worked(node, ins, data), False
        if isinstance(ins, ReconnectIns):
            reason = Reason.RECONNECT if ins.seconds > 0 else Reason.ACK
            return codec.encode_reply(DisconnectRes(reason)), ins.seconds <= 0
        if isinstance(ins, GetParametersIns):
            return codec.encode_reply(failed_reply(ins, "a node of Flower's is not asked for a model")), False
        return node.introduction, False

    async def _worked(self, node: Node, ins: FitIns | EvaluateIns, data: bytes) -> bytes:
        kind = "train" if isinstance(ins, FitIns) else "evaluate"
        try:
            reply, _ = await self._exchanges.exchange(node.id, kind, data, self._plan.ttl_s(ins.config))
        except NodeError as error:
            return codec.encode_reply(failed_reply(ins, str(error)))
        n_nodes = Counter(one.machine for one in self._nodes.values())[node.machine]
        device = self._plan.device_of({keys.DEVICE: node.device})
        has_measured = device is not None and device.meters
        return with_shares(reply, n_nodes) if has_measured and node.machine and n_nodes > 1 else reply

    def _channel(self, device: str) -> grpc.aio.Channel:
        bound = self._plan.max_message_bytes
        options = [("grpc.max_send_message_length", bound), ("grpc.max_receive_message_length", bound)]
        options += [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        folder = os.environ.get(FOLDER_VARIABLE)
        credentials = None if folder is None else channel_credentials(_security(folder, device))
        if credentials is None:
            return grpc.aio.insecure_channel(self._plan.server, options=options)
        return grpc.aio.secure_channel(self._plan.server, credentials, options=options)

    def _metadata(self, device: str) -> tuple[tuple[str, str], ...]:
        folder = os.environ.get(FOLDER_VARIABLE)
        token = None if folder is None else _security(folder, device).token
        named = ((DEVICE_KEY, device), (INSTANCE_KEY, self._instance))
        return named if token is None else (*named, bearer(token))


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a node is not served any more: %s", error, exc_info=error)


def _security(folder: str, device: str) -> ClientSecurity:
    return client_security(client_folder(Path(folder), device))


def with_shares(data: bytes, n_nodes: int) -> bytes:
    """A reply whose energies are those of its process, where so many nodes have measured the same machine."""
    reply = codec.decode_reply(data)
    if not isinstance(reply, (FitRes, EvaluateRes)):
        return data
    phase: keys.Phase = "fit" if isinstance(reply, FitRes) else "evaluate"
    record = reply.metrics.get(RECORD_KEY)
    spans, metrics = shared(phase, decode_spans(record) if isinstance(record, bytes) else (), reply.metrics, n_nodes)
    if spans:
        metrics = {**metrics, RECORD_KEY: encode_spans(spans)}
    return codec.encode_reply(replace(reply, metrics=metrics))
