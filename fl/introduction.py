"""What a server asks a client before anything else: what it is, what its clock says, whether it is still there."""

from __future__ import annotations

import logging
from itertools import islice

from fl.calls import CallingProxy
from fl.instrument import TELEMETRY_KEY
from fl.messages import Config, GetPropertiesIns
from fl.receipts import Receipts, Stray
from profiler.errors import ClientFailure

N_PROBES = 3  # of the clock offset
LIVENESS_DEADLINE_S = 2.0
MAX_PROPERTIES = 256
MAX_PROPERTY_CHARS = 1_000

_log = logging.getLogger("fl")


async def probe(proxy: CallingProxy, deadline_s: float, receipts: Receipts) -> None:
    """Of a client of ours: what it is, its clock, and what it has measured and could not send. It may fail."""
    try:
        for question in (GetPropertiesIns({TELEMETRY_KEY: "full"}), *[GetPropertiesIns()] * (N_PROBES - 1)):
            answer = await proxy.get_properties(question, deadline_s)
            proxy.describe(_bounded(answer.result.properties))
            receipts.keep(Stray(proxy.info.device, proxy.info.processor, answer.spans))
    except ClientFailure as failure:
        _log.info("probe: %s", failure)


async def ask_properties(proxy: CallingProxy, deadline_s: float) -> Config:
    """Of a foreign client, whose first question it is: none where it has none, or does not know the question."""
    try:
        answer = await proxy.get_properties(GetPropertiesIns(), deadline_s)
    except ClientFailure as failure:
        _log.info("%s", failure)
        await proxy.forgo()
        return {}
    return _bounded(answer.result.properties)


async def is_alive(proxy: CallingProxy) -> bool:
    """Whether the device still answers on this connection. One that is busy with a call counts as alive."""
    if proxy.lost is not None:
        return False
    if not proxy.is_ready:
        return True
    try:
        await proxy.get_properties(GetPropertiesIns(), LIVENESS_DEADLINE_S)
    except ClientFailure:
        return False
    return True


def _bounded(properties: Config) -> Config:
    """What is kept of what a client tells of itself, for as long as it is connected."""
    kept = islice(properties.items(), MAX_PROPERTIES)
    return {
        key[:MAX_PROPERTY_CHARS]: value[:MAX_PROPERTY_CHARS] if isinstance(value, (str, bytes)) else value
        for key, value in kept
    }
