"""A client of ours: PORT EXAMPLES ROOT_CERTIFICATE|-. It trains two epochs of five steps."""

import sys

import numpy as np

from fl import NumPyClient, start_client
from fl.steps import steps

PORT, EXAMPLES, CERTIFICATE = sys.argv[1], int(sys.argv[2]), sys.argv[3]


class Client(NumPyClient):
    def fit(self, parameters, config):
        assert (config["flag"], config["less"], config["most"]) == (True, -3, 2**63 - 1), config
        assert (config["raw"], config["text"]) == (b"\x00\xff", "größer"), config
        weights = parameters[0]
        for _ in range(config["epochs"]):
            for _step in steps(range(5)):
                weights = weights + np.float32(0.1)
        return [weights], EXAMPLES, {"loss": 0.25}

    def evaluate(self, parameters, config):
        return float(parameters[0].mean()), EXAMPLES, {"accuracy": 0.5}


tls = {"insecure": True} if CERTIFICATE == "-" else {"root_certificates": CERTIFICATE}
start_client(server_address=f"localhost:{PORT}", client=Client(), max_wait_time=30.0, **tls)
