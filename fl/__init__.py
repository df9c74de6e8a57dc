"""Federated learning over the Flower Protocol: messages, server, client, strategies, workloads.

`fl.start_server` and `fl.start_client` have Flower's argument shape. They are loaded on first use, so that a part of
this package can be imported without grpc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl.client import start_client
    from fl.server import History, ServerConfig, start_server

__all__ = ["History", "ServerConfig", "start_client", "start_server"]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'fl' has no attribute {name!r}")
    return getattr(import_module("fl.client" if name == "start_client" else "fl.server"), name)
