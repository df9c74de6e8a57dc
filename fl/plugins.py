"""Strategies and workloads by name, built in or foreign, through entry points."""

from __future__ import annotations

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
            remedy="Install what it needs; the built-in workloads need fedmeter[train].",
        ) from error
    return plugin
