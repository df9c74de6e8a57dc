"""Joules and seconds of today's Flower apps (ServerApp and ClientApp): extra `fedmeter[flower]`, docs/flower.md.

    app = ClientApp(mods=[profiling_mod()])
    strategy = ProfiledFedAvg(recorder=harness.Recording("results", workload="mine", batch_size=32, lr=0.1, seed=0))

The mod meters train and evaluate and puts the measurement into the reply. The strategy takes it out again, before
anything is averaged, and hands each round to the recorder. `ProfiledStrategy` does so around any other strategy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fl.flower.versions import require_flwr

if TYPE_CHECKING:
    from fl.flower.mod import profiling_mod
    from fl.flower.strategy import ProfiledFedAvg, ProfiledStrategy

__all__ = ["ProfiledFedAvg", "ProfiledStrategy", "profiling_mod"]


def __getattr__(name: str) -> object:
    """Loaded on first use: each message of a SuperNode starts a new process, which needs the mod alone."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'fl.flower' has no attribute {name!r}")
    require_flwr()
    module = "mod" if name == "profiling_mod" else "strategy"
    return getattr(import_module(f"fl.flower.{module}"), name)
