"""A server over the network and one in this process, as one: clients of both kinds take part in the same rounds."""

from __future__ import annotations

import asyncio

from fl.in_process import InProcessServer
from fl.proxy import ClientProxy
from fl.server import Server


class MixedServer:
    """Both must note what comes in the same `Receipts`: `InProcessServer(receipts=network.receipts)`."""

    def __init__(self, network: Server, in_process: InProcessServer) -> None:
        if network.receipts is not in_process.receipts:
            raise ValueError("the two servers keep receipts of their own")
        self._network = network
        self._in_process = in_process
        self.receipts = network.receipts

    @property
    def foreign_port(self) -> int:
        return self._network.foreign_port

    async def start(self) -> int:
        """The bound port. Raises PreconditionError as `Server.start`."""
        return await self._network.start()

    def proxies(self) -> list[ClientProxy]:
        """All connected clients of both kinds, by device id."""
        return sorted([*self._network.proxies(), *self._in_process.proxies()], key=lambda proxy: proxy.info.device)

    async def farewell(self, timeout_s: float) -> None:
        """Tell every client to leave for good."""
        await asyncio.gather(self._network.farewell(timeout_s), self._in_process.farewell(timeout_s))

    async def close(self) -> None:
        await self._in_process.close()
        await self._network.close()
