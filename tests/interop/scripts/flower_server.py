"""An unmodified Flower server: PORT CLIENTS FOLDER TLS|plain MODE TELEMETRY|-.

MODE: `capture` writes what came with every update to FOLDER/captured.json; `average` averages every metric, as many
servers do; `default` has no aggregation function and asks a client for the first model; `android` is FedAvgAndroid,
with raw tensors. The others begin with the arrays FOLDER/initial-I.npy where there are some, else with six zeros.
"""

import base64
import json
import sys
from pathlib import Path

import flwr
import numpy as np

PORT, CLIENTS, FOLDER, TLS, MODE, TELEMETRY = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:7]
captured = []


def plain(value):
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    return value


def capture(told):
    captured.append([[n, {key: plain(value) for key, value in metrics.items()}] for n, metrics in told])
    return {}


def average(told):
    total = sum(n for n, _ in told)
    return {key: sum(n * metrics[key] for n, metrics in told) / total for key in told[0][1]}


def config(server_round):
    asked = {"epochs": 2, "batch_size": 16, "lr": 0.01, "round": server_round, "seed": 1, "cutoff_s": 0.0}
    asked |= {"flag": True, "less": -3, "most": 2**63 - 1, "raw": b"\x00\xff", "text": "größer"}
    return asked if TELEMETRY == "-" else {**asked, "telemetry": TELEMETRY}


options = {"min_fit_clients": CLIENTS, "min_evaluate_clients": CLIENTS, "min_available_clients": CLIENTS}
initial = [np.load(path) for path in sorted(FOLDER.glob("initial-*.npy"))] or [np.zeros((2, 3), dtype=np.float32)]
if MODE in ("capture", "average"):
    gather = capture if MODE == "capture" else average
    options |= {"fit_metrics_aggregation_fn": gather, "evaluate_metrics_aggregation_fn": gather}
if MODE == "android":
    raw = [array.tobytes() for array in initial]
    options["initial_parameters"] = flwr.common.Parameters(tensors=raw, tensor_type="numpy.nda")
elif MODE != "default":
    options["initial_parameters"] = flwr.common.ndarrays_to_parameters(initial)
strategies = flwr.server.strategy
strategy = strategies.FedAvgAndroid if MODE == "android" else strategies.FedAvg
pem, key = FOLDER / "server.pem", FOLDER / "server.key"
certificates = (pem.read_bytes(), pem.read_bytes(), key.read_bytes()) if TLS == "TLS" else None
history = flwr.server.start_server(
    server_address=f"127.0.0.1:{PORT}",
    config=flwr.server.ServerConfig(num_rounds=2, round_timeout=50.0),
    strategy=strategy(on_fit_config_fn=config, on_evaluate_config_fn=config, **options),
    certificates=certificates,
)
losses = [loss for _, loss in history.losses_distributed]
told = {"captured": captured, "losses": losses, "fit": history.metrics_distributed_fit}
(FOLDER / "captured.json").write_text(json.dumps(told))
