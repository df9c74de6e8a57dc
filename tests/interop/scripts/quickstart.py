"""A quickstart as many wrote it for Flower: `server PORT HISTORY` or `client PORT NUMBER`. Linear regression."""

import json
import socket
import sys
import time
from pathlib import Path

import numpy as np
from flwr.client import NumPyClient, start_client
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerConfig, start_server
from flwr.server.strategy import FedAvg

ROLE, PORT, ARGUMENT = sys.argv[1], sys.argv[2], sys.argv[3]


def data(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return x, x @ np.array([1.0, -2.0, 0.5], dtype=np.float32)


def loss_of(weights, x, y):
    return float(np.mean((x @ weights - y) ** 2))


class Client(NumPyClient):
    def __init__(self, number):
        self.x, self.y = data(number, 40 + 40 * number)

    def get_parameters(self, config):
        return [np.zeros(3, dtype=np.float32)]

    def fit(self, parameters, config):
        weights = parameters[0]
        for _ in range(config["local_epochs"]):
            weights = weights - np.float32(0.1) * self.x.T @ (self.x @ weights - self.y) / len(self.x)
        return [weights], len(self.x), {"examples": len(self.x)}

    def evaluate(self, parameters, config):
        return loss_of(parameters[0], self.x, self.y), len(self.x), {"examples": len(self.x)}


def fit_config(server_round):
    return {"local_epochs": 3 if server_round < 3 else 6}


def evaluate_centrally(server_round, parameters, config):
    loss = loss_of(parameters[0], *data(99, 50))
    return loss, {"round": server_round}


def summed(results):
    return {"examples": sum(metrics["examples"] for _, metrics in results), "weight": sum(n for n, _ in results)}


if ROLE == "server":
    strategy = FedAvg(
        fraction_fit=1.0,
        min_fit_clients=2,
        min_evaluate_clients=2,
        min_available_clients=2,
        evaluate_fn=evaluate_centrally,
        on_fit_config_fn=fit_config,
        initial_parameters=ndarrays_to_parameters([np.zeros(3, dtype=np.float32)]),
        fit_metrics_aggregation_fn=summed,
        evaluate_metrics_aggregation_fn=summed,
    )
    history = start_server(
        server_address=f"127.0.0.1:{PORT}",
        config=ServerConfig(num_rounds=3, round_timeout=30.0),
        strategy=strategy,
        grpc_max_message_length=64 * 1024 * 1024,
    )
    names = ["losses_centralized", "losses_distributed"]
    names += ["metrics_centralized", "metrics_distributed", "metrics_distributed_fit"]
    Path(ARGUMENT).write_text(json.dumps({name: getattr(history, name) for name in names}))
else:
    for _ in range(600):  # Flower's clients do not wait for a server
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(PORT))) == 0:
                break
        time.sleep(0.05)
    start_client(server_address=f"localhost:{PORT}", client=Client(int(ARGUMENT)).to_client(), insecure=True)
