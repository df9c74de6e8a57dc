"""What all processes of a machine have used beside a span: by it the span's share of the machine's energy is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fl.flower import keys
from fl.metering import host_busy_s
from profiler.span import Profiler


@contextmanager
def counting_host_cpu(profiler: Profiler) -> Iterator[None]:
    """The innermost open span gets the CPU seconds of the machine meanwhile; nothing where the work fails."""
    busy_s = host_busy_s()
    yield
    span = profiler.current()
    if span is not None:
        span.set(**{keys.HOST_CPU_KEY: host_busy_s() - busy_s})
