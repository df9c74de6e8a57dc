"""Our client inside a ClientApp: answers an instruction of ours that came in a message of Flower's.

A SuperNode starts a process for each message, so that nothing of a call is here for the next; in Flower's simulation
one process answers for many devices. Either way the trainer is made from the run's plan, and an exception of a workload
goes to Flower, which tells our server's side of the app.
"""

from __future__ import annotations

import os
import secrets
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.clientapp import ClientApp

from fl.flower import keys
from fl.flower.busy import counting_host_cpu
from fl.flower.carried import packed, unpacked
from fl.flower.plan import PLAN_KEY, AppPlan, PlannedDevice
from fl.instrument import InstrumentedClient, instrument
from fl.messages import (
    Array,
    Config,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Instruction,
    Parameters,
    Reply,
    Scalar,
)
from fl.metering import best_samplers, machine_id
from fl.wire import codec
from fl.workload import NumPyClient, load_workload
from profiler.clock import SystemClock
from profiler.errors import UsageError, WireError
from profiler.span import Profiler

MAX_TRAINERS = 64  # of one process, which in a simulation meets every device
RAY_NODE = "ray_node"  # span attribute: on which node of a Ray cluster it was


def node_app() -> ClientApp:
    """The ClientApp of our app inside Flower."""
    app = ClientApp()
    for register in (app.train, app.evaluate, app.query):
        register()(answer)
    return app


def answer(message: Any, context: Any) -> Any:
    """The reply, and beside it who this is. Raises UsageError where the run has no such device."""
    text = context.run_config.get(PLAN_KEY)
    plan = AppPlan.from_text(text)
    device = plan.device_of(context.node_config)
    if device is None:
        raise UsageError(
            "this node is no device of the run.",
            remedy=f"Start it with --node-config '{keys.DEVICE}=\"ID\"', with the id of one in the fleet file.",
        )
    data, _ = unpacked(message.content)
    reply = _answer(_trainer(text, device), device, codec.decode_instruction(data))
    told = {keys.DEVICE: device.id, keys.MACHINE: machine_id(Path("/"))}
    return Message(packed(codec.encode_reply(reply), told), reply_to=message)


@lru_cache(MAX_TRAINERS)
def _trainer(plan_text: str, device: PlannedDevice) -> NumPyClient:
    """Kept, since data are read when it is made. Libraries are told the number of threads before they are imported."""
    plan = AppPlan.from_text(plan_text)
    os.environ.setdefault("OMP_NUM_THREADS", str(device.threads))
    return load_workload(plan.workload, **plan.workload_options).client(device.shard, plan.partition)


def _answer(trainer: NumPyClient, device: PlannedDevice, ins: Instruction) -> Reply:
    _limit_threads(device.threads)
    clock = SystemClock()
    samplers = best_samplers(Path("/"), clock) if device.meters else ()
    with Profiler(samplers, clock, id_prefix=f"{device.id}/{secrets.token_hex(4)}/") as profiler:
        return _called(instrument(_Placed(trainer, profiler) if device.meters else trainer, profiler), ins)


def _called(client: InstrumentedClient, ins: Instruction) -> Reply:
    if isinstance(ins, FitIns):
        arrays, num_examples, metrics = client.fit(ins.parameters.copy(), ins.config)
        return FitRes(Parameters(tuple(arrays)), num_examples, metrics)
    if isinstance(ins, EvaluateIns):
        loss, num_examples, metrics = client.evaluate(ins.parameters.copy(), ins.config)
        return EvaluateRes(loss, num_examples, metrics)
    if isinstance(ins, GetPropertiesIns):
        return GetPropertiesRes(client.get_properties(ins.config))
    raise WireError(f"{type(ins).__name__} is not asked of a node.")


class _Placed:
    """A client whose spans tell where in a cluster they were, and what a share of the machine is found by."""

    def __init__(self, client: NumPyClient, profiler: Profiler) -> None:
        self._client = client
        self._profiler = profiler
        self.get_properties = client.get_properties
        self.get_parameters = client.get_parameters

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        self._tell_place()
        with counting_host_cpu(self._profiler):
            return self._client.fit(parameters, config)

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        self._tell_place()
        with counting_host_cpu(self._profiler):
            return self._client.evaluate(parameters, config)

    def _tell_place(self) -> None:
        span, ray = self._profiler.current(), sys.modules.get("ray")
        if span is not None and ray is not None and ray.is_initialized():
            span.set(**{RAY_NODE: str(ray.get_runtime_context().get_node_id())})


def _limit_threads(threads: int) -> None:
    """Torch takes all cores otherwise; the workload has imported it, if any."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
