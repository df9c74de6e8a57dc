"""`python -m fl.client` as it is started on a device, in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from fl.messages import Config, FitIns, FitRes, Parameters
from fl.proxy import Answer
from fl.server import Server
from fl.workload import Workload


def fit_of_a_process(workload: Workload, config: Config, *words: str) -> tuple[Answer[FitRes], str]:
    """One fit of a client that is started with these words and told to leave afterwards, and what it logged."""
    return asyncio.run(_fit(workload, config, words))


async def _fit(workload: Workload, config: Config, words: tuple[str, ...]) -> tuple[Answer[FitRes], str]:
    async with Server() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fl.client", "--server", f"127.0.0.1:{server.port}", "--device", "pi-1"),
            *("--workload", workload.name, *words),
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
        )
        try:
            await server.wait_for({"pi-1"}, 60.0)
            start = Parameters(tuple(workload.initial_parameters(0)))
            answer = await server.proxies()[0].fit(FitIns(start, config), 60.0)
            await server.farewell()
            _, log = await asyncio.wait_for(process.communicate(), 20.0)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        assert process.returncode == 0, log.decode()
        return answer, log.decode()
