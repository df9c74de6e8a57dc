"""Forward TCP connections: `relay.py DEVICE ADDRESS HOST:PORT`. Prints the port it listens on, then says no more.

Run by path, with nothing but the standard library. It is how a client in a network namespace reaches a server that
listens on loopback: its connections pass the link, where they are slowed, and end here. What comes by any other network
device than DEVICE is not heard: Linux takes packets for all of its addresses on all of them, from neighbours too.
"""

import asyncio
import contextlib
import socket
import sys

CHUNK_BYTES = 65536


async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Bytes until their end, which is passed on."""
    while data := await source.read(CHUNK_BYTES):
        sink.write(data)
        await sink.drain()
    if sink.can_write_eof():
        sink.write_eof()


class Relay:
    """Forwards what it accepts to one target."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection. When either side breaks, so does the other."""
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            with contextlib.suppress(OSError):
                await asyncio.gather(forward(reader, far_writer), forward(far_reader, writer))
            far_writer.transport.abort()
        writer.transport.abort()


def listening(device: str, address: str) -> socket.socket:
    """Raises OSError."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    listener.bind((address, 0))
    return listener


async def serve(listener: socket.socket, host: str, port: int) -> None:
    server = await asyncio.start_server(Relay(host, port).accept, sock=listener)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.close()
    async with server:
        await server.serve_forever()


def main(argv: "list[str]") -> None:
    device, address, target = argv
    host, _, port = target.rpartition(":")
    asyncio.run(serve(listening(device, address), host.strip("[]"), int(port)))


if __name__ == "__main__":
    main(sys.argv[1:])
