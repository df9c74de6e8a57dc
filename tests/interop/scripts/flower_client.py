"""A client as Flower's own documentation writes it: PORT EXAMPLES ROOT_CERTIFICATE|-  KIND (numpy or client).

It checks the types that its config arrives with, and tells every type that there is. A NumPyClient tells a name.
"""

import sys
from pathlib import Path

import flwr
import numpy as np
from flwr.common import Code, EvaluateRes, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays

PORT, EXAMPLES, CERTIFICATE, KIND = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
TOLD = {"yes": True, "zero": 0, "less": -3, "least": -(2**63), "most": 2**63 - 1, "half": 0.5, "text": "größer"}
TOLD |= {"raw": b"\x00\xff"}


def check(config):
    expected = {"yes": bool, "no": bool, "less": int, "most": int, "half": float, "text": str, "raw": bytes}
    assert {key: type(config[key]) for key in expected} == expected, config
    assert (config["less"], config["most"], config["raw"]) == (-3, 2**63 - 1, b"\x00\xff"), config
    if "huge" in config:  # uint64 came with 1.12
        assert config["huge"] == 2**64 - 1, config


class Numpy(flwr.client.NumPyClient):
    def get_properties(self, config):
        return {"client_id": f"board-{EXAMPLES}", "cores": 4}

    def get_parameters(self, config):
        return [np.zeros((2, 3), dtype=np.float32), np.array(0)]

    def fit(self, parameters, config):
        check(config)
        weights, counter = parameters
        told = {**TOLD, **({"huge": config["huge"]} if "huge" in config else {})}
        return [weights + EXAMPLES / 10, counter + 1], EXAMPLES, told

    def evaluate(self, parameters, config):
        return float(parameters[0].mean()), EXAMPLES, {"accuracy": 0.75}


class Whole(flwr.client.Client):
    def fit(self, ins):
        arrays, n, told = Numpy().fit(parameters_to_ndarrays(ins.parameters), ins.config)
        return FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), n, told)

    def evaluate(self, ins):
        loss, n, told = Numpy().evaluate(parameters_to_ndarrays(ins.parameters), ins.config)
        return EvaluateRes(Status(Code.OK, ""), loss, n, told)


client = Numpy().to_client() if KIND == "numpy" else Whole()
tls = {"insecure": True} if CERTIFICATE == "-" else {"root_certificates": Path(CERTIFICATE).read_bytes()}
flwr.client.start_client(server_address=f"localhost:{PORT}", client=client, **tls)
