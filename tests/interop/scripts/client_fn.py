"""`ClientApp(client_fn=...)`, Flower's older way, with our mod: what its server gets of one train and one evaluate.

`TELEMETRY|-`. It goes to stdout as JSON: the metrics of FitRes and EvaluateRes, as a legacy strategy is given them.
"""

import json
import sys
import time

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import EvaluateIns, FitIns, ndarrays_to_parameters

try:
    from flwr.compat.common import recorddict_compat as compat
except ImportError:  # before 1.40
    from flwr.common import recorddict_compat as compat

from fl.flower import profiling_mod
from fl.steps import steps

try:
    from flwr.supercore.task_identity import TaskIdentity
except ImportError:  # before 1.42
    pass
else:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


class Client(NumPyClient):
    def fit(self, parameters, config):
        for _ in range(config["local_epochs"]):
            for _step in steps(range(10)):
                time.sleep(0.005)
        return [parameters[0] + 1], 70, {"loss": 0.25, "own": 3}

    def evaluate(self, parameters, config):
        return 0.5, 30, {"accuracy": 0.75}


app = ClientApp(client_fn=lambda context: Client().to_client(), mods=[profiling_mod()])
config = {"local_epochs": 2, "cutoff_s": 0.03} | ({} if sys.argv[1] == "-" else {"telemetry": sys.argv[1]})
model = ndarrays_to_parameters([np.zeros(3)])
contents = {
    "train": compat.fitins_to_recorddict(FitIns(model, config), keep_input=True),
    "evaluate": compat.evaluateins_to_recorddict(EvaluateIns(model, config), keep_input=True),
}
node_config = {"device": "pi-1", "processor": "arm"}
told = {}
for kind, content in contents.items():
    message = Message(content, dst_node_id=1, message_type=kind)
    message.metadata.__dict__["_message_id"] = kind
    reply = app(message, Context(1, 1, node_config, RecordDict(), {}))
    if kind == "train":
        result = compat.recorddict_to_fitres(reply.content, keep_input=True)
    else:
        result = compat.recorddict_to_evaluateres(reply.content)
    metrics = {name: len(value) if isinstance(value, bytes) else value for name, value in result.metrics.items()}
    told[kind] = {"num_examples": result.num_examples, **metrics}
print(json.dumps(told))
