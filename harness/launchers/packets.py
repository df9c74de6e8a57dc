"""Carry packets between two TUN devices, late, slowly and not all of them, where the kernel has no netem.

`packets.py HERE THERE NAMESPACE BITS_PER_S LATENCY_S LOSS`: makes device HERE in this network namespace and THERE in
the one at the path NAMESPACE, says `ready`, and carries until it is ended, when both devices vanish. 0 bit/s: no bound.

Run by path, with nothing but the standard library. Source of the interface: Linux Documentation/networking/tuntap.rst.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time
from collections import deque

READY = "ready"
QUEUE_PACKETS = 1000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_MOST_BYTES = 65536
_MOST_PACKETS_AT_ONCE = 64


def make_device(name: str) -> int:
    """A descriptor of a new TUN device of this process's network namespace. Raises OSError."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def enter(namespace: str) -> None:
    """Join a network namespace: setns(2). Raises OSError."""
    descriptor = os.open(namespace, os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    os.close(descriptor)


class Direction:
    """One way of the link: a queue in front of a wire of a certain rate and length.

    A packet takes its bits' time once those before it are on the wire, and arrives `latency_s` after that. One that
    finds the queue full is dropped, and of all others a part `loss`.
    """

    def __init__(self, bits_per_s: float, latency_s: float, loss: float, rng: random.Random) -> None:
        self._bits_per_s = bits_per_s
        self._latency_s = latency_s
        self._loss = loss
        self._rng = rng
        self._free_s = 0.0
        self._queued: deque[float] = deque()  # when each that is not on the wire yet will be
        self._order = 0
        self._waiting: list[tuple[float, int, bytes]] = []

    @property
    def next_s(self) -> "float | None":
        """When the next packet arrives; None where none is on its way."""
        return self._waiting[0][0] if self._waiting else None

    def push(self, packet: bytes, now_s: float) -> None:
        """A packet that comes at this end."""
        if self._rng.random() < self._loss:
            return
        took_s = len(packet) * 8 / self._bits_per_s if self._bits_per_s else 0.0
        while self._queued and self._queued[0] <= now_s:
            self._queued.popleft()
        if len(self._queued) >= QUEUE_PACKETS:
            return
        self._free_s = max(self._free_s, now_s) + took_s
        self._queued.append(self._free_s)
        self._order += 1
        heapq.heappush(self._waiting, (self._free_s + self._latency_s, self._order, packet))

    def due(self, now_s: float) -> "list[bytes]":
        """The packets that arrive at the other end by now, in order."""
        found = []
        while self._waiting and self._waiting[0][0] <= now_s:
            found.append(heapq.heappop(self._waiting)[2])
        return found


def carry(here: int, there: int, directions: "dict[int, Direction]") -> None:
    """Until the process is ended. `directions` are known by the descriptor that they begin at."""
    other = {here: there, there: here}
    while True:
        coming = [direction.next_s for direction in directions.values() if direction.next_s is not None]
        wait_s = max(0.0, min(coming) - time.monotonic()) if coming else None
        readable, _, _ = select.select([here, there], [], [], wait_s)
        for source in readable:
            _take(source, directions[source])
        now_s = time.monotonic()
        for source, direction in directions.items():
            for packet in direction.due(now_s):
                _give(other[source], packet)


def _take(source: int, direction: Direction) -> None:
    for _ in range(_MOST_PACKETS_AT_ONCE):
        try:
            packet = os.read(source, _MOST_BYTES)
        except BlockingIOError:
            return
        direction.push(packet, time.monotonic())


def _give(sink: int, packet: bytes) -> None:
    """A device that takes none, being down, loses it as a cable would."""
    try:
        os.write(sink, packet)
    except OSError:
        return


def main(argv: "list[str]") -> None:
    here_name, there_name, namespace = argv[:3]
    bits_per_s, latency_s, loss = map(float, argv[3:])
    try:
        here = make_device(here_name)
        enter(namespace)
        there = make_device(there_name)
    except OSError as error:
        sys.exit(f"{error.strerror} ({here_name}, {namespace})")
    rngs = [random.Random(f"{namespace} {end}") for end in ("here", "there")]
    directions = {
        descriptor: Direction(bits_per_s, latency_s, loss, rng)
        for descriptor, rng in zip((here, there), rngs, strict=True)
    }
    sys.stdout.write(f"{READY}\n")
    sys.stdout.close()
    carry(here, there, directions)


if __name__ == "__main__":
    main(sys.argv[1:])
