"""Who takes part in a round: filters and a seeded draw, then what is known of earlier rounds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fl.proxy import ClientInfo
from fl.strategy import Experience
from profiler.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a round's clients have to meet; every None lets all through. Applied in this order:

    `processors`: labels of those that may take part. `clients` or `fraction` (0..1, rounded up) of them are drawn by
    seed and round. `round_deadline_s`: as many of the drawn as are expected to be done by then, after FedCS.
    `round_energy_j`: as many as are expected to stay within it together, in the order of the draw.

    What a device will take is what it took last time; a device that was never seen is let through, so that it is.
    Where none is left, the one that misses by least takes part. Raises UsageError for values outside their range.
    """

    clients: int | None = None
    fraction: float | None = None
    processors: Sequence[str] | None = None
    round_deadline_s: float | None = None
    round_energy_j: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clients is not None and self.fraction is not None:
            raise UsageError("clients and fraction say the same thing twice: give one of them.")
        if self.clients is not None and self.clients < 1:
            raise UsageError(f"clients = {self.clients}: it must be at least 1.")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UsageError(f"fraction = {self.fraction}: it must be above 0 and at most 1.")
        for option in ("round_deadline_s", "round_energy_j"):
            value = getattr(self, option)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{option} = {value}: it must be a finite number above 0.")
        if self.processors is not None and (isinstance(self.processors, str) or not self.processors):
            raise UsageError(f"processors = {self.processors!r}: it must be a list of labels.")

    def draw(self, round_: int, clients: Sequence[ClientInfo], known: Mapping[str, Experience]) -> list[ClientInfo]:
        """The clients of a round, by device id. `known`: each device's latest fit call."""
        allowed = [client for client in clients if self.processors is None or client.processor in self.processors]
        drawn = sorted(allowed, key=lambda client: _place(self.seed, round_, client.device))
        drawn = drawn[: self._wanted(len(drawn))]
        if self.round_deadline_s is not None:
            drawn = _within_deadline(drawn, known, self.round_deadline_s)
        if self.round_energy_j is not None:
            drawn = _within_energy(drawn, known, self.round_energy_j)
        return sorted(drawn, key=lambda client: client.device)

    def _wanted(self, n_allowed: int) -> int:
        if self.fraction is not None:
            return max(1, math.ceil(self.fraction * n_allowed - 1e-9))
        return n_allowed if self.clients is None else self.clients


def _place(seed: int, round_: int, device: str) -> bytes:
    """Each device's own place in the draw, so that one that is lost shifts no other."""
    return hashlib.blake2b(f"{seed}/{round_}/{device}".encode(), digest_size=16).digest()


def _within_deadline(
    drawn: Sequence[ClientInfo], known: Mapping[str, Experience], deadline_s: float
) -> list[ClientInfo]:
    """Greedy selection of Nishio and Yonetani, "Client Selection for Federated Learning with Heterogeneous Resources in
    Mobile Edge", ICC 2019, Algorithm 3: always the client that prolongs the round least, while it ends in time.

    The model goes to all at once, updates come back one after another over the server's link, and a client that trains
    while others upload costs only what it is later than they are.
    """
    unknown = [client for client in drawn if client.device not in known]
    left = {client.device: client for client in drawn if client.device in known}
    chosen: list[ClientInfo] = []
    download_s = elapsed_s = 0.0
    while left:
        device = min(left, key=lambda name: (_grown_s(known[name], download_s, elapsed_s), name))
        next_download_s = max(download_s, known[device].download_s)
        next_elapsed_s = _ends_s(known[device], elapsed_s)
        if next_download_s + next_elapsed_s <= deadline_s:
            chosen.append(left[device])
            download_s, elapsed_s = next_download_s, next_elapsed_s
        del left[device]
    if not chosen and not unknown and drawn:
        return [min(drawn, key=lambda client: (_grown_s(known[client.device], 0.0, 0.0), client.device))]
    return unknown + chosen


def _ends_s(client: Experience, elapsed_s: float) -> float:
    return elapsed_s + client.upload_s + max(0.0, client.device_s - elapsed_s)


def _grown_s(client: Experience, download_s: float, elapsed_s: float) -> float:
    return max(download_s, client.download_s) + _ends_s(client, elapsed_s)


def _within_energy(drawn: Sequence[ClientInfo], known: Mapping[str, Experience], budget_j: float) -> list[ClientInfo]:
    chosen: list[ClientInfo] = []
    spent_j = 0.0
    for client in drawn:
        energy_j = _energy_j(client, known)
        if spent_j + energy_j <= budget_j:
            chosen.append(client)
            spent_j += energy_j
    return chosen or sorted(drawn, key=lambda client: (_energy_j(client, known), client.device))[:1]


def _energy_j(client: ClientInfo, known: Mapping[str, Experience]) -> float:
    """0 where nothing is known, so that the device is tried."""
    experience = known.get(client.device)
    return 0.0 if experience is None or experience.energy_j is None else experience.energy_j
