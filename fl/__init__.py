"""Federated learning over the Flower Protocol: messages, server, client, strategies, workloads.

`fl.start_server` and `fl.start_client` have Flower's argument shape, and with the other names here a script written for
Flower's grpc-bidi API moves by changing its imports. They are loaded on first use, so that a part of this package can
be imported without grpc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl.client import start_client, start_numpy_client
    from fl.flower_style import FedAvg, FedAvgAndroid, NumPyClient, ndarrays_to_parameters, parameters_to_ndarrays
    from fl.standalone import History, ServerConfig, start_server

__all__ = [
    "FedAvg",
    "FedAvgAndroid",
    "History",
    "NumPyClient",
    "ServerConfig",
    "ndarrays_to_parameters",
    "parameters_to_ndarrays",
    "start_client",
    "start_numpy_client",
    "start_server",
]

_AT_THE_CLIENT = frozenset({"start_client", "start_numpy_client"})
_AT_THE_SERVER = frozenset({"History", "ServerConfig", "start_server"})


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'fl' has no attribute {name!r}")
    module = "client" if name in _AT_THE_CLIENT else "standalone" if name in _AT_THE_SERVER else "flower_style"
    return getattr(import_module(f"fl.{module}"), name)
