"""The app `clouds` with fedmeter in it, in one process, on a grid of ours: `ROOT CUTOFF_S`.

Where ROOT is `-` the strategy is Flower's own FedAvg. Three nodes: `fast`, `slow`, whose every step takes 20 ms, and
`broken`, which fails in its second round. Each answers as soon as it is asked, one after another. What the strategy
returned goes to stdout as JSON.
"""

import json
import sys
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
from clouds import client_app, server_app, task
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

import harness
from fl.flower import ProfiledFedAvg, profiling_mod
from fl.steps import steps

ROOT, CUTOFF_S = Path(sys.argv[1]) if sys.argv[1] != "-" else None, float(sys.argv[2])
RUN_CONFIG = {"batch-size": 400, "local-epochs": 3}
NODES = {11: "fast", 22: "slow", 33: "broken"}


def fit(message, context):
    assert context.node_config["device"] != "broken" or message.content["config"]["server-round"] != 2
    x, y = task.load_data(context.node_config["partition-id"], 4000)
    loader = task.batches(x, y, context.run_config["batch-size"])
    [weights] = message.content["arrays"].to_numpy_ndarrays()
    for _ in range(context.run_config["local-epochs"]):
        for batch in steps(loader):
            weights = task.train(weights, [batch], 1, message.content["config"]["lr"])
            time.sleep(0.02 if context.node_config["device"] == "slow" else 0.0)
    metrics = MetricRecord({"train_loss": task.test(weights, x, y)[0], "num-examples": len(x)})
    return Message(RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics}), reply_to=message)


app = ClientApp(mods=[profiling_mod()])
app.train()(fit)
app.evaluate()(client_app.evaluate)


class ImmediateGrid:
    """Runs the app when it is sent a message. `seen`: config and seconds to live of each."""

    pull_interval = 0.0

    def __init__(self):
        self.replies = {}
        self.seen = []

    def get_node_ids(self):
        return list(NODES)

    def push_messages(self, messages):
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            config = {key: value for key, value in message.content["config"].items() if not isinstance(value, bytes)}
            name = NODES[message.metadata.dst_node_id]
            self.seen.append([message.metadata.message_type, name, config, message.metadata.ttl])
            self.replies[message.metadata.message_id] = self.answer(message, name)
        return [message.metadata.message_id for message in messages]

    def answer(self, message, name):
        node = message.metadata.dst_node_id
        node_config = {"device": name, "processor": f"{name}-cpu", "partition-id": node}
        try:
            return app(message, Context(1, node, node_config, RecordDict(), RUN_CONFIG))
        except AssertionError as error:
            return Message(Error(2, f"broken on purpose {error}"), reply_to=message)

    def pull_messages(self, ids):
        return [self.replies.pop(one) for one in list(ids) if one in self.replies]

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))


try:
    from flwr.supercore.task_identity import TaskIdentity
except ImportError:  # before 1.42
    pass
else:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


def strategy():
    """FedAvg of Flower's own where there is no folder to write to."""
    if ROOT is None:
        return FedAvg(min_train_nodes=3)
    return ProfiledFedAvg(
        min_train_nodes=3,
        recorder=harness.Recording(ROOT, workload="clouds", seed=0),
        cutoffs={"slow-cpu": CUTOFF_S} if CUTOFF_S else None,
        telemetry="samples" if CUTOFF_S else "full",
    )


grid = ImmediateGrid()
result = strategy().start(
    grid=grid,
    initial_arrays=ArrayRecord([np.zeros(task.N_FEATURES)]),
    train_config=ConfigRecord({"lr": 0.5}),
    num_rounds=3,
    evaluate_fn=server_app.global_evaluate,
)
metrics = {round_: dict(record) for round_, record in result.train_metrics_clientapp.items()}
print(json.dumps({"train": metrics, "seen": grid.seen}))
