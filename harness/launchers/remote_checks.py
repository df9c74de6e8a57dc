"""What our profiler, once it is on a device, says of it: its sensors, those that the fleet requires, the machine."""

from __future__ import annotations

import json
from typing import Any

from harness.device import DeviceSpec
from harness.launchers.provisioning import Place
from harness.launchers.remote import RemoteConnection
from profiler.errors import DeviceError

_TIMEOUT_S = 60.0


class MissingSensorError(DeviceError):
    """A sensor that the fleet file requires cannot be used on a device."""


def check_required(connection: RemoteConnection, place: Place, device: DeviceSpec) -> None:
    """Raises MissingSensorError, or DeviceError where the device cannot be asked."""
    if not device.require:
        return
    found = {sensor["sensor"]: sensor for sensor in sensors_of(connection, place)}
    for name in device.require:
        sensor = found.get(name, {"reason": "there is no such sensor", "remedy": ""})
        if not sensor.get("available"):
            reason = f"required sensor '{name}': {sensor.get('reason')}"
            failure = connection.failure("sensors", reason, str(sensor.get("remedy", "")))
            raise MissingSensorError(failure.args[0], remedy=failure.remedy)


def sensors_of(connection: RemoteConnection, place: Place) -> list[dict[str, Any]]:
    """What `python -m profiler list --json` says there. Raises DeviceError."""
    command = [place.executable, "-m", "profiler", "list", "--json"]
    request = {"do": "run", "command": command, "environment": place.environment, "timeout_s": _TIMEOUT_S}
    answer = connection.ask("sensors", request, timeout_s=_TIMEOUT_S)
    try:
        found = json.loads(str(answer["output"]))["sensors"]
        return [{**sensor, "sensor": str(sensor["sensor"])} for sensor in found]
    except (KeyError, TypeError, ValueError):
        reason = f"the profiler there says nothing of use (exit status {answer.get('status')})"
        raise connection.failure("sensors", reason, "Run it there by hand: python -m profiler list.") from None


def machine_of(connection: RemoteConnection, place: Place) -> dict[str, Any]:
    """What our profiler says of the machine there; nothing where it says nothing of use. Raises DeviceError."""
    program = "import json; from profiler.machine_facts import machine_facts; print(json.dumps(machine_facts()))"
    command = [place.executable, "-c", program]
    request = {"do": "run", "command": command, "environment": place.environment, "timeout_s": _TIMEOUT_S}
    answer = connection.ask("machine", request, timeout_s=_TIMEOUT_S)
    try:
        return dict(json.loads(str(answer.get("output"))))
    except (TypeError, ValueError):
        return {}
