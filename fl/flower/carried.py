"""Our instructions and replies inside Flower's messages: each is one array of bytes, which Flower sends in chunks."""

from __future__ import annotations

from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fl.flower import keys
from profiler.errors import WireError

_BYTES = "bytes"
_ENCODING = "fedmeter.wire"


def packed(data: bytes, told: dict[str, Any] | None = None) -> RecordDict:
    """`told` is what travels beside it, as a ConfigRecord."""
    array = Array(dtype="uint8", shape=(len(data),), stype=_ENCODING, data=data)
    return RecordDict({_BYTES: ArrayRecord({_BYTES: array}), keys.RECORD_NAME: ConfigRecord(told or {})})


def unpacked(content: Any) -> tuple[bytes, dict[str, Any]]:
    """Raises WireError where it is none of ours."""
    record = content.array_records.get(_BYTES, {})
    array = record.get(_BYTES)
    if array is None or array.stype != _ENCODING:
        raise WireError("a message of Flower's that holds nothing of ours.")
    return bytes(array.data), dict(content.config_records.get(keys.RECORD_NAME, {}))
