"""Who did what when in the latest rounds: calls as they start and end, and their parts once the records tell them."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from fl.loop import CallName
from profiler.records import Row

MAX_ROUNDS = 3
MAX_DEVICES = 60


@dataclass(slots=True)
class Call:
    """One call, on the server's clock. What of it is the way there and back is known once its round is over."""

    call: str
    start_ns: int
    end_ns: int | None = None
    is_failed: bool = False
    download_ns: int | None = None
    upload_ns: int | None = None


@dataclass(slots=True)
class Round:
    number: int
    start_ns: int
    calls: dict[tuple[str, str], Call] = field(default_factory=dict)


class Timeline:
    """The last `MAX_ROUNDS` rounds of the first `MAX_DEVICES` devices. Not safe across threads."""

    def __init__(self, devices: Collection[str]) -> None:
        self._devices = list(devices)[:MAX_DEVICES]
        self._members = frozenset(self._devices)
        self._rounds: deque[Round] = deque(maxlen=MAX_ROUNDS)

    def call_started(self, round_: int, call: CallName, device: str, now_ns: int) -> None:
        """A fit in a round of another number, or a second one of the same device, begins a new round."""
        latest = self._rounds[-1] if self._rounds else None
        if latest is None or latest.number != round_ or (device, call) in latest.calls:
            latest = Round(round_, now_ns)
            self._rounds.append(latest)
        if device in self._members:
            latest.calls[(device, call)] = Call(call, now_ns)

    def call_finished(self, call: CallName, device: str, now_ns: int, is_failed: bool) -> None:
        found = self._rounds[-1].calls.get((device, call)) if self._rounds else None
        if found is not None:
            found.end_ns, found.is_failed = now_ns, is_failed

    def note_span(self, row: Row) -> None:
        """The parts of a call as the server's clock knows them: `download` and `upload`."""
        if row["clock"] != "server" or row["name"] not in ("download", "upload") or not self._rounds:
            return
        latest = self._rounds[-1]
        found = latest.calls.get((row.get("device", ""), row.get("call", "")))
        if found is None or row.get("round") != latest.number:
            return
        duration_ns = round(row["duration_s"] * 1e9)
        if row["name"] == "download":
            found.download_ns = duration_ns
        else:
            found.upload_ns = duration_ns

    def as_json(self, now_ns: int) -> dict[str, Any]:
        """Bars in seconds from the start of their round; of a call that goes on, to now."""
        present = {device for one in self._rounds for device, _ in one.calls}
        return {
            "devices": [device for device in self._devices if device in present],
            "rounds": [_round_json(one, now_ns) for one in self._rounds],
        }


def _round_json(one: Round, now_ns: int) -> dict[str, Any]:
    return {"round": one.number, "bars": [_bar(device, call, one, now_ns) for (device, _), call in one.calls.items()]}


def _bar(device: str, call: Call, one: Round, now_ns: int) -> dict[str, Any]:
    end_ns = now_ns if call.end_ns is None else call.end_ns
    return {
        "device": device,
        "call": call.call,
        "start_s": _seconds(call.start_ns - one.start_ns),
        "end_s": _seconds(end_ns - one.start_ns),
        "download_s": None if call.download_ns is None else _seconds(call.download_ns),
        "upload_s": None if call.upload_ns is None else _seconds(call.upload_ns),
        "state": "failed" if call.is_failed else "running" if call.end_ns is None else "done",
    }


def _seconds(duration_ns: int) -> float:
    return round(duration_ns / 1e9, 3)
