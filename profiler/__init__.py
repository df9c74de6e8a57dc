"""Joules and seconds of a piece of work, on any device.

`import profiler` loads nothing but this file: each name is imported when it is first used, since start-up time on a
phone or a board counts.
"""

TYPE_CHECKING = False  # importing typing for it would be most of the cost of this file

if TYPE_CHECKING:
    from profiler.clock import Clock, FakeClock, SystemClock
    from profiler.errors import FedmeterError, SensorError
    from profiler.quantities import EnergyReading, Provenance, Rail, RailKind, Scope
    from profiler.records import Resources, SpanRecord
    from profiler.resources import ResourceReader
    from profiler.sampler import Sample, Sampler, Window
    from profiler.sensor import Available, Probe, Sensor, Unavailable, best, discover
    from profiler.span import Profiler, Span

__all__ = [
    "Available",
    "Clock",
    "EnergyReading",
    "FakeClock",
    "FedmeterError",
    "Probe",
    "Profiler",
    "Provenance",
    "Rail",
    "RailKind",
    "ResourceReader",
    "Resources",
    "Sample",
    "Sampler",
    "Scope",
    "Sensor",
    "SensorError",
    "Span",
    "SpanRecord",
    "SystemClock",
    "Unavailable",
    "Window",
    "best",
    "discover",
]

_MODULES = ("clock", "errors", "quantities", "records", "sensor", "resources", "sampler", "span")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'profiler' has no attribute {name!r}")
    import importlib

    for module_name in _MODULES:
        module = importlib.import_module(f"profiler.{module_name}")
        if name in vars(module):
            return vars(module)[name]
    raise AttributeError(f"module 'profiler' does not define {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
