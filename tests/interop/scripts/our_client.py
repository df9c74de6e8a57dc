"""A client of ours: PORT EXAMPLES ROOT_CERTIFICATE|- [ROOT]. It trains two epochs of five steps.

With ROOT it is metered by what powercap counters lie below there.
"""

import sys
from pathlib import Path

import numpy as np

from fl import NumPyClient, start_client
from fl.steps import steps
from profiler.clock import SystemClock
from profiler.sampler import Sampler
from profiler.sensors.rapl import RaplSensor
from profiler.span import Profiler

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
profiler = Profiler([Sampler(RaplSensor(Path(root), SystemClock())) for root in sys.argv[4:]])
start_client(server_address=f"localhost:{PORT}", client=Client(), profiler=profiler, max_wait_time=30.0, **tls)
