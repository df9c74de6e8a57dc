"""Strategies and workloads by name, built in or foreign, through entry points."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import cast

from profiler.errors import PreconditionError, UsageError, nearest


def load_plugin(group: str, name: str) -> object:
    """What the entry point `name` of `group` (`fedmeter.workloads`, ...) stands for.

    Raises UsageError, with the nearest name there is, for an unknown name, and PreconditionError where something that
    it imports is not installed.
    """
    from importlib.metadata import entry_points  # costs 20 ms, so only when asked for

    entries = {entry.name: entry for entry in entry_points(group=group)}
    if name not in entries:
        raise UsageError(f"no {name!r} among {group}.", remedy=nearest(name, entries))
    try:
        plugin: object = entries[name].load()
    except ImportError as error:
        raise PreconditionError(
            f"{name!r} of {group} cannot be loaded: {error}.",
            remedy="Install what it needs; built-in workloads but 'linear' need fedmeter[train].",
        ) from error
    return plugin


def make_plugin(group: str, name: str, options: Mapping[str, object]) -> object:
    """What the entry point makes of these options. Raises UsageError, too, for options that it does not take."""
    factory = cast(Callable[..., object], load_plugin(group, name))
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        known = ", ".join(inspect.signature(factory).parameters) or "none"
        raise UsageError(f"{group}, {name!r}: {error}.", remedy=f"Its options: {known}.") from None
    return factory(**options)
