"""Our app inside Flower on a grid of ours, joined to a server of ours, all in one process.

Nodes come, fail, are replaced and go. What the server has seen goes to stdout as JSON.
"""

import asyncio
import json
import threading
from uuid import uuid4

import numpy as np
from flwr.app import Context, Error, Message, RecordDict

from fl.flower.node import answer
from fl.flower.plan import PLAN_KEY, AppPlan, PlannedDevice
from fl.flower.relay import Exchanges, Relay
from fl.messages import EvaluateIns, FitIns, GetParametersIns, Parameters
from fl.server import Server
from fl.workload import Partition
from profiler.errors import ClientFailure, UsageError

try:
    from flwr.supercore.task_identity import TaskIdentity
except ImportError:  # before 1.42
    pass
else:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1

MODEL = Parameters((np.zeros((8, 10), np.float32), np.zeros(10, np.float32)))
CONFIG = {"round": 1, "epochs": 1, "batch_size": 16, "lr": 0.1, "seed": 1, "cutoff_s": 0.0, "telemetry": "full"}


class ImmediateGrid:
    """Runs the app when it is sent a message. `nodes`: what each is told when it is started."""

    def __init__(self, run_config):
        self.run_config = run_config
        self.nodes = {}
        self.broken = set()
        self.seen = []
        self.replies = {}

    def get_node_ids(self):
        return list(self.nodes)

    def push_messages(self, messages):
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            node = message.metadata.dst_node_id
            self.seen.append([message.metadata.message_type, node, message.metadata.ttl])
            context = Context(1, node, self.nodes[node], RecordDict(), self.run_config)
            try:
                if node in self.broken and message.metadata.message_type != "query":
                    raise AssertionError("broken on purpose")
                reply = answer(message, context)
            except (AssertionError, UsageError) as error:
                reply = Message(Error(2, str(error)), reply_to=message)
            self.replies[message.metadata.message_id] = reply
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, ids):
        return [self.replies.pop(one) for one in list(ids) if one in self.replies]


async def until(condition):
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise SystemExit("waited for too long")


async def main():
    server = Server("127.0.0.1:0")
    port = await server.start()
    devices = (PlannedDevice("a", 0), PlannedDevice("b", 1))
    options = {"features": 8, "examples": 200}
    plan = AppPlan(
        f"127.0.0.1:{port}", "linear", Partition(shards=2), devices, options, fit_timeout_s=33.0, pull_s=0.01
    )
    grid = ImmediateGrid({PLAN_KEY: plan.to_text()})
    grid.nodes |= {1: {"device": "a"}, 2: {"partition-id": 1}, 9: {"device": "stranger"}}
    grid.broken.add(2)
    relay = threading.Thread(target=lambda: asyncio.run(Relay(Exchanges(grid, plan.pull_s), plan).run()))
    relay.start()
    await server.wait_for({"a", "b"}, 30)
    a, b = server.proxies()
    told = {"devices": [a.info.device, b.info.device], "knows": "device.os" in a.info.properties}
    fit = await a.fit(FitIns(MODEL, CONFIG), 30)
    told["fit"] = {
        "shapes": [array.shape for array in fit.result.parameters.arrays],
        "spans": [span.name for span in fit.spans],
        "scope": next(span.total.scope.value for span in fit.spans if span.total is not None),
        "download_s": fit.timing.download_s,
    }
    told["evaluated"] = (await a.evaluate(EvaluateIns(MODEL, CONFIG), 30)).result.num_examples
    told["failures"] = []
    for ask in (b.fit(FitIns(MODEL, CONFIG), 30), a.get_parameters(GetParametersIns(), 30)):
        try:
            await ask
        except ClientFailure as failure:
            told["failures"].append(failure.reason)
    told["ttl"] = [ttl for kind, node, ttl in grid.seen if kind == "train"]
    grid.nodes[3] = {"device": "a"}
    await until(lambda: a not in server.proxies() and len(server.proxies()) == 2)
    await server.proxies()[0].fit(FitIns(MODEL, CONFIG), 30)
    told["replaced_by"] = [node for kind, node, _ in grid.seen if kind == "train"][-1]
    await asyncio.sleep(3.0)  # the first node is there yet: it must not take its device back
    told["later"] = [proxy.info.device for proxy in server.proxies()]
    queries = len([kind for kind, _, _ in grid.seen if kind == "query"])
    del grid.nodes[2]
    await until(lambda: len(server.proxies()) == 1)
    await server.farewell(5.0)
    relay.join(20)
    told |= {"queries": queries, "ended": not relay.is_alive()}
    print(json.dumps(told))


asyncio.run(main())
