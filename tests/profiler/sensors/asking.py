"""What tests of sensors ask of them."""

from __future__ import annotations

import pytest

from profiler.errors import SensorError
from profiler.sensor import Available, Sensor, Unavailable


def available(sensor: Sensor) -> Available:
    outcome = sensor.probe()
    assert isinstance(outcome, Available), outcome
    return outcome


def refused(sensor: Sensor) -> Unavailable:
    """Why it cannot be used, which `open` says too."""
    outcome = sensor.probe()
    assert isinstance(outcome, Unavailable), outcome
    with pytest.raises(SensorError) as raised:
        sensor.open()
    assert outcome.reason in f"{raised.value}"
    return outcome
