"""Cancelled asyncio calls release their requests immediately, without the garbage collector."""

import asyncio
import gc

import grpc.aio
import numpy as np
from tests.client.hostile_attacks import no_response
from tests.client.hostile_server import hostile

from poolservice_client import AsyncPoolClient, MaxPool2d

CALLS, ROUNDS = 20, 5


def requests_in_memory() -> int:
    # By type: isinstance reads an attribute of each object, and some objects of torch warn of that.
    return sum(issubclass(type(one), grpc.aio.UnaryUnaryCall) for one in gc.get_objects())


async def test_cancelled_calls_keep_no_request() -> None:
    x = np.zeros((8, 256, 256), np.uint8)
    gc.collect()
    before = requests_in_memory()
    gc.disable()
    try:
        with hostile(no_response) as server:
            async with AsyncPoolClient(server.address) as client:
                tasks: list[asyncio.Task[object]] = []
                for _ in range(ROUNDS):
                    new = [asyncio.create_task(client.pool(x, MaxPool2d(2))) for _ in range(CALLS)]
                    # Each task starts its call in its first turn.
                    await asyncio.sleep(0)
                    for task in new:
                        task.cancel()
                    await asyncio.wait(new)
                    assert all(task.cancelled() for task in new)
                    # A program may keep its cancelled tasks.
                    tasks += new
                # Calls of earlier tests may have ended meanwhile.
                assert requests_in_memory() <= before
    finally:
        gc.enable()
