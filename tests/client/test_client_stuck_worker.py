"""A worker that is stuck: the kernel still assigns connections to it, but it sends nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

import psutil

from poolservice_client import Unavailable
from poolservice_server.testing import Service

# A call gives up after four connections. The probability that so many calls reach only the stuck worker is 1 in 10^12.
CALLS = 10


async def test_calls_reach_another_worker_if_one_is_stuck(
    start_server: Callable[..., Service], make_client: Callable[..., Any]
) -> None:
    server = start_server("--workers", "2")
    worker = next(
        child for child in psutil.Process(server.process.pid).children() if "spawn_main" in " ".join(child.cmdline())
    )
    worker.suspend()
    try:
        # Half of the connections reach the stuck worker, so most likely those of some clients do.
        await asyncio.gather(*(call_until_served(make_client(server.address)) for _ in range(6)))
    finally:
        worker.kill()


async def call_until_served(client: Any) -> None:
    async with client:
        for _ in range(CALLS - 1):
            try:
                await client.pool()
            except Unavailable:
                continue
            return
        await client.pool()
