"""Every error fedmeter raises on purpose.

FedmeterError                 .remedy says what to do; .exit_code is what a main returns for it
├── UsageError            2   wrong arguments, a wrong fleet, experiment or cutoffs file
│   └── SpecError         2   a TOML or JSON file that says something it must not
├── PreconditionError     3   something outside is missing: a port, a device, a permission
│   ├── SensorError       3   a sensor that cannot be opened or read
│   ├── DeviceError       3   a device that cannot be started or reached
│   ├── ResultsError      3   a results folder that is empty, foreign or damaged
│   ├── StorageError      3   results that cannot be written any more: a full disk
│   └── DataError         3   a data set or weights that are missing, damaged or do not fit
├── WireError             1   bytes from the network that break the protocol or a bound
└── ClientFailure         1   one call to one client that failed: names device, phase and reason
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiler.records import SpanRecord


class FedmeterError(Exception):
    """Base of all. `remedy` is one sentence that says what to do; it may be empty."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} {self.remedy}" if self.remedy else message


class UsageError(FedmeterError):
    exit_code = 2


class SpecError(UsageError):
    pass


class PreconditionError(FedmeterError):
    exit_code = 3


class SensorError(PreconditionError):
    pass


class DeviceError(PreconditionError):
    pass


class ResultsError(PreconditionError):
    pass


class StorageError(PreconditionError):
    pass


class DataError(PreconditionError):
    pass


class WireError(FedmeterError):
    pass


class ClientFailure(FedmeterError):
    """One call to one client that failed. `phase` is fit, evaluate, get_parameters, get_properties or join.

    `spans` are the measurements that came with a reply which was refused: its work was done all the same.
    """

    def __init__(
        self, device: str, phase: str, reason: str, *, remedy: str = "", spans: tuple[SpanRecord, ...] = ()
    ) -> None:
        super().__init__(f"{device}: {phase}: {reason}", remedy=remedy)
        self.spans = spans
        self.device = device
        self.phase = phase
        self.reason = reason


def nearest(word: str, known: Iterable[str]) -> str:
    """For the remedy of an unknown name: `Did you mean 'epochs'? Known: clients, epochs.`"""
    from difflib import get_close_matches  # only once something is wrong

    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(names) or 'none'}."
