"""How far a device's clock is from the server's: bounds, never an estimate, and the split of communication from them.

With theta = device clock - server clock, an instruction sent at t0 and received at t1, and its reply handed over at t2
and received at t3: t1 - t0 = theta + download and t2 - t3 = theta - upload. Neither way takes less than no time, so
t2 - t3 <= theta <= t1 - t0 (Cristian 1989; Mills, RFC 5905 section 8). Every call narrows the bounds of a connection.
"""

from __future__ import annotations

# Two crystals drift apart by some 50 parts per million each, so old bounds are worth less.
MAX_DRIFT = 1e-4
# Bounds wider than this part of the communication say too little about its split.
MAX_RELATIVE_WIDTH = 0.2


class ClockOffset:
    """Bounds on theta in nanoseconds, narrowed by every observed call and widened by drift in between."""

    def __init__(self) -> None:
        self._low_ns = 0.0
        self._high_ns = 0.0
        self._at_ns: int | None = None

    def observe(self, t0_ns: int, t1_ns: int, t2_ns: int, t3_ns: int) -> tuple[float, float]:
        """The bounds (ns) that hold for this call, its own times included."""
        low_ns, high_ns = float(t2_ns - t3_ns), float(t1_ns - t0_ns)
        if self._at_ns is not None:
            drift_ns = MAX_DRIFT * max(0, t3_ns - self._at_ns)
            older = max(low_ns, self._low_ns - drift_ns), min(high_ns, self._high_ns + drift_ns)
            # Where they exclude each other, a clock was stepped or slept: only the latest call counts.
            low_ns, high_ns = older if older[0] <= older[1] else (low_ns, high_ns)
        self._low_ns, self._high_ns, self._at_ns = low_ns, high_ns, t3_ns
        return low_ns, high_ns


def split_communication(
    communication_s: float, request_bytes: int, reply_bytes: int, download_bounds_s: tuple[float, float]
) -> tuple[float, float, str]:
    """Download and upload (s), and how they were told apart: `clock` where the bounds are tight, else `bytes`.

    Never negative; they add up to `communication_s`.
    """
    low_s, high_s = download_bounds_s
    if communication_s > 0 and 0 <= high_s - low_s < MAX_RELATIVE_WIDTH * communication_s:
        download_s = min(max((low_s + high_s) / 2, 0.0), communication_s)
        return download_s, communication_s - download_s, "clock"
    download_s = communication_s * request_bytes / max(1, request_bytes + reply_bytes)
    return download_s, communication_s - download_s, "bytes"
