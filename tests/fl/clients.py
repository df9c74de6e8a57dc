"""Clients that misbehave on demand. The config says how, so that one client serves a whole suite.

Run as a script (`python -m tests.fl.clients PORT DEVICE`) it is one such client in a process of its own.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from fl.messages import Array, Config, Scalar
from fl.steps import steps


class Unruly:
    """Adds 1 to every parameter; `mode` in the config picks what goes wrong."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.fits = 0

    def get_properties(self, config: Config) -> dict[str, Scalar]:
        return {"cores": 4}

    def get_parameters(self, config: Config) -> list[Array]:
        return [np.zeros(3, dtype=np.float32)]

    def fit(self, parameters: list[Array], config: Config) -> tuple[list[Array], int, dict[str, Scalar]]:
        self.fits += 1
        mode = config.get("mode")
        if mode == "raise":
            raise RuntimeError("out of cake")
        if mode == "hang":
            self.release.wait(float(config.get("seconds", 20)))
        if mode == "steps":
            for _ in steps(range(4)):
                pass
        if mode == "shape":
            return [np.zeros(99, dtype=np.float32)], 10, {}
        if mode == "nan":
            return [np.full_like(array, np.nan) for array in parameters], 10, {}
        if mode == "objects":
            return [np.array([object()])], 10, {}
        if mode == "metrics":
            return parameters, 10, {"momentum": None}  # type: ignore[dict-item]
        if mode == "nothing":
            return None  # type: ignore[return-value]
        return [array + 1 for array in parameters], 10, {"loss": 0.5}

    def evaluate(self, parameters: list[Array], config: Config) -> tuple[float, int, dict[str, Scalar]]:
        if config.get("mode") == "raise":
            raise ValueError("no test set")
        return 0.25, 5, {"accuracy": 0.75}


if __name__ == "__main__":
    from fl.client import start_client

    start_client(f"127.0.0.1:{sys.argv[1]}", Unruly(), device=sys.argv[2], max_wait_s=20.0)
