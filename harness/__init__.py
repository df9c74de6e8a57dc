"""Experiments over fleets of devices. `harness.Recording` writes down the rounds of `fl.start_server`."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.history import Recording, save_history

__all__ = ["Recording", "save_history"]

# A device's install has none of these; one line says so better than the first import that fails.
if _lacking := [name for name in ("pyarrow", "tabulate", "tqdm") if not find_spec(name)]:
    raise ImportError(f"harness needs {', '.join(_lacking)}; install with: pip install 'fedmeter[harness]'")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(import_module("harness.history"), name)
