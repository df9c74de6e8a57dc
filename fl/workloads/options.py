"""What workloads ask of their options and of the config: the right kind of value, in range, or a UsageError."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fl.messages import Config
from profiler.errors import UsageError


def whole_number(workload: str, option: str, value: object, *, at_least: int, at_most: int) -> int:
    """Raises UsageError where an option is no whole number, or out of range."""
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= at_most:
        raise UsageError(f"{workload}: {option} is a whole number from {at_least} to {at_most}, not {value!r:.80}.")
    return value


def text(workload: str, option: str, value: object) -> str:
    """Raises UsageError where an option is no text, or empty."""
    if not isinstance(value, str) or not value:
        raise UsageError(f"{workload}: {option} is a text, not {value!r:.80}.")
    return value


def one_of(workload: str, option: str, value: object, choices: Sequence[str]) -> str:
    """Raises UsageError where an option is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise UsageError(f"{workload}: {option} is one of {', '.join(choices)}, not {value!r:.80}.")
    return value


def number(workload: str, config: Config, key: str, default: float) -> float:
    """A number of the config. Raises UsageError where it is none."""
    value = config.get(key, default)
    if isinstance(value, (bytes, str)) or not math.isfinite(value):
        raise UsageError(f"{workload}: config key {key!r} must be a number, got {value!r:.80}.")
    return value


def at_least_one(workload: str, config: Config, key: str, default: int) -> int:
    """A whole number from 1 of the config. Raises UsageError where it is none."""
    value = int(number(workload, config, key, default))
    if value < 1:
        raise UsageError(f"{workload}: config key {key!r} must be at least 1, got {value}.")
    return value
